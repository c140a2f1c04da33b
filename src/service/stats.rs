//! A client's counters since it was opened.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::spans;
use crate::group::count;

counters! {
    /// A client's counters since it was opened. Each number only increases; together they are not a
    /// snapshot of one moment.
    ClientStats of Counters:
    /// Requests that were sent, even if their append ended in [`Error::Unknown`](crate::Error::Unknown).
    sent,
    /// Outcomes that a callback or a call handle took, including those that were parked before.
    completed,
    /// Outcomes that arrived as `Expired`.
    expired,
    /// Outcomes that arrived as `Cancelled`.
    cancelled,
    /// Outcomes that were parked because no callback and no caller took them.
    parked,
    /// Records that arrived after the outcome of their request.
    late,
    /// Records that name a request which this client never sent: forged, or damaged before they were
    /// appended.
    unknown,
    /// Calls of a callback after one that failed.
    callback_retries,
    /// Offsets of damaged or trimmed records that were skipped, in topics of requests, of replies and of
    /// parked outcomes. A request whose outcome was among them stays outstanding until its deadline, or
    /// until it is [cancelled](crate::service::Client::cancel).
    damaged,
}

impl Counters {
    /// Counts and reports the offsets of damage that was skipped.
    pub(super) fn passed_over(&self, topic: &str, offsets: &Range<u64>) {
        count(&self.damaged, offsets.end - offsets.start);
        spans::damaged(topic, offsets);
    }
}
