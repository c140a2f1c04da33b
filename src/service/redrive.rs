//! Sends a dead letter again, once, even if the process dies in between.
//!
//! Ordered writes, each durable before the next: 1. a mark in the topic `NAME.marks`, with the new id and
//! the end of the topic to send to; 2. for a request, a record in the reply topic that tells its client to
//! wait for the new id; 3. the record itself; 4. a mark that it was sent. A process that finds 1 without 4
//! looks for the id in the topic that was sent to, from that end on. If it is there, the process appends 4;
//! if not, it sends the record under the same id, or under a new one if the first has an outcome.

use std::ops::Range;

use super::dead_letters::{DeadLetters, Mark};
use super::envelope::{Envelope, Kind};
use super::request_id::RequestId;
use super::settle::is_answered;
use super::{record_at, replies_of, Redriven};
use crate::error::{Error, Result};
use crate::group::{DeadLetter, SERVERS as GROUP};
use crate::reader::Start;
use crate::record::{OwnedRecord, Record, RecordRef};
use crate::sys::clock;
use crate::sys::random;
use crate::topic::Topic;

/// In a redriven record that is not a request: the id that it was sent under.
const HEADER: &str = "deaddrop.redrive";

/// Sends a dead letter again, once: the one at `offset` of a topic of letters, or the one of the request
/// at `offset` of a service's request topic. Each call reads all marks, and in the second case all letters: open
/// [`DeadLetters`] once to send many again, which reads the marks once and one letter for each call.
///
/// # Errors
///
/// As [`DeadLetters::redrive`].
pub fn redrive(topic: &Topic, offset: u64) -> Result<Redriven> {
    let log = topic.log();
    let Some(service) = topic.name().strip_suffix(".requests") else {
        return DeadLetters::open(&log, topic.name())?.redrive(offset);
    };
    let mut letters = DeadLetters::open(&log, &format!("{service}.dead"))?;
    let letter = letters.find(topic.name(), offset)?.ok_or_else(|| Error::NotFound {
        what: format!("dead letter of offset {offset} of {}", topic.name()),
    })?;
    letters.redrive(letter)
}

/// The traces of an earlier redrive of the letter.
pub(super) enum Begun {
    /// None.
    No,
    /// Its marks may be among the records that cannot be read.
    Perhaps,
    /// A mark: it was to be sent as this, into a topic that ended there.
    Marked { id: String, from: u64 },
}

/// A redrive in progress; see the module.
pub(super) struct Redrive<'a> {
    pub(super) letters: &'a mut DeadLetters,
    pub(super) offset: u64,
    pub(super) letter: DeadLetter,
    pub(super) kept: OwnedRecord,
}

impl Redrive<'_> {
    pub(super) fn run(mut self, begun: Begun) -> Result<()> {
        let target = self.letters.log.open_topic(&self.letter.topic)?;
        let record = self.record(&target)?;
        let request = self.request_in(&record)?;
        let end = target.settled_end()?;
        let found = match &begun {
            Begun::No => None,
            Begun::Perhaps => self.find_sent(&target, None, 0..end)?,
            Begun::Marked { id, from } => self.find_sent(&target, Some(id), *from..end)?,
        };
        if let Some((id, offset)) = found {
            return self.mark(&Mark::Sent { id, offset, at: 0 });
        }
        let id = match begun {
            Begun::Marked { id, .. } if !self.is_spent(&target, request.as_ref(), &id)? => id,
            _ => {
                let id = self.new_id(request.as_ref());
                self.mark(&Mark::Sending { id: id.clone(), from: end, at: 0 })?;
                crate::sys::crash_point::crash_point!("redrive.marked");
                id
            }
        };
        let record = match request {
            Some(request) => {
                let new = self.announce(&target, end, request, &id)?;
                crate::sys::crash_point::crash_point!("redrive.announced");
                new.seal(record.without_reserved_headers())
            }
            None => record.without_reserved_headers().reserved_header(HEADER, id.as_bytes()),
        };
        let offset = target.append(&record)?;
        target.wait_durable(offset)?;
        crate::sys::crash_point::crash_point!("redrive.sent");
        self.mark(&Mark::Sent { id, offset: Some(offset), at: 0 })
    }

    fn mark(&mut self, mark: &Mark) -> Result<()> {
        self.letters.mark(self.offset, &self.letter, mark)
    }

    /// Returns the original record: from the letter's own bytes, or, if they had no room for it, from its
    /// offset in its topic.
    fn record(&self, target: &Topic) -> Result<Record> {
        if let Some(record) = DeadLetter::original(&self.kept) {
            return Ok(record);
        }
        let (letter, topic) = (&self.letter, target.name());
        let gone = || Error::NotFound {
            what: format!(
                "record {} of {topic}, of which dead letter {} holds no copy",
                letter.offset, self.offset
            ),
        };
        target.settled_end()?;
        let record = record_at(target, letter.offset)?.ok_or_else(gone)?;
        let id = match Envelope::of(&record.as_ref()) {
            Some(Ok(envelope)) => envelope.id.to_string(),
            _ => DeadLetter::id_of(target, &record),
        };
        // Offsets can be used again after a power loss.
        match id == letter.id || DeadLetter::id_of(target, &record) == letter.id {
            true => Ok(record.to_record_without(0)),
            false => Err(gone()),
        }
    }

    /// Returns the envelope, if a server would accept the record as a request.
    fn request_in(&self, record: &Record) -> Result<Option<Envelope>> {
        let envelope = record.reserved(super::envelope::HEADER).map(Envelope::decode);
        let Some(Ok(envelope)) = envelope else { return Ok(None) };
        if envelope.kind != Kind::Request {
            return Ok(None);
        }
        if self.letter.group != GROUP {
            return Err(Error::Invalid {
                what: format!(
                    "dead letter {} is a request that group {} dead-lettered, not its service: if it \
                     were sent again, the service would answer it a second time",
                    self.offset, self.letter.group
                ),
            });
        }
        Ok(Some(envelope))
    }

    /// Finds the record that the letter was sent as, in a range of the topic: its id and offset. Looks for
    /// this id, or for any. If part of the range is missing, it may have been there: then it counts as sent,
    /// if the id is known.
    fn find_sent(
        &self,
        target: &Topic,
        id: Option<&str>,
        range: Range<u64>,
    ) -> Result<Option<(String, Option<u64>)>> {
        let mut reader = target.reader(Start::First)?;
        let mut is_partial = range.start < reader.offset();
        if range.start > reader.offset() {
            reader.seek_to(range.start);
        }
        while reader.offset() < range.end {
            match reader.next() {
                Ok(Some(record)) => {
                    let found = sent_as(&record, &self.letter.id);
                    if let Some(found) = found.filter(|found| id.is_none_or(|id| id == found)) {
                        return Ok(Some((found, Some(record.offset()))));
                    }
                    continue;
                }
                Ok(None) => break,
                Err(Error::Corrupt { .. }) => {
                    reader.skip_damage()?;
                }
                Err(Error::Lost { .. }) => {}
                Err(Error::Trimmed { first, .. }) => reader.seek_to(first),
                Err(error) => return Err(error),
            }
            is_partial = true;
        }
        Ok(id.filter(|_| is_partial).map(|id| (id.to_owned(), None)))
    }

    /// Whether the announced request of this id has an outcome before it was sent: its client cancelled
    /// it, or it expired. A server would skip it.
    fn is_spent(&self, target: &Topic, request: Option<&Envelope>, id: &str) -> Result<bool> {
        if request.is_none_or(|request| request.reply_topic.is_some()) {
            return Ok(false);
        }
        let replies = self.replies(target)?;
        is_answered(&replies, 0..replies.settled_end()?, &id.parse()?)
    }

    fn replies(&self, target: &Topic) -> Result<Topic> {
        let service = target.name().strip_suffix(".requests").unwrap_or(target.name());
        self.letters.log.open_topic(&replies_of(service))
    }

    fn new_id(&self, request: Option<&Envelope>) -> String {
        match request {
            Some(request) => RequestId::new(request.id.client(), random(), 0).to_string(),
            None => format!("{}/{:016x}", self.letter.id, random()),
        }
    }

    /// Announces the new request to the client. Returns the new envelope.
    fn announce(
        &self,
        target: &Topic,
        requests_end: u64,
        old: Envelope,
        id: &str,
    ) -> Result<Envelope> {
        let lifetime = |deadline: u64| deadline.saturating_sub(self.letter.sent_at);
        let mut new = Envelope {
            callback: old.callback.clone(),
            context: old.context.clone(),
            deadline: old.deadline.map(|at| clock::wall().saturating_add(lifetime(at))),
            reply_topic: old.reply_topic.clone(),
            conversation: Some(old.conversation().clone()),
            traceparent: old.traceparent.clone(),
            redrive_of: Some(old.id.clone()),
            cause: Some(old.id),
            ..Envelope::new(Kind::Redriven, id.parse()?)
        };
        if new.reply_topic.is_none() {
            let replies = self.replies(target)?;
            new.request_offset = Some(requests_end);
            new.reply_floor = Some(replies.end_offset()?);
            let at = replies.append(&new.seal(Record::default()))?;
            replies.wait_durable(at)?;
            new.request_offset = None;
        }
        new.kind = Kind::Request;
        Ok(new)
    }
}

/// Returns the id that the dead letter of this id was sent under, if `record` is its redrive.
fn sent_as(record: &RecordRef<'_>, letter: &str) -> Option<String> {
    if let Some(Ok(envelope)) = Envelope::of(record) {
        let of = envelope.redrive_of.filter(|_| envelope.kind == Kind::Request)?;
        return (of.to_string() == letter).then(|| envelope.id.to_string());
    }
    let id = std::str::from_utf8(record.header(HEADER)?).ok()?;
    (id.rsplit_once('/')?.0 == letter).then(|| id.to_owned())
}
