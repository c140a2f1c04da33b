//! The background work of one topic, and its end: a topic that is closed is closed when the last
//! handle's drop returns, not when some job has noticed.

use std::ops::Deref;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::TopicInner;
use crate::housekeeper::Duty;

/// A topic in use: what its handles share. Dropping the last one waits for the jobs in hand and closes
/// the topic.
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
        if !crate::sys::fork::in_child() {
            self.inner.jobs.close();
        }
    }
}

/// Counts the jobs in hand.
#[derive(Debug, Default)]
pub(super) struct Jobs {
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
    fn begin(&self) -> Option<Running<'_>> {
        let mut state = self.state.lock();
        if state.closed {
            return None;
        }
        state.running += 1;
        Some(Running { jobs: self })
    }

    /// Waits for the jobs in hand, and lets no other begin.
    fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        while state.running > 0 {
            self.ended.wait(&mut state);
        }
    }
}

/// A job in hand; ended when dropped, also by a panic.
struct Running<'a> {
    jobs: &'a Jobs,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.jobs.state.lock().running -= 1;
        self.jobs.ended.notify_all();
    }
}

/// Calls `job` with the topic if it is open.
fn run<T>(topic: &Weak<TopicInner>, jobs: &Jobs, job: impl FnOnce(&TopicInner) -> T) -> Option<T> {
    let running = jobs.begin()?;
    let done = topic.upgrade().map(|topic| job(&topic));
    // Only now: the reference is gone, and whoever closes the topic has the last one.
    drop(running);
    done
}

impl TopicInner {
    /// Has `job` done in the background, unless the topic is closed before.
    pub(super) fn in_background(&self, duty: Duty, job: impl FnOnce(&TopicInner) + Send + 'static) {
        let (topic, jobs) = (Weak::clone(&self.this), Arc::clone(&self.jobs));
        let job = move || {
            run(&topic, &jobs, job);
        };
        self.log.housekeeper.submit(duty, Box::new(job));
    }

    /// Has `tick` called every `interval`, until it returns false or the topic is closed.
    pub(super) fn every(
        &self,
        interval: Duration,
        tick: impl Fn(&TopicInner) -> bool + Send + 'static,
    ) {
        let (topic, jobs) = (Weak::clone(&self.this), Arc::clone(&self.jobs));
        let tick = move || run(&topic, &jobs, &tick).unwrap_or(false);
        self.log.housekeeper.every(interval, Box::new(tick));
    }
}
