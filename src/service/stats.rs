//! A client's counters since it was opened.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// A client's counters since it was opened. Each number only increases; together they are not a
/// snapshot of one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStats {
    /// Requests that were sent, even if their append ended in [`Error::Unknown`](crate::Error::Unknown).
    pub sent: u64,
    /// Outcomes that a callback or a call handle took, including those that were parked before.
    pub completed: u64,
    /// Outcomes that arrived as `Expired`.
    pub expired: u64,
    /// Outcomes that arrived as `Cancelled`.
    pub cancelled: u64,
    /// Outcomes that were parked because no callback and no caller took them.
    pub parked: u64,
    /// Records that arrived after the outcome of their request.
    pub late: u64,
    /// Records that name a request which this client never sent: forged, or damaged before they were
    /// appended.
    pub unknown: u64,
    /// Calls of a callback after one that failed.
    pub callback_retries: u64,
    /// Offsets of damaged or trimmed records that were skipped, in topics of requests, of replies and of
    /// parked outcomes. A request whose outcome was among them stays outstanding until its deadline, or
    /// until it is [cancelled](crate::service::Client::cancel).
    pub damaged: u64,
}

/// The counters of [`ClientStats`]. No other data is read through them, so they need no memory ordering.
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
    /// Counts the offsets of damage that was skipped.
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
