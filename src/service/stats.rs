//! What a client has counted since it was opened.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a client has counted since it was opened. Each number only rises; together they are no
/// snapshot of one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStats {
    /// Requests that were sent, also if their append ended in [`Error::Unknown`](crate::Error::Unknown).
    pub sent: u64,
    /// Outcomes that a callback or a call handle took, those that were parked before included.
    pub completed: u64,
    /// Of all outcomes that came: how many were `Expired`.
    pub expired: u64,
    /// Of all outcomes that came: how many were `Cancelled`.
    pub cancelled: u64,
    /// Outcomes that nobody took, and that were parked.
    pub parked: u64,
    /// Records that came after the outcome of their request.
    pub late: u64,
    /// Records that name a request which this client never sent: forged, or damaged before they were
    /// appended.
    pub unknown: u64,
    /// Calls of a callback after one that failed.
    pub callback_retries: u64,
    /// Offsets of damaged or trimmed records that were passed over, in topics of requests, of replies and of
    /// parked outcomes. A request whose outcome was among them stays outstanding until its deadline, or
    /// until it is [cancelled](crate::service::Client::cancel).
    pub damaged: u64,
}

/// The counters behind [`ClientStats`]. Nothing is read by them, so no order is needed.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) sent: AtomicU64,
    pub(super) completed: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) cancelled: AtomicU64,
    pub(super) parked: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) unknown: AtomicU64,
    pub(super) callback_retries: AtomicU64,
    pub(super) damaged: AtomicU64,
}

/// Counts one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    /// Counts the offsets of damage that was passed over.
    pub(super) fn passed_over(&self, offsets: &Range<u64>) {
        self.damaged.fetch_add(offsets.end - offsets.start, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> ClientStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ClientStats {
            sent: read(&self.sent),
            completed: read(&self.completed),
            expired: read(&self.expired),
            cancelled: read(&self.cancelled),
            parked: read(&self.parked),
            late: read(&self.late),
            unknown: read(&self.unknown),
            callback_retries: read(&self.callback_retries),
            damaged: read(&self.damaged),
        }
    }
}
