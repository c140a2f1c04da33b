//! The background work of one topic, and its end. A topic is closed when the drop of its last handle returns.
//! The drop waits for the topic's running jobs, which end soon after they see that the topic is closed. It
//! does not wait for a job that has not begun, of this topic or of others: waiting full segments are synced,
//! but not indexed.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::{Durability, LogInner, Retention, Store};
use crate::control::Words;
use crate::error::Error;
use crate::events;
use crate::housekeeper::{lock, Due, Duty, Timer};
use crate::sys::atomic::Ordering as Shared;

/// How often retention is checked where nothing is appended.
const LOOK_FOR_OLD: Duration = Duration::from_secs(10);

/// A reference to a topic that does not keep it open.
#[derive(Debug, Clone)]
pub(crate) struct Closable {
    topic: Weak<Store>,
    jobs: Arc<Jobs>,
}

impl Closable {
    /// Runs `job` with the topic, which stays open meanwhile; returns `None` if it is closed.
    pub(crate) fn with<T>(&self, job: impl FnOnce(&Store) -> T) -> Option<T> {
        Jobs::begin(&self.jobs)?.run(&self.topic, job)
    }
}

/// Counts the running jobs.
#[derive(Debug, Default)]
struct Jobs {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    closed: bool,
}

impl Jobs {
    /// Begins a job; `None` if the topic is closed.
    fn begin(jobs: &Arc<Jobs>) -> Option<Running> {
        let mut state = lock(&jobs.state);
        if state.closed {
            return None;
        }
        state.running += 1;
        Some(Running { jobs: Arc::clone(jobs) })
    }

    fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        while state.running > 0 {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A running job; dropping it ends it.
struct Running {
    jobs: Arc<Jobs>,
}

impl Running {
    /// Runs the job. The topic is open, because its close waits for this job.
    fn run<T>(self, topic: &Weak<Store>, job: impl FnOnce(&Store) -> T) -> Option<T> {
        // The reference is dropped before `self`: the thread that closes the topic has the last one.
        topic.upgrade().map(|topic| job(&topic))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.jobs.state).running -= 1;
        self.jobs.ended.notify_all();
    }
}

/// Marks that a job of some kind is waiting or running, so that there is only one at a time. Belongs to the
/// job, and is dropped with it, done or not.
pub(super) struct Scheduled {
    of: Arc<AtomicBool>,
}

impl Scheduled {
    /// `None` if there is one already.
    #[inline]
    pub(super) fn take(of: &Arc<AtomicBool>) -> Option<Scheduled> {
        if of.swap(true, Ordering::AcqRel) {
            return None;
        }
        Some(Scheduled { of: Arc::clone(of) })
    }
}

impl Drop for Scheduled {
    fn drop(&mut self) {
        self.of.store(false, Ordering::Release);
    }
}

/// The background work of one topic.
#[derive(Debug)]
pub(super) struct Background {
    log: Arc<LogInner>,
    topic: Weak<Store>,
    jobs: Arc<Jobs>,
    /// Since the last job that had a thread, one had none, and an event reported it.
    is_reported: AtomicBool,
}

impl Background {
    /// Creates the background of `topic`, on the threads of `log`.
    pub(super) fn new(log: &Arc<LogInner>, topic: &Weak<Store>) -> Background {
        let (log, topic, jobs) = (Arc::clone(log), Weak::clone(topic), Arc::default());
        Background { log, topic, jobs, is_reported: AtomicBool::new(false) }
    }

    /// Queues `job` after those that wait already. It does not run if the topic is closed before it begins, or
    /// if no thread can be started: then the thread that needs its result does the work.
    pub(super) fn submit(&self, duty: Duty, job: impl FnOnce(&Store) + Send + 'static) {
        let topic = self.closable();
        let job = move || topic.with(job).unwrap_or_default();
        let submitted = self.log.housekeeper.submit(duty, Box::new(job));
        // A preparation is asked for under the append lock, where no subscriber may run: the roll that comes
        // after it asks for more.
        if duty == Duty::Prepare {
            return;
        }
        let was_reported = self.is_reported.swap(submitted.is_err(), Ordering::Relaxed);
        if let (Err(error), false, Some(topic)) = (submitted, was_reported, self.topic.upgrade()) {
            events::no_thread(&topic.name, &error);
        }
    }

    /// Runs `work` every `interval`, first after `delay`, each time that `look` returns true, until `work`
    /// returns false or the topic is closed. Fails if no thread can be started for it.
    pub(super) fn every(
        &self,
        delay: Duration,
        interval: Duration,
        look: impl Fn(&Store) -> bool + Send + 'static,
        work: impl Fn(&Store) -> bool + Send + 'static,
    ) -> io::Result<()> {
        let (looked_at, topic) = (self.closable(), self.closable());
        let look = move || match looked_at.with(&look) {
            None => Due::Ended,
            Some(false) => Due::Nothing,
            Some(true) => Due::Work,
        };
        let work = move || topic.with(&work).unwrap_or(false);
        let timer = Timer { interval, look: Box::new(look), work: Box::new(work) };
        self.log.housekeeper.timers.add(delay, timer)
    }

    /// Returns a reference that does not keep the topic open.
    pub(super) fn closable(&self) -> Closable {
        Closable { topic: Weak::clone(&self.topic), jobs: Arc::clone(&self.jobs) }
    }

    /// Whether the topic is closed: a running job should then end soon, because the close waits for it.
    pub(super) fn is_closed(&self) -> bool {
        lock(&self.jobs.state).closed
    }

    /// Starts the work that is repeated as long as the topic is open.
    pub(super) fn start_timers(&self, topic: &Store) -> io::Result<()> {
        let end =
            |topic: &Store| topic.words().map_or(0, |words| words.tail.end.load(Shared::Acquire));
        if let Durability::PowerLossWithin(interval) = topic.options.durability {
            // A record that has just missed a call is synced by the next call, or by the one after it if a
            // sync takes as long as that: half an interval and a sync later, or two syncs.
            let interval = interval / 2;
            let is_behind = move |topic: &Store| {
                let durable = |words: &Words| words.durable.end.load(Shared::Acquire);
                topic.words().map_or(0, durable) < end(topic)
            };
            self.every(interval, interval, is_behind, move |topic| {
                // A failed sync latches the topic, and the next append reports it. Any other error, such as
                // too many open files, is transient.
                !matches!(topic.wait_durable(end(topic)), Err(Error::SyncFailed { .. }))
            })?;
        }
        if topic.options.retention != Retention::default() {
            // A short age means short-lived records, so they are checked more often.
            let interval = topic.options.retention.age.map_or(LOOK_FOR_OLD, |age| {
                (age / 4).clamp(Duration::from_millis(100), LOOK_FOR_OLD)
            });
            let look = |topic: &Store| {
                // In turns with other topics, because a trim may take long.
                topic.retaining.trim_in_background(topic);
                false
            };
            self.every(interval, interval, look, |_| true)?;
        }
        Ok(())
    }

    /// Lets no other job begin, and waits for the running ones.
    pub(super) fn close(&self) {
        self.jobs.close();
    }
}

impl Store {
    /// Returns a reference that does not keep the topic open.
    pub(crate) fn closable(&self) -> Closable {
        self.background.closable()
    }
}
