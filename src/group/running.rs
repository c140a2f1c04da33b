//! Work on its own threads, until it is stopped.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::backoff;
use super::handler::is_in_user_code;
use super::stats::{count, Counters, WorkerStats};
use crate::error::{Error, IoResultExt, Result};
use crate::events;
use crate::stop::Stop;

/// The wait after a transient error; it doubles.
const INTERRUPTED_FIRST: Duration = Duration::from_millis(20);
/// The longest wait after a transient error.
const INTERRUPTED_MOST: Duration = Duration::from_secs(10);
/// A wait notices a stop within this time.
const LOOK: Duration = Duration::from_millis(50);

/// A worker, server or client at work on its own threads.
///
/// It continues after transient errors: a full disk ([`Error::NoSpace`]), a wait that took too long
/// ([`Error::TimedOut`]), too many open files. It waits longer each time, up to 10 s;
/// [`WorkerStats::interrupted`] counts these errors, and the feature `tracing` has an event for each. Any
/// other error ends its thread; [`wait`](Self::wait) and [`stop`](Self::stop) return it.
///
/// Dropping it stops the work like [`stop`](Self::stop), but loses the error that `stop` would return.
///
/// ```
/// # fn main() -> deaddrop::Result<()> {
/// # let dir = deaddrop::doc_dir();
/// # let log = deaddrop::Log::open_or_create(&dir)?;
/// # use deaddrop::{group::{GroupOptions, WorkerOptions}, Record};
/// # use std::time::Duration;
/// let orders = log.topic("orders")?;
/// let last = orders.append(&Record::new("3 of item 7"))?;
/// let group = orders.group("shipping", GroupOptions::default())?;
/// let running = group.worker(WorkerOptions::default(), |_| Ok(()))?.spawn()?;
/// assert!(group.wait_for(last, Duration::from_secs(10))?);
/// running.stop()?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "dropping it stops the work: keep it, and call `wait` or `stop`"]
pub struct Running {
    pub(super) threads: Threads,
}

/// Threads that work until they are stopped.
#[derive(Debug, Clone, Default)]
pub(crate) struct Threads {
    pub(crate) stop: Stop,
    handles: Arc<Mutex<Vec<JoinHandle<Result<()>>>>>,
    pub(super) counters: Arc<Counters>,
}

impl Threads {
    /// Starts a thread, which restarts its work after transient errors. `name` is for events.
    pub(crate) fn start(
        &self,
        name: &str,
        dir: &Path,
        mut work: impl FnMut(&Stop) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let (name, stop, counters) =
            (name.to_owned(), self.stop.clone(), Arc::clone(&self.counters));
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || persist(&name, &stop, &counters, || work(&stop)))
            .at("starting a thread for", dir)?;
        self.handles.lock().push(thread);
        Ok(())
    }
}

impl Running {
    pub(crate) fn new(threads: Threads) -> Running {
        Running { threads }
    }

    /// Returns whether a thread has ended because of an error: [`wait`](Self::wait) returns the error.
    pub fn has_ended(&self) -> bool {
        self.threads.handles.lock().iter().any(JoinHandle::is_finished)
    }

    /// Returns the counters of a worker, or of all threads of a server, since they were opened. Of a client's
    /// only `interrupted` counts: see [`Client::stats`](crate::service::Client::stats).
    pub fn stats(&self) -> WorkerStats {
        self.threads.counters.read_out()
    }

    /// Waits until a thread has ended: because of an error, which is returned after the other threads were
    /// stopped, or because the process stops the work elsewhere. For a program that has nothing else to do.
    ///
    /// # Errors
    ///
    /// The error that ended a thread.
    pub fn wait(mut self) -> Result<()> {
        while !self.has_ended() && !self.threads.handles.lock().is_empty() {
            std::thread::sleep(LOOK);
        }
        self.end()
    }

    /// Finishes the work in flight and ends. In a handler or a callback, which one of the threads may be
    /// waiting for, this only requests the stop.
    ///
    /// # Errors
    ///
    /// The error that ended a thread before.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.threads.stop.stop();
        let mut first = Ok(());
        if is_in_user_code() {
            // The thread that this would wait for may be waiting for this one: for its own end, or for a
            // callback that both of them run.
            return first;
        }
        let threads = std::mem::take(&mut *self.threads.handles.lock());
        for thread in threads {
            if thread.thread().id() == std::thread::current().id() {
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
        // Even while unwinding; but then the work of the threads may be what failed.
        self.threads.stop.stop();
        if !std::thread::panicking() {
            // A caller that needs the error calls `stop`.
            drop(self.end());
        }
    }
}

/// Returns whether the error may disappear without an action here.
fn passes(error: &Error) -> bool {
    match error {
        Error::NoSpace { .. } | Error::TimedOut { .. } => true,
        // The record was appended, and is found when the job is settled.
        Error::Unknown { source, .. } => passes(source),
        _ => error.is_out_of_descriptors(),
    }
}

/// Does the work of a thread until `stop` is requested, and restarts it after transient errors.
fn persist(
    name: &str,
    stop: &Stop,
    counters: &Counters,
    mut work: impl FnMut() -> Result<()>,
) -> Result<()> {
    let mut attempt = 0;
    loop {
        let handled = counters.read_out().handled;
        let error = match work() {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if !passes(&error) {
            events::ended(name, &error);
            return Err(error);
        }
        if stop.is_stopped() {
            return Err(error);
        }
        attempt = if counters.read_out().handled == handled { attempt + 1 } else { 1 };
        let wait = backoff(attempt, INTERRUPTED_FIRST, INTERRUPTED_MOST);
        count(&counters.interrupted, 1);
        events::interrupted(name, &error, wait);
        let begun = Instant::now();
        while begun.elapsed() < wait && !stop.is_stopped() {
            std::thread::sleep(LOOK.min(wait.saturating_sub(begun.elapsed())));
        }
    }
}
