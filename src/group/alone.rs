//! Handlers that share a process, and a suspect: a record that may be what ends the process.
//!
//! A record whose process died twice while its handler ran runs alone the next time: no other handler
//! runs in this process meanwhile, and the lane's page says so. If the process dies again, this record is
//! to blame and not a bystander. A handler that no longer waits for a suspect to end first takes back the
//! word that says that the suspect runs alone. Both wait longer for a suspect that has seen more deaths, so
//! that slow handlers do not keep a record that ends its process from being found.
//!
//! A handler that is called inside another one, on the same thread, runs in its caller's place: the caller
//! does not run alone before it returns.

use std::cell::Cell;
use std::sync::atomic::AtomicUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::lane::{decode_trial, encode_trial, State, Trial, DEATHS_OF_A_SUSPECT};
use crate::sys::atomic::Ordering;
use crate::sys::Map;

/// How long a suspect waits for running handlers to finish. New handlers are held back meanwhile.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a suspect has the process to itself at most: it may be waiting for one of the other handlers.
const SOLITUDE: Duration = Duration::from_secs(1);
/// Both are longer by this factor with each further death of a suspect's process, up to `LONGER_MOST` times.
const LONGER: u32 = 4;
const LONGER_MOST: u32 = 5;

/// Twice the number of threads that run handlers (none, if a suspect runs alone), and [`HAS_SUSPECT`]. While
/// that is not set, a handler enters and leaves by this word alone.
static RUNNING: AtomicUsize = AtomicUsize::new(0);
/// Whether a suspect seeks to run alone, or does. Changed with `HANDLERS` locked.
const HAS_SUSPECT: usize = 1;
const ONE: usize = 2;

/// The suspects of the process, and the handlers inside them.
static HANDLERS: Mutex<Handlers> =
    Mutex::new(Handlers { seeking: 0, entered: 0, alone: Vec::new(), solitude: SOLITUDE });
static CHANGED: Condvar = Condvar::new();

struct Handlers {
    /// Suspects that wait for running handlers to finish.
    seeking: usize,
    /// Numbers the handlers that entered while it was locked, from 1 on.
    entered: u64,
    /// The handlers of the only thread that runs any, if one of them is a suspect that runs alone: from that
    /// one on, each called by the one before it.
    alone: Vec<(u64, Option<Suspect>)>,
    /// How long a new handler waits for the suspects that seek to run alone, or do.
    solitude: Duration,
}

/// The word of a lane's page that says that a suspect runs alone.
pub(super) struct Suspect {
    pub(super) map: Arc<Map>,
    pub(super) trial_at: usize,
    /// The deaths of its process beside other handlers.
    pub(super) deaths: u8,
}

impl Suspect {
    /// Stores that it does not run alone any more, or does again.
    fn turn(&self, from: State, to: State) {
        let word = self.map.word(self.trial_at);
        let seen = word.load(Ordering::Acquire);
        let trial = decode_trial(seen);
        if trial.state == from {
            let turned = encode_trial(Trial { state: to, ..trial });
            // Fails if its handler has just ended: then there is nothing to take back.
            let result = word.compare_exchange(seen, turned, Ordering::AcqRel, Ordering::Relaxed);
            debug_assert!(
                result.is_ok() || decode_trial(word.load(Ordering::Acquire)).state != from
            );
        }
    }

    fn longer(&self) -> u32 {
        LONGER.pow(u32::from(self.deaths.saturating_sub(DEATHS_OF_A_SUSPECT)).min(LONGER_MOST))
    }
}

impl Handlers {
    fn has_suspect(&self) -> bool {
        self.seeking > 0 || !self.alone.is_empty()
    }

    /// The innermost handler of the thread that has the process to itself.
    fn turn_innermost(&self, from: State, to: State) {
        if let Some((_, Some(suspect))) = self.alone.last() {
            suspect.turn(from, to);
        }
    }

    /// Ends a suspect's time alone: its thread is one of those that run handlers.
    fn accompany(&mut self) {
        if !self.alone.is_empty() {
            self.turn_innermost(State::Alone, State::Running);
            self.alone.clear();
            RUNNING.fetch_add(ONE, Ordering::AcqRel);
        }
    }

    /// Stores whether there is a suspect, after a change to `seeking` or `alone`.
    fn publish(&self) {
        match self.has_suspect() {
            true => RUNNING.fetch_or(HAS_SUSPECT, Ordering::AcqRel),
            false => RUNNING.fetch_and(!HAS_SUSPECT, Ordering::AcqRel),
        };
    }
}

thread_local! {
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Held while a handler runs.
pub(super) struct Inside {
    /// 0 if it entered without the lock.
    number: u64,
    /// Inside another handler of this thread, which is counted already.
    nested: bool,
}

/// Enters a handler, alone if it is a suspect; `None` if the other handlers do not finish in time.
#[inline]
pub(super) fn enter(suspect: Option<Suspect>) -> Option<Inside> {
    // A handler that itself calls handlers: waiting for its own end would last forever.
    let nested = IS_INSIDE.get();
    let has_entered = suspect.is_none() && {
        let more = if nested { 0 } else { ONE };
        let free = |running| (running & HAS_SUSPECT == 0).then_some(running + more);
        // AcqRel: a suspect that sees this count sees no store of a handler that has ended.
        RUNNING.fetch_update(Ordering::AcqRel, Ordering::Acquire, free).is_ok()
    };
    let number = if has_entered { 0 } else { enter_beside(suspect, nested)? };
    IS_INSIDE.set(true);
    Some(Inside { number, nested })
}

/// Enters as a suspect, or while there is one; returns the handler's number.
#[cold]
fn enter_beside(suspect: Option<Suspect>, nested: bool) -> Option<u64> {
    let mut handlers = HANDLERS.lock();
    handlers.entered += 1;
    let number = handlers.entered;
    match suspect {
        // If a suspect runs alone, it is on this thread.
        suspect if nested && !handlers.alone.is_empty() => {
            handlers.turn_innermost(State::Alone, State::Running);
            handlers.alone.push((number, suspect));
        }
        None if nested => {}
        None => {
            let solitude = handlers.solitude;
            wait(&mut handlers, solitude, |all| !all.has_suspect());
            handlers.accompany();
            RUNNING.fetch_add(ONE, Ordering::AcqRel);
        }
        Some(suspect) => {
            let solitude = SOLITUDE * suspect.longer();
            let others = if handlers.has_suspect() { handlers.solitude } else { SOLITUDE };
            handlers.solitude = solitude.max(others);
            handlers.seeking += 1;
            handlers.publish();
            let own = if nested { ONE } else { 0 };
            let is_alone = |all: &Handlers| {
                all.alone.is_empty() && RUNNING.load(Ordering::Acquire) == own | HAS_SUSPECT
            };
            let found = wait(&mut handlers, PATIENCE * suspect.longer(), is_alone);
            handlers.seeking -= 1;
            if !found {
                handlers.publish();
                CHANGED.notify_all();
                return None;
            }
            RUNNING.fetch_sub(own, Ordering::AcqRel);
            handlers.alone.push((number, Some(suspect)));
        }
    }
    handlers.publish();
    Some(number)
}

/// Waits for a condition; returns whether it became true in time.
fn wait(
    handlers: &mut MutexGuard<'_, Handlers>,
    timeout: Duration,
    is_so: impl Fn(&Handlers) -> bool,
) -> bool {
    let until = Instant::now() + timeout;
    while !is_so(handlers) {
        if CHANGED.wait_until(handlers, until).timed_out() {
            return is_so(handlers);
        }
    }
    true
}

impl Inside {
    /// Calls `store` with the way in which the handler runs, before that can change.
    #[inline]
    pub(super) fn tell(&self, store: impl FnOnce(State)) {
        if self.number == 0 {
            return store(State::Running);
        }
        let handlers = HANDLERS.lock();
        store(match handlers.alone.last() {
            Some((number, Some(_))) if *number == self.number => State::Alone,
            _ => State::Running,
        });
    }

    #[cold]
    fn leave_beside(&self) {
        let mut handlers = HANDLERS.lock();
        if handlers.alone.last().is_some_and(|(number, _)| *number == self.number) {
            handlers.alone.pop();
            handlers.turn_innermost(State::Running, State::Alone);
            if self.nested && handlers.alone.is_empty() {
                // Its caller runs beside others from here on.
                RUNNING.fetch_add(ONE, Ordering::AcqRel);
            }
        } else if !self.nested {
            RUNNING.fetch_sub(ONE, Ordering::AcqRel);
        }
        handlers.publish();
        drop(handlers);
        CHANGED.notify_all();
    }
}

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        IS_INSIDE.set(self.nested);
        let less = if self.nested { 0 } else { ONE };
        let free = |running| (running & HAS_SUSPECT == 0).then_some(running - less);
        if self.number != 0
            || RUNNING.fetch_update(Ordering::AcqRel, Ordering::Acquire, free).is_err()
        {
            self.leave_beside();
        }
    }
}
