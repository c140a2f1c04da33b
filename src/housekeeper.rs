//! Two threads a log, started when first needed: one makes segments and pages ready ahead of the
//! writers, the other syncs and trims. Nothing but performance depends on them: what they do not do in
//! time, the appending thread does itself, or lets them follow for a moment.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::sys::fork::Generation;

/// Work done once.
type Job = Box<dyn FnOnce() + Send>;
/// Work done every interval; `false` ends it.
type Tick = Box<dyn FnMut() -> bool + Send>;

/// Which thread does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Allocating ahead: never waits for the disk's cache.
    Prepare,
    /// Syncing, trimming: may take as long as the disk does.
    Sync,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    timers: Vec<(Instant, Duration, Tick)>,
    stopped: bool,
}

#[derive(Default)]
struct Worker {
    queue: Mutex<Queue>,
    wake: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// See the module. Dropping it ends the threads after the jobs in hand.
#[derive(Default)]
pub(crate) struct Housekeeper {
    prepare: Arc<Worker>,
    sync: Arc<Worker>,
    made_in: Generation,
}

impl Housekeeper {
    fn worker(&self, duty: Duty) -> &Arc<Worker> {
        match duty {
            Duty::Prepare => &self.prepare,
            Duty::Sync => &self.sync,
        }
    }

    /// Has `job` done soon. If no thread can be started it is dropped: see the module.
    pub(crate) fn submit(&self, duty: Duty, job: Job) {
        let worker = self.worker(duty);
        worker.queue.lock().jobs.push_back(job);
        if !Worker::start(worker, duty) {
            worker.queue.lock().jobs.clear();
        }
        worker.wake.notify_one();
    }

    /// Has `tick` called every `interval`.
    pub(crate) fn every(&self, interval: Duration, tick: Tick) {
        let worker = self.worker(Duty::Sync);
        worker.queue.lock().timers.push((Instant::now() + interval, interval, tick));
        Worker::start(worker, Duty::Sync);
        worker.wake.notify_one();
    }
}

impl Worker {
    /// False if there is no thread and none can be started.
    fn start(worker: &Arc<Worker>, duty: Duty) -> bool {
        let mut thread = worker.thread.lock();
        // One that a panic has ended is followed by another.
        if thread.as_ref().is_none_or(JoinHandle::is_finished) {
            let worker = Arc::clone(worker);
            let name = match duty {
                Duty::Prepare => "deaddrop-prepare",
                Duty::Sync => "deaddrop-sync",
            };
            let started = std::thread::Builder::new().name(name.into()).spawn(move || worker.run());
            *thread = started.ok();
        }
        thread.is_some()
    }

    fn run(&self) {
        let mut queue = self.queue.lock();
        while !queue.stopped {
            let now = Instant::now();
            // Before the jobs: what a timer promises is not to wait until nobody has any.
            if let Some(due) = queue.timers.iter().position(|(at, ..)| *at <= now) {
                let (_, interval, mut tick) = queue.timers.swap_remove(due);
                if parking_lot::MutexGuard::unlocked(&mut queue, &mut tick) {
                    queue.timers.push((Instant::now() + interval, interval, tick));
                }
                // A timer that takes longer than its interval leaves the jobs a turn.
                if let Some(job) = queue.jobs.pop_front() {
                    parking_lot::MutexGuard::unlocked(&mut queue, job);
                }
                continue;
            }
            if let Some(job) = queue.jobs.pop_front() {
                parking_lot::MutexGuard::unlocked(&mut queue, job);
                continue;
            }
            match queue.timers.iter().map(|(at, ..)| *at).min() {
                Some(next) => {
                    self.wake.wait_until(&mut queue, next);
                }
                None => self.wake.wait(&mut queue),
            }
        }
    }
}

impl Drop for Housekeeper {
    fn drop(&mut self) {
        if self.made_in.is_parents() {
            return;
        }
        for worker in [&self.prepare, &self.sync] {
            worker.queue.lock().stopped = true;
            worker.wake.notify_one();
            let thread = worker.thread.lock().take();
            // The last owner of a log can be a job itself: a thread cannot wait for its own end.
            let other = thread.filter(|thread| thread.thread().id() != std::thread::current().id());
            if let Some(thread) = other {
                let ended = thread.join();
                debug_assert!(ended.is_ok(), "a housekeeping job panicked");
            }
        }
    }
}

impl std::fmt::Debug for Housekeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Housekeeper").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    use super::*;

    /// A job that submits itself again until `left` is 0.
    fn again(keeper: Arc<Housekeeper>, left: Arc<AtomicUsize>) -> Job {
        Box::new(move || {
            if left.load(Ordering::SeqCst) > 0 {
                let next = again(Arc::clone(&keeper), Arc::clone(&left));
                keeper.submit(Duty::Sync, next);
            }
        })
    }

    #[test]
    fn a_timer_is_called_while_there_is_always_a_job_and_the_other_way_round() {
        let (keeper, left) = (Arc::new(Housekeeper::default()), Arc::new(AtomicUsize::new(100)));
        keeper.submit(Duty::Sync, again(Arc::clone(&keeper), Arc::clone(&left)));
        let ticks = Arc::clone(&left);
        // Always due.
        keeper.every(Duration::ZERO, Box::new(move || ticks.fetch_sub(1, Ordering::SeqCst) > 1));
        let (done, is_done) = channel();
        let last = Arc::clone(&left);
        keeper.submit(
            Duty::Sync,
            Box::new(move || done.send(last.load(Ordering::SeqCst)).expect("it is waited for")),
        );
        let left_then = is_done.recv_timeout(Duration::from_secs(60)).expect("a job gets its turn");
        assert!(left_then > 0, "beside a timer that is always due");
        for _ in 0..60_000 {
            if left.load(Ordering::SeqCst) == 0 {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        panic!("the timer was called {} times too few", left.load(Ordering::SeqCst));
    }
}
