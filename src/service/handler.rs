//! The arguments and results of a server's handler.

use std::time::{Duration, SystemTime};

use super::envelope::{envelope_getters, Envelope};
use super::request_id::RequestId;
use crate::error::Result;
use crate::group::{Job, LaneGuard};
use crate::record::Record;

/// A request, as its handler receives it.
#[derive(Debug)]
pub struct Request<'a> {
    pub(super) job: &'a Job,
    pub(super) envelope: &'a Envelope,
}

envelope_getters!(Request<'_>);

impl<'a> Request<'a> {
    /// Returns the id, which is never used again: the idempotency key for effects outside the log.
    pub fn id(&self) -> &RequestId {
        &self.envelope.id
    }

    /// Returns the name of the client that sent the request.
    pub fn client(&self) -> &str {
        self.envelope.id.client()
    }

    /// Returns the number of this attempt: 1 the first time; more if an earlier one failed or its process died.
    pub fn attempt(&self) -> u32 {
        self.job.attempt()
    }

    /// Returns whether the request is no longer retried if the handler fails now.
    pub fn is_last_attempt(&self) -> bool {
        self.job.is_last_attempt()
    }

    /// Returns the time after which the reply is no longer needed.
    pub fn deadline(&self) -> Option<SystemTime> {
        self.envelope.deadline.map(|at| SystemTime::UNIX_EPOCH + Duration::from_nanos(at))
    }

    /// Returns the offset of the request in the request topic.
    pub fn offset(&self) -> u64 {
        self.job.offset()
    }

    /// Returns a guard that keeps requests of this key from other servers, for a child process that does the
    /// work.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if no descriptor is left.
    pub fn lane_guard(&self) -> Result<LaneGuard> {
        self.job.lane_guard()
    }

    /// Returns the payload.
    pub fn payload(&self) -> &'a [u8] {
        self.job.payload()
    }

    /// Decodes the payload as JSON. With `?` in the handler, a payload that is not a `T` is answered as a
    /// failure, and not retried.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`](crate::Error::Decode).
    #[cfg(feature = "json")]
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        self.job.json()
    }

    /// Returns the key, if the client gave one.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.job.key()
    }

    /// Returns the value of the first header of this name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.job.record().header(name)
    }
}

/// The answer of a handler.
#[derive(Debug, Clone, Default)]
#[must_use = "a handler returns it"]
pub struct Reply {
    pub(super) record: Record,
}

impl Reply {
    /// Creates a reply with this payload.
    pub fn new(payload: impl Into<Vec<u8>>) -> Reply {
        Reply { record: Record::new(payload) }
    }

    /// Creates a reply whose payload is `value` as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`](crate::Error::Decode) if the value cannot be written as JSON.
    #[cfg(feature = "json")]
    pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Reply> {
        Ok(Reply { record: Record::json(value)? })
    }

    /// Adds a header.
    pub fn with_header(self, name: &str, value: impl AsRef<[u8]>) -> Reply {
        Reply { record: self.record.with_header(name, value) }
    }
}
