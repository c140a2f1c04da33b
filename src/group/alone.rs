//! Handlers that share a process, and a suspect: a record that may be what ends the process.
//!
//! A record whose process died twice while its handler ran runs alone the next time: no other handler
//! runs in this process meanwhile, and the lane's page says so. If the process dies again, this record is
//! to blame and not a bystander. A handler that no longer waits for a suspect to end first takes back the
//! word that says that the suspect runs alone.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::lane::{decode_trial, encode_trial, State, Trial};
use crate::sys::atomic::Ordering;
use crate::sys::Map;

/// How long a suspect waits for running handlers to finish. New handlers are held back meanwhile.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a suspect has the process to itself at most: it may be waiting for one of the other handlers.
const SOLITUDE: Duration = Duration::from_secs(1);

/// The handlers of the process, which end when it dies.
static HANDLERS: Mutex<Handlers> =
    Mutex::new(Handlers { running: 0, seeking: 0, entered: 0, alone: None });
static CHANGED: Condvar = Condvar::new();

struct Handlers {
    /// Running handlers, except for one that runs alone.
    running: usize,
    /// Suspects that wait for running handlers to finish.
    seeking: usize,
    /// Numbers the handlers in the order in which they entered.
    entered: u64,
    alone: Option<(u64, Suspect)>,
}

/// The word of a lane's page that says that a suspect runs alone.
pub(super) struct Suspect {
    pub(super) map: Arc<Map>,
    pub(super) trial_at: usize,
}

impl Suspect {
    /// Stores that another handler runs beside it: from here on its process's death does not count.
    fn is_accompanied(&self) {
        let word = self.map.word(self.trial_at);
        let seen = word.load(Ordering::Acquire);
        let trial = decode_trial(seen);
        if trial.state == State::Alone {
            let beside = encode_trial(Trial { state: State::Running, ..trial });
            // Fails if its handler has just ended: then there is nothing to take back.
            let taken_back =
                word.compare_exchange(seen, beside, Ordering::AcqRel, Ordering::Relaxed);
            debug_assert!(
                taken_back.is_ok()
                    || decode_trial(word.load(Ordering::Acquire)).state != State::Alone
            );
        }
    }
}

impl Handlers {
    /// Ends a suspect's time alone: it becomes one of the running handlers.
    fn accompany(&mut self) {
        if let Some((_, suspect)) = self.alone.take() {
            suspect.is_accompanied();
            self.running += 1;
        }
    }
}

thread_local! {
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Held while a handler runs.
pub(super) struct Inside {
    number: u64,
    /// Inside another handler of this thread, which is counted already.
    nested: bool,
}

/// Enters a handler, alone if it is a suspect; `None` if the other handlers do not finish in time.
pub(super) fn enter(suspect: Option<Suspect>) -> Option<Inside> {
    let mut handlers = HANDLERS.lock();
    // A handler that itself calls handlers: waiting for its own end would last forever.
    let nested = IS_INSIDE.get();
    handlers.entered += 1;
    let number = handlers.entered;
    match suspect {
        _ if nested => handlers.accompany(),
        None => {
            wait(&mut handlers, SOLITUDE, |all| all.alone.is_none() && all.seeking == 0);
            handlers.accompany();
            handlers.running += 1;
        }
        Some(suspect) => {
            handlers.seeking += 1;
            let found =
                wait(&mut handlers, PATIENCE, |all| all.alone.is_none() && all.running == 0);
            handlers.seeking -= 1;
            if !found {
                CHANGED.notify_all();
                return None;
            }
            handlers.alone = Some((number, suspect));
        }
    }
    IS_INSIDE.set(true);
    Some(Inside { number, nested })
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
    pub(super) fn tell(&self, store: impl FnOnce(State)) {
        let handlers = HANDLERS.lock();
        store(match &handlers.alone {
            Some((number, _)) if *number == self.number => State::Alone,
            _ => State::Running,
        });
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if self.nested {
            return;
        }
        IS_INSIDE.set(false);
        let mut handlers = HANDLERS.lock();
        match &handlers.alone {
            Some((number, _)) if *number == self.number => handlers.alone = None,
            _ => handlers.running -= 1,
        }
        drop(handlers);
        CHANGED.notify_all();
    }
}
