//! The server: handles the requests of a lane one after another, and answers each once.
//!
//! Ordered writes of one request, each a store that survives `kill -9`: 1. the attempt (offset,
//! id, count, reply topic, its end as the floor), 2. the handler runs, 3. the outcome is appended as
//! durable as the reply topic promises, 4. the lane's position is committed, 5. the attempt is ended.
//! If the server is killed between any two of them, the lane's next owner finds an attempt without a
//! commit and settles it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::clients::Gone;
use super::closed::ClosedRequests;
use super::envelope::{Envelope, Kind};
use super::handler::{Reply, Request};
use super::options::ServerOptions;
use super::settle::{encode_note, Doubt, Past};
use super::{open_topic, replies_of, requests_of, spans};
use crate::error::{Error, Result};
use crate::group::claim::Claim;
use crate::group::{
    self, shortened, Called, Counters, Dispatch, Fate, Group, GroupOptions, HandlerError, Job,
    Letters, Note, Running, Work, WorkerStats,
};
use crate::log::Log;
use crate::reader::Start;
use crate::record::Record;
use crate::stop::Stop;
use crate::sys::clock;
use crate::topic::Topic;

// A service has one group: with two, every request would be answered twice.
use crate::group::SERVERS as GROUP;
/// In the reply topic, the consumer that keeps what the lanes may need to settle a doubt.
const GUARD: &str = "server.floor";
/// How often that consumer is moved.
const GUARD_INTERVAL: Duration = Duration::from_secs(1);

type Handler = Arc<dyn Fn(&Request<'_>) -> Result<Reply, HandlerError> + Send + Sync>;

/// Answers the requests of a service. Made by [`Log::server`].
///
/// Any number of servers, in any processes, share the service's lanes: requests with the same key are
/// handled in order, those with different keys concurrently. A server on this thread handles one at a time.
///
/// A server does not trust the request topic. It copies a record that is not a request, and a request whose
/// outcome would go to a topic that does not exist or is not a topic's name, to `SERVICE.dead`, does not
/// answer it, and creates no topic for it. If a record in the reply topic says that a request is `Expired`
/// or `Cancelled`, the handler is not called for it, whichever process wrote that record. A request past
/// its deadline by this machine's wall clock is not handled either: its outcome `Expired` is appended, once.
///
/// ```
/// # fn main() -> deaddrop::Result<()> {
/// # let dir = deaddrop::doc_dir();
/// # let log = deaddrop::Log::open_or_create(&dir)?;
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
#[must_use = "requests are handled by `run`, `poll` or `spawn`"]
pub struct Server {
    log: Log,
    service: String,
    options: ServerOptions,
    handler: Handler,
    requests: Topic,
    replies: Topic,
    group: Group,
    dispatch: Dispatch,
    closed: ClosedRequests,
    past: Past,
    letters: Letters,
    guarded_at: Instant,
    gone: Gone,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("service", &self.service).finish_non_exhaustive()
    }
}

impl Server {
    pub(super) fn open(
        log: &Log,
        service: &str,
        options: ServerOptions,
        handler: Handler,
        counters: Arc<Counters>,
    ) -> Result<Server> {
        log.writable()?;
        let requests = open_topic(log, &requests_of(service), options.topic)?;
        let replies = open_topic(log, &replies_of(service), options.topic)?;
        if replies.options().retention.consumed {
            // Before a lane can be in doubt, so that no reply that settles a doubt is dropped.
            match replies.consumer(GUARD, Start::First) {
                Ok(_) | Err(Error::Locked { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        let group = GroupOptions { lanes: options.lanes, start: Start::First };
        let group = requests.group(GROUP, group)?;
        Claim::Service(service).check_alone(log.inner())?;
        let mut dispatch = Dispatch::open(
            requests.inner(),
            GROUP,
            options.worker(),
            Some(replies.clone()),
            counters,
        )?;
        let from = dispatch.durable_effects_floor()?;
        let from = from.clamp(replies.first_offset()?, replies.high_watermark()?);
        // Until the closed requests were read from there.
        dispatch.effects_kept = from;
        Ok(Server {
            log: log.clone(),
            service: service.to_owned(),
            options,
            handler,
            closed: ClosedRequests::new(&requests, &replies, from)?,
            letters: Letters::new(&requests, GROUP),
            requests,
            replies,
            group,
            dispatch,
            past: Past::default(),
            guarded_at: Instant::now(),
            gone: Gone::default(),
        })
    }

    /// Serves until `stop` is requested, and finishes the request in flight.
    ///
    /// # Errors
    ///
    /// An error of a topic: [`Error::NoSpace`], [`Error::SyncFailed`], [`Error::Corrupt`] and
    /// [`Error::Trimmed`] until [`skip`](Self::skip) was called, [`Error::Io`]. Answered requests stay
    /// answered; the next call continues with the others.
    pub fn run(&mut self, stop: &Stop) -> Result<()> {
        group::run(self, stop)
    }

    /// Serves the requests that are there, or waits up to `timeout` for the first. Returns the number of
    /// requests that were settled.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn poll(&mut self, timeout: Duration) -> Result<u64> {
        group::poll(self, timeout)
    }

    /// Serves on background threads, as many as the options say.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if no thread can be started.
    pub fn spawn(self) -> Result<Running> {
        let (log, name) = (self.log.clone(), format!("serve-{}", self.service));
        let mut servers = vec![self];
        for _ in 1..servers[0].options.threads {
            let Server { service, options, handler, dispatch, .. } = &servers[0];
            let (handler, counters) = (Arc::clone(handler), Arc::clone(&dispatch.counters));
            servers.push(Server::open(&log, service, options.clone(), handler, counters)?);
        }
        group::spawn(servers, &name, log.dir())
    }

    /// Continues after the lost requests, after [`Error::Trimmed`] or [`Error::Corrupt`] of a request, and
    /// returns the offsets that are skipped.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn skip(&mut self) -> Result<std::ops::Range<u64>> {
        self.dispatch.skip()
    }

    /// Returns an upper bound of the number of requests that are not settled yet.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn lag(&self) -> Result<u64> {
        Ok(self.group.info()?.lag)
    }

    /// Returns the counters since the server was opened, of all its threads together.
    pub fn stats(&self) -> WorkerStats {
        self.dispatch.counters.read_out()
    }

    fn serve_request(&mut self, job: &Job, envelope: &Envelope) -> Result<bool> {
        let Some(name) = envelope.reply_topic.as_deref() else {
            let replies = self.replies.clone();
            return self.settle_request(job, envelope, &replies);
        };
        let replies = match self.reply_topic(name) {
            Err(Error::NotFound { .. } | Error::InvalidName { .. }) => {
                self.keep_dead(job, Some(envelope), "its reply topic does not exist")?;
                return Ok(true);
            }
            other => other,
        };
        let settled = replies.and_then(|replies| {
            let settled = self.settle_request(job, envelope, &replies)?;
            // The lane's position becomes durable after the service's own replies, and the thread that
            // makes it durable may not know of this topic.
            if settled {
                replies.wait_durable_to(replies.end_offset()?)?;
            }
            Ok(settled)
        });
        match settled {
            Ok(settled) => Ok(settled),
            // A failure of this process or of the disk, not of the request.
            Err(error @ (Error::NoSpace { .. } | Error::TimedOut { .. } | Error::Forked)) => {
                Err(error)
            }
            Err(error) if error.is_out_of_descriptors() => Err(error),
            // A failure of a topic that the request chose counts against the request, not the service.
            Err(error) => {
                let is_dead = self.dispatch.troubled(job) == Fate::DeadLetter;
                if is_dead {
                    let why = format!("its reply topic: {error}");
                    self.keep_dead(job, Some(envelope), &why)?;
                }
                Ok(is_dead)
            }
        }
    }

    fn settle_request(&mut self, job: &Job, envelope: &Envelope, replies: &Topic) -> Result<bool> {
        if self.closed.contains(&mut self.dispatch, job, &envelope.id)? {
            return Ok(true);
        }
        let is_own = envelope.reply_topic.is_none();
        match self.past.settle(job, &envelope.id, replies, is_own)? {
            Doubt::Answered => return Ok(true),
            Doubt::Undecidable => {
                let why =
                    "the server died, and the replies that would show whether it had answered \
                     were trimmed";
                return self.end(Fate::DeadLetter, job, envelope, replies, why);
            }
            Doubt::Open => {}
        }
        let bytes = encode_note(&envelope.id, envelope.reply_topic.as_deref());
        let note = Note { floor: replies.end_offset()?, bytes };
        if envelope.deadline.is_some_and(|deadline| clock::wall() >= deadline) {
            self.dispatch.begin(job, note)?;
            // No caller waits for it, so one sync covers many of them.
            let outcome = envelope.outcome(Kind::Expired, job.offset());
            answer(outcome, Record::default(), |record| replies.append_unsynced(record))?;
            return Ok(true);
        }
        if self.dispatch.is_over(job) {
            self.dispatch.begin(job, note)?;
            let (fate, why) = (self.dispatch.stop_retrying(job), self.dispatch.why_over(job));
            return self.end(fate, job, envelope, replies, why);
        }
        self.handle(job, envelope, replies, note)
    }

    fn handle(
        &mut self,
        job: &Job,
        envelope: &Envelope,
        replies: &Topic,
        note: Note,
    ) -> Result<bool> {
        let (handler, service) = (&self.handler, &self.service);
        let (begun_at, begun) = (clock::wall(), Instant::now());
        let called = self.dispatch.call(job, note, || {
            let _span = spans::process(service, envelope, job.attempt, job.payload().len());
            handler(&Request { job, envelope })
        })?;
        let (kind, reply, error) = match called {
            Called::Done(reply) => (Kind::Reply, reply.record, None),
            Called::Postponed => return Ok(false),
            Called::Failed(error) if error.terminal => {
                (Kind::Failed, Record::default(), Some(error.message))
            }
            Called::Failed(error) => {
                let fate = self.dispatch.failed(job, false);
                return self.end(fate, job, envelope, replies, &error.message);
            }
        };
        let mut outcome = envelope.outcome(kind, job.offset());
        outcome.attempt = Some(job.attempt);
        outcome.error = error;
        outcome.begun_at = Some(begun_at);
        outcome.handler_nanos = Some(clock::nanos(begun.elapsed()));
        answer(outcome, reply, |record| replies.append(record))?;
        crate::sys::crash_point::crash_point!("serve.replied");
        Ok(true)
    }

    /// Opens the reply topic that a request names. The request's bytes must be a valid name, and the topic
    /// must exist.
    fn reply_topic(&self, name: &str) -> Result<Topic> {
        Error::check_name(name)?;
        self.log.open_topic(name)
    }

    /// Answers a request that is dead, and returns whether it is. Appends to the dead-letter topic first, then
    /// the outcome: if the process is killed between them, the next owner of the lane finds no outcome, and
    /// finds the copy by its id.
    fn end(
        &mut self,
        fate: Fate,
        job: &Job,
        envelope: &Envelope,
        replies: &Topic,
        why: &str,
    ) -> Result<bool> {
        if fate != Fate::DeadLetter {
            return Ok(false);
        }
        self.keep_dead(job, Some(envelope), why)?;
        crate::sys::crash_point::crash_point!("serve.kept-dead");
        let mut outcome = envelope.outcome(Kind::DeadLettered, job.offset());
        outcome.attempt = Some(job.attempt);
        outcome.error = Some(why.to_owned());
        answer(outcome, Record::default(), |record| replies.append(record))?;
        Ok(true)
    }

    /// Copies a record to the dead-letter topic, with its origin and the reason; once for each id.
    fn keep_dead(&mut self, job: &Job, envelope: Option<&Envelope>, why: &str) -> Result<()> {
        let (log, service, options) = (&self.log, &self.service, self.options.topic);
        let id = envelope.map(|envelope| envelope.id.to_string());
        let open = || open_topic(log, &Claim::Service(service).dead_topic(), options);
        self.letters.keep(job, id, why, open)
    }

    /// Releases replies that no lane needs any more. One server at a time does this.
    fn move_guard(&mut self) -> Result<()> {
        if !self.replies.options().retention.consumed {
            return Ok(());
        }
        let mut guard = match self.replies.consumer(GUARD, Start::First) {
            Err(Error::Locked { .. }) => return Ok(()),
            other => other?,
        };
        let floor = self.dispatch.durable_effects_floor()?.min(self.replies.high_watermark()?);
        if floor > guard.committed() {
            guard.set_position(floor)?;
            guard.sync()?;
        }
        self.gone.let_go(&self.log, &self.service, &self.requests)?;
        match self.options.abandoned_after {
            Some(after) => self.gone.abandon(after, &self.requests, &self.replies),
            None => Ok(()),
        }
    }
}

impl Work for Server {
    fn dispatch(&mut self) -> &mut Dispatch {
        &mut self.dispatch
    }

    fn work(&mut self, job: &Job) -> Result<bool> {
        let why = match Envelope::of(&job.record()) {
            Some(Ok(envelope)) if envelope.kind == Kind::Request => {
                return self.serve_request(job, &envelope);
            }
            Some(Err(error)) => error.to_string(),
            _ => "it is not a request".to_owned(),
        };
        self.keep_dead(job, None, &why)?;
        Ok(true)
    }

    fn chores_at(&self) -> Option<Instant> {
        Some(self.guarded_at + GUARD_INTERVAL)
    }

    fn chores(&mut self) -> Result<()> {
        if !self.past.is_empty() && !self.dispatch.has_doubt() {
            self.past.clear();
        }
        if self.guarded_at.elapsed() < GUARD_INTERVAL {
            return Ok(());
        }
        self.guarded_at = Instant::now();
        self.letters.close();
        // Even when there is nothing to do: the lanes' floors follow the position that was read.
        self.closed.look(&mut self.dispatch)?;
        self.closed.forget_passed(&self.dispatch);
        self.move_guard()
    }

    fn finish(&mut self) -> Result<()> {
        self.closed.look(&mut self.dispatch)?;
        self.dispatch.finish()?;
        self.move_guard()
    }
}

/// Appends an outcome. If the handler's result makes it too large for a frame, it becomes `Failed`,
/// because every attempt would have the same result.
fn answer(
    mut outcome: Envelope,
    reply: Record,
    append: impl Fn(&Record) -> Result<u64>,
) -> Result<()> {
    outcome.error = outcome.error.map(|error| shortened(&error).to_owned());
    match append(&outcome.seal(reply)) {
        Err(error @ (Error::Invalid { .. } | Error::TooLarge { .. })) => {
            outcome.kind = Kind::Failed;
            outcome.error = Some(format!("its outcome cannot be appended: {error}"));
            // The client has it from the request.
            outcome.context.clear();
            append(&outcome.seal(Record::default())).map(drop)
        }
        other => other.map(drop),
    }
}
