//! A signal that ends every wait it is given to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// Ends waits; clones share one signal. A sleeping wait notices it within 100 ms.
///
/// ```
/// let stop = deaddrop::Stop::new();
/// let other = stop.clone();
/// other.stop();
/// assert!(stop.is_stopped());
/// ```
#[derive(Debug, Clone, Default)]
pub struct Stop {
    stopped: Arc<AtomicBool>,
}

impl Stop {
    /// Returns a signal that is not set yet.
    pub fn new() -> Stop {
        Stop::default()
    }

    /// Sets the signal. It cannot be unset.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Returns whether the signal is set.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}
