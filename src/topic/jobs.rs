//! The background work of one topic, and its end: a topic that is closed is closed when the last
//! handle's drop returns, not when some job has noticed.

use std::ops::Deref;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::TopicInner;
use crate::housekeeper::Duty;

/// A topic in use: what its handles share. Dropping the last one waits for the jobs that are waiting or
/// running and closes the topic.
#[derive(Debug)]
pub(crate) struct Open {
    inner: Arc<TopicInner>,
}

impl Open {
    pub(crate) fn new(inner: Arc<TopicInner>) -> Arc<Open> {
        Arc::new(Open { inner })
    }
}

impl Deref for Open {
    type Target = TopicInner;

    fn deref(&self) -> &TopicInner {
        &self.inner
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // A forked child has no thread that would end the jobs.
        if !self.inner.made_in.is_parents() {
            self.inner.jobs.close();
        }
    }
}

/// Counts the jobs that are waiting or running.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pending: usize,
    closed: bool,
}

impl Jobs {
    /// Announces a job; `None` if the topic is closed.
    fn announce(jobs: &Arc<Jobs>) -> Option<Pending> {
        let mut state = jobs.state.lock();
        if state.closed {
            return None;
        }
        state.pending += 1;
        Some(Pending { jobs: Arc::clone(jobs) })
    }

    /// Announces a job for another that is running: whoever closes the topic waits for it as well.
    fn announce_next(jobs: &Arc<Jobs>) -> Pending {
        jobs.state.lock().pending += 1;
        Pending { jobs: Arc::clone(jobs) }
    }

    /// Waits for the jobs announced, and lets no other be.
    fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        while state.pending > 0 {
            self.ended.wait(&mut state);
        }
    }
}

/// A job that is waiting or running; ended when dropped, done or not.
struct Pending {
    jobs: Arc<Jobs>,
}

impl Pending {
    /// Does the job. The topic is open: it waits for this.
    fn run<T>(self, topic: &Weak<TopicInner>, job: impl FnOnce(&TopicInner) -> T) -> Option<T> {
        // The reference is gone before `self` is: whoever closes the topic has the last one.
        topic.upgrade().map(|topic| job(&topic))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.jobs.state.lock().pending -= 1;
        self.jobs.ended.notify_all();
    }
}

impl TopicInner {
    /// Has `job` done in the background, unless the topic is closed before.
    pub(super) fn in_background(&self, duty: Duty, job: impl FnOnce(&TopicInner) + Send + 'static) {
        if let Some(pending) = Jobs::announce(&self.jobs) {
            self.submit(duty, pending, job);
        }
    }

    /// Has `job` done in the background behind those that wait already. To be called by a job: the
    /// topic is closed after it.
    pub(super) fn next_in_background(
        &self,
        duty: Duty,
        job: impl FnOnce(&TopicInner) + Send + 'static,
    ) {
        self.submit(duty, Jobs::announce_next(&self.jobs), job);
    }

    fn submit(&self, duty: Duty, pending: Pending, job: impl FnOnce(&TopicInner) + Send + 'static) {
        let topic = Weak::clone(&self.this);
        let work = move || {
            pending.run(&topic, job);
        };
        self.log.housekeeper.submit(duty, Box::new(work));
    }

    /// Has `tick` called every `interval`, until it returns false or the topic is closed.
    pub(super) fn every(
        &self,
        interval: Duration,
        tick: impl Fn(&TopicInner) -> bool + Send + 'static,
    ) {
        let (topic, jobs) = (Weak::clone(&self.this), Arc::clone(&self.jobs));
        let tick = move || {
            Jobs::announce(&jobs).and_then(|pending| pending.run(&topic, &tick)).unwrap_or(false)
        };
        self.log.housekeeper.every(interval, Box::new(tick));
    }
}
