//! Work on threads of its own, until it is stopped.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::Result;
use crate::stop::Stop;

/// A worker, server or client at work on its own threads. Dropping it stops them as well, and loses the error
/// that [`stop`](Self::stop) would return.
#[derive(Debug)]
pub struct Running {
    stop: Stop,
    threads: Arc<Mutex<Vec<std::thread::JoinHandle<Result<()>>>>>,
}

impl Running {
    pub(crate) fn new(
        stop: Stop,
        threads: Arc<Mutex<Vec<std::thread::JoinHandle<Result<()>>>>>,
    ) -> Running {
        Running { stop, threads }
    }

    /// Whether a thread has ended, because of an error: [`stop`](Self::stop) returns it.
    pub fn has_ended(&self) -> bool {
        self.threads.lock().iter().any(std::thread::JoinHandle::is_finished)
    }

    /// Finishes what is in hand and ends.
    ///
    /// # Errors
    ///
    /// The error that ended a thread before.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.stop.stop();
        let mut first = Ok(());
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.thread().id() == std::thread::current().id() {
                // From inside a callback: a thread cannot wait for its own end.
                continue;
            }
            let ended = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            first = first.and(ended);
        }
        first
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Also while unwinding; but then what the threads are at may be what failed.
        self.stop.stop();
        if !std::thread::panicking() {
            // Whoever wants the error calls `stop`.
            drop(self.end());
        }
    }
}
