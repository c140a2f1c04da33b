//! Request/reply over two topics: clients, servers, callbacks, deadlines, dead letters.
//!
//! A *service* `inventory` is the topics `inventory.requests` and `inventory.replies`. A request
//! carries its id, the name of the callback that waits for it, and an opaque context, so that sending
//! it and registering for its reply are one append. **The outcome of a request is the first record in
//! its reply topic that names its id**: there is nothing to decide but what the log says.
//!
//! All state is in the log, in the server's offset file (`consumers/server` of the request topic) and
//! in the client's (`consumers/client.NAME` of both topics). Nothing below this layer knows of it: the
//! envelope is one reserved header.

mod call;
mod callbacks;
mod client;
mod dead_letter;
mod delivery;
mod envelope;
mod handler;
mod link;
mod outcome;
mod request;
mod request_id;
mod server;
mod settle;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::log::Log;
use crate::stop::Stop;
use crate::topic::{Retention, Topic, TopicOptions};

pub use call::Call;
pub use client::{Client, ClientBuilder};
pub use envelope::{Envelope, Kind};
pub use handler::{HandlerError, Reply, Request};
pub use link::Outstanding;
pub use outcome::{Completed, Outcome, Parked};
pub use request::RequestBuilder;
pub use request_id::RequestId;
pub use server::{Server, ServerOptions};

/// Opens a topic of this layer; makes it with these settings, or the defaults, if there is none. One
/// that drops records by age or size is refused: an open request, or one in doubt, may need them.
pub(crate) fn open_topic(log: &Log, name: &str, options: Option<TopicOptions>) -> Result<Topic> {
    let topic = match log.existing_topic(name) {
        Err(Error::NotFound { .. }) => log.create_topic(name, options.unwrap_or_default())?,
        other => other?,
    };
    if topic.options().retention != Retention::default() {
        return Err(Error::Invalid {
            what: format!(
                "topic {name} has a retention, but the topics of a service keep everything: an open \
                 request may need it; make the topic without one, and trim it by hand"
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

impl Log {
    /// A server of `service`, which calls `handler` for each request, in order.
    ///
    /// The handler's effects outside the log happen at least once: [`Request::id`] is the idempotency
    /// key, [`Request::attempt`] says whether it was begun before. Its reply is in the log exactly
    /// once.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`](crate::Error::Locked) if another process serves it, and as
    /// [`topic`](Self::topic).
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
        Server::open(self, service, options, Arc::new(handler))
    }

    /// A client of this stable name. Register its callbacks, then [`open`](ClientBuilder::open) it.
    pub fn client(&self, name: &str) -> ClientBuilder {
        ClientBuilder::new(self, name)
    }
}

/// A server or client at work on its own threads. Dropping it stops them as well, and loses the error
/// that [`stop`](Self::stop) would return.
#[derive(Debug)]
pub struct Running {
    stop: Stop,
    threads: Arc<Mutex<Vec<std::thread::JoinHandle<Result<()>>>>>,
}

impl Running {
    fn new(stop: Stop, threads: Arc<Mutex<Vec<std::thread::JoinHandle<Result<()>>>>>) -> Running {
        Running { stop, threads }
    }

    /// Whether a thread has ended, because of an error: [`stop`](Self::stop) returns it.
    pub fn has_ended(&self) -> bool {
        self.threads.lock().iter().any(std::thread::JoinHandle::is_finished)
    }

    /// Finishes what is in hand and ends.
    ///
    /// # Errors
    ///
    /// The error that ended a thread before.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.stop.stop();
        let mut first = Ok(());
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.thread().id() == std::thread::current().id() {
                // From inside a callback: a thread cannot wait for its own end.
                continue;
            }
            let ended = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            first = first.and(ended);
        }
        first
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Also while unwinding; but then what the threads are at may be what failed.
        self.stop.stop();
        if !std::thread::panicking() {
            // Whoever wants the error calls `stop`.
            drop(self.end());
        }
    }
}

/// What a thread that waits for a stop does between two looks.
pub(crate) const LOOK: Duration = Duration::from_millis(100);
