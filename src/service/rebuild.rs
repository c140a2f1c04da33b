//! Finds, at the start of a client, the requests that its earlier starts left without an outcome.
//!
//! The bytes that are read are untrusted: records may be there twice, or name requests that were
//! answered long ago. The first of several requests with the same id counts, and a request with an outcome
//! anywhere after its own reply floor is not open.

use std::collections::HashSet;
use std::ops::Range;

use super::envelope::{Envelope, Kind};
use super::link::{boot_time_of, Link};
use super::pending::Pending;
use super::settle::{is_answered, is_outcome, scan};
use super::stats::Counters;
use crate::error::Result;
use crate::record::OwnedRecord;
use crate::topic::Topic;

impl Link {
    /// Finds the requests that an earlier start of the client left without an outcome.
    pub(super) fn rebuild(&self, client: &str, counters: &Counters) -> Result<()> {
        let floor = &self.floor.lock().requests;
        let committed = self.position.lock().cursor.committed();
        let end = self.requests.settled_end()?;
        let reply_floor = floor.floor().min(self.replies.settled_end()?).min(committed);
        floor.set_floor(reply_floor);
        let mut state = self.state.lock();
        let mut replies_from = reply_floor;
        let window = floor.committed().min(end)..end;
        let unreadable = scan(&self.requests, window, |offset, sent_at, envelope| {
            let is_own = envelope.kind == Kind::Request && envelope.id.client() == client;
            if !is_own || state.get(&envelope.id).is_some() {
                return;
            }
            // For a request that was sent before the floor existed: its record was duplicated.
            replies_from = replies_from.min(envelope.reply_floor.unwrap_or(reply_floor));
            state.insert(Pending {
                offset,
                reply_floor,
                due: envelope.deadline.map(boot_time_of),
                envelope,
                sent_at,
                is_taken: false,
                is_announced: false,
            });
        })?;
        let report = |topic: &Topic, all: &[Range<u64>]| {
            all.iter().for_each(|offsets| counters.passed_over(topic.name(), offsets));
        };
        report(&self.requests, &unreadable);
        state.unreadable = unreadable;
        // Replies below the committed position were delivered; below the floor there are none.
        let mut answered = HashSet::new();
        let mut announced = Vec::new();
        let damaged = scan(&self.replies, replies_from..committed, |offset, at, envelope| {
            if envelope.id.client() != client {
                return;
            }
            if is_outcome(envelope.kind) {
                state.remove(&envelope.id);
                answered.insert(envelope.id);
            } else if envelope.kind == Kind::Redriven {
                announced.push(announcement(offset, at, envelope));
            }
        })?;
        report(&self.replies, &damaged);
        for mut pending in announced {
            let id = &pending.envelope.id;
            let known = state.get(id);
            if known.is_some_and(|known| known.is_announced)
                || answered.contains(id)
                || self.is_answered_before(&pending)?
            {
                continue;
            }
            pending.offset = known.map_or(pending.offset, |known| known.offset);
            state.insert(pending);
        }
        Ok(())
    }

    /// Returns the request of an outcome, if it was among those that could not be read when the client started,
    /// and had no outcome before: the outcome repeats its callback and its context.
    pub(super) fn unreadable_request(
        &self,
        offset: u64,
        outcome: &Envelope,
    ) -> Result<Option<Pending>> {
        let Some(at) = outcome.request_offset else { return Ok(None) };
        if !self.state.lock().unreadable.iter().any(|range| range.contains(&at)) {
            return Ok(None);
        }
        let from = self.floor.lock().requests.floor().min(offset);
        if is_answered(&self.replies, from..offset, &outcome.id)? {
            return Ok(None);
        }
        Ok(Some(Pending {
            offset: at,
            reply_floor: from,
            envelope: outcome.clone(),
            due: None,
            sent_at: 0,
            is_taken: false,
            is_announced: false,
        }))
    }

    /// Waits for the outcome of a redriven request, from the record on that announces it.
    pub(super) fn await_redriven(&self, record: &OwnedRecord, envelope: Envelope) -> Result<()> {
        let at = record.as_ref().timestamp_nanos();
        let pending = announcement(record.offset(), at, envelope);
        if self.state.lock().get(&pending.envelope.id).is_some()
            || self.is_answered_before(&pending)?
        {
            return Ok(());
        }
        self.state.lock().insert(pending);
        Ok(())
    }

    /// Returns the offset of a request; for an announced request, a lower bound of it.
    pub(super) fn offset_of(&self, pending: &Pending) -> Result<u64> {
        let mut offset = pending.offset;
        if pending.is_announced {
            let end = self.requests.high_watermark()?;
            scan(&self.requests, offset.min(end)..end, |at, _, envelope| {
                if envelope.id == pending.envelope.id && envelope.kind == Kind::Request {
                    offset = at;
                }
            })?;
        }
        Ok(offset)
    }

    /// Returns whether the request that a record of the reply topic announces was answered before that record:
    /// then the record is a copy of an earlier one.
    pub(super) fn is_answered_before(&self, announced: &Pending) -> Result<bool> {
        let at = announced.reply_floor;
        let from = announced.envelope.reply_floor.unwrap_or(at);
        is_answered(&self.replies, from.min(at)..at, &announced.envelope.id)
    }
}

/// Returns the request that a record of kind `Redriven` announces.
pub(super) fn announcement(offset: u64, at: u64, mut envelope: Envelope) -> Pending {
    envelope.kind = Kind::Request;
    Pending {
        offset: envelope.request_offset.take().unwrap_or(0),
        reply_floor: offset,
        due: envelope.deadline.map(boot_time_of),
        envelope,
        sent_at: at,
        is_taken: false,
        is_announced: true,
    }
}
