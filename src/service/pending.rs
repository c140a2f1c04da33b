//! The requests of a client that have no outcome yet, and who waits for them.

use std::collections::{BTreeSet, HashMap};
use std::time::SystemTime;

use super::envelope::Envelope;
use super::outcome::Completed;
use super::request_id::RequestId;

/// A request without an outcome.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    /// The request's offset, or one before it while it is being sent.
    pub(super) offset: u64,
    /// The end of the reply topic when it was sent, or an offset before it.
    pub(super) reply_floor: u64,
    /// The request's.
    pub(super) envelope: Envelope,
    /// The deadline by the boot clock: does not jump while this process runs.
    pub(super) due: Option<u64>,
    pub(super) sent_at: u64,
    /// Its call handle has the outcome, which delivery has not come to yet.
    pub(super) is_taken: bool,
    /// A redrive, of which a record of the reply topic told, at `reply_floor`: its offset is one before it.
    pub(super) is_announced: bool,
}

/// A request without an outcome, as a client lists it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outstanding {
    /// Which request.
    pub id: RequestId,
    /// The service that it was sent to.
    pub service: String,
    /// The callback that waits for it; empty: a call handle.
    pub callback: String,
    /// Its offset in the request topic.
    pub offset: u64,
    /// When it was sent, by the wall clock.
    pub sent_at: SystemTime,
    /// When it expires, if it has a deadline.
    pub deadline: Option<SystemTime>,
}

/// The requests in flight, and who waits for them.
#[derive(Debug, Default)]
pub(super) struct State {
    pending: HashMap<RequestId, Pending>,
    by_offset: BTreeSet<(u64, RequestId)>,
    by_due: BTreeSet<(u64, RequestId)>,
    /// Of those that are announced: by the offset of that record.
    by_announcement: BTreeSet<(u64, RequestId)>,
    /// Call handles that wait, with what came.
    pub(super) calls: HashMap<RequestId, Option<Completed>>,
}

impl State {
    /// Adds a request; in the place of what was known of it before.
    pub(super) fn insert(&mut self, pending: Pending) {
        let id = pending.envelope.id.clone();
        self.remove(&id);
        self.by_offset.insert((pending.offset, id.clone()));
        if let Some(due) = pending.due {
            self.by_due.insert((due, id.clone()));
        }
        if pending.is_announced {
            self.by_announcement.insert((pending.reply_floor, id.clone()));
        }
        self.pending.insert(id, pending);
    }

    pub(super) fn remove(&mut self, id: &RequestId) -> Option<Pending> {
        let pending = self.pending.remove(id)?;
        self.by_offset.remove(&(pending.offset, id.clone()));
        if let Some(due) = pending.due {
            self.by_due.remove(&(due, id.clone()));
        }
        if pending.is_announced {
            self.by_announcement.remove(&(pending.reply_floor, id.clone()));
        }
        Some(pending)
    }

    /// The oldest request, and the offset of the reply topic from which on all of them can be found and
    /// answered.
    pub(super) fn oldest(&self) -> Option<(u64, u64)> {
        let (offset, id) = self.by_offset.first()?;
        let pending = self.pending.get(id).expect("added and removed together");
        let announced = self.by_announcement.first().map_or(u64::MAX, |(at, _)| *at);
        Some((*offset, pending.reply_floor.min(announced)))
    }

    /// All requests, with their ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&RequestId, &Pending)> {
        self.pending.iter()
    }

    pub(super) fn count(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn get(&self, id: &RequestId) -> Option<&Pending> {
        self.pending.get(id)
    }

    /// Notes the offset that a request got, if its outcome was not faster.
    pub(super) fn sent(&mut self, id: &RequestId, offset: u64) {
        if let Some(pending) = self.pending.get_mut(id) {
            self.by_offset.remove(&(pending.offset, id.clone()));
            pending.offset = offset;
            self.by_offset.insert((offset, id.clone()));
        }
    }

    /// Notes that the call handle of a request has its outcome.
    pub(super) fn take_call(&mut self, id: &RequestId) {
        self.calls.remove(id);
        if let Some(pending) = self.pending.get_mut(id) {
            pending.is_taken = true;
        }
    }

    /// Takes a request out of the timer whose deadline has passed.
    pub(super) fn take_due(&mut self, now: u64) -> Option<(RequestId, Pending)> {
        if self.next_due()? > now {
            return None;
        }
        let (_, id) = self.by_due.pop_first()?;
        let pending = self.pending.get_mut(&id).expect("added and removed together");
        pending.due = None;
        Some((id, pending.clone()))
    }

    /// Puts a request back into the timer, unless it has come to its end meanwhile.
    pub(super) fn set_due(&mut self, id: &RequestId, due: u64) {
        if let Some(pending) = self.pending.get_mut(id) {
            pending.due = Some(due);
            self.by_due.insert((due, id.clone()));
        }
    }

    pub(super) fn next_due(&self) -> Option<u64> {
        self.by_due.first().map(|(due, _)| *due)
    }
}
