//! Request/reply over two topics: clients, servers, callbacks, deadlines, dead letters.
//!
//! A *service* `inventory` is the topics `inventory.requests` and `inventory.replies`. A request
//! carries its id, the name of the callback that waits for it, and an opaque context, so sending it
//! and registering for its reply are one append. **The outcome of a request is the first record in its
//! reply topic that names its id**: the log alone decides it.
//!
//! All state is in the log, in the server's offset file (`consumers/server` of the request topic) and
//! in the client's (`consumers/client.NAME` of both topics, `consumers/client-floor.NAME` of the reply
//! topic). These positions also keep retention from dropping records that an open request needs. No layer
//! below this one knows of services: the envelope is one reserved header.

mod builder;
mod call;
mod callbacks;
mod cause;
mod client;
mod clients;
mod closed;
mod dead_letters;
mod delivery;
mod envelope;
mod handler;
mod link;
mod options;
mod outcome;
mod parked;
mod pending;
mod rebuild;
mod recipient;
mod redrive;
mod request;
mod request_id;
mod server;
mod settle;
mod spans;
mod stats;
mod traceparent;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::group::claim::Claim;
use crate::log::Log;
use crate::reader;
use crate::record::OwnedRecord;
use crate::topic::{Retention, Topic, TopicOptions};

pub use crate::group::{HandlerError, LaneGuard, Poison, Running, WorkerStats};
pub use builder::ClientBuilder;
pub use call::Call;
pub use callbacks::CallbackRetry;
pub use cause::Cause;
pub use client::Client;
pub use clients::{ClientInfo, ClientService};
pub use dead_letters::{DeadLetters, LetterState, Redriven};
pub use envelope::{Envelope, Kind};
pub use handler::{Reply, Request};
pub use options::ServerOptions;
pub use outcome::{Completed, Outcome, Parked};
pub use pending::Outstanding;
pub use redrive::redrive;
pub use request::RequestBuilder;
pub use request_id::RequestId;
pub use server::Server;
pub use stats::ClientStats;

/// Returns the settings that servers and clients create topics with unless others are given: the
/// defaults, with segments dropped after a week if no open request needs them. Servers and clients keep
/// positions in a topic for every open request that needs its records.
pub fn topic_options() -> TopicOptions {
    let week = Duration::from_secs(7 * 24 * 60 * 60);
    let retention = Retention { age: Some(week), bytes: None, consumed: true };
    TopicOptions { retention, ..TopicOptions::default() }
}

/// Opens a topic of this layer. If it does not exist, creates it with these settings, or with
/// [`topic_options`]. Refuses a topic whose retention drops unconsumed records: an open request, or one
/// in doubt, may need them.
pub(crate) fn open_topic(log: &Log, name: &str, options: Option<TopicOptions>) -> Result<Topic> {
    let topic = match log.open_topic(name) {
        Err(Error::NotFound { .. }) => {
            if let Some(service) = name.strip_suffix(".requests") {
                Claim::Service(service).check_alone(log.inner())?;
            }
            log.restore_topic(name, options.unwrap_or_else(topic_options))?
        }
        other => other?,
    };
    let retention = topic.options().retention;
    if retention != Retention::default() && !retention.consumed {
        return Err(Error::Invalid {
            what: format!(
                "topic {name} has a retention that drops unconsumed records, but the topics of a service \
                 must keep records that an open request may need; create the topic with \
                 `consumed: true`, or without a retention"
            ),
        });
    }
    Ok(topic)
}

/// Opens a topic; returns `None` if it does not exist.
pub(crate) fn topic_if_there(log: &Log, name: &str) -> Result<Option<Topic>> {
    match log.open_topic(name) {
        Err(Error::NotFound { .. }) => Ok(None),
        other => other.map(Some),
    }
}

/// Returns the name of the topic that takes the requests of a service.
pub(crate) fn requests_of(service: &str) -> String {
    format!("{service}.requests")
}

/// Returns the name of the topic that takes the replies of a service.
pub(crate) fn replies_of(service: &str) -> String {
    format!("{service}.replies")
}

/// Returns the record at an offset; `None` if there is none, or if it is damaged or trimmed. Skips damage
/// before it, which a reader may reach first.
pub(crate) fn record_at(topic: &Topic, offset: u64) -> Result<Option<OwnedRecord>> {
    if !(topic.first_offset()?..topic.high_watermark()?).contains(&offset) {
        return Ok(None);
    }
    let mut found = None;
    reader::scan(topic, offset..offset + 1, |record| {
        found = Some(record.to_owned()).filter(|record| record.offset() == offset);
        ControlFlow::Break(())
    })?;
    Ok(found)
}

impl Log {
    /// Opens a server of `service`, which calls `handler` for each request of its share of the lanes.
    ///
    /// The handler's effects outside the log happen at least once: [`Request::id`] is the idempotency
    /// key, and [`Request::attempt`] says whether the request was begun before. The reply is in the log
    /// exactly once.
    ///
    /// # Errors
    ///
    /// As [`topic`](Self::topic); [`Error::Invalid`] if a worker group of the log keeps its dead letters in
    /// the same topic.
    pub fn server<H>(&self, service: &str, handler: H) -> Result<Server>
    where
        H: Fn(&Request<'_>) -> Result<Reply, HandlerError> + Send + Sync + 'static,
    {
        self.server_with(service, ServerOptions::default(), handler)
    }

    /// Opens a server with these options; see [`server`](Self::server).
    ///
    /// # Errors
    ///
    /// As [`server`](Self::server).
    pub fn server_with<H>(
        &self,
        service: &str,
        options: ServerOptions,
        handler: H,
    ) -> Result<Server>
    where
        H: Fn(&Request<'_>) -> Result<Reply, HandlerError> + Send + Sync + 'static,
    {
        let counters = Arc::default();
        Server::open(self, service, options, Arc::new(handler), counters)
    }

    /// Returns a builder for the client of this stable name. Register its callbacks, then
    /// [`open`](ClientBuilder::open) it.
    pub fn client(&self, name: &str) -> ClientBuilder {
        ClientBuilder::new(self, name)
    }
}

/// How often a thread that waits checks whether it was asked to stop.
pub(crate) const LOOK: Duration = Duration::from_millis(100);
