//! How a request ended.

use std::any::Any;
use std::sync::Weak;
use std::time::SystemTime;

use super::envelope::{envelope_getters, Envelope, Kind};
use super::record_at;
use super::request_id::RequestId;
use crate::error::Result;
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
    /// The request failed too often, for this reason; it is in the dead-letter topic.
    DeadLettered(String),
    /// The deadline passed first.
    Expired,
    /// The client cancelled the request first.
    Cancelled,
}

impl Outcome {
    /// Returns the outcome that a record of the reply topic describes; `None` if it is not an outcome.
    pub(super) fn of(envelope: &Envelope, record: &OwnedRecord) -> Option<Outcome> {
        let why = || envelope.error.clone().unwrap_or_default();
        match envelope.kind {
            Kind::Reply => Some(Outcome::Reply(record.clone())),
            Kind::Failed => Some(Outcome::Failed(why())),
            Kind::DeadLettered => Some(Outcome::DeadLettered(why())),
            Kind::Expired => Some(Outcome::Expired),
            Kind::Cancelled => Some(Outcome::Cancelled),
            Kind::Request | Kind::Unparked | Kind::Redriven => None,
        }
    }
}

/// A request that has an outcome, as a callback receives it.
#[derive(Clone)]
pub struct Completed {
    pub(super) envelope: Envelope,
    pub(super) outcome: Outcome,
    pub(super) late: bool,
    pub(super) recovered: bool,
    pub(super) requests: Option<Topic>,
    /// The client: [`client`](Self::client), a part above this one, knows its type.
    pub(super) client: Weak<dyn Any + Send + Sync>,
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

envelope_getters!(Completed);

impl Completed {
    /// Returns the id of the request.
    pub fn id(&self) -> &RequestId {
        &self.envelope.id
    }

    /// Returns the name of the callback that the request was sent with; `None` for a call handle.
    pub fn callback(&self) -> Option<&str> {
        self.envelope.callback.as_deref()
    }

    /// Returns the bytes that the client sent as the context.
    pub fn context(&self) -> &[u8] {
        &self.envelope.context
    }

    /// Decodes the context as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`](crate::Error::Decode).
    #[cfg(feature = "json")]
    pub fn context_json<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        crate::record::from_json(self.context())
    }

    /// Returns how the request ended.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Returns the server's attempt that led to the outcome; `None` if no server handled the request.
    pub fn attempt(&self) -> Option<u32> {
        self.envelope.attempt
    }

    /// Returns whether another record decided the outcome before: then this is a notification, not an outcome.
    pub fn is_late(&self) -> bool {
        self.late
    }

    /// Returns whether the request was sent before this start of the client.
    pub fn is_recovered(&self) -> bool {
        self.recovered
    }

    /// Reads the original request from the log; `None` if it was trimmed or is damaged.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io).
    pub fn request(&self) -> Result<Option<OwnedRecord>> {
        let (Some(topic), Some(offset)) = (&self.requests, self.envelope.request_offset) else {
            return Ok(None);
        };
        Ok(record_at(topic, offset)?.filter(|record| self.envelope.is_about(record)))
    }
}

/// An outcome that no callback and no caller took: its callback is not registered or failed too often, or
/// its call handle belonged to an earlier start.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Parked {
    /// The id of the request.
    pub id: RequestId,
    /// The service that the request was sent to.
    pub service: String,
    /// The name of the callback that it is for; `None` if it is for [`Client::attach`](super::Client::attach).
    pub callback: Option<String>,
    /// The kind of the outcome.
    pub kind: Kind,
    /// When it was parked, by the wall clock.
    pub parked_at: SystemTime,
}
