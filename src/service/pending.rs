//! The requests of a client that have no outcome yet, and the callers and callbacks that wait for them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use super::envelope::Envelope;
use super::outcome::Completed;
use super::request_id::RequestId;

/// A request without an outcome.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    /// The request's offset, or a lower bound of it while it is being sent.
    pub(super) offset: u64,
    /// The end of the reply topic when the request was sent, or an offset before it.
    pub(super) reply_floor: u64,
    /// The envelope of the request.
    pub(super) envelope: Envelope,
    /// The deadline by the boot clock, which does not jump while this process runs.
    pub(super) due: Option<u64>,
    pub(super) sent_at: u64,
    /// Whether its call handle has the outcome, which the delivery has not reached yet.
    pub(super) is_taken: bool,
    /// Whether it is a redrive that a record of the reply topic, at `reply_floor`, announced: `offset` is then
    /// a lower bound.
    pub(super) is_announced: bool,
}

/// A request without an outcome, as a client lists it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outstanding {
    /// The id of the request.
    pub id: RequestId,
    /// The service that the request was sent to.
    pub service: String,
    /// The callback that waits for the outcome; `None` for a call handle.
    pub callback: Option<String>,
    /// The request's offset in the request topic.
    pub offset: u64,
    /// When the request was sent, by the wall clock.
    pub sent_at: SystemTime,
    /// When the request expires, if it has a deadline.
    pub deadline: Option<SystemTime>,
    /// If the request waits in a lane that a server stopped ([`Poison::StopLane`](super::Poison::StopLane)):
    /// the offset of the request that the lane was stopped at. No server handles either of them before
    /// [`Group::resume`](crate::group::Group::resume) or
    /// [`Group::skip_stopped`](crate::group::Group::skip_stopped) of the group `server` of the request topic.
    pub stopped_at: Option<u64>,
}

/// The requests in flight, and the call handles that wait for them.
#[derive(Debug, Default)]
pub(super) struct State {
    pending: HashMap<RequestId, Pending>,
    by_offset: BTreeSet<(u64, RequestId)>,
    by_due: BTreeSet<(u64, RequestId)>,
    /// The announced requests, by the offset of the record that announces them.
    by_announcement: BTreeSet<(u64, RequestId)>,
    /// The call handles.
    pub(super) calls: HashMap<RequestId, Slot>,
    /// The requests whose outcome is in a call handle that has not returned it, by the offset of the outcome.
    /// The position of the delivery stays below these offsets.
    untaken: BTreeMap<u64, Untaken>,
    /// Offsets of requests that could not be read when the client started.
    pub(super) unreadable: Vec<Range<u64>>,
}

/// The state of a call handle.
#[derive(Debug)]
pub(super) enum Slot {
    /// It waits for the outcome.
    Waiting,
    /// The outcome, which is to be returned, and its offset.
    Came(Box<Completed>, u64),
    /// The outcome, which is to be returned and is parked as well.
    Parked(Box<Completed>),
}

#[derive(Debug)]
struct Untaken {
    id: RequestId,
    pending: Pending,
    since: Instant,
}

impl State {
    /// Adds a request, or replaces it.
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

    /// Returns the offset of the oldest request, and the offset of the reply topic from which on all of them
    /// can be found and answered.
    pub(super) fn oldest(&self) -> Option<(u64, u64)> {
        let (offset, id) = self.by_offset.first()?;
        let held = || self.untaken.values().find(|held| held.id == *id).map(|held| &held.pending);
        let pending = self.pending.get(id).or_else(held).expect("added and removed together");
        let announced = self.by_announcement.first().map_or(u64::MAX, |(at, _)| *at);
        Some((*offset, pending.reply_floor.min(announced)))
    }

    /// Iterates over all requests, with their ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&RequestId, &Pending)> {
        self.pending.iter()
    }

    pub(super) fn count(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn get(&self, id: &RequestId) -> Option<&Pending> {
        self.pending.get(id)
    }

    /// Records the offset that a request got, unless its outcome arrived first.
    pub(super) fn sent(&mut self, id: &RequestId, offset: u64) {
        if let Some(pending) = self.pending.get_mut(id) {
            self.by_offset.remove(&(pending.offset, id.clone()));
            pending.offset = offset;
            self.by_offset.insert((offset, id.clone()));
        }
    }

    /// Records that the call handle of a request has its outcome.
    pub(super) fn take_call(&mut self, id: &RequestId) {
        self.calls.remove(id);
        if let Some(pending) = self.pending.get_mut(id) {
            pending.is_taken = true;
        }
    }

    /// Puts an outcome into the call handle that waits for it; returns it if there is none.
    pub(super) fn hold(&mut self, offset: u64, done: Completed) -> Option<Completed> {
        let id = done.id().clone();
        let Some(slot) = self.calls.get_mut(&id) else { return Some(done) };
        *slot = Slot::Came(Box::new(done), offset);
        if let Some(pending) = self.remove(&id) {
            self.by_offset.insert((pending.offset, id.clone()));
            self.untaken.insert(offset, Untaken { id, pending, since: Instant::now() });
        }
        None
    }

    /// Takes the outcome that arrived for a call handle, and whether it is parked.
    pub(super) fn take_slot(&mut self, id: &RequestId) -> Option<(Completed, bool)> {
        match self.calls.remove(id)? {
            Slot::Waiting => {
                self.calls.insert(id.clone(), Slot::Waiting);
                None
            }
            Slot::Came(done, offset) => {
                self.let_go(offset);
                Some((*done, false))
            }
            Slot::Parked(done) => Some((*done, true)),
        }
    }

    /// Returns an outcome that its handle has not returned for this long.
    pub(super) fn untaken_for(&self, time: Duration) -> Option<Completed> {
        let held = self.untaken.values().find(|held| held.since.elapsed() >= time)?;
        match self.calls.get(&held.id)? {
            Slot::Came(done, _) => Some((**done).clone()),
            _ => None,
        }
    }

    /// Records that the outcome in a handle is parked; returns false if it was returned meanwhile.
    pub(super) fn is_parked_now(&mut self, id: &RequestId) -> bool {
        let Some(slot) = self.calls.get_mut(id) else { return false };
        match std::mem::replace(slot, Slot::Waiting) {
            Slot::Came(done, offset) => {
                *slot = Slot::Parked(done);
                self.let_go(offset);
                true
            }
            other => {
                *slot = other;
                false
            }
        }
    }

    fn let_go(&mut self, offset: u64) {
        if let Some(held) = self.untaken.remove(&offset) {
            self.by_offset.remove(&(held.pending.offset, held.id));
        }
    }

    /// Returns the offset of the first outcome that its call handle has not returned.
    pub(super) fn first_untaken(&self) -> Option<u64> {
        self.untaken.keys().next().copied()
    }

    /// Takes a request whose deadline has passed out of the timer.
    pub(super) fn take_due(&mut self, now: u64) -> Option<(RequestId, Pending)> {
        if self.next_due()? > now {
            return None;
        }
        let (_, id) = self.by_due.pop_first()?;
        let pending = self.pending.get_mut(&id).expect("added and removed together");
        pending.due = None;
        Some((id, pending.clone()))
    }

    /// Puts a request back into the timer, unless it has an outcome meanwhile.
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
