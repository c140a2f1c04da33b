//! Settling a doubt: was this request answered before its server died?
//!
//! Pass through the reply topic's append lock (what a dead server had in hand there is then published
//! or given up), take the end, wait until it is durable as that topic promises, and look for the id
//! between the floor and there. Requests are matched by id alone: offsets can be used again after a
//! power cut.

use std::collections::HashMap;

use super::envelope::{Envelope, Kind};
use super::request_id::RequestId;
use crate::error::Result;
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
