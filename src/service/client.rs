//! The client: sends requests, and delivers their outcomes to named callbacks, including after a restart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::callbacks::is_inside;
use super::delivery::Delivery;
use super::envelope::Kind;
use super::link::{cursor_name, Link};
use super::outcome::{Completed, Parked};
use super::parked::ParkedTopic;
use super::pending::Outstanding;
use super::recipient::Recipient;
use super::request_id::RequestId;
use super::stats::ClientStats;
use super::{Running, LOOK};
use crate::error::{Error, Result};
use crate::group::Threads;
use crate::ownership::Ownership;
use crate::stop::Stop;

/// How long [`Client::poll`] with several services sleeps on one before it checks the others.
const SLICE_FIRST: Duration = Duration::from_millis(1);
const SLICE_MOST: Duration = Duration::from_millis(10);

pub(super) struct ClientInner {
    pub(super) recipient: Recipient,
    pub(super) links: Mutex<BTreeMap<String, Arc<Link>>>,
    /// The threads of a running client; a new link adds its own.
    pub(super) runner: Mutex<Option<Threads>>,
    pub(super) spin: Duration,
    pub(super) _ownership: Ownership,
}

impl ClientInner {
    /// Returns the services that earlier starts of this client used: those that hold its offset file.
    pub(super) fn known_services(&self) -> Result<Vec<String>> {
        let (log, cursor) = (&self.recipient.log, cursor_name(&self.recipient.name));
        let mut services = log.topics()?;
        services.retain(|topic| {
            topic.ends_with(".requests") && crate::consumer::exists(log.inner(), topic, &cursor)
        });
        let name = |topic: &String| topic.strip_suffix(".requests").map(str::to_owned);
        Ok(services.iter().filter_map(name).collect())
    }

    /// Returns the link to a service, creating it on first use.
    pub(super) fn link(self: &Arc<Self>, service: &str) -> Result<Arc<Link>> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(service) {
            return Ok(Arc::clone(link));
        }
        let link = Link::open(&self.recipient, service, self.spin)?;
        links.insert(service.to_owned(), Arc::clone(&link));
        if let Some(threads) = &*self.runner.lock() {
            self.start_thread(&link, threads)?;
        }
        Ok(link)
    }

    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        self.links.lock().values().cloned().collect()
    }

    /// Delivers the outcomes of a service until `stop` is requested.
    fn deliver(&self, link: &Link, stop: &Stop) -> Result<()> {
        while !stop.is_stopped() {
            self.recipient.deliver_parked()?;
            match Delivery::lock(&self.recipient, link).poll(LOOK) {
                // The reader has already moved past the trimmed records, and has reported them.
                Ok(_) | Err(Error::Trimmed { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        link.sync(&mut link.position.lock())
    }

    fn start_thread(self: &Arc<Self>, link: &Arc<Link>, threads: &Threads) -> Result<()> {
        let name = format!("client {} at {}", self.recipient.name, link.service);
        let (client, link) = (Arc::clone(self), Arc::clone(link));
        let dir = self.recipient.log.dir();
        threads.start(&name, dir, move |stop| client.deliver(&link, stop))
    }
}

/// Sends requests and delivers their outcomes. Clones share one client, on any threads.
///
/// A reply topic cannot be deleted while a client or a server has it open
/// ([`Log::delete_topic`](crate::Log::delete_topic) returns [`Error::Locked`]). If it was deleted while none
/// had it open, the next client or server creates it again: unanswered requests stay outstanding and are
/// answered there. Requests whose outcomes were deleted unread, or were after an older request without an outcome, stay
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
/// and has something outstanding, holds its positions until it is
/// [retired](crate::Log::retire_client); one whose process lives and does not deliver, for as long as that
/// lasts. A server ends both if it is opened with
/// [`ServerOptions::abandoned_after`](super::ServerOptions::abandoned_after).
#[derive(Clone)]
#[must_use = "outcomes are delivered while the client exists, by `poll` or `spawn`"]
pub struct Client {
    pub(super) inner: Arc<ClientInner>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("name", &self.inner.recipient.name).finish_non_exhaustive()
    }
}

impl Client {
    /// Delivers outcomes on threads of its own, one for each service, until stopped. They continue after
    /// transient errors, such as a full disk: see [`Running`].
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if it is already spawned, [`Error::Io`] if no thread can be started.
    pub fn spawn(&self) -> Result<Running> {
        let links = self.inner.links.lock();
        let mut runner = self.inner.runner.lock();
        if runner.as_ref().is_some_and(|threads| !threads.stop.is_stopped()) {
            return Err(Error::Invalid { what: "the client is already spawned".into() });
        }
        let threads = Threads::default();
        for link in links.values() {
            // Not by dropping a `Running`, which would wait for threads that may wait for `links`.
            self.inner.start_thread(link, &threads).inspect_err(|_| threads.stop.stop())?;
        }
        *runner = Some(threads.clone());
        Ok(Running::new(threads))
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
            delivered += self.inner.recipient.deliver_parked()?;
            let links = self.inner.links();
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
        match Delivery::try_lock_for(&self.inner.recipient, link, timeout.min(SLICE_FIRST)) {
            Some(mut delivery) => delivery.poll(timeout),
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
        let mut all = Vec::new();
        for link in self.inner.links() {
            all.extend(link.outstanding()?);
        }
        Ok(all)
    }

    /// Returns the number of requests without an outcome: the length of [`outstanding`](Self::outstanding).
    pub fn outstanding_count(&self) -> usize {
        self.inner.links().iter().map(|link| link.state.lock().count()).sum()
    }

    /// Returns what this client has counted since it was opened.
    pub fn stats(&self) -> ClientStats {
        self.inner.recipient.callbacks.counters.read_out()
    }

    /// Returns all outcomes that no callback and no caller took.
    pub fn parked(&self) -> Vec<Parked> {
        self.inner.recipient.parked.lock().as_ref().map(ParkedTopic::list).unwrap_or_default()
    }

    /// Makes all parked outcomes that have a callback due now: a thread that delivers, or the next
    /// [`poll`](Self::poll), calls their callbacks, oldest first. Returns how many there are.
    ///
    /// Outcomes whose callback failed become due again without this call, as
    /// [`with_callback_retry`](super::ClientBuilder::with_callback_retry) says; those that a callback refused with a
    /// [terminal](super::HandlerError::terminal) error do not.
    pub fn retry_parked(&self) -> usize {
        self.inner.recipient.callbacks.forgive();
        self.inner.recipient.parked.lock().as_mut().map_or(0, |parked| parked.make_due(None))
    }

    /// Drops the parked outcome of a request: no callback and no caller gets it any more.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if it is not parked, and as [`Topic::append`](crate::Topic::append).
    pub fn discard_parked(&self, id: &RequestId) -> Result<()> {
        let is_there = match &mut *self.inner.recipient.parked.lock() {
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
        for link in self.inner.links() {
            let pending = link.state.lock().get(id).cloned();
            if let Some(pending) = pending {
                return link.close(&pending, Kind::Cancelled);
            }
        }
        Err(Error::NotFound { what: format!("outstanding request {id}") })
    }

    /// Returns the client's name.
    pub fn name(&self) -> &str {
        &self.inner.recipient.name
    }
}

impl Completed {
    /// Returns the client, so that a callback can send its next request. (A client that its own callbacks hold
    /// is never dropped.)
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if it was dropped, which cannot happen while its callbacks run.
    pub fn client(&self) -> Result<Client> {
        let inner = self.client.upgrade().and_then(|client| client.downcast().ok());
        let what = || format!("client {}: it was dropped", self.envelope.id.client());
        Ok(Client { inner: inner.ok_or_else(|| Error::NotFound { what: what() })? })
    }
}

/// Returns the time left until then; the longest time, if there is no limit.
pub(super) fn left_until(until: Option<Instant>) -> Duration {
    until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()))
}
