//! Settling a doubt: was this request answered before its server died?
//!
//! Passes through the reply topic's append lock, so that an append of the dead server is published or
//! covered. Then takes the end, waits until it is durable as that topic promises, and looks for the id
//! between the floor and that end. Requests are matched by id alone: offsets can be used again after a
//! power loss.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};

use super::envelope::{Envelope, Kind};
use super::request_id::RequestId;
use crate::error::Result;
use crate::group::Job;
use crate::reader;
use crate::topic::Topic;

/// The outcomes found in a reply topic.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// The ids that have an outcome in the range, with the offset of the first.
    pub(super) answered: HashMap<RequestId, u64>,
    /// Whether part of the range was trimmed, damaged or lost: an id that was not found may have been
    /// answered.
    pub(super) is_partial: bool,
}

/// Finds all requests that were answered from `floor` on.
pub(super) fn settle(replies: &Topic, floor: u64) -> Result<Settled> {
    let end = replies.settled_end()?;
    let mut answered = HashMap::new();
    let damaged = scan(replies, floor..end, |offset, _, envelope| {
        if is_outcome(envelope.kind) {
            answered.entry(envelope.id).or_insert(offset);
        }
    })?;
    Ok(Settled { answered, is_partial: !damaged.is_empty() })
}

/// Calls `each` for the records of this layer in a range, with their offset and time. Returns the
/// parts of the range that were trimmed, damaged or lost: they may have held the answer.
pub(super) fn scan(
    topic: &Topic,
    range: Range<u64>,
    mut each: impl FnMut(u64, u64, Envelope),
) -> Result<Vec<Range<u64>>> {
    reader::scan(topic, range, |record| {
        if let Some(Ok(envelope)) = Envelope::of(record) {
            each(record.offset(), record.timestamp_nanos(), envelope);
        }
        ControlFlow::Continue(())
    })
}

/// Returns whether a request has an outcome in a range of its reply topic.
pub(super) fn is_answered(replies: &Topic, range: Range<u64>, id: &RequestId) -> Result<bool> {
    let mut found = false;
    scan(replies, range, |_, _, envelope| {
        found |= is_outcome(envelope.kind) && envelope.id == *id;
    })?;
    Ok(found)
}

/// Returns whether a record of this kind decides a request.
pub(super) fn is_outcome(kind: Kind) -> bool {
    match kind {
        Kind::Reply | Kind::Failed | Kind::DeadLettered | Kind::Expired | Kind::Cancelled => true,
        Kind::Request | Kind::Unparked | Kind::Redriven => false,
    }
}

/// Whether a request was answered before, as known before it is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// It has no outcome.
    Open,
    /// It has one.
    Answered,
    /// The replies that would decide it are trimmed.
    Undecidable,
}

/// The requests answered before the last power loss, by reply topic: read once for all requests of that time.
#[derive(Debug, Default)]
pub(super) struct Past {
    topics: HashMap<String, (u64, Settled)>,
}

impl Past {
    /// Decides whether a request was answered by a server that died.
    pub(super) fn settle(
        &mut self,
        job: &Job,
        id: &RequestId,
        replies: &Topic,
        is_own_topic: bool,
    ) -> Result<Doubt> {
        let mut is_partial = false;
        if let Some(floor) = job.in_doubt {
            let settled = settle(replies, floor.min(replies.settled_end()?))?;
            if settled.answered.contains_key(id) {
                return Ok(Doubt::Answered);
            }
            is_partial |= settled.is_partial;
        }
        if let Some(floor) = job.doubtful {
            // The floor is an offset of the service's own reply topic.
            let floor = if is_own_topic { floor } else { 0 };
            let settled = self.since(replies, floor)?;
            if settled.answered.contains_key(id) {
                return Ok(Doubt::Answered);
            }
            is_partial |= settled.is_partial && is_own_topic;
        }
        Ok(if is_partial { Doubt::Undecidable } else { Doubt::Open })
    }

    fn since(&mut self, replies: &Topic, floor: u64) -> Result<&Settled> {
        let known = self.topics.get(replies.name()).is_some_and(|(from, _)| *from <= floor);
        if !known {
            let settled = settle(replies, floor)?;
            self.topics.insert(replies.name().to_owned(), (floor, settled));
        }
        Ok(&self.topics[replies.name()].1)
    }

    /// Forgets the answers, when nothing is in doubt any more.
    pub(super) fn clear(&mut self) {
        self.topics.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }
}

/// Returns the note of an attempt: an envelope with the id and the reply topic.
pub(super) fn encode_note(id: &RequestId, reply_topic: Option<&str>) -> Vec<u8> {
    let mut envelope = Envelope::new(Kind::Request, id.clone());
    envelope.reply_topic = reply_topic.map(str::to_owned);
    envelope.encode()
}
