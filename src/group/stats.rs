//! Counters of a worker, or of all workers of a server.

use std::sync::atomic::{AtomicU64, Ordering};

counters! {
    /// The counters of workers since they were opened.
    WorkerStats of Counters:
    /// Records read, including those of other workers' lanes.
    read,
    /// Records done.
    handled,
    /// Attempts that failed.
    failed,
    /// Records that became dead letters.
    dead,
    /// Lanes stopped at a record that failed too often.
    stopped,
    /// Lanes taken.
    lanes_taken,
    /// Lanes released to other workers.
    lanes_released,
    /// Records that were in flight when their process died, found when their lane was taken.
    suspects,
    /// Errors after which a spawned worker or server continued, such as a full disk.
    interrupted,
}

pub(crate) fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
