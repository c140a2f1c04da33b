//! How a request ended.

use std::sync::Weak;
use std::time::SystemTime;

use super::client::{Client, ClientInner};
use super::envelope::{Envelope, Kind};
use super::record_at;
use super::request_id::RequestId;
use crate::error::{Error, Result};
use crate::record::OwnedRecord;
use crate::topic::Topic;

/// The outcome of a request: exactly one, decided by the first record that names it in its reply
/// topic.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Outcome {
    /// The server's reply.
    Reply(OwnedRecord),
    /// The handler refused for good, with this message.
    Failed(String),
    /// Given up after too many attempts, for this reason; the request is in the dead-letter topic.
    DeadLettered(String),
    /// The deadline passed first.
    Expired,
    /// The client took it back first.
    Cancelled,
}

impl Outcome {
    /// The outcome that a record of the reply topic stands for; `None` if it decides nothing.
    pub(super) fn of(envelope: &Envelope, record: &OwnedRecord) -> Option<Outcome> {
        match envelope.kind {
            Kind::Reply => Some(Outcome::Reply(record.clone())),
            Kind::Failed => Some(Outcome::Failed(envelope.error.clone())),
            Kind::DeadLettered => Some(Outcome::DeadLettered(envelope.error.clone())),
            Kind::Expired => Some(Outcome::Expired),
            Kind::Cancelled => Some(Outcome::Cancelled),
            Kind::Request | Kind::Unparked | Kind::Redriven => None,
        }
    }
}

/// A request that came to its end, as a callback gets it.
#[derive(Clone)]
pub struct Completed {
    pub(super) envelope: Envelope,
    pub(super) outcome: Outcome,
    pub(super) late: bool,
    pub(super) recovered: bool,
    pub(super) requests: Option<Topic>,
    pub(super) client: Weak<ClientInner>,
}

impl std::fmt::Debug for Completed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Completed")
            .field("id", self.id())
            .field("outcome", &self.outcome)
            .field("late", &self.late)
            .field("recovered", &self.recovered)
            .finish_non_exhaustive()
    }
}

impl Completed {
    /// Which request.
    pub fn id(&self) -> &RequestId {
        &self.envelope.id
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

    /// The name of the callback that it was sent with; empty for a call handle.
    pub fn callback(&self) -> &str {
        &self.envelope.callback
    }

    /// The bytes that the client gave along.
    pub fn context(&self) -> &[u8] {
        &self.envelope.context
    }

    /// The context read as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`](crate::Error::Decode).
    #[cfg(feature = "json")]
    pub fn context_json<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        crate::record::from_json(self.context())
    }

    /// The client: what a callback sends its next request with. (A client that its own callbacks hold is never
    /// dropped.)
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if it was dropped, which it is not while its callbacks run.
    pub fn client(&self) -> Result<Client> {
        let inner = self.client.upgrade().ok_or_else(|| Error::NotFound {
            what: format!("client {}: it was dropped", self.envelope.id.client()),
        })?;
        Ok(Client { inner })
    }

    /// How it ended.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// The attempt of the server that led to it; 0 if no server was asked.
    pub fn attempt(&self) -> u32 {
        self.envelope.attempt
    }

    /// Whether the outcome was decided before by another record: a notification, no outcome.
    pub fn is_late(&self) -> bool {
        self.late
    }

    /// Whether the request was sent before this start of the client.
    pub fn is_recovered(&self) -> bool {
        self.recovered
    }

    /// The original request, read from the log; `None` if it was trimmed, or is damaged.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn request(&self) -> Result<Option<OwnedRecord>> {
        let (Some(topic), Some(offset)) = (&self.requests, self.envelope.request_offset) else {
            return Ok(None);
        };
        let record = record_at(topic, offset)?;
        // The offset is a hint: after a power cut another record can stand there.
        Ok(record.filter(|record| {
            matches!(Envelope::of(&record.as_ref()), Some(Ok(found)) if found.id == *self.id())
        }))
    }
}

/// An outcome that nobody took: its callback is not registered, failed too often, or its call handle
/// is gone with an earlier start.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Parked {
    /// Which request.
    pub id: RequestId,
    /// The service that it was sent to.
    pub service: String,
    /// The name of the callback that would take it; empty: [`Client::attach`](super::Client::attach).
    pub callback: String,
    /// What the outcome is.
    pub kind: Kind,
    /// When it was parked, by the wall clock.
    pub parked_at: SystemTime,
}
