//! The named callbacks of a client, and when one that fails is called again.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::outcome::Completed;
use super::spans;
use super::stats::{count, Counters};
use crate::group::{backoff, guarded, HandlerError};

/// A callback, called by one thread at a time.
pub(super) type Callback = Box<dyn FnMut(&Completed) -> Result<(), HandlerError> + Send>;

/// When a callback that fails is called again.
///
/// At first right away, while its thread waits. Then the outcome is parked, which is durable, and
/// tried again from there, so that those of other callbacks do not wait: after a while that doubles with
/// each failure, as long as the process runs. Meanwhile other outcomes for that callback are parked as
/// well, without a call; when it takes one, all of them follow, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallbackRetry {
    /// Calls before an outcome is parked; at least one.
    pub attempts: u32,
    /// The wait before the second of them; it doubles with each, less a random part.
    pub first: Duration,
    /// The longest wait between them.
    pub most: Duration,
    /// The wait before a parked outcome is tried again; it doubles with each failure.
    pub parked_first: Duration,
    /// The longest wait between tries of a parked outcome.
    pub parked_most: Duration,
}

impl Default for CallbackRetry {
    /// Five calls, 5 ms to 200 ms apart; then parked, and tried again 100 ms to 30 s apart.
    fn default() -> CallbackRetry {
        CallbackRetry {
            attempts: 5,
            first: Duration::from_millis(5),
            most: Duration::from_millis(200),
            parked_first: Duration::from_millis(100),
            parked_most: Duration::from_secs(30),
        }
    }
}

impl CallbackRetry {
    /// The wait after so many failed tries of a parked outcome.
    pub(super) fn parked_wait(&self, tries: u32) -> Duration {
        backoff(tries, self.parked_first, self.parked_most)
    }
}

/// What became of an outcome that was given to a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    /// It took it.
    Taken,
    /// It failed as often as it is called.
    Failed,
    /// It will never take it, it says; or there is none of that name.
    Refused,
}

/// See the module.
#[derive(Default)]
pub(super) struct Callbacks {
    named: HashMap<String, Named>,
    pub(super) late: Option<Mutex<Callback>>,
    pub(super) retry: CallbackRetry,
    pub(super) counters: Counters,
}

struct Named {
    callback: Mutex<Callback>,
    trouble: Mutex<Trouble>,
}

/// Calls of a callback that failed one after the other.
#[derive(Debug, Default)]
struct Trouble {
    failures: u32,
    /// It is not called for outcomes that can wait until then.
    until: Option<Instant>,
}

impl Callbacks {
    /// Registers a callback; false if there is one of that name.
    pub(super) fn register(&mut self, name: &str, callback: Callback) -> bool {
        let named = Named { callback: Mutex::new(callback), trouble: Mutex::default() };
        self.named.insert(name.to_owned(), named).is_none()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.named.contains_key(name)
    }

    /// Whether a callback may be called now: it is registered, and did not just fail.
    pub(super) fn may_call(&self, name: &str) -> bool {
        self.named.get(name).is_some_and(|named| {
            named.trouble.lock().until.is_none_or(|until| Instant::now() >= until)
        })
    }

    /// Forgets that callbacks have failed.
    pub(super) fn forgive(&self) {
        self.named.values().for_each(|named| *named.trouble.lock() = Trouble::default());
    }

    /// Calls the callback for an outcome: several times, unless it comes from those that are parked. True
    /// with `Taken` if the last call of it had failed.
    pub(super) fn deliver(&self, done: &Completed, is_parked: bool) -> (Given, bool) {
        let Some(named) = self.named.get(done.callback()) else { return (Given::Refused, false) };
        let had_failed = named.trouble.lock().failures > 0;
        let attempts = if is_parked || had_failed { 1 } else { self.retry.attempts.max(1) };
        let given = self.call(&named.callback, done, attempts);
        let mut trouble = named.trouble.lock();
        match given {
            Given::Taken => *trouble = Trouble::default(),
            Given::Failed => {
                trouble.failures = trouble.failures.saturating_add(1);
                let wait = self.retry.parked_wait(trouble.failures);
                trouble.until = Instant::now().checked_add(wait);
            }
            // Of this outcome, not of the callback.
            Given::Refused => {}
        }
        (given, had_failed)
    }

    /// Tells of a record that came after the outcome.
    pub(super) fn deliver_late(&self, done: &Completed) {
        if let Some(callback) = &self.late {
            // A notification: what nobody takes is in the log all the same.
            self.call(callback, done, self.retry.attempts.max(1));
        }
    }

    fn call(&self, callback: &Mutex<Callback>, done: &Completed, attempts: u32) -> Given {
        for attempt in 1..=attempts {
            let called = guarded(|| {
                let mut callback = callback.lock();
                IS_INSIDE.set(true);
                callback(done)
            });
            IS_INSIDE.set(false);
            let Err(error) = called else { return Given::Taken };
            let again = !error.terminal && attempt < attempts;
            let wait = again.then(|| backoff(attempt, self.retry.first, self.retry.most));
            spans::callback_failed(&done.envelope, attempt, &error.message, wait);
            let Some(wait) = wait else {
                return if error.terminal { Given::Refused } else { Given::Failed };
            };
            std::thread::sleep(wait);
            count(&self.counters.callback_retries);
        }
        Given::Failed
    }
}

thread_local! {
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a callback. It must not call another one: that may be the same one,
/// which has not returned, or one that another thread is in, which waits for this one.
pub(super) fn is_inside() -> bool {
    IS_INSIDE.get()
}
