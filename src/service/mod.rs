//! Request/reply over two topics: clients, servers, callbacks, deadlines, dead letters.
//!
//! A *service* `inventory` is the topics `inventory.requests` and `inventory.replies`. A request
//! carries its id, the name of the callback that waits for it, and an opaque context, so that sending
//! it and registering for its reply are one append. **The outcome of a request is the first record in
//! its reply topic that names its id**: there is nothing to decide but what the log says.
//!
//! All state is in the log, in the server's offset file (`consumers/server` of the request topic) and
//! in the client's (`consumers/client.NAME` of both topics, `consumers/client-floor.NAME` of the reply
//! topic). These positions are also what keeps retention from dropping what an open request needs. Nothing below this layer knows of it: the
//! envelope is one reserved header.

mod builder;
mod call;
mod callbacks;
mod cause;
mod client;
mod clients;
mod closed;
mod dead_letter;
mod dead_letters;
mod delivery;
mod envelope;
#[cfg(test)]
mod forged;
mod handler;
mod link;
mod options;
mod outcome;
mod parked;
mod pending;
mod rebuild;
mod redrive;
mod request;
mod request_id;
mod retry;
mod server;
mod settle;
mod spans;
mod stats;

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::group::claim::Claim;
use crate::log::Log;
use crate::reader::Start;
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

/// The settings that servers and clients make topics with, if they are given none: the defaults, and
/// segments go after a week in which nobody needed them. Whoever still needs something of a topic
/// keeps a position in it: servers and clients do, for every request that is open.
pub fn topic_options() -> TopicOptions {
    let week = Duration::from_secs(7 * 24 * 60 * 60);
    let retention = Retention { age: Some(week), bytes: None, consumed: true };
    TopicOptions { retention, ..TopicOptions::default() }
}

/// Opens a topic of this layer; makes it with these settings, or [`topic_options`], if there is none.
/// One that drops what is not consumed is refused: an open request, or one in doubt, may need it.
pub(crate) fn open_topic(log: &Log, name: &str, options: Option<TopicOptions>) -> Result<Topic> {
    let topic = match log.existing_topic(name) {
        Err(Error::NotFound { .. }) => {
            if let Some(service) = name.strip_suffix(".requests") {
                Claim::Service(service).check_alone(log.inner())?;
            }
            log.create_topic(name, options.unwrap_or_else(topic_options))?
        }
        other => other?,
    };
    let retention = topic.options().retention;
    if retention != Retention::default() && !retention.consumed {
        return Err(Error::Invalid {
            what: format!(
                "topic {name} has a retention that drops what is not consumed, but the topics of a \
                 service keep what an open request may need; make the topic with `consumed: true`, \
                 or without a retention"
            ),
        });
    }
    Ok(topic)
}

/// The topic that takes the requests of a service.
pub(crate) fn requests_of(service: &str) -> String {
    format!("{service}.requests")
}

/// The topic that takes the replies of a service.
pub(crate) fn replies_of(service: &str) -> String {
    format!("{service}.replies")
}

/// The record at an offset; `None` if there is none, or it is damaged or gone. Damage in front of it, which
/// a reader may come upon first, is passed over.
pub(crate) fn record_at(topic: &Topic, offset: u64) -> Result<Option<OwnedRecord>> {
    if !(topic.first_offset()?..topic.high_watermark()?).contains(&offset) {
        return Ok(None);
    }
    let mut reader = topic.reader(Start::Offset(offset))?;
    reader.pass_over_lost();
    while reader.offset() <= offset {
        match reader.next() {
            Ok(record) => {
                let found = record.filter(|record| record.offset() == offset);
                return Ok(found.map(|record| record.to_owned()));
            }
            Err(Error::Corrupt { .. }) => {
                reader.skip_damage()?;
            }
            Err(Error::Trimmed { .. }) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

impl Log {
    /// A server of `service`, which calls `handler` for each request of its share of the lanes.
    ///
    /// The handler's effects outside the log happen at least once: [`Request::id`] is the idempotency
    /// key, [`Request::attempt`] says whether it was begun before. Its reply is in the log exactly
    /// once.
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

    /// The same with options.
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

    /// A client of this stable name. Register its callbacks, then [`open`](ClientBuilder::open) it.
    pub fn client(&self, name: &str) -> ClientBuilder {
        ClientBuilder::new(self, name)
    }
}

/// What a thread that waits for a stop does between two looks.
pub(crate) const LOOK: Duration = Duration::from_millis(100);
