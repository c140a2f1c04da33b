//! Copies of records that are no longer retried, in a topic of their own.
//!
//! A copy is the original record, with all its headers, after the headers of this module. So it can
//! be sent again when the original is trimmed.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;

use super::Job;
use crate::error::{Error, Result};
use crate::reader;
use crate::record::{OwnedRecord, Record, RecordRef};
use crate::topic::Topic;

const ID: &str = "dead-letter-id";
const TOPIC: &str = "dead-letter-topic";
const OFFSET: &str = "dead-letter-offset";
const GROUP: &str = "dead-letter-group";
const ATTEMPTS: &str = "dead-letter-attempts";
const SENT_AT: &str = "dead-letter-sent-at";
/// Only in a copy without the record's own bytes, which left no room for these headers.
const BYTES: &str = "dead-letter-bytes";
/// The last of these headers: the record's own headers follow.
const REASON: &str = "dead-letter-reason";

/// The longest reason that is stored.
const MAX_REASON_LEN: usize = 4096;

/// The headers of a record of a dead-letter topic: untrusted bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Identifies the record: a request's id, or its topic, offset and time.
    pub id: String,
    /// The topic that it was in.
    pub topic: String,
    /// The record's offset there.
    pub offset: u64,
    /// The group that stopped retrying it.
    pub group: String,
    /// The number of attempts that were made.
    pub attempts: u32,
    /// When the record was appended, in nanoseconds since the Unix epoch.
    pub sent_at: u64,
    /// Why the record is no longer retried.
    pub reason: String,
}

impl DeadLetter {
    /// Decodes the headers of `record`; `None` if it is not a dead letter.
    pub fn of(record: &RecordRef<'_>) -> Option<DeadLetter> {
        let text =
            |name| record.header(name).map(String::from_utf8_lossy).map(|text| text.into_owned());
        Some(DeadLetter {
            id: text(ID)?,
            topic: text(TOPIC)?,
            offset: text(OFFSET)?.parse().ok()?,
            group: text(GROUP).unwrap_or_default(),
            attempts: text(ATTEMPTS).and_then(|text| text.parse().ok()).unwrap_or(0),
            sent_at: text(SENT_AT).and_then(|text| text.parse().ok()).unwrap_or(0),
            reason: text(REASON).unwrap_or_default(),
        })
    }

    /// Returns the id of a record that has none of its own. Offsets can be used again after a power loss.
    pub(crate) fn id_of(topic: &Topic, record: &OwnedRecord) -> String {
        format!("{}@{}@{}", topic.name(), record.offset(), record.as_ref().timestamp_nanos())
    }

    /// Returns the original record of the dead letter `kept`; `None` if the letter does not contain its bytes.
    pub(crate) fn original(kept: &OwnedRecord) -> Option<Record> {
        let record = kept.as_ref();
        let own = record.headers().position(|(name, _)| name == REASON)? + 1;
        let is_whole = record.headers().take(own).all(|(name, _)| name != BYTES);
        is_whole.then(|| kept.to_record_without(own))
    }

    /// Appends a copy. With `kept`, only if there is none of this id.
    fn keep(&self, dead: &Topic, record: &OwnedRecord, kept: Option<&mut Kept>) -> Result<()> {
        if let Some(kept) = kept {
            if kept.has(dead, &self.id)? {
                return Ok(());
            }
        }
        let (offset, attempts) = (self.offset.to_string(), self.attempts.to_string());
        let sent_at = self.sent_at.to_string();
        let mut front = vec![
            (ID, self.id.as_str()),
            (TOPIC, &self.topic),
            (OFFSET, &offset),
            (GROUP, &self.group),
            (ATTEMPTS, &attempts),
            (SENT_AT, &sent_at),
            (REASON, shortened(&self.reason)),
        ];
        let offset = match dead.append(&record.to_record_after(&front)) {
            // No room for the headers beside the record's own: they say where the original is.
            Err(Error::Invalid { .. } | Error::TooLarge { .. }) => {
                front.insert(0, (BYTES, "in the original"));
                let headers = front.iter();
                let copy = headers
                    .fold(Record::default(), |copy, (name, value)| copy.with_header(name, value));
                dead.append(&copy)?
            }
            other => other?,
        };
        // The thread that makes the lane's position durable later may not know of this topic.
        dead.wait_durable(offset)
    }
}

/// Keeps the dead letters of a group.
pub(crate) struct Letters {
    topic: Topic,
    group: String,
    /// The topic that they go to, open while there are many: each opening reads its newest segment.
    dead: Option<Topic>,
    kept: Kept,
}

impl Letters {
    pub(crate) fn new(topic: &Topic, group: &str) -> Letters {
        let (topic, group) = (topic.clone(), group.to_owned());
        Letters { topic, group, dead: None, kept: Kept::default() }
    }

    /// Copies the record of a job to the topic that `open` opens, with its origin and the reason; once for each
    /// id. `id`: the record's own, if it has one.
    pub(crate) fn keep(
        &mut self,
        job: &Job,
        id: Option<String>,
        why: &str,
        open: impl FnOnce() -> Result<Topic>,
    ) -> Result<()> {
        let dead = match self.dead.take() {
            Some(dead) => dead,
            None => open()?,
        };
        let dead = self.dead.insert(dead);
        let letter = DeadLetter {
            id: id.unwrap_or_else(|| DeadLetter::id_of(&self.topic, &job.record)),
            topic: self.topic.name().to_owned(),
            offset: job.offset(),
            group: self.group.clone(),
            attempts: job.attempt,
            sent_at: job.record().timestamp_nanos(),
            reason: why.to_owned(),
        };
        let is_repeated = job.may_be_kept || job.attempt > 1;
        letter.keep(dead, &job.record, is_repeated.then_some(&mut self.kept))
    }

    /// Closes the topic: an operator may delete it while none is written.
    pub(crate) fn close(&mut self) {
        self.dead = None;
    }
}

/// The ids in a dead-letter topic, as far as it was read: a lookup reads only the records that were
/// appended since the last one.
#[derive(Debug, Default)]
struct Kept {
    /// The id of this topic: one of the same name may have been deleted and created again.
    topic_id: u64,
    read_to: u64,
    /// Hashes of ids, with the offset of the first letter.
    found: HashMap<u64, u64>,
    hasher: RandomState,
}

impl Kept {
    /// Returns whether there is a letter of this id.
    fn has(&mut self, dead: &Topic, id: &str) -> Result<bool> {
        if self.topic_id != dead.inner().settings.topic_id {
            *self = Kept { topic_id: dead.inner().settings.topic_id, ..Kept::default() };
        }
        let end = dead.settled_end()?;
        // Offsets are used again only after a power loss, which no server survives.
        let from = self.read_to.min(end);
        for_each_letter(dead, from, end, |record| {
            if let Some(id) = record.header(ID) {
                self.found.entry(self.hasher.hash_one(id)).or_insert(record.offset());
            }
            false
        })?;
        self.read_to = end;
        let Some(&at) = self.found.get(&self.hasher.hash_one(id.as_bytes())) else {
            return Ok(false);
        };
        let is_it = |record: &RecordRef<'_>| record.header(ID) == Some(id.as_bytes());
        // A letter with another id of the same hash may be before it.
        Ok(for_each_letter(dead, at, at + 1, is_it)? || for_each_letter(dead, 0, end, is_it)?)
    }
}

/// Calls `is_it` for the records of a range until it returns true. Damage is skipped.
pub(crate) fn for_each_letter(
    dead: &Topic,
    from: u64,
    end: u64,
    mut is_it: impl FnMut(&RecordRef<'_>) -> bool,
) -> Result<bool> {
    let mut is_found = false;
    reader::scan(dead, from..end, |record| {
        is_found = is_it(record);
        match is_found {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    Ok(is_found)
}

/// Returns a reason, cut to the length that is stored.
pub(crate) fn shortened(reason: &str) -> &str {
    let mut len = reason.len().min(MAX_REASON_LEN);
    while !reason.is_char_boundary(len) {
        len -= 1;
    }
    &reason[..len]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Log;
    use crate::reader::Start;

    fn letter(topic: &Topic, number: u64) -> (DeadLetter, OwnedRecord) {
        let at = topic.append(&Record::new("x").with_key("k").with_header(ID, "its own")).unwrap();
        let record = topic.reader(Start::Offset(at)).unwrap().next().unwrap().unwrap().to_owned();
        let letter = DeadLetter {
            id: format!("id-{number}"),
            topic: topic.name().to_owned(),
            offset: at,
            group: "g".into(),
            attempts: 1,
            sent_at: record.as_ref().timestamp_nanos(),
            reason: "why".into(),
        };
        (letter, record)
    }

    #[test]
    fn a_letter_is_kept_once_for_its_id_and_holds_the_record_as_it_stood() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open_or_create(dir.path()).unwrap();
        let (topic, dead) = (log.topic("t").unwrap(), log.topic("t.g.dead").unwrap());
        let mut kept = Kept::default();
        for _ in 0..2 {
            for number in 0..3 {
                let (letter, record) = letter(&topic, number);
                letter.keep(&dead, &record, Some(&mut kept)).unwrap();
            }
        }
        assert_eq!(dead.high_watermark().unwrap(), 3);
        let record = dead.reader(Start::First).unwrap().next().unwrap().unwrap().to_owned();
        assert_eq!(DeadLetter::of(&record.as_ref()).unwrap().id, "id-0");
        let original = DeadLetter::original(&record).unwrap();
        assert_eq!(original, Record::new("x").with_key("k").with_header(ID, "its own"));
    }

    #[test]
    fn a_look_for_an_id_reads_only_what_was_appended_since_the_last_one() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open_or_create(dir.path()).unwrap();
        let (topic, dead) = (log.topic("t").unwrap(), log.topic("t.g.dead").unwrap());
        let mut kept = Kept::default();
        for number in 0..3 {
            let (letter, record) = letter(&topic, number);
            letter.keep(&dead, &record, None).unwrap();
        }
        assert!(kept.has(&dead, "id-1").unwrap() && !kept.has(&dead, "id-3").unwrap());
        // It knows the letters that it has read from its own memory alone.
        kept.found.clear();
        let (letter, record) = letter(&topic, 3);
        letter.keep(&dead, &record, None).unwrap();
        assert!(kept.has(&dead, "id-3").unwrap() && !kept.has(&dead, "id-1").unwrap());
        drop(dead);
        log.delete_topic("t.g.dead").unwrap();
        let dead = log.topic("t.g.dead").unwrap();
        letter.keep(&dead, &record, Some(&mut kept)).unwrap();
        assert_eq!(dead.high_watermark().unwrap(), 1, "a new topic has no letters");
    }
}
