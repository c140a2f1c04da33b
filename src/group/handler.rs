//! Calls user code: what it may return, its panics, and the backoff before it is called again.

use std::cell::Cell;
use std::error::Error as AnyError;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::Duration;

use crate::error::Error;

/// The reason why a handler, or a callback, failed.
///
/// Every error converts with `?`, including its sources: also `anyhow::Error`, `Box<dyn Error>`, `String`
/// and `&str`. It is retried, except for [`Error::Decode`], which would fail again and is terminal
/// wherever it is in the chain of sources. For a payload that another crate cannot decode, use
/// [`HandlerError::decode`].
///
/// ```
/// use deaddrop::group::HandlerError;
/// fn handle(payload: &[u8]) -> Result<(), HandlerError> {
///     let text = std::str::from_utf8(payload).map_err(HandlerError::decode)?;
///     let number: u32 = text.parse()?;
///     if number == 0 {
///         return Err("nothing to do".into());
///     }
///     Ok(())
/// }
/// assert!(handle(b"0").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerError {
    pub(crate) message: String,
    pub(crate) terminal: bool,
}

impl HandlerError {
    /// Creates an error that may not occur later: the work is retried.
    pub fn retry(message: impl Into<String>) -> HandlerError {
        HandlerError { message: message.into(), terminal: false }
    }

    /// Creates an error that would occur every time. A request gets the outcome `Failed`; another
    /// record is poison at once.
    pub fn terminal(message: impl Into<String>) -> HandlerError {
        HandlerError { message: message.into(), terminal: true }
    }

    /// Creates a terminal error for a payload that cannot be decoded.
    pub fn decode(error: impl Into<Box<dyn AnyError + Send + Sync>>) -> HandlerError {
        HandlerError::terminal(chain(&*error.into()))
    }
}

impl std::fmt::Display for HandlerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: Into<Box<dyn AnyError + Send + Sync>>> From<E> for HandlerError {
    fn from(error: E) -> HandlerError {
        let error = error.into();
        HandlerError { message: chain(&*error), terminal: is_decode(&*error) }
    }
}

/// Returns an error and its sources as one line. Some errors include their source themselves.
fn chain(error: &(dyn AnyError + 'static)) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !message.ends_with(&text) {
            message += ": ";
            message += &text;
        }
        source = error.source();
    }
    message
}

fn is_decode(error: &(dyn AnyError + 'static)) -> bool {
    let mut error = Some(error);
    while let Some(this) = error {
        if matches!(this.downcast_ref::<Error>(), Some(Error::Decode { .. })) {
            return true;
        }
        error = this.source();
    }
    false
}

thread_local! {
    static USER_CODE: Cell<u32> = const { Cell::new(0) };
}

/// Returns whether this thread is running a handler or a callback.
pub(crate) fn is_in_user_code() -> bool {
    USER_CODE.get() > 0
}

struct InUserCode;

impl InUserCode {
    fn enter() -> InUserCode {
        USER_CODE.set(USER_CODE.get() + 1);
        InUserCode
    }
}

impl Drop for InUserCode {
    fn drop(&mut self) {
        USER_CODE.set(USER_CODE.get() - 1);
    }
}

/// Calls user code; a panic is an error that is retried.
pub(crate) fn guarded<T>(
    call: impl FnOnce() -> Result<T, HandlerError>,
) -> Result<T, HandlerError> {
    let _inside = InUserCode::enter();
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".into());
        Err(HandlerError::retry(format!("panicked: {text}")))
    })
}

/// Returns the backoff before the attempt after `attempt`: doubling from `first` to `most`, less a random
/// part of up to half, so that records that failed together are not retried together.
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
        assert!(HandlerError::decode("not postcard").terminal);
        let wrapped = Sending(Box::new(Error::Decode { what: "x".into() }));
        assert!(HandlerError::from(wrapped).terminal);
    }

    #[derive(Debug)]
    struct Sending(Box<dyn AnyError + Send + Sync>);

    impl std::fmt::Display for Sending {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("error sending the request")
        }
    }

    impl AnyError for Sending {
        fn source(&self) -> Option<&(dyn AnyError + 'static)> {
            Some(&*self.0)
        }
    }

    #[test]
    fn errors_of_every_kind_convert_and_keep_their_sources() {
        let refused = || Sending("connection refused".into());
        let message = "error sending the request: connection refused";
        assert_eq!(HandlerError::from(refused()).message, message);
        let boxed: Box<dyn AnyError + Send + Sync> = refused().into();
        let of_text = |text: &str| -> Result<(), HandlerError> { Err(text.to_owned())? };
        let of_box = move || -> Result<(), HandlerError> { Err(boxed)? };
        assert_eq!(of_box().unwrap_err().message, message);
        assert_eq!(of_text("no").unwrap_err(), HandlerError::retry("no"));
        assert_eq!(HandlerError::from("no"), HandlerError::retry("no"));
    }

    #[test]
    fn a_thread_knows_whether_it_runs_user_code() {
        assert!(!is_in_user_code());
        let nested = guarded(|| {
            drop(guarded::<()>(|| panic!("x")));
            Ok(is_in_user_code())
        });
        assert_eq!(nested, Ok(true));
        assert!(!is_in_user_code());
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
