//! What a server's handler gets and returns.

use std::any::Any;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::{Duration, SystemTime};

use super::envelope::Envelope;
use super::request_id::RequestId;
use crate::error::{Error, Result};
use crate::record::{Record, RecordRef};

/// A request, as its handler sees it.
#[derive(Debug)]
pub struct Request<'a> {
    pub(super) record: RecordRef<'a>,
    pub(super) envelope: &'a Envelope,
    pub(super) attempt: u32,
}

impl<'a> Request<'a> {
    /// Identifies the request for ever: the idempotency key for effects outside the log.
    pub fn id(&self) -> &RequestId {
        &self.envelope.id
    }

    /// The name of the client that sent it.
    pub fn client(&self) -> &str {
        self.envelope.id.client()
    }

    /// 1 the first time; more if the handler failed, or died, or was killed before.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// After this time nobody needs the reply.
    pub fn deadline(&self) -> Option<SystemTime> {
        self.envelope.deadline.map(|at| SystemTime::UNIX_EPOCH + Duration::from_nanos(at))
    }

    /// Where the request is in the request topic.
    pub fn offset(&self) -> u64 {
        self.record.offset()
    }

    /// The payload.
    pub fn payload(&self) -> &'a [u8] {
        self.record.payload()
    }

    /// The payload read as JSON. With `?` in the handler, a payload that is no `T` is answered as a
    /// failure, and not tried again.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`].
    #[cfg(feature = "json")]
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        self.record.json()
    }

    /// The key, if the client gave one.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.record.key()
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.record.header(name)
    }
}

/// What a handler answers.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub(super) record: Record,
}

impl Reply {
    /// A reply with this payload.
    pub fn new(payload: impl Into<Vec<u8>>) -> Reply {
        Reply { record: Record::new(payload) }
    }

    /// A reply whose payload is `value` as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`] if the value cannot be written as JSON.
    #[cfg(feature = "json")]
    pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Reply> {
        Ok(Reply { record: Record::json(value)? })
    }

    /// Adds a header.
    pub fn header(self, name: &str, value: impl AsRef<[u8]>) -> Reply {
        Reply { record: self.record.header(name, value) }
    }
}

/// Why a handler, or a callback, did not do its work. Every error converts with `?` and is tried
/// again; except [`Error::Decode`], which would come again and is terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerError {
    pub(super) message: String,
    pub(super) terminal: bool,
}

impl HandlerError {
    /// It may work later: the request is tried again.
    pub fn retry(message: impl Into<String>) -> HandlerError {
        HandlerError { message: message.into(), terminal: false }
    }

    /// It will never work: the client gets it as the outcome `Failed`.
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
pub(super) fn guarded<T>(
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
pub(super) fn backoff(attempt: u32, first: Duration, most: Duration) -> Duration {
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
