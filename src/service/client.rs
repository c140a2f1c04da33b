//! The client: sends requests, and delivers their outcomes to named callbacks, including after a restart.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::call::Call;
use super::callbacks::{is_inside, Callbacks};
use super::delivery::close;
use super::envelope::{Envelope, Kind};
use super::link::{cursor_name, Link};
use super::outcome::Parked;
use super::parked::ParkedTopic;
use super::pending::{Outstanding, Slot};
use super::request::RequestBuilder;
use super::request_id::RequestId;
use super::stats::ClientStats;
use super::{Running, LOOK};
use crate::error::{Error, IoResultExt, Result};
use crate::group::{persist, Counters};
use crate::log::Log;
use crate::ownership::Ownership;
use crate::record::Record;
use crate::stop::Stop;
use crate::topic::TopicOptions;

/// How long [`Client::poll`] with several services sleeps on one before it checks the others.
const SLICE_FIRST: Duration = Duration::from_millis(1);
const SLICE_MOST: Duration = Duration::from_millis(10);

/// The threads of a running client; a new link adds its own.
type Threads = Arc<Mutex<Vec<std::thread::JoinHandle<Result<()>>>>>;

pub(super) struct ClientInner {
    /// For [`Completed::client`](super::Completed::client), in outcomes that callbacks receive.
    pub(super) this: Weak<ClientInner>,
    pub(super) log: Log,
    pub(super) name: String,
    pub(super) incarnation: u64,
    pub(super) callbacks: Callbacks,
    pub(super) sequence: AtomicU64,
    pub(super) links: Mutex<BTreeMap<String, Arc<Link>>>,
    pub(super) parked: Mutex<Option<ParkedTopic>>,
    pub(super) runner: Mutex<Option<(Stop, Threads)>>,
    pub(super) topic: Option<TopicOptions>,
    pub(super) spin: Duration,
    pub(super) _ownership: Ownership,
}

impl ClientInner {
    /// Returns the sequence number of the next request.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Relaxed)
    }

    /// Returns the services that earlier starts of this client used: those that hold its offset file.
    pub(super) fn known_services(&self) -> Result<Vec<String>> {
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

    /// Returns the link to a service, creating it on first use.
    pub(super) fn link(self: &Arc<Self>, service: &str) -> Result<Arc<Link>> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(service) {
            return Ok(Arc::clone(link));
        }
        let counters = &self.callbacks.counters;
        let link = Link::open(&self.log, &self.name, service, self.topic, self.spin, counters)?;
        links.insert(service.to_owned(), Arc::clone(&link));
        if let Some((stop, threads)) = &*self.runner.lock() {
            threads.lock().push(self.start_thread(&link, stop)?);
        }
        Ok(link)
    }

    /// Delivers the outcomes of a service until `stop` is requested.
    fn deliver(&self, link: &Link, stop: &Stop) -> Result<()> {
        while !stop.is_stopped() {
            self.deliver_parked()?;
            match link.delivery.lock().poll(self, link, LOOK) {
                // The reader has already moved past the trimmed records, and has reported them.
                Ok(_) | Err(Error::Trimmed { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        link.delivery.lock().sync(link)
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
                let name = format!("client {} at {}", client.name, link.service);
                persist(&name, &stop, &Counters::default(), || client.deliver(&link, &stop))
            })
            .at("starting a thread for", &dir)
    }
}

/// Sends requests and delivers their outcomes. Clones share one client, on any threads.
///
/// A reply topic cannot be deleted while a client or a server has it open
/// ([`Log::delete_topic`] returns [`Error::Locked`]). If it was deleted while none had it open, the next
/// client or server creates it again: unanswered requests stay outstanding and are answered there.
/// Requests whose outcomes were deleted unread, or were after an older request without an outcome, stay
/// outstanding until their deadline, or until they are [cancelled](Client::cancel): no server answers a
/// request twice.
///
/// Any process that may write a reply topic can put any record there. A record that names a request which
/// this start has not sent is counted ([`ClientStats::unknown`]) and reaches no callback. A record that
/// names another start of this client cannot be distinguished from a second reply to a request that has its
/// outcome: it goes to [`on_late`](super::ClientBuilder::on_late), like every record after the first one
/// of a request. The first is the outcome, whichever process wrote it: ids are not secrets.
///
/// A dead letter of this client that is sent [again](super::DeadLetters) is a new request with the
/// callback and the context of the old one. It is outstanding once the client has read the record in the
/// reply topic that announces it.
///
/// A client keeps positions in the topics of every service that it used: `client.NAME` in both, and
/// `client-floor.NAME` in the reply topic. Retention drops nothing above them. They advance while the
/// client delivers, even if it has nothing outstanding, and when it is dropped. The servers of a service
/// advance those of a client that was killed with nothing outstanding. A client that never comes back,
/// and has something outstanding, holds its positions until it is retired ([`Log::retire_client`]); one
/// whose process lives and does not deliver, for as long as that lasts. A server ends both if it is opened with
/// [`ServerOptions::abandoned_after`](super::ServerOptions::abandoned_after).
#[derive(Clone)]
#[must_use = "outcomes are delivered while the client exists, by `poll` or `spawn`"]
pub struct Client {
    pub(super) inner: Arc<ClientInner>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

impl Client {
    /// Starts building a request to a service. The service need not be running, nor ever have run.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], and as [`Log::topic`].
    #[doc(alias("rpc", "send", "call"))]
    pub fn request(&self, service: &str, record: &Record) -> Result<RequestBuilder<'_>> {
        Error::check_name(service)?;
        let link = self.inner.link(service)?;
        Ok(RequestBuilder {
            client: self,
            link,
            record: record.clone(),
            envelope: Envelope::new(Kind::Request, self.next_id()),
            deadline: None,
        })
    }

    /// Delivers outcomes on threads of its own, one for each service, until stopped. They continue after
    /// transient errors, such as a full disk: see [`Running`].
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

    /// Delivers the outcomes that are there on this thread, or waits up to `timeout` for the first. Returns
    /// the number of outcomes.
    ///
    /// # Errors
    ///
    /// An error of a topic: delivered outcomes stay delivered. [`Error::Trimmed`] once, if replies were
    /// trimmed that the client had not read: call again to continue. [`Error::Invalid`] from inside a
    /// callback. Damage is skipped, and counted in [`ClientStats::damaged`].
    pub fn poll(&self, timeout: Duration) -> Result<usize> {
        if is_inside() {
            return Err(Error::Invalid {
                what: "poll was called inside a callback: return from it first".into(),
            });
        }
        let begun = Instant::now();
        let until = begun.checked_add(timeout);
        let mut delivered = 0;
        for turn in 0.. {
            delivered += self.inner.deliver_parked()?;
            let links: Vec<_> = self.inner.links.lock().values().cloned().collect();
            for link in &links {
                delivered += self.poll_link(link, Duration::ZERO)?;
            }
            let left = left_until(until);
            if delivered > 0 || left.is_zero() {
                break;
            }
            // Sleeps on a link with outstanding requests; on any link, if none has any.
            let is_awaited = |link: &&Arc<Link>| link.state.lock().count() > 0;
            let mut awaited: Vec<_> = links.iter().filter(is_awaited).collect();
            if awaited.is_empty() {
                awaited.extend(&links);
            }
            let slice = match (links.len(), awaited.len()) {
                // Another link may be added meanwhile, or a parked outcome may become due.
                (0 | 1, _) => LOOK,
                (_, 1) => SLICE_MOST,
                // Delays the others by a quarter of the time that they have waited so far.
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

    /// Delivers the outcomes of one service; does nothing if another thread is doing so.
    fn poll_link(&self, link: &Link, timeout: Duration) -> Result<usize> {
        // In short slices, because that other thread may end.
        match link.delivery.try_lock_for(timeout.min(SLICE_FIRST)) {
            Some(mut delivery) => delivery.poll(&self.inner, link, timeout),
            None => Ok(0),
        }
    }

    /// Returns all requests without an outcome, oldest first for each service, and whether they wait in a
    /// stopped lane.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn outstanding(&self) -> Result<Vec<Outstanding>> {
        let links: Vec<_> = self.inner.links.lock().values().cloned().collect();
        let mut all = Vec::new();
        for link in links {
            all.extend(link.outstanding()?);
        }
        Ok(all)
    }

    /// Returns the number of requests without an outcome: the length of [`outstanding`](Self::outstanding).
    pub fn outstanding_count(&self) -> usize {
        let links: Vec<_> = self.inner.links.lock().values().cloned().collect();
        links.iter().map(|link| link.state.lock().count()).sum()
    }

    /// Returns what this client has counted since it was opened.
    pub fn stats(&self) -> ClientStats {
        self.inner.callbacks.counters.read()
    }

    /// Returns all outcomes that no callback and no caller took.
    pub fn parked(&self) -> Vec<Parked> {
        self.inner.parked.lock().as_ref().map(ParkedTopic::list).unwrap_or_default()
    }

    /// Makes all parked outcomes that have a callback due now: a thread that delivers, or the next
    /// [`poll`](Self::poll), calls their callbacks, oldest first. Returns how many there are.
    ///
    /// Outcomes whose callback failed become due again without this call, as
    /// [`with_callback_retry`](super::ClientBuilder::with_callback_retry) says; those that a callback refused with a
    /// [terminal](super::HandlerError::terminal) error do not.
    pub fn retry_parked(&self) -> usize {
        self.inner.callbacks.forgive();
        self.inner.parked.lock().as_mut().map_or(0, |parked| parked.make_due(None))
    }

    /// Drops the parked outcome of a request: no callback and no caller gets it any more.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if it is not parked, and as [`Topic::append`](crate::Topic::append).
    pub fn discard_parked(&self, id: &RequestId) -> Result<()> {
        let is_there = match &mut *self.inner.parked.lock() {
            Some(parked) => parked.taken(id)?,
            None => false,
        };
        match is_there {
            true => Ok(()),
            false => Err(Error::NotFound { what: format!("parked outcome of {id}") }),
        }
    }

    /// Cancels a request: its outcome is `Cancelled`, unless another outcome is appended first. A server that
    /// has begun to handle it continues.
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

    /// Returns a handle for a request that was sent with [`call`](RequestBuilder::call), by this or an
    /// earlier start of the client, if no handle has returned its outcome yet.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no such request, or if its handle was dropped, which discards its
    /// outcome.
    pub fn attach(&self, id: &RequestId) -> Result<Call> {
        let links: Vec<_> = self.inner.links.lock().values().cloned().collect();
        for link in links {
            let mut state = link.state.lock();
            let is_open = state.get(id).is_some_and(|pending| pending.envelope.callback.is_empty());
            if is_open || state.calls.contains_key(id) {
                state.calls.entry(id.clone()).or_insert(Slot::Waiting);
                drop(state);
                return Ok(Call { client: self.clone(), link, id: id.clone() });
            }
        }
        let not_found = || Error::NotFound { what: format!("call {id}") };
        let found = {
            let guard = self.inner.parked.lock();
            let parked = guard.as_ref().filter(|parked| parked.has_call(id));
            parked.ok_or_else(not_found)?.find(&self.inner.log, id)?.ok_or_else(not_found)?
        };
        let link = self.inner.link(&found.service)?;
        let done = Box::new(self.inner.found(found));
        link.state.lock().calls.insert(id.clone(), Slot::Parked(done));
        Ok(Call { client: self.clone(), link, id: id.clone() })
    }

    /// Returns the client's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    fn next_id(&self) -> RequestId {
        let sequence = self.inner.sequence.fetch_add(1, Ordering::Relaxed);
        RequestId::new(&self.inner.name, self.inner.incarnation, sequence)
    }
}

/// Returns the time left until then; the longest time, if there is no limit.
pub(super) fn left_until(until: Option<Instant>) -> Duration {
    until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()))
}
