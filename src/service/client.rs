//! The client: sends requests, and brings their outcomes to named callbacks, also after a restart.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::call::Call;
use super::callbacks::{is_inside, Callbacks, ParkedTopic};
use super::delivery::close;
use super::envelope::{Envelope, Kind};
use super::link::{cursor_name, Link, GUARD_PREFIX};
use super::outcome::{Completed, Parked};
use super::pending::Outstanding;
use super::request::RequestBuilder;
use super::request_id::RequestId;
use super::spans;
use super::stats::{count, ClientStats};
use super::{Running, LOOK};
use crate::error::{Error, Result};
use crate::format::names;
use crate::group::HandlerError;
use crate::log::Log;
use crate::ownership::Ownership;
use crate::record::Record;
use crate::stop::Stop;
use crate::topic::TopicOptions;

/// Collects the callbacks of a client before it is opened. Made by [`Log::client`].
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

    /// Registers a callback under a name that survives restarts: a request names it, and its outcome
    /// goes to whatever is registered under that name when it comes.
    ///
    /// It runs on the thread that delivers ([`Client::spawn`]'s, or the caller of
    /// [`Client::poll`] or [`Call::wait_timeout`]), one call at a time, at least once for each
    /// outcome. An error or a panic is tried again a few times, then the outcome is parked.
    pub fn on<F>(mut self, name: &str, callback: F) -> ClientBuilder
    where
        F: FnMut(&Completed) -> Result<(), HandlerError> + Send + 'static,
    {
        let before = self.callbacks.named.insert(name.to_owned(), Mutex::new(Box::new(callback)));
        if before.is_some() || names::check(name).is_err() {
            self.duplicate.get_or_insert_with(|| name.to_owned());
        }
        self
    }

    /// Registers what is told of records that come after a request's outcome, such as a reply after
    /// the deadline.
    pub fn on_late<F>(mut self, callback: F) -> ClientBuilder
    where
        F: FnMut(&Completed) -> Result<(), HandlerError> + Send + 'static,
    {
        self.callbacks.late = Some(Mutex::new(Box::new(callback)));
        self
    }

    /// Settings of the topics of services, if this client makes them, instead of
    /// [`topic_options`](super::topic_options). A retention must say `consumed: true`.
    pub fn topic_options(mut self, options: TopicOptions) -> ClientBuilder {
        self.topic = Some(options);
        self
    }

    /// See [`Reader::set_spin`](crate::Reader::set_spin).
    pub fn spin(mut self, spin: Duration) -> ClientBuilder {
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
            names::check(&name).map_err(|why| Error::InvalidName { name: name.clone(), why })?;
            return Err(Error::Invalid {
                what: format!("two callbacks are registered under the name {name:?}"),
            });
        }
        if self.name.len() > MAX_NAME_LEN {
            let why = "a client's name has at most 115 bytes: its offset files are named for it";
            return Err(Error::InvalidName { name: self.name, why });
        }
        let ownership = Ownership::take(self.log.inner(), "clients", &self.name)?;
        let parked = ParkedTopic::open(&self.log, &self.name, self.topic, false)?;
        let inner = Arc::new(ClientInner {
            incarnation: crate::sys::random(),
            sequence: AtomicU64::new(0),
            links: Mutex::new(BTreeMap::new()),
            parked: Mutex::new(parked),
            runner: Mutex::new(None),
            log: self.log,
            name: self.name,
            callbacks: self.callbacks,
            topic: self.topic,
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

/// Of several services, [`Client::poll`] sleeps on one for so long before it looks at the others.
const SLICE_FIRST: Duration = Duration::from_millis(1);
const SLICE_MOST: Duration = Duration::from_millis(10);

/// Where new links put their threads.
type Threads = Arc<Mutex<Vec<std::thread::JoinHandle<Result<()>>>>>;

pub(super) struct ClientInner {
    pub(super) log: Log,
    pub(super) name: String,
    pub(super) incarnation: u64,
    pub(super) callbacks: Callbacks,
    sequence: AtomicU64,
    links: Mutex<BTreeMap<String, Arc<Link>>>,
    pub(super) parked: Mutex<Option<ParkedTopic>>,
    runner: Mutex<Option<(Stop, Threads)>>,
    topic: Option<TopicOptions>,
    spin: Duration,
    _ownership: Ownership,
}

impl ClientInner {
    /// The sequence number that the next request gets.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Relaxed)
    }

    /// The services that an earlier start of this client has used: they hold its offset file.
    fn known_services(&self) -> Result<Vec<String>> {
        let cursor = cursor_name(&self.name);
        let mut services = Vec::new();
        for topic in self.log.topics()? {
            if let Some(service) = topic.strip_suffix(".requests") {
                if crate::consumer::exists(self.log.inner(), &topic, &cursor) {
                    services.push(service.to_owned());
                }
            }
        }
        Ok(services)
    }

    /// The link to a service; made when it is first used.
    fn link(self: &Arc<Self>, service: &str) -> Result<Arc<Link>> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(service) {
            return Ok(Arc::clone(link));
        }
        let link = Link::open(&self.log, &self.name, service, self.topic, self.spin)?;
        links.insert(service.to_owned(), Arc::clone(&link));
        if let Some((stop, threads)) = &*self.runner.lock() {
            threads.lock().push(self.start_thread(&link, stop)?);
        }
        Ok(link)
    }

    fn start_thread(
        self: &Arc<Self>,
        link: &Arc<Link>,
        stop: &Stop,
    ) -> Result<std::thread::JoinHandle<Result<()>>> {
        let (client, link, stop) = (Arc::clone(self), Arc::clone(link), stop.clone());
        let dir = self.log.dir().to_owned();
        std::thread::Builder::new()
            .name(format!("client-{}", self.name))
            .spawn(move || {
                while !stop.is_stopped() {
                    client.deliver_parked()?;
                    link.delivery.lock().poll(&client, &link, LOOK)?;
                }
                link.delivery.lock().sync(&link)
            })
            .map_err(|error| Error::io("starting a thread for", &dir, error))
    }

    /// Keeps an outcome that nobody took.
    pub(super) fn park(&self, service: &str, done: &Completed) -> Result<()> {
        count(&self.callbacks.counters.parked);
        spans::parked(service, &done.envelope);
        let mut parked = self.parked.lock();
        if parked.is_none() {
            *parked = ParkedTopic::open(&self.log, &self.name, self.topic, true)?;
        }
        match &mut *parked {
            Some(parked) => parked.park(service, done),
            None => Ok(()),
        }
    }

    /// Brings the outcomes that earlier starts parked to callbacks that are registered again: each
    /// once, or those that a callback does not take would keep all others waiting.
    fn deliver_parked(&self) -> Result<usize> {
        let mut delivered = 0;
        loop {
            let done = match &mut *self.parked.lock() {
                None => return Ok(delivered),
                Some(parked) => match parked.next_untried() {
                    None => return Ok(delivered),
                    Some(id) => parked.find(&self.log, |parked| parked.id == id)?,
                },
            };
            // Without the lock: the callback may use this client.
            let Some(done) = done.filter(|done| self.callbacks.deliver(done)) else { continue };
            if let Some(parked) = &mut *self.parked.lock() {
                parked.taken(done.id())?;
            }
            count(&self.callbacks.counters.completed);
            delivered += 1;
        }
    }
}

/// Sends requests and delivers their outcomes. Clones share it, on any threads.
///
/// A reply topic is not deleted while a client or a server has it open
/// ([`Log::delete_topic`] says [`Error::Locked`]). If it was deleted while none had, the next one makes it
/// anew: requests that were not answered stay outstanding and are answered there. Those whose outcomes
/// were deleted unread, or lay behind an older request without one, stay outstanding until their deadline,
/// or until they are [cancelled](Client::cancel): no server answers a request twice.
///
/// Whoever may write a reply topic can put any record there. One that names a request which this start
/// has not sent is counted ([`ClientStats::unknown`]) and reaches no callback. One that names another
/// start of this client cannot be told from a second reply to a request that has its outcome: it goes to
/// [`on_late`](ClientBuilder::on_late), as every record behind the first of a request does. The first is
/// the outcome, whoever wrote it: ids are no secrets.
///
/// A dead letter of this client's that somebody sends [again](super::DeadLetters) is a new request with
/// the callback and the context of the old one: it is outstanding when the client has read the record of the
/// reply topic that says so.
///
/// In the topics of every service that it used, a client keeps positions: `client.NAME` in both, and
/// `client-floor.NAME` in the reply topic. Nothing above them is dropped by retention. They move on while the client
/// delivers, also if it has nothing outstanding, and when it is dropped. A client that has ended for
/// good holds what it had not read, as `deaddrop consumers` shows: delete these consumers then.
#[derive(Clone)]
pub struct Client {
    pub(super) inner: Arc<ClientInner>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

impl Client {
    /// A request to a service. The service need not run, nor ever have run.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], and as [`Log::topic`].
    pub fn request(&self, service: &str, record: &Record) -> Result<RequestBuilder<'_>> {
        names::check(service)
            .map_err(|why| Error::InvalidName { name: service.to_owned(), why })?;
        let link = self.inner.link(service)?;
        Ok(RequestBuilder {
            client: self,
            link,
            record: record.clone(),
            // The id comes with the send.
            envelope: Envelope::new(Kind::Request, RequestId::new(self.name(), 0, 0)),
            deadline: None,
        })
    }

    /// Delivers outcomes on threads of its own, one for each service, until stopped.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if it is already spawned, [`Error::Io`] if no thread can be started.
    pub fn spawn(&self) -> Result<Running> {
        let links = self.inner.links.lock();
        let mut runner = self.inner.runner.lock();
        if runner.as_ref().is_some_and(|(stop, _)| !stop.is_stopped()) {
            return Err(Error::Invalid { what: "the client is already spawned".into() });
        }
        let stop = Stop::new();
        let threads = Threads::default();
        for link in links.values() {
            match self.inner.start_thread(link, &stop) {
                Ok(thread) => threads.lock().push(thread),
                Err(error) => {
                    stop.stop();
                    return Err(error);
                }
            }
        }
        *runner = Some((stop.clone(), Arc::clone(&threads)));
        Ok(Running::new(stop, threads))
    }

    /// Delivers what is there on this thread, or waits up to `timeout` for the first. Returns the
    /// number of outcomes.
    ///
    /// # Errors
    ///
    /// An error of a topic: what was delivered stays so. [`Error::Invalid`] from inside a callback.
    pub fn poll(&self, timeout: Duration) -> Result<usize> {
        if is_inside() {
            return Err(Error::Invalid {
                what: "poll from inside a callback, which must return before another is called"
                    .into(),
            });
        }
        let begun = Instant::now();
        let until = begun + timeout;
        let mut delivered = self.inner.deliver_parked()?;
        for turn in 0.. {
            let links: Vec<_> = self.inner.links.lock().values().cloned().collect();
            for link in &links {
                delivered += self.poll_link(link, Duration::ZERO)?;
            }
            let left = until.saturating_duration_since(Instant::now());
            if delivered > 0 || left.is_zero() {
                break;
            }
            // Sleeps on one of those that something is to come from; on any, if none is.
            let is_awaited = |link: &&Arc<Link>| link.state.lock().count() > 0;
            let mut awaited: Vec<_> = links.iter().filter(is_awaited).collect();
            if awaited.is_empty() {
                awaited.extend(&links);
            }
            let slice = match (links.len(), awaited.len()) {
                // Another link may come meanwhile.
                (0 | 1, _) => LOOK,
                (_, 1) => SLICE_MOST,
                // It keeps the others a quarter longer than they have waited.
                _ => (begun.elapsed() / 4).clamp(SLICE_FIRST, SLICE_MOST),
            };
            match awaited.get(turn % awaited.len().max(1)) {
                Some(link) => delivered += self.poll_link(link, left.min(slice))?,
                None => std::thread::sleep(left.min(slice)),
            }
            if delivered > 0 {
                break;
            }
        }
        Ok(delivered)
    }

    /// Delivers what comes of one service; nothing if another thread does.
    fn poll_link(&self, link: &Link, timeout: Duration) -> Result<usize> {
        // In small pieces: that other thread may end.
        match link.delivery.try_lock_for(timeout.min(SLICE_FIRST)) {
            Some(mut delivery) => delivery.poll(&self.inner, link, timeout),
            None => Ok(0),
        }
    }

    /// All requests without an outcome, oldest first for each service.
    ///
    /// # Errors
    ///
    /// None at present.
    pub fn outstanding(&self) -> Result<Vec<Outstanding>> {
        let links: Vec<_> = self.inner.links.lock().values().cloned().collect();
        Ok(links.iter().flat_map(|link| link.outstanding()).collect())
    }

    /// How many requests have no outcome yet: the length of [`outstanding`](Self::outstanding).
    pub fn outstanding_count(&self) -> usize {
        let links: Vec<_> = self.inner.links.lock().values().cloned().collect();
        links.iter().map(|link| link.state.lock().count()).sum()
    }

    /// What it has counted since it was opened.
    pub fn stats(&self) -> ClientStats {
        self.inner.callbacks.counters.read()
    }

    /// All outcomes that nobody took.
    ///
    /// # Errors
    ///
    /// None at present.
    pub fn parked(&self) -> Result<Vec<Parked>> {
        Ok(self.inner.parked.lock().as_ref().map(ParkedTopic::list).unwrap_or_default())
    }

    /// Takes a request back: its outcome is `Cancelled`, unless another one is faster. A server that
    /// has begun it goes on.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if it has its outcome already, or is not this client's; and as
    /// [`Topic::append`](crate::Topic::append).
    pub fn cancel(&self, id: &RequestId) -> Result<()> {
        let links: Vec<_> = self.inner.links.lock().values().cloned().collect();
        for link in links {
            let pending = link.state.lock().get(id).cloned();
            if let Some(pending) = pending {
                return close(&self.inner, &link, &pending, Kind::Cancelled);
            }
        }
        Err(Error::NotFound { what: format!("outstanding request {id}") })
    }

    /// A handle for a request that was sent with [`call`](RequestBuilder::call), by this or an earlier
    /// start of the client.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is none without an outcome that was taken.
    pub fn attach(&self, id: &RequestId) -> Result<Call> {
        let not_found = || Error::NotFound { what: format!("call {id}") };
        let links: Vec<_> = self.inner.links.lock().values().cloned().collect();
        for link in links {
            let mut state = link.state.lock();
            if state.get(id).is_some_and(|pending| pending.envelope.callback.is_empty()) {
                state.calls.entry(id.clone()).or_insert(None);
                drop(state);
                return Ok(Call { client: self.clone(), link, id: id.clone() });
            }
        }
        let mut guard = self.inner.parked.lock();
        let parked = guard.as_mut().ok_or_else(not_found)?;
        let done = parked
            .find(&self.inner.log, |parked| parked.id == *id && parked.callback.is_empty())?;
        let done = done.ok_or_else(not_found)?;
        let service = parked.list().into_iter().find(|parked| parked.id == *id);
        let service = service.ok_or_else(not_found)?.service;
        parked.taken(id)?;
        drop(guard);
        let link = self.inner.link(&service)?;
        link.state.lock().calls.insert(id.clone(), Some(done));
        Ok(Call { client: self.clone(), link, id: id.clone() })
    }

    /// The client's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    pub(super) fn next_id(&self) -> RequestId {
        let sequence = self.inner.sequence.fetch_add(1, Ordering::Relaxed);
        RequestId::new(&self.inner.name, self.inner.incarnation, sequence)
    }
}
