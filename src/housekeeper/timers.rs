//! Timers: each is called when it is due, the earliest first, and none waits for another's work.
//!
//! One thread watches for the next deadline. Before it does a timer's work, it hands the watch to another
//! thread, so that as many threads work as there are timers with work. Idle threads end after a moment.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::lock;
use crate::sys::fork::Generation;

/// The most timer threads of a log: when all of them work, further timers with work wait for one.
const MOST_THREADS: usize = 64;
/// How long a thread without work waits for work or for the watch before it ends.
const LINGER: Duration = Duration::from_secs(1);

/// The answer of a timer that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// There is nothing to do.
    Nothing,
    /// There is work, which may take as long as the disk needs.
    Work,
    /// The timer is not called again.
    Ended,
}

/// Called every `interval`, counted from the start of the previous call.
pub(crate) struct Timer {
    pub(crate) interval: Duration,
    /// Decides whether there is work. Other timers wait for it, so it is quick.
    pub(crate) look: Box<dyn Fn() -> Due + Send>,
    /// Does the work; returning `false` ends the timer.
    pub(crate) work: Box<dyn FnMut() -> bool + Send>,
}

/// A timer and when it is due. The order is reversed, because the heap's greatest element is at its top.
struct Waiting {
    at: Instant,
    timer: Timer,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Waiting) -> Ordering {
        other.at.cmp(&self.at)
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Waiting) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Waiting) -> bool {
        self.at == other.at
    }
}

impl Eq for Waiting {}

#[derive(Default)]
struct State {
    waiting: BinaryHeap<Waiting>,
    /// A thread waits for the earliest of them.
    is_watched: bool,
    /// Threads that have neither work nor the watch.
    idle_count: usize,
    threads: Vec<JoinHandle<()>>,
    stopped: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// The watching thread waits here.
    watch: Condvar,
    idle: Condvar,
}

/// See the module. Dropping it ends the threads after the running work.
#[derive(Default)]
pub(crate) struct Timers {
    shared: Arc<Shared>,
    made_in: Generation,
}

impl Timers {
    /// Adds a timer, which is called first after `delay`.
    ///
    /// # Errors
    ///
    /// If there is no thread and none can be started, so that the timer would not be called.
    pub(crate) fn add(&self, delay: Duration, timer: Timer) -> io::Result<()> {
        let mut state = lock(&self.shared.state);
        if !state.is_watched {
            Shared::pass_the_watch(&self.shared, &mut state)?;
        }
        state.waiting.push(Waiting { at: Instant::now() + delay, timer });
        self.shared.watch.notify_one();
        Ok(())
    }
}

impl Shared {
    /// Hands the watch to another thread, if there can be one. Otherwise a working thread watches when its
    /// work is done.
    fn pass_the_watch(shared: &Arc<Shared>, state: &mut State) -> io::Result<()> {
        if state.idle_count > 0 {
            shared.idle.notify_one();
            return Ok(());
        }
        state.threads.retain(|thread| !thread.is_finished());
        if state.threads.len() >= MOST_THREADS {
            return Ok(());
        }
        let its = Arc::clone(shared);
        let builder = std::thread::Builder::new().name("deaddrop-timer".into());
        match builder.spawn(move || Shared::run(&its)) {
            Ok(thread) => state.threads.push(thread),
            Err(error) if state.threads.is_empty() => return Err(error),
            Err(_) => {}
        }
        Ok(())
    }

    fn run(shared: &Arc<Shared>) {
        let mut state = lock(&shared.state);
        loop {
            while state.is_watched && !state.stopped {
                state.idle_count += 1;
                let waited = shared.idle.wait_timeout(state, LINGER);
                let (guard, ended) = waited.unwrap_or_else(PoisonError::into_inner);
                state = guard;
                state.idle_count -= 1;
                if ended.timed_out() && state.is_watched {
                    return;
                }
            }
            state.is_watched = true;
            let next;
            (state, next) = shared.watch_for_work(state);
            state.is_watched = false;
            let Some(mut timer) = next else { return };
            if !state.waiting.is_empty() {
                // On an error, this thread watches again when its work is done.
                drop(Shared::pass_the_watch(shared, &mut state));
            }
            let begun = Instant::now();
            drop(state);
            let goes_on = (timer.work)();
            state = lock(&shared.state);
            if goes_on && !state.stopped {
                // A timer whose work takes longer than its interval is due at once, after those that were due
                // before.
                let at = (begun + timer.interval).max(Instant::now());
                state.waiting.push(Waiting { at, timer });
                shared.watch.notify_one();
            }
        }
    }

    /// Waits for a timer that has work; returns `None` if the log is closed.
    fn watch_for_work<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> (MutexGuard<'a, State>, Option<Timer>) {
        while !state.stopped {
            let now = Instant::now();
            match state.waiting.peek().map(|first| first.at) {
                None => {
                    state = self.watch.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                Some(at) if at > now => {
                    let waited = self.watch.wait_timeout(state, at - now);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Some(_) => {
                    let Waiting { timer, .. } = state.waiting.pop().expect("just seen");
                    match (timer.look)() {
                        Due::Work => return (state, Some(timer)),
                        Due::Nothing => {
                            let at = now + timer.interval;
                            state.waiting.push(Waiting { at, timer });
                        }
                        Due::Ended => {}
                    }
                }
            }
        }
        (state, None)
    }
}

impl Drop for Timers {
    fn drop(&mut self) {
        if self.made_in.is_parents() {
            return;
        }
        let mut state = lock(&self.shared.state);
        state.stopped = true;
        self.shared.watch.notify_all();
        self.shared.idle.notify_all();
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        threads.into_iter().for_each(super::join);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{channel, Receiver};

    use super::*;

    const GUARD: Duration = Duration::from_secs(60);

    /// Returns a timer that is always due and has this work.
    fn eager(work: impl FnMut() -> bool + Send + 'static) -> Timer {
        Timer { interval: Duration::ZERO, look: Box::new(|| Due::Work), work: Box::new(work) }
    }

    /// Returns a timer whose work begins and does not end until something is received, or until the sender is
    /// dropped.
    fn stuck() -> (Timer, std::sync::mpsc::Sender<()>, Receiver<()>) {
        let (go_on, told) = channel();
        let (begun, has_begun) = channel();
        let work = move || {
            // An error means that the test has ended.
            let _ended = begun.send(()).is_err() || told.recv().is_err();
            false
        };
        (eager(work), go_on, has_begun)
    }

    #[test]
    fn a_timer_is_called_while_the_work_of_others_does_not_end() {
        let timers = Timers::default();
        let held: Vec<_> = (0..10)
            .map(|_| {
                let (timer, go_on, has_begun) = stuck();
                timers.add(Duration::ZERO, timer).expect("a thread");
                has_begun.recv_timeout(GUARD).expect("its work begins beside that of the others");
                go_on
            })
            .collect();
        let (called, calls) = channel();
        let timer = eager(move || called.send(()).is_ok());
        timers.add(Duration::from_millis(1), timer).expect("a thread");
        for _ in 0..3 {
            calls.recv_timeout(GUARD).expect("it is called");
        }
        drop(held);
    }

    #[test]
    fn of_many_timers_that_are_always_due_none_is_left_behind() {
        let timers = Timers::default();
        let counts: Vec<_> = (0..8).map(|_| Arc::new(AtomicUsize::new(0))).collect();
        for count in &counts {
            let (count, all) = (Arc::clone(count), counts.clone());
            let work = move || {
                count.fetch_add(1, Ordering::SeqCst);
                // Continue until each of them has had its turns.
                all.iter().any(|other| other.load(Ordering::SeqCst) < 100)
            };
            timers.add(Duration::ZERO, eager(work)).expect("a thread");
        }
        let started = Instant::now();
        while counts.iter().any(|count| count.load(Ordering::SeqCst) < 100) {
            assert!(started.elapsed() < GUARD, "{counts:?}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_timer_without_work_costs_no_thread_and_one_that_has_ended_is_gone() {
        let timers = Timers::default();
        let (looked, looks) = channel();
        let look = move || match looked.send(()) {
            Ok(()) => Due::Nothing,
            Err(_) => Due::Ended,
        };
        let work = || panic!("there is none");
        let timer = Timer {
            interval: Duration::from_millis(1),
            look: Box::new(look),
            work: Box::new(work),
        };
        timers.add(Duration::ZERO, timer).expect("a thread");
        for _ in 0..3 {
            looks.recv_timeout(GUARD).expect("it is asked");
        }
        assert_eq!(lock(&timers.shared.state).threads.len(), 1);
        drop(looks);
        let started = Instant::now();
        while !lock(&timers.shared.state).waiting.is_empty() {
            assert!(started.elapsed() < GUARD, "an ended timer is kept");
            std::thread::yield_now();
        }
    }

    #[test]
    fn closing_waits_for_the_work_that_runs_and_for_no_deadline() {
        let timers = Timers::default();
        let (timer, go_on, has_begun) = stuck();
        timers.add(Duration::ZERO, timer).expect("a thread");
        timers.add(Duration::from_secs(3600), eager(|| panic!("not due"))).expect("a thread");
        has_begun.recv_timeout(GUARD).expect("begun");
        go_on.send(()).expect("it waits");
        drop(timers);
    }
}
