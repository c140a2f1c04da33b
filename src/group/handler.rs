//! Calling user code: what it may return, its panics, and how long to wait before it is called again.

use std::any::Any;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::Duration;

use crate::error::Error;

/// Why a handler, or a callback, did not do its work. Every error converts with `?` and is tried
/// again; except [`Error::Decode`], which would come again and is terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerError {
    pub(crate) message: String,
    pub(crate) terminal: bool,
}

impl HandlerError {
    /// It may work later: it is tried again.
    pub fn retry(message: impl Into<String>) -> HandlerError {
        HandlerError { message: message.into(), terminal: false }
    }

    /// It will never work. Of a request: the client gets it as the outcome `Failed`. Of another
    /// record: it is poison at once.
    pub fn terminal(message: impl Into<String>) -> HandlerError {
        HandlerError { message: message.into(), terminal: true }
    }
}

impl std::fmt::Display for HandlerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: std::error::Error + 'static> From<E> for HandlerError {
    fn from(error: E) -> HandlerError {
        let any: &dyn Any = &error;
        let terminal = matches!(any.downcast_ref::<Error>(), Some(Error::Decode { .. }));
        HandlerError { message: error.to_string(), terminal }
    }
}

/// Calls user code; a panic is an error to try again.
pub(crate) fn guarded<T>(
    call: impl FnOnce() -> Result<T, HandlerError>,
) -> Result<T, HandlerError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".into());
        Err(HandlerError::retry(format!("panicked: {text}")))
    })
}

/// How long to wait before the attempt after `attempt`: doubling from `first` to `most`, with a random
/// half of it taken off, so that many that failed together do not come back together.
pub(crate) fn backoff(attempt: u32, first: Duration, most: Duration) -> Duration {
    let doubled = first.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(most);
    let jitter = doubled.as_nanos() as u64 / 2;
    if jitter == 0 {
        return doubled;
    }
    doubled - Duration::from_nanos(crate::sys::random() % jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decode_error_is_terminal_and_others_are_tried_again() {
        let decode = Error::Decode { what: "x".into() };
        assert!(HandlerError::from(decode).terminal);
        assert!(!HandlerError::from(Error::Forked).terminal);
        assert!(!HandlerError::from(std::io::Error::other("x")).terminal);
    }

    #[test]
    fn a_panic_is_an_error_with_its_text() {
        let caught = guarded::<()>(|| panic!("at {}", "home")).unwrap_err();
        assert!(caught.message.contains("at home") && !caught.terminal);
    }

    #[test]
    fn the_backoff_doubles_up_to_its_limit() {
        let (first, most) = (Duration::from_millis(10), Duration::from_secs(1));
        for attempt in 1..40 {
            let full = first.saturating_mul(1 << (attempt - 1).min(20)).min(most);
            let wait = backoff(attempt, first, most);
            assert!(wait <= full && wait >= full / 2, "{attempt}: {wait:?}");
        }
    }
}
