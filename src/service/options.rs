//! How a server works.

use std::time::Duration;

use crate::group::{Poison, WorkerOptions};
use crate::topic::TopicOptions;

/// How a server works.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Settings of the service's topics, if this server makes them.
    pub topic: Option<TopicOptions>,
    /// Lanes of the service, if this server is its first: see
    /// [`GroupOptions::lanes`](crate::group::GroupOptions::lanes).
    pub lanes: Option<u32>,
    /// Threads that [`Server::spawn`](super::Server::spawn) starts: so many requests are in hand at a time.
    pub threads: usize,
    /// After so many attempts that failed, or that ended in the process's death while no other handler
    /// ran in it, the request is poison. 0: it is tried for ever.
    pub max_attempts: u32,
    /// What becomes of poison. As a dead letter it goes to the topic `SERVICE.dead`, and its outcome is
    /// `DeadLettered`.
    pub poison: Poison,
    /// The wait before the second attempt; it doubles with each, less a random part. Requests of other
    /// lanes do not wait.
    pub retry_first: Duration,
    /// The longest wait between attempts.
    pub retry_most: Duration,
    /// See [`Reader::set_spin`](crate::Reader::set_spin).
    pub spin: Duration,
}

impl Default for ServerOptions {
    /// One thread; ten attempts, 10 ms to 10 s apart, then the dead-letter topic.
    fn default() -> ServerOptions {
        ServerOptions {
            topic: None,
            lanes: None,
            threads: 1,
            max_attempts: 10,
            poison: Poison::DeadLetter,
            retry_first: Duration::from_millis(10),
            retry_most: Duration::from_secs(10),
            spin: Duration::from_micros(5),
        }
    }
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
