//! The named callbacks of a client, and when a failed one is called again.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::outcome::Completed;
use super::spans;
use super::stats::Counters;
use crate::group::{backoff, count, guarded, HandlerError};

/// A callback, called by one thread at a time.
pub(super) type Callback = Box<dyn FnMut(&Completed) -> Result<(), HandlerError> + Send>;

/// When a callback that fails is called again.
///
/// The first retries are made while the delivering thread waits for them. Then the outcome is parked, which is
/// durable, and retried from there, so that the outcomes of other callbacks do not wait. The wait between
/// these retries doubles with each failure, and they continue as long as the process runs. Meanwhile other
/// outcomes for that callback are parked as well, without a call; when it takes one, all of them follow,
/// oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallbackRetry {
    /// Calls before an outcome is parked; at least one.
    pub attempts: u32,
    /// The wait before the second call; it doubles with each call, less a random part.
    pub first: Duration,
    /// The longest wait between these calls.
    pub most: Duration,
    /// The wait before a parked outcome is retried; it doubles with each failure.
    pub parked_first: Duration,
    /// The longest wait between retries of a parked outcome.
    pub parked_most: Duration,
}

impl Default for CallbackRetry {
    /// Five calls, 5 ms to 200 ms apart; then the outcome is parked, and retried 100 ms to 30 s apart.
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

setters! { CallbackRetry:
    with_attempts attempts: u32,
    with_first first: Duration,
    with_most most: Duration,
    with_parked_first parked_first: Duration,
    with_parked_most parked_most: Duration,
}

impl CallbackRetry {
    /// Returns the wait after this many failed retries of a parked outcome.
    pub(super) fn parked_wait(&self, tries: u32) -> Duration {
        backoff(tries, self.parked_first, self.parked_most)
    }
}

/// The result of giving an outcome to a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    /// The callback took it.
    Taken,
    /// The callback failed in all of its calls.
    Failed,
    /// The callback says that it will never take it, or no callback has that name.
    Refused,
}

/// The registered callbacks; see the module.
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

/// The consecutive failed calls of a callback.
#[derive(Debug, Default)]
struct Trouble {
    failures: u32,
    /// Until then the callback is not called for outcomes that can wait.
    until: Option<Instant>,
}

impl Callbacks {
    /// Registers a callback; returns false if one of that name is registered already.
    pub(super) fn register(&mut self, name: &str, callback: Callback) -> bool {
        let named = Named { callback: Mutex::new(callback), trouble: Mutex::default() };
        self.named.insert(name.to_owned(), named).is_none()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.named.contains_key(name)
    }

    /// Returns whether a callback may be called now: it is registered, and has not just failed.
    pub(super) fn may_call(&self, name: &str) -> bool {
        self.named.get(name).is_some_and(|named| {
            named.trouble.lock().until.is_none_or(|until| Instant::now() >= until)
        })
    }

    /// Clears the failures of all callbacks.
    pub(super) fn forgive(&self) {
        self.named.values().for_each(|named| *named.trouble.lock() = Trouble::default());
    }

    /// Calls the callback for an outcome, several times unless the outcome was parked. Returns true
    /// with `Taken` if the callback's last call had failed.
    pub(super) fn deliver(&self, done: &Completed, is_parked: bool) -> (Given, bool) {
        let Some(named) = done.callback().and_then(|name| self.named.get(name)) else {
            return (Given::Refused, false);
        };
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
            // A failure of this outcome, not of the callback.
            Given::Refused => {}
        }
        (given, had_failed)
    }

    /// Passes a record that arrived after the outcome to the callback for late records.
    pub(super) fn deliver_late(&self, done: &Completed) {
        if let Some(callback) = &self.late {
            // A notification: if no callback takes it, the record is still in the log.
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
            count(&self.counters.callback_retries, 1);
        }
        Given::Failed
    }
}

thread_local! {
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether this thread is inside a callback. Such a thread must not call another callback: that may
/// be the same one, which has not returned, or one in another thread, which waits for this one.
pub(super) fn is_inside() -> bool {
    IS_INSIDE.get()
}
