//! A signal that ends every wait it is given to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// Ends waits: clones share one signal. A wait that is asleep notices within 100 ms.
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
    /// A signal that is not given yet.
    pub fn new() -> Stop {
        Stop::default()
    }

    /// Gives the signal. It cannot be taken back.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Whether the signal was given.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}
