//! What a server's handler gets and returns.

use std::time::{Duration, SystemTime};

use super::envelope::Envelope;
use super::request_id::RequestId;
use crate::error::Result;
use crate::group::{Job, LaneGuard};
use crate::record::{Record, RecordRef};

/// A request, as its handler sees it.
#[derive(Debug)]
pub struct Request<'a> {
    pub(super) job: &'a Job,
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

    /// The request that its conversation began with: this one, unless it was
    /// [`caused_by`](super::RequestBuilder::caused_by) another.
    pub fn conversation(&self) -> &RequestId {
        self.envelope.conversation()
    }

    /// The request that it came from.
    pub fn cause(&self) -> Option<&RequestId> {
        self.envelope.cause.as_ref()
    }

    /// The dead-lettered request that it sends again, if it is a redrive.
    pub fn redrive_of(&self) -> Option<&RequestId> {
        self.envelope.redrive_of.as_ref()
    }

    /// The W3C trace context that it was sent with, if that is well-formed.
    pub fn traceparent(&self) -> Option<&str> {
        self.envelope.traceparent()
    }

    /// 1 the first time; more if the handler failed, or died, or was killed before.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether it is given up if the handler fails now.
    pub fn is_last_attempt(&self) -> bool {
        self.job.is_last_attempt()
    }

    /// After this time nobody needs the reply.
    pub fn deadline(&self) -> Option<SystemTime> {
        self.envelope.deadline.map(|at| SystemTime::UNIX_EPOCH + Duration::from_nanos(at))
    }

    /// Where the request is in the request topic.
    pub fn offset(&self) -> u64 {
        self.record.offset()
    }

    /// What keeps requests of this key from other servers, for a child process that does the work.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if no descriptor is left.
    pub fn lane_guard(&self) -> Result<LaneGuard> {
        self.job.lane_guard()
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
    /// [`Error::Decode`](crate::Error::Decode).
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
    /// [`Error::Decode`](crate::Error::Decode) if the value cannot be written as JSON.
    #[cfg(feature = "json")]
    pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Reply> {
        Ok(Reply { record: Record::json(value)? })
    }

    /// Adds a header.
    pub fn header(self, name: &str, value: impl AsRef<[u8]>) -> Reply {
        Reply { record: self.record.header(name, value) }
    }
}
