//! Waiting for the background of a log that was closed.

use std::path::Path;

use deaddrop::sim::SimDisk;

/// Returns when no process has the topic open: its last background job can outlive its handles.
pub fn settle(disk: &SimDisk, topic: impl AsRef<Path>) {
    let lock = topic.as_ref().join("lock");
    for _ in 0..10_000_000 {
        if !disk.is_locked(&lock) {
            return;
        }
        std::thread::yield_now();
    }
    panic!("a closed topic keeps its slot: {}", lock.display());
}
