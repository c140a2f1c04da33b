//! The server: one request after the other, each answered once.
//!
//! Ordered writes of one request, each a store that `kill -9` leaves behind: 1. the attempt (offset,
//! id, count, reply topic, its end as the floor), 2. the handler runs, 3. the outcome is appended as
//! durable as the reply topic promises, 4. the position is committed, 5. the attempt is ended. Killed
//! between any two of them, the next start finds an attempt without a commit and settles it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::dead_letter::answer;
use super::envelope::{Envelope, Kind};
use super::handler::{backoff, guarded, HandlerError, Reply, Request};
use super::request_id::RequestId;
use super::settle::{encode_note, settle};
use super::{open_topic, replies_of, requests_of, Running};
use crate::consumer::{Attempt, Consumer};
use crate::error::{Error, Result};
use crate::format::names;
use crate::log::Log;
use crate::reader::{Reader, Start};
use crate::record::{OwnedRecord, Record};
use crate::stop::Stop;
use crate::sys::clock;
use crate::topic::{Topic, TopicOptions};

/// The offset file of a service's one group.
const LANE: &str = "server";

/// The lane's position is made durable this often, and at a graceful stop.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// How a server works.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Settings of the service's topics, if this server makes them.
    pub topic: Option<TopicOptions>,
    /// After so many attempts that failed or ended in the process's death, the request goes to the
    /// topic `SERVICE.dead`, and its outcome is `DeadLettered`. 0: tried for ever.
    pub max_attempts: u32,
    /// The wait before the second attempt; it doubles with each.
    pub retry_first: Duration,
    /// The longest wait between attempts.
    pub retry_most: Duration,
    /// See [`Reader::set_spin`](crate::Reader::set_spin).
    pub spin: Duration,
}

impl Default for ServerOptions {
    /// Ten attempts, 10 ms to 10 s apart.
    fn default() -> ServerOptions {
        ServerOptions {
            topic: None,
            max_attempts: 10,
            retry_first: Duration::from_millis(10),
            retry_most: Duration::from_secs(10),
            spin: Duration::from_micros(5),
        }
    }
}

type Handler = Arc<dyn Fn(&Request<'_>) -> Result<Reply, HandlerError> + Send + Sync>;

/// Answers the requests of a service, in order. Made by [`Log::server`].
///
/// ```
/// # fn main() -> deaddrop::Result<()> {
/// # let dir = deaddrop::doc_dir();
/// # let log = deaddrop::Log::open(&dir)?;
/// use deaddrop::service::{Outcome, Reply};
/// use deaddrop::Record;
/// use std::time::Duration;
/// let client = log.client("order-service").open()?;
/// let mut call = client.request("inventory", &Record::new("item 7"))?.call()?;
///
/// let mut server = log.server("inventory", |request| {
///     Ok(Reply::new(format!("{} is there", String::from_utf8_lossy(request.payload()))))
/// })?;
/// server.poll(Duration::from_secs(10))?;
///
/// let done = call.wait_timeout(Duration::from_secs(10))?.expect("answered above");
/// let Outcome::Reply(reply) = done.outcome() else { panic!("{done:?}") };
/// assert_eq!(reply.payload(), b"item 7 is there");
/// # Ok(()) }
/// ```
pub struct Server {
    pub(super) log: Log,
    pub(super) service: String,
    pub(super) options: ServerOptions,
    handler: Handler,
    pub(super) requests: Topic,
    replies: Topic,
    pub(super) lane: Consumer,
    /// Sees what clients expired and took back.
    reply_reader: Reader,
    closed: HashSet<RequestId>,
    /// After a start without live state: what was answered already, by reply topic.
    answered: HashMap<String, HashMap<RequestId, u64>>,
    /// Requests below it may have been answered before this start.
    doubtful_below: u64,
    /// Attempts that the request in doubt has had.
    pub(super) attempts_before: Option<(RequestId, u32)>,
    /// Requests below it may be dead letters already.
    pub(super) kept_below: u64,
    /// An error ended the last run: the request that was in hand is to be settled first.
    is_interrupted: bool,
    synced_at: Instant,
    synced_offset: u64,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("service", &self.service).finish_non_exhaustive()
    }
}

/// What becomes of a request.
enum Verdict {
    Outcome(Kind, Record, String),
    Again(String),
}

impl Server {
    pub(super) fn open(
        log: &Log,
        service: &str,
        options: ServerOptions,
        handler: Handler,
    ) -> Result<Server> {
        log.writable()?;
        let requests = open_topic(log, &requests_of(service), options.topic)?;
        let replies = open_topic(log, &replies_of(service), options.topic)?;
        let mut lane = requests.consumer(LANE, Start::First)?;
        lane.set_spin(options.spin);
        let reply_reader = replies.reader(Start::End)?;
        let mut server = Server {
            log: log.clone(),
            service: service.to_owned(),
            options,
            handler,
            requests,
            replies,
            lane,
            reply_reader,
            closed: HashSet::new(),
            answered: HashMap::new(),
            doubtful_below: 0,
            attempts_before: None,
            kept_below: 0,
            is_interrupted: false,
            synced_at: Instant::now(),
            synced_offset: 0,
        };
        server.settle_start()?;
        Ok(server)
    }

    /// Learns what was answered before this start, and notes durably from where on to look next time.
    fn settle_start(&mut self) -> Result<()> {
        if self.lane.was_live() {
            self.go_on()?;
        } else {
            // A power loss, a copy, or a cut: the position is an older one. All replies to requests
            // from there on are behind the floor; or were lost, if the reply topic ends before it.
            self.lane.end_attempt();
            let floor = self.lane.floor().min(self.replies.settled_end()?);
            let settled = settle(&self.replies, floor)?;
            self.lane.set_floor(floor);
            self.answered.insert(self.replies.name().to_owned(), settled.answered);
            self.doubtful_below = self.requests.settled_end()?;
            self.kept_below = self.doubtful_below;
            // Before anything is answered: a reply could get an offset below the old floor.
            self.lane.sync()?;
        }
        self.reply_reader.seek(Start::Offset(
            self.lane.floor().max(self.replies.first_offset()?).min(self.replies.high_watermark()?),
        ))
    }

    /// Goes on behind what is committed: with the request that was in hand, if it was not answered.
    fn go_on(&mut self) -> Result<()> {
        let committed = self.lane.committed();
        self.lane.reader().seek_to(committed);
        self.kept_below = self.kept_below.max(committed + 1);
        match self.lane.attempt() {
            Some(attempt) if attempt.offset >= committed => self.settle_attempt(&attempt)?,
            // Committed, and killed before the attempt was ended.
            _ => self.lane.end_attempt(),
        }
        self.is_interrupted = false;
        Ok(())
    }

    /// Settles first what an error left in doubt, and notes whether this run ends in one.
    fn guarded_run<T>(&mut self, run: impl FnOnce(&mut Server) -> Result<T>) -> Result<T> {
        if self.is_interrupted {
            self.go_on()?;
        }
        let ended = run(self);
        self.is_interrupted = ended.is_err();
        ended
    }

    /// Serves until `stop` is given; finishes the request in hand.
    ///
    /// # Errors
    ///
    /// An error of a topic: [`Error::NoSpace`], [`Error::SyncFailed`], [`Error::Corrupt`],
    /// [`Error::Io`]. What was answered stays answered; the next call goes on with what was not.
    pub fn run(&mut self, stop: &Stop) -> Result<()> {
        self.guarded_run(|server| {
            while !stop.is_stopped() {
                let record = server.lane.wait(stop)?.map(|record| record.to_owned());
                if let Some(record) = record {
                    server.serve(&record, stop)?;
                }
            }
            server.make_durable()
        })
    }

    /// Serves what is there, or waits up to `timeout` for the first. Returns the number of requests
    /// that were settled.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn poll(&mut self, timeout: Duration) -> Result<u64> {
        self.guarded_run(|server| {
            let stop = Stop::new();
            let Some(first) = server.lane.wait_timeout(timeout)?.map(|record| record.to_owned())
            else {
                return Ok(0);
            };
            server.serve(&first, &stop)?;
            let mut settled = 1;
            // What comes meanwhile is the next call's, or a busy service would keep the caller.
            let end = server.requests.high_watermark()?;
            while server.lane.committed() < end {
                let Some(record) = server.lane.next()?.map(|record| record.to_owned()) else {
                    break;
                };
                server.serve(&record, &stop)?;
                settled += 1;
            }
            Ok(settled)
        })
    }

    /// Serves on a thread of its own.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if no thread can be started.
    pub fn spawn(mut self) -> Result<Running> {
        let stop = Stop::new();
        let ends = stop.clone();
        let dir = self.log.dir().to_owned();
        let name = format!("serve-{}", self.service);
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || self.run(&ends))
            .map_err(|error| Error::io("starting a thread for", &dir, error))?;
        Ok(Running::new(stop, Arc::new(Mutex::new(vec![thread]))))
    }

    /// Requests that are not settled yet.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn lag(&self) -> Result<u64> {
        self.lane.lag()
    }

    fn serve(&mut self, record: &OwnedRecord, stop: &Stop) -> Result<()> {
        let offset = record.offset();
        let served = match Envelope::of(&record.as_ref()) {
            Some(Ok(envelope)) if envelope.kind == Kind::Request => {
                self.serve_request(record, &envelope, stop)?
            }
            Some(Err(error)) => {
                self.keep_dead(record, None, &error.to_string())?;
                true
            }
            _ => {
                self.keep_dead(record, None, "it is no request")?;
                true
            }
        };
        if !served {
            // Stopped between two attempts: the next start goes on with it.
            self.lane.reader().seek_to(offset);
            return Ok(());
        }
        self.lane.commit_to(offset + 1)?;
        self.lane.end_attempt();
        self.lane.set_floor(self.replies.end_offset()?);
        if self.synced_at.elapsed() >= SYNC_INTERVAL {
            self.make_durable()?;
        }
        Ok(())
    }

    /// False if `stop` was given before the request was settled.
    fn serve_request(
        &mut self,
        record: &OwnedRecord,
        envelope: &Envelope,
        stop: &Stop,
    ) -> Result<bool> {
        let replies = match self.reply_topic(envelope.reply_topic.as_deref()) {
            Ok(topic) => topic,
            Err(Error::NotFound { .. } | Error::InvalidName { .. }) => {
                self.keep_dead(record, Some(&envelope.id), "its reply topic does not exist")?;
                return Ok(true);
            }
            Err(other) => return Err(other),
        };
        if record.offset() < self.doubtful_below {
            if self.was_answered(&replies, &envelope.id)? {
                return Ok(true);
            }
        } else {
            self.answered.clear();
        }
        self.look_for_closed(record.offset())?;
        if self.closed.remove(&envelope.id) {
            return Ok(true);
        }
        let mut attempt = match self.attempts_before.take() {
            Some((id, count)) if id == envelope.id => count,
            _ => 0,
        };
        loop {
            attempt += 1;
            self.lane.begin_attempt(&Attempt {
                offset: record.offset(),
                count: attempt,
                floor: replies.end_offset()?,
                note: encode_note(&envelope.id, envelope.reply_topic.as_deref()),
            })?;
            crate::sys::crash_point::crash_point!("serve.attempted");
            match self.decide(record, envelope, attempt) {
                Verdict::Outcome(kind, reply, error) => {
                    let mut outcome = envelope.outcome(kind, record.offset());
                    outcome.attempt = attempt;
                    outcome.error = error;
                    answer(&replies, outcome, reply)?;
                    crate::sys::crash_point::crash_point!("serve.replied");
                    return Ok(true);
                }
                Verdict::Again(why) => {
                    if self.options.max_attempts != 0 && attempt >= self.options.max_attempts {
                        self.dead_letter(record, envelope, attempt, &why)?;
                        return Ok(true);
                    }
                    let wait = backoff(attempt, self.options.retry_first, self.options.retry_most);
                    if !sleep(wait, stop) {
                        self.attempts_before = Some((envelope.id.clone(), attempt));
                        return Ok(false);
                    }
                }
            }
        }
    }

    fn decide(&self, record: &OwnedRecord, envelope: &Envelope, attempt: u32) -> Verdict {
        if envelope.deadline.is_some_and(|deadline| clock::wall() >= deadline) {
            return Verdict::Outcome(Kind::Expired, Record::default(), String::new());
        }
        if self.options.max_attempts != 0 && attempt > self.options.max_attempts {
            return Verdict::Again("its handler died with the process".into());
        }
        let request = Request { record: record.as_ref(), envelope, attempt };
        match guarded(|| (self.handler)(&request)) {
            Ok(reply) => Verdict::Outcome(Kind::Reply, reply.record, String::new()),
            Err(error) if error.terminal => {
                Verdict::Outcome(Kind::Failed, Record::default(), error.message)
            }
            Err(error) => Verdict::Again(error.message),
        }
    }

    /// Reads what clients expired or took back since the last look.
    fn look_for_closed(&mut self, at: u64) -> Result<()> {
        loop {
            let record = match self.reply_reader.next() {
                Ok(Some(record)) => record,
                Ok(None) => return Ok(()),
                // By hand, while this server had nothing to do.
                Err(Error::Trimmed { first, .. }) => {
                    self.reply_reader.seek_to(first);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(Ok(envelope)) = Envelope::of(&record) {
                let early = envelope.request_offset.is_none_or(|offset| offset >= at);
                if matches!(envelope.kind, Kind::Cancelled | Kind::Expired) && early {
                    self.closed.insert(envelope.id);
                }
            }
        }
    }

    /// Whether a request from before the last power loss has its outcome.
    fn was_answered(&mut self, replies: &Topic, id: &RequestId) -> Result<bool> {
        if !self.answered.contains_key(replies.name()) {
            let settled = settle(replies, 0)?;
            self.answered.insert(replies.name().to_owned(), settled.answered);
        }
        Ok(self.answered.get(replies.name()).is_some_and(|answered| answered.contains_key(id)))
    }

    /// The topic that a request's outcome goes to. The name comes from bytes of the request: it must be
    /// a name, and the topic must exist.
    pub(super) fn reply_topic(&self, name: Option<&str>) -> Result<Topic> {
        match name {
            None => Ok(self.replies.clone()),
            Some(name) => {
                names::check(name)
                    .map_err(|why| Error::InvalidName { name: name.to_owned(), why })?;
                self.log.existing_topic(name)
            }
        }
    }

    /// Makes the position durable, after the replies that it stands for.
    fn make_durable(&mut self) -> Result<()> {
        let committed = self.lane.committed();
        if committed > self.synced_offset {
            self.requests.wait_durable(committed - 1)?;
            if let Some(last) = self.replies.end_offset()?.checked_sub(1) {
                self.replies.wait_durable(last)?;
            }
            self.lane.sync()?;
            self.synced_offset = committed;
        }
        self.synced_at = Instant::now();
        Ok(())
    }
}

/// False if `stop` was given first.
fn sleep(wait: Duration, stop: &Stop) -> bool {
    let until = Instant::now() + wait;
    loop {
        if stop.is_stopped() {
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(super::LOOK));
    }
}
