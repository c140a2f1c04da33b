//! `dead`: lists dead letters, and sends their requests again.

use std::io::Write;

use deaddrop::service::{redrive, Envelope};
use deaddrop::{Error, Log, RecordRef, Start, Topic};
use serde_json::json;

use crate::args::dead::{Action, Dead};
use crate::args::range::{Point, Range};
use crate::failure::{note, Exit, Failure};
use crate::output::{escape, Out};
use crate::{units, Global};

/// What the server noted of a dead letter.
struct Letter {
    offset: u64,
    at: u64,
    id: String,
    topic: String,
    original: Option<u64>,
    reason: String,
}

impl Letter {
    fn of(record: &RecordRef<'_>) -> Letter {
        let text = |name| {
            let value = record.header(name).unwrap_or_default();
            String::from_utf8_lossy(value).into_owned()
        };
        Letter {
            offset: record.offset(),
            at: record.timestamp_nanos(),
            id: text("dead-letter-id"),
            topic: text("dead-letter-topic"),
            original: text("dead-letter-offset").parse().ok(),
            reason: text("dead-letter-reason"),
        }
    }

    /// The topic and offset of the original, if it is still there: an offset can have been used again.
    fn find_original(&self, log: &Log) -> Result<(Topic, u64), Failure> {
        let offset = self.original.filter(|_| !self.topic.is_empty());
        let offset = offset.ok_or_else(|| Failure::no("it is no dead letter"))?;
        let topic = log.existing_topic(&self.topic)?;
        if offset >= topic.high_watermark()? {
            return Err(Failure::no("its original is gone"));
        }
        let mut reader = topic.reader(Start::Offset(offset)).map_err(|error| match error {
            Error::Trimmed { .. } => Failure::no("its original was trimmed"),
            other => other.into(),
        })?;
        let record = reader.next()?.ok_or_else(|| Failure::no("its original is gone"))?;
        let id = match Envelope::of(&record) {
            Some(Ok(envelope)) => envelope.id.to_string(),
            _ => format!("offset {offset}"),
        };
        if id != self.id {
            return Err(Failure::no(format_args!("another record stands at its offset {offset}")));
        }
        Ok((topic, offset))
    }
}

impl Dead {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        match (&self.action, &self.topic) {
            (Some(Action::Ls { topic }), _) | (None, Some(topic)) => list(global, out, topic),
            (Some(Action::Redrive { topic, offset, execute }), _) => {
                self::redrive_range(global, out, topic, offset.unwrap_or(Range::ALL), *execute)
            }
            (None, None) => Err(Failure::usage("name a topic of dead letters")),
        }
    }
}

/// Calls `each` for the records of a range, which ends where the topic does now.
fn for_range(
    topic: &Topic,
    range: Range,
    mut each: impl FnMut(&Letter) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let offsets = range.resolve(topic)?;
    let mut reader = crate::cat::reader_at(topic, offsets.start)?;
    while reader.offset() < offsets.end {
        match reader.next() {
            Ok(Some(record)) => each(&Letter::of(&record))?,
            Ok(None) => break,
            // It stands behind them already.
            Err(error @ Error::Lost { .. }) => note(&error),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn list(global: &Global, out: &mut Out, topic: &str) -> Result<Exit, Failure> {
    let topic = global.open_read_only()?.existing_topic(topic)?;
    let mut count = 0;
    for_range(&topic, Range { from: Point::First, to: Point::End }, |letter| {
        count += 1;
        if out.is_json() {
            out.object(&json!({
                "offset": letter.offset,
                "time": units::time(letter.at),
                "id": letter.id,
                "topic": letter.topic,
                "original_offset": letter.original,
                "reason": letter.reason,
            }))?;
        } else {
            let original = letter.original.map_or("?".to_owned(), |offset| offset.to_string());
            let [id, from, reason] =
                [&letter.id, &letter.topic, &letter.reason].map(|text| escape(text.as_bytes()));
            let time = units::time(letter.at);
            writeln!(out, "{} {time} {id} from {from} offset {original}: {reason}", letter.offset)?;
        }
        Ok(())
    })?;
    if count == 0 && !out.is_json() {
        writeln!(out, "no dead letters")?;
    }
    Ok(Exit::Ok)
}

fn redrive_range(
    global: &Global,
    out: &mut Out,
    topic: &str,
    range: Range,
    execute: bool,
) -> Result<Exit, Failure> {
    let log = if execute { global.open_existing()? } else { global.open_read_only()? };
    let letters = log.existing_topic(topic)?;
    let mut exit = Exit::Ok;
    let mut count = 0;
    for_range(&letters, range, |letter| {
        count += 1;
        let found = letter.find_original(&log);
        let done = match found {
            Ok((requests, offset)) if execute => Ok(Some(redrive(&requests, offset)?)),
            Ok(_) => Ok(None),
            Err(failure) => Err(failure),
        };
        let id = escape(letter.id.as_bytes());
        let (from, offset) = (escape(letter.topic.as_bytes()), letter.offset);
        if done.is_err() {
            exit = Exit::No;
        }
        if out.is_json() {
            out.object(&json!({
                "offset": offset,
                "id": letter.id,
                "topic": letter.topic,
                "redriven_to": done.as_ref().ok().copied().flatten(),
                "executed": matches!(done, Ok(Some(_))),
                "error": done.err().map(|failure| failure.to_string()),
            }))?;
            return Ok(());
        }
        match done {
            Ok(Some(to)) => writeln!(out, "{offset} {id} sent again to {from}, offset {to}")?,
            Ok(None) => writeln!(out, "{offset} {id} would be sent again to {from}")?,
            Err(failure) => writeln!(out, "{offset} {id} cannot be sent again: {failure}")?,
        }
        Ok(())
    })?;
    if count == 0 && !out.is_json() {
        writeln!(out, "no dead letters")?;
    } else if !execute && !out.is_json() {
        writeln!(out, "nothing was changed: add --execute to do it")?;
    }
    Ok(exit)
}
