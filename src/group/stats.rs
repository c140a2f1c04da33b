//! Counters of a worker, or of all workers of a server.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of workers since they were opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Records read, including those of other workers' lanes.
    pub read: u64,
    /// Records done.
    pub handled: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Records that became dead letters.
    pub dead: u64,
    /// Lanes stopped at a record that failed too often.
    pub stopped: u64,
    /// Lanes taken.
    pub lanes_taken: u64,
    /// Lanes released to other workers.
    pub lanes_released: u64,
    /// Records that were in flight when their process died, found when their lane was taken.
    pub suspects: u64,
    /// Errors after which a spawned worker or server continued, such as a full disk.
    pub interrupted: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) read: AtomicU64,
    pub(crate) handled: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) dead: AtomicU64,
    pub(crate) stopped: AtomicU64,
    pub(crate) lanes_taken: AtomicU64,
    pub(crate) lanes_released: AtomicU64,
    pub(crate) suspects: AtomicU64,
    pub(crate) interrupted: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn read_out(&self) -> WorkerStats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WorkerStats {
            read: of(&self.read),
            handled: of(&self.handled),
            failed: of(&self.failed),
            dead: of(&self.dead),
            stopped: of(&self.stopped),
            lanes_taken: of(&self.lanes_taken),
            lanes_released: of(&self.lanes_released),
            suspects: of(&self.suspects),
            interrupted: of(&self.interrupted),
        }
    }
}
