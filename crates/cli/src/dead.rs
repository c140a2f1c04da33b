//! `dead`: lists dead letters, sends them again, drops them.

use std::borrow::Cow;
use std::io::Write;

use deaddrop::group::DeadLetter;
use deaddrop::service::{DeadLetters, LetterState};
use deaddrop::{Error, Log, RecordRef};
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::dead::{Action, Dead, Which};
use crate::args::range::Range;
use crate::exchange::one_of_all;
use crate::failure::{note, Exit, Failure};
use crate::missing::say_recovery;
use crate::output::{escape, Out};
use crate::{hint, units, Global};

/// A record of a topic of dead letters.
struct Row {
    offset: u64,
    at: u64,
    key: Option<Vec<u8>>,
    /// `None`: it is not a dead letter.
    letter: Option<DeadLetter>,
    state: LetterState,
}

impl Row {
    fn state(&self) -> &'static str {
        match self.state {
            LetterState::Open => "open",
            LetterState::Sending(_) => "sending",
            LetterState::Redriven(_) => "sent again",
            LetterState::Dropped(_) => "dropped",
            _ => "unknown",
        }
    }

    fn sent_as(&self) -> Option<&str> {
        match &self.state {
            LetterState::Sending(sent) | LetterState::Redriven(sent) => Some(&sent.id),
            _ => None,
        }
    }

    fn id(&self) -> &str {
        self.letter.as_ref().map_or("", |letter| &letter.id)
    }

    fn topic(&self) -> &str {
        self.letter.as_ref().map_or("", |letter| &letter.topic)
    }
}

impl Dead {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        match &self.action {
            None => list(global, out, self.topic.as_deref(), &self.which, self.all),
            Some(Action::Ls { topic, which, all }) => {
                list(global, out, topic.as_deref(), which, *all)
            }
            Some(Action::Redrive { topic, which, again, execute }) => {
                let work = Work { topic, which, execute: *execute, again: *again, drops: false };
                work.run(global, out)
            }
            Some(Action::Drop { topic, which, execute }) => {
                let work = Work { topic, which, execute: *execute, again: false, drops: true };
                work.run(global, out)
            }
        }
    }
}

impl Which {
    fn wants(&self, record: &RecordRef<'_>, letter: Option<&DeadLetter>) -> bool {
        let has_key = |key: &String| record.key() == Some(key.as_bytes());
        let has_reason =
            |text: &String| letter.is_some_and(|letter| letter.reason.contains(text.as_str()));
        self.key.as_ref().is_none_or(has_key) && self.reason.as_ref().is_none_or(has_reason)
    }

    /// Calls `each` for those of a topic, up to its current end.
    fn for_each(
        &self,
        letters: &mut DeadLetters,
        mut each: impl FnMut(&mut DeadLetters, Row) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let offsets = self.offset.unwrap_or(Range::ALL).resolve(letters.topic())?;
        let mut reader = crate::cat::reader_at(letters.topic(), offsets.start)?;
        while reader.offset() < offsets.end {
            match reader.next() {
                Ok(Some(record)) => {
                    let letter = DeadLetter::of(&record);
                    if !self.wants(&record, letter.as_ref()) {
                        continue;
                    }
                    let state = match letter.is_some() {
                        true => letters.state(record.offset())?,
                        false => LetterState::Open,
                    };
                    let row = Row {
                        offset: record.offset(),
                        at: record.timestamp_nanos(),
                        key: record.key().map(<[u8]>::to_vec),
                        letter,
                        state,
                    };
                    each(letters, row)?;
                }
                Ok(None) => break,
                // The reader has moved past them already.
                Err(error @ Error::Lost { .. }) => note(&error),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn list(
    global: &Global,
    out: &mut Out,
    topic: Option<&str>,
    which: &Which,
    all: bool,
) -> Result<Exit, Failure> {
    let log = global.open_read_only()?;
    let (mut rows, mut exit) = (Vec::new(), Exit::Ok);
    let mut topics = vec![topic.unwrap_or_default().to_owned()];
    if topic.is_none() {
        topics = log.topics()?;
        topics
            .retain(|name| name.ends_with(".dead") && one_of_all(&log, name, &mut exit).is_some());
    }
    for topic in topics {
        let mut letters = DeadLetters::open(&log, &topic)?;
        which.for_each(&mut letters, |_, row| {
            if !all && matches!(row.state, LetterState::Dropped(_)) {
                return Ok(());
            }
            match out.is_json() {
                true => out.object(&row.json(&topic))?,
                false => rows.push(cells(&topic, &row)),
            }
            Ok(())
        })?;
    }
    if rows.is_empty() && !out.is_json() {
        writeln!(out, "no dead letters")?;
    } else if !out.is_json() {
        let heading =
            ["TOPIC", "OFFSET", "TIME", "STATE", "ID", "FROM", "AT", "KEY", "ATTEMPTS", "REASON"];
        out.table(&heading, &[1, 6, 8], &rows)?;
    }
    Ok(exit)
}

impl Row {
    fn json<'a>(&'a self, topic: &'a str) -> JsonLetter<'a> {
        let letter = self.letter.as_ref();
        JsonLetter {
            letters: topic,
            offset: self.offset,
            time: units::time(self.at),
            id: self.id(),
            topic: self.topic(),
            original_offset: letter.map(|letter| letter.offset),
            key: self.key.as_ref().map(|key| String::from_utf8_lossy(key)),
            attempts: letter.map(|letter| letter.attempts),
            reason: letter.map_or("", |letter| &letter.reason),
            state: self.state(),
            sent_as: self.sent_as(),
        }
    }
}

fn cells(topic: &str, row: &Row) -> Vec<String> {
    let letter = row.letter.as_ref();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        topic.to_owned(),
        row.offset.to_string(),
        units::time(row.at),
        row.state().to_owned(),
        or_dash(letter.map(|letter| escape(letter.id.as_bytes()))),
        or_dash(letter.map(|letter| escape(letter.topic.as_bytes()))),
        or_dash(letter.map(|letter| letter.offset.to_string())),
        or_dash(row.key.as_ref().map(|key| escape(key))),
        or_dash(letter.map(|letter| letter.attempts.to_string())),
        letter.map_or("not a dead letter".to_owned(), |letter| escape(letter.reason.as_bytes())),
    ]
}

/// Sends letters again, or drops them.
struct Work<'a> {
    topic: &'a str,
    which: &'a Which,
    execute: bool,
    again: bool,
    drops: bool,
}

impl Work<'_> {
    fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let log = if self.execute { global.open_existing()? } else { global.open_read_only()? };
        let mut letters = DeadLetters::open(&log, self.topic)?;
        if self.execute {
            say_recovery(letters.topic());
        }
        let (mut exit, mut count, mut passed) = (Exit::Ok, 0, 0);
        self.which.for_each(&mut letters, |letters, row| {
            count += 1;
            let is_done = match row.state {
                LetterState::Dropped(_) => true,
                LetterState::Redriven(_) => !self.drops,
                _ => false,
            };
            if is_done && !self.again {
                passed += 1;
                if out.is_json() {
                    out.object(&self.json(&row, &Ok(None), false))?;
                }
                return Ok(());
            }
            let done = self.one(&log, letters, &row);
            if done.is_err() {
                exit = Exit::No;
            }
            self.tell(out, &row, done)
        })?;
        if out.is_json() {
            return Ok(exit);
        }
        if passed > 0 {
            let add = if self.drops { "" } else { "; add --again to include them" };
            let letters = units::count(passed, "letter");
            writeln!(out, "left out, because they were sent again or dropped: {letters}{add}")?;
        }
        if count == 0 {
            writeln!(out, "no dead letters")?;
        } else if !self.execute {
            writeln!(out, "nothing was changed: add --execute to do it")?;
        }
        Ok(exit)
    }

    /// The new record and its place; `Err`: why this letter cannot be sent or dropped.
    fn one(
        &self,
        log: &Log,
        letters: &mut DeadLetters,
        row: &Row,
    ) -> Result<Option<deaddrop::service::Redriven>, Error> {
        if !self.execute {
            // As far as this can be found out without doing it.
            return match row.letter.is_none() || self.drops {
                true if row.letter.is_some() => Ok(None),
                true => Err(Error::NotFound { what: "a dead letter".into() }),
                false => log.open_topic(row.topic()).map(|_| None),
            };
        }
        match (self.drops, self.again) {
            (true, _) => letters.discard(row.offset).map(|()| None),
            (false, true) => letters.redrive_again(row.offset).map(Some),
            (false, false) => letters.redrive(row.offset).map(Some),
        }
    }

    fn tell(
        &self,
        out: &mut Out,
        row: &Row,
        done: Result<Option<deaddrop::service::Redriven>, Error>,
    ) -> Result<(), Failure> {
        let done = match done {
            // An error of this letter alone.
            Err(
                error @ (Error::Invalid { .. }
                | Error::InvalidName { .. }
                | Error::NotFound { .. }
                | Error::TooLarge { .. }
                | Error::Corrupt { .. }
                | Error::Trimmed { .. }),
            ) => Err(error),
            other => Ok(other?),
        };
        if out.is_json() {
            let executed = self.execute && done.is_ok();
            return Ok(out.object(&self.json(row, &done, executed))?);
        }
        let (offset, id) = (row.offset, escape(row.id().as_bytes()));
        let topic = escape(row.topic().as_bytes());
        match (done, self.drops, self.execute) {
            (Err(error), true, _) => {
                writeln!(out, "{offset} {id} cannot be dropped: {}", hint::error(&error))?;
            }
            (Err(error), false, _) => {
                writeln!(out, "{offset} {id} cannot be sent again: {}", hint::error(&error))?;
            }
            (Ok(_), true, true) => writeln!(out, "{offset} {id} dropped")?,
            (Ok(_), true, false) => writeln!(out, "{offset} {id} would be dropped")?,
            (Ok(Some(sent)), false, _) => {
                let to = sent.offset.map_or("?".to_owned(), |offset| offset.to_string());
                let new = escape(sent.id.as_bytes());
                writeln!(out, "{offset} {id} sent again to {topic}, offset {to}, as {new}")?;
            }
            (Ok(None), false, _) => writeln!(out, "{offset} {id} would be sent again to {topic}")?,
        }
        Ok(())
    }

    fn json<'a>(
        &self,
        row: &'a Row,
        done: &'a Result<Option<deaddrop::service::Redriven>, Error>,
        executed: bool,
    ) -> JsonDone<'a> {
        let sent = done.as_ref().ok().and_then(Option::as_ref);
        JsonDone {
            offset: row.offset,
            id: row.id(),
            topic: row.topic(),
            state: row.state(),
            redriven_to: sent.and_then(|sent| sent.offset),
            sent_as: sent.map(|sent| sent.id.as_str()).or(row.sent_as()),
            executed,
            error: done.as_ref().err().map(hint::error),
        }
    }
}

/// A dead letter.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct JsonLetter<'a> {
    /// The topic of dead letters.
    letters: &'a str,
    /// Its offset there.
    offset: u64,
    /// When it was dead-lettered: RFC 3339, UTC.
    time: String,
    /// The request's id.
    id: &'a str,
    /// The topic of the record.
    topic: &'a str,
    /// Its offset there.
    original_offset: Option<u64>,
    /// Its key.
    key: Option<Cow<'a, str>>,
    /// The attempts that it had.
    attempts: Option<u32>,
    /// Why it was dead-lettered.
    reason: &'a str,
    /// open, sending, sent again, dropped.
    state: &'static str,
    /// What it was sent again as: of a request the new id.
    sent_as: Option<&'a str>,
}

/// The result of redrive or drop.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct JsonDone<'a> {
    /// The dead letter's offset.
    offset: u64,
    /// The request's id.
    id: &'a str,
    /// The topic that it is sent to again.
    topic: &'a str,
    /// Before: open, sending, sent again, dropped.
    state: &'static str,
    /// Its new offset there.
    redriven_to: Option<u64>,
    /// What it was sent again as: of a request the new id.
    sent_as: Option<&'a str>,
    /// Whether it was done, which takes --execute.
    executed: bool,
    /// Why it was not done.
    error: Option<String>,
}
