//! Settling a doubt: was this request answered before its server died?
//!
//! Pass through the reply topic's append lock (what a dead server had in hand there is then published
//! or given up), take the end, wait until it is durable as that topic promises, and look for the id
//! between the floor and there. Requests are matched by id alone: offsets can be used again after a
//! power cut.

use std::collections::HashMap;

use super::envelope::{Envelope, Kind};
use super::request_id::RequestId;
use super::server::Server;
use crate::consumer::Attempt;
use crate::error::{Error, Result};
use crate::reader::Start;
use crate::topic::Topic;

/// What a look at a reply topic found.
pub(super) struct Settled {
    /// The ids that have an outcome in the range, with the offset of the first.
    pub(super) answered: HashMap<RequestId, u64>,
    /// Part of the range was trimmed: an id that was not found may have been answered.
    pub(super) is_partial: bool,
}

impl Settled {
    /// The ids whose outcome is below `offset`.
    pub(super) fn ids_below(self, offset: u64) -> impl Iterator<Item = RequestId> {
        self.answered.into_iter().filter(move |(_, at)| *at < offset).map(|(id, _)| id)
    }
}

/// Everything that was answered from `floor` on.
pub(super) fn settle(replies: &Topic, floor: u64) -> Result<Settled> {
    let end = replies.settled_end()?;
    let first = replies.first_offset()?;
    let mut settled = Settled { answered: HashMap::new(), is_partial: floor < first };
    let from = floor.max(first).min(end);
    if from == end {
        return Ok(settled);
    }
    let mut reader = replies.reader(Start::Offset(from))?;
    while reader.offset() < end {
        let Some(record) = reader.next()? else { break };
        if let Some(Ok(envelope)) = Envelope::of(&record) {
            if is_outcome(envelope.kind) {
                settled.answered.entry(envelope.id).or_insert(record.offset());
            }
        }
    }
    Ok(settled)
}

/// Whether a record of this kind decides a request.
pub(super) fn is_outcome(kind: Kind) -> bool {
    match kind {
        Kind::Reply | Kind::Failed | Kind::DeadLettered | Kind::Expired | Kind::Cancelled => true,
        Kind::Request | Kind::Unparked => false,
    }
}

impl Server {
    /// Decides whether the request that was in hand was answered.
    pub(super) fn settle_attempt(&mut self, attempt: &Attempt) -> Result<()> {
        let (id, reply_topic) = decode_note(&attempt.note)?;
        match self.reply_topic(reply_topic.as_deref()) {
            Ok(topic) => {
                let floor = attempt.floor.min(topic.settled_end()?);
                let settled = settle(&topic, floor)?;
                if settled.answered.contains_key(&id) {
                    self.lane.set_position(attempt.offset + 1);
                } else if settled.is_partial {
                    self.give_up_undecidable(attempt, &id)?;
                } else {
                    self.attempts_before = Some((id, attempt.count));
                }
            }
            // Deleted meanwhile: handling the request finds the same and keeps it as a dead letter.
            Err(Error::NotFound { .. }) => {}
            Err(other) => return Err(other),
        }
        self.lane.end_attempt();
        Ok(())
    }

    /// The replies that would tell are trimmed: never silently run again.
    fn give_up_undecidable(&mut self, attempt: &Attempt, id: &RequestId) -> Result<()> {
        let mut reader = self.requests.reader(Start::Offset(attempt.offset))?;
        let record = reader.next()?.map(|record| record.to_owned());
        let Some(record) = record else { return Ok(()) };
        if let Some(Ok(envelope)) = Envelope::of(&record.as_ref()) {
            if envelope.id == *id {
                let why =
                    "the server died and the replies that would tell whether it had answered \
                           are trimmed";
                self.dead_letter(&record, &envelope, attempt.count, why)?;
                self.lane.set_position(attempt.offset + 1);
            }
        }
        Ok(())
    }
}

/// The note of an attempt: an envelope with the id and the reply topic.
pub(super) fn encode_note(id: &RequestId, reply_topic: Option<&str>) -> Vec<u8> {
    let mut envelope = Envelope::new(Kind::Request, id.clone());
    envelope.reply_topic = reply_topic.map(str::to_owned);
    envelope.encode()
}

fn decode_note(note: &[u8]) -> Result<(RequestId, Option<String>)> {
    let envelope = Envelope::decode(note)?;
    Ok((envelope.id, envelope.reply_topic))
}
