//! Configures a client, and opens it.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::callbacks::{CallbackRetry, Callbacks};
use super::client::{Client, ClientInner};
use super::link::GUARD_PREFIX;
use super::outcome::Completed;
use super::parked::ParkedTopic;
use super::recipient::Recipient;
use crate::error::{Error, Result};
use crate::format::names;
use crate::group::HandlerError;
use crate::log::Log;
use crate::ownership::Ownership;
use crate::topic::TopicOptions;

/// Collects the callbacks of a client before it is opened. Made by [`Log::client`].
#[must_use = "a client is opened by `open`"]
pub struct ClientBuilder {
    log: Log,
    name: String,
    callbacks: Callbacks,
    duplicate: Option<String>,
    topic: Option<TopicOptions>,
    spin: Duration,
}

impl std::fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ClientBuilder {
    pub(super) fn new(log: &Log, name: &str) -> ClientBuilder {
        ClientBuilder {
            log: log.clone(),
            name: name.to_owned(),
            callbacks: Callbacks::default(),
            duplicate: None,
            topic: None,
            spin: Duration::from_micros(5),
        }
    }

    /// Registers a callback under a name that survives restarts: a request names it, and the outcome
    /// goes to the callback that is registered under that name when the outcome arrives.
    ///
    /// It runs on the thread that delivers (a thread of [`Client::spawn`], or the caller of
    /// [`Client::poll`] or [`Call::wait_timeout`](super::Call::wait_timeout)), one call at a time, at least
    /// once for each outcome. After an error or a panic it is called again, as
    /// [`with_callback_retry`](Self::with_callback_retry) says. [`Completed::client`] is the client.
    pub fn on<F>(mut self, name: &str, callback: F) -> ClientBuilder
    where
        F: FnMut(&Completed) -> Result<(), HandlerError> + Send + 'static,
    {
        let is_new = self.callbacks.register(name, Box::new(callback));
        if !is_new || names::check(name).is_err() {
            self.duplicate.get_or_insert_with(|| name.to_owned());
        }
        self
    }

    /// Registers a callback for records that arrive after the request already has an outcome, such as a
    /// reply after the deadline.
    pub fn on_late<F>(mut self, callback: F) -> ClientBuilder
    where
        F: FnMut(&Completed) -> Result<(), HandlerError> + Send + 'static,
    {
        self.callbacks.late = Some(Mutex::new(Box::new(callback)));
        self
    }

    /// Sets when a callback that fails is called again; see [`CallbackRetry`].
    pub fn with_callback_retry(mut self, retry: CallbackRetry) -> ClientBuilder {
        self.callbacks.retry = retry;
        self
    }

    /// Sets the settings of services' topics that this client creates, instead of
    /// [`topic_options`](super::topic_options). A retention must have `consumed: true`.
    pub fn with_topic_options(mut self, options: TopicOptions) -> ClientBuilder {
        self.topic = Some(options);
        self
    }

    /// Sets how long a wait spins before it sleeps; see [`Reader::set_spin`](crate::Reader::set_spin).
    pub fn with_spin(mut self, spin: Duration) -> ClientBuilder {
        self.spin = spin;
        self
    }

    /// Opens the client: finds its outstanding requests in the log.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if another process, or another value in this one, is this client;
    /// [`Error::InvalidName`] for the client's name or a callback's; [`Error::Invalid`] if two
    /// callbacks have one name; and as [`Log::topic`].
    pub fn open(self) -> Result<Client> {
        self.log.writable()?;
        if let Some(name) = self.duplicate {
            Error::check_name(&name)?;
            return Err(Error::Invalid {
                what: format!("two callbacks are registered under the name {name:?}"),
            });
        }
        if self.name.len() > MAX_NAME_LEN {
            let why = "a client's name has at most 115 bytes: its offset files are named for it";
            return Err(Error::InvalidName { name: self.name, why });
        }
        let ownership = Ownership::take(self.log.inner(), "clients", &self.name)?;
        let counters = &self.callbacks.counters;
        let parked = ParkedTopic::open(&self.log, &self.name, self.topic, false, counters)?;
        let inner = Arc::new_cyclic(|this: &Weak<ClientInner>| ClientInner {
            recipient: Recipient {
                client: this.clone(),
                log: self.log,
                name: self.name,
                incarnation: crate::sys::random(),
                sequence: AtomicU64::new(0),
                callbacks: self.callbacks,
                parked: Mutex::new(parked),
                topic: self.topic,
            },
            links: Mutex::new(BTreeMap::new()),
            runner: Mutex::new(None),
            spin: self.spin,
            _ownership: ownership,
        });
        for service in inner.known_services()? {
            inner.link(&service)?;
        }
        Ok(Client { inner })
    }
}

/// The longest name of a client.
const MAX_NAME_LEN: usize = names::MAX_LEN - GUARD_PREFIX.len();
