//! The background threads of a log, started on demand: one prepares segments and pages ahead of the writers,
//! one syncs and indexes full segments, one drops old ones, and some call timers ([`timers`]). None waits for
//! another. Jobs and timers of closed topics are skipped.
//!
//! Jobs are for performance only: if they are late, the appending thread does the work itself, or waits a
//! moment for them. A timer keeps a promise.
//!
//! The locks are those of the standard library. Threads that wait for a lock of `parking_lot` are in a table of
//! the process, in memory of their own: in a forked child, which has the table and not the threads, a thread that
//! reuses such memory would be woken in place of another, or searched for without end.

mod timers;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::sys::fork::Generation;

pub(crate) use timers::{Due, Timer, Timers};

/// Work that runs once. Dropped without having run if its thread cannot be started, or the log is closed.
type Job = Box<dyn FnOnce() + Send>;

/// Selects the thread that does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Allocating ahead: never waits for a flush of the disk's cache.
    Prepare,
    /// Syncing and indexing full segments: takes as long as the disk needs.
    Seal,
    /// Dropping segments, a few at a time: topics take turns.
    Trim,
}

impl Duty {
    fn thread_name(self) -> &'static str {
        match self {
            Duty::Prepare => "deaddrop-prepare",
            Duty::Seal => "deaddrop-seal",
            Duty::Trim => "deaddrop-trim",
        }
    }
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    stopped: bool,
}

#[derive(Default)]
struct Worker {
    queue: Mutex<Queue>,
    wake: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// See the module. Dropping it ends the threads after the running jobs.
#[derive(Default)]
pub(crate) struct Housekeeper {
    /// One for each duty, in the order of [`Duty`].
    workers: [Arc<Worker>; 3],
    pub(crate) timers: Timers,
    made_in: Generation,
}

impl Housekeeper {
    /// Queues `job`.
    ///
    /// # Errors
    ///
    /// If no thread can be started: then the job is dropped, see the module.
    pub(crate) fn submit(&self, duty: Duty, job: Job) -> io::Result<()> {
        let worker = &self.workers[duty as usize];
        lock(&worker.queue).jobs.push_back(job);
        let started = Worker::start(worker, duty);
        if started.is_err() {
            let dropped = std::mem::take(&mut lock(&worker.queue).jobs);
            drop(dropped);
        }
        worker.wake.notify_one();
        started
    }
}

impl Worker {
    /// Starts the thread if none runs.
    fn start(worker: &Arc<Worker>, duty: Duty) -> io::Result<()> {
        let mut thread = lock(&worker.thread);
        // A thread that a panic has ended is replaced.
        if thread.as_ref().is_none_or(JoinHandle::is_finished) {
            let worker = Arc::clone(worker);
            let builder = std::thread::Builder::new().name(duty.thread_name().into());
            *thread = Some(builder.spawn(move || worker.run())?);
        }
        Ok(())
    }

    fn run(&self) {
        let mut queue = lock(&self.queue);
        while !queue.stopped {
            queue = match queue.jobs.pop_front() {
                Some(job) => {
                    drop(queue);
                    job();
                    lock(&self.queue)
                }
                None => self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl Drop for Housekeeper {
    fn drop(&mut self) {
        if self.made_in.is_parents() {
            return;
        }
        for worker in &self.workers {
            lock(&worker.queue).stopped = true;
            worker.wake.notify_one();
            let thread = lock(&worker.thread).take();
            thread.into_iter().for_each(join);
        }
    }
}

/// Takes a lock. What it guards is whole even if a thread has panicked meanwhile.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the end of a thread, unless it is the calling thread: a job can be the last owner of a log.
fn join(thread: JoinHandle<()>) {
    if thread.thread().id() != std::thread::current().id() {
        let ended = thread.join();
        debug_assert!(ended.is_ok() || std::thread::panicking(), "a housekeeping job panicked");
    }
}

impl std::fmt::Debug for Housekeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Housekeeper").finish_non_exhaustive()
    }
}
