//! The options of a server.

use std::time::Duration;

use crate::group::{Poison, WorkerOptions};
use crate::topic::TopicOptions;

/// The options of a server.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Settings of the service's topics, if this server creates them.
    pub topic: Option<TopicOptions>,
    /// Number of lanes of the service, if this server is its first: see
    /// [`GroupOptions::lanes`](crate::group::GroupOptions::lanes).
    pub lanes: Option<u32>,
    /// Threads that [`Server::spawn`](super::Server::spawn) starts: at most this many requests run at once.
    pub threads: usize,
    /// Number of attempts after which a request is poison. Counts attempts that failed, and attempts during
    /// which the process died while running no other handler. `None`: no limit.
    pub max_attempts: Option<u32>,
    /// What happens to a poison request. As a dead letter it goes to the topic `SERVICE.dead`, and its outcome
    /// is `DeadLettered`.
    pub poison: Poison,
    /// The wait before the second attempt; it doubles with each attempt, less a random part. Requests of other
    /// lanes do not wait.
    pub retry_first: Duration,
    /// The longest wait between attempts.
    pub retry_most: Duration,
    /// If a client has not read a reply for this long although there is one, retention drops what only that
    /// client needs, as if it were not there: the client has died with requests outstanding, or its process
    /// lives and does not deliver. The next [`Client::poll`](super::Client::poll) of the client returns
    /// [`Error::Trimmed`](crate::Error::Trimmed), and its requests whose outcomes were dropped stay
    /// outstanding until their deadline, or until they are cancelled. A server measures this time while it
    /// runs. `None`: such a client holds records until it delivers, or is
    /// [retired](crate::Log::retire_client).
    pub abandoned_after: Option<Duration>,
    /// How long a wait spins before it sleeps; see [`Reader::set_spin`](crate::Reader::set_spin).
    pub spin: Duration,
}

impl Default for ServerOptions {
    /// One thread; ten attempts, 10 ms to 10 s apart, then the dead-letter topic; no client is abandoned.
    fn default() -> ServerOptions {
        ServerOptions {
            topic: None,
            lanes: None,
            threads: 1,
            max_attempts: Some(10),
            poison: Poison::DeadLetter,
            retry_first: Duration::from_millis(10),
            retry_most: Duration::from_secs(10),
            abandoned_after: None,
            spin: Duration::from_micros(5),
        }
    }
}

setters! { ServerOptions:
    with_topic topic: impl Into<Option<TopicOptions>>,
    with_lanes lanes: impl Into<Option<u32>>,
    with_threads threads: usize,
    with_max_attempts max_attempts: impl Into<Option<u32>>,
    with_poison poison: Poison,
    with_retry_first retry_first: Duration,
    with_retry_most retry_most: Duration,
    with_spin spin: Duration,
    with_abandoned_after abandoned_after: impl Into<Option<Duration>>,
}

impl ServerOptions {
    pub(super) fn worker(&self) -> WorkerOptions {
        WorkerOptions {
            max_attempts: self.max_attempts,
            poison: self.poison,
            retry_first: self.retry_first,
            retry_most: self.retry_most,
            spin: self.spin,
            dead_letter: self.topic,
        }
    }
}
