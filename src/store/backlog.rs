//! The full segments of a log that wait with their files open: a process has few descriptors.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

/// The most segments, of all topics of a log, that wait with their files open.
const MOST_OPEN: usize = 16;

/// The full segments of a log that wait with their files open.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    open_count: AtomicUsize,
}

/// A place among them; dropping it frees it.
#[derive(Debug)]
pub(super) struct Place(Arc<Backlog>);

impl Place {
    /// `None` if all places are taken.
    pub(super) fn take(backlog: &Arc<Backlog>) -> Option<Place> {
        let more = |count: usize| (count < MOST_OPEN).then_some(count + 1);
        let taken = backlog.open_count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok().then(|| Place(Arc::clone(backlog)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open_count.fetch_sub(1, Ordering::Relaxed);
    }
}
