//! A worker: calls a handler for the records of its lanes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::attempt::{Called, Fate, Note};
use super::claim::Claim;
use super::dead_letter::{DeadLetter, Kept};
use super::dispatch::Dispatch;
use super::running::persist;
use super::stats::{Counters, WorkerStats};
use super::{Group, HandlerError, Job, Running, WorkerOptions};
use crate::error::{Error, IoResultExt, Result};
use crate::log::Log;
use crate::stop::Stop;
use crate::topic::{Topic, TopicOptions};

type Handler = Box<dyn FnMut(&Job) -> Result<(), HandlerError> + Send>;

/// Handles records of a group, in this thread or one of its own. Made by [`Group::worker`].
///
/// Several workers, in any processes, share the lanes of the group: records with the same key are handled
/// in order by one of them at a time. Delivery is at least once: after a crash a record that was in flight
/// is delivered again, with a higher [`Job::attempt`].
#[must_use = "records are handled by `run`, `poll` or `spawn`"]
pub struct Worker {
    log: Log,
    topic: Topic,
    group: String,
    options: WorkerOptions,
    dispatch: Dispatch,
    dead_name: String,
    dead: Option<Topic>,
    kept: Kept,
    handler: Handler,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("group", &self.group).finish_non_exhaustive()
    }
}

impl Worker {
    pub(super) fn open(group: &Group, options: WorkerOptions, handler: Handler) -> Result<Worker> {
        let claim = Claim::Group(group.topic.name(), &group.name);
        let dead = claim.dead_topic();
        Error::check_name(&dead)?;
        if claim.is_of_servers() {
            let what =
                format!("{claim} is reserved for the service's servers: choose another name");
            return Err(Error::Invalid { what });
        }
        claim.check_alone(&group.open.log)?;
        let counters = Arc::<Counters>::default();
        let dispatch = Dispatch::open(&group.open, &group.name, options.clone(), None, counters)?;
        Ok(Worker {
            log: group.topic.log(),
            topic: group.topic.clone(),
            group: group.name.clone(),
            options,
            dispatch,
            dead_name: dead,
            dead: None,
            kept: Kept::default(),
            handler,
        })
    }

    /// Works until `stop` is requested, and finishes the record in flight.
    ///
    /// # Errors
    ///
    /// An error of the topic, or of the dead-letter topic: [`Error::Trimmed`] and [`Error::Corrupt`]
    /// until [`skip`](Self::skip) was called. Handled records stay done; the next call continues.
    pub fn run(&mut self, stop: &Stop) -> Result<()> {
        while let Some(job) = self.dispatch.next(None, stop)? {
            self.work(&job)?;
        }
        self.dispatch.finish()
    }

    /// Handles the records that are there, or waits up to `timeout` for the first. Returns the number of
    /// records that are done.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn poll(&mut self, timeout: Duration) -> Result<u64> {
        let stop = Stop::new();
        let until = Instant::now().checked_add(timeout);
        // Records that arrive meanwhile are left to the next call, or a busy topic would never let it return.
        let end = self.topic.high_watermark()?;
        let mut done = 0;
        loop {
            let until = if done > 0 { Some(Instant::now()) } else { until };
            let Some(job) = self.dispatch.next(until, &stop)? else { return Ok(done) };
            let offset = job.offset();
            done += u64::from(self.work(&job)?);
            if offset + 1 >= end && done > 0 {
                return Ok(done);
            }
        }
    }

    /// Makes the handled records durable: after a power loss no record that was done before the call is
    /// delivered again. A background thread does this every second, and so does dropping the worker.
    ///
    /// # Errors
    ///
    /// [`Error::SyncFailed`], [`Error::Io`].
    pub fn sync(&mut self) -> Result<()> {
        self.dispatch.finish()
    }

    /// Works on a thread of its own; [`Running`] says after which errors it continues.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if no thread can be started.
    pub fn spawn(mut self) -> Result<Running> {
        let stop = Stop::new();
        let ends = stop.clone();
        let dir = self.log.dir().to_owned();
        let counters = Arc::clone(&self.dispatch.counters);
        let counted = Arc::clone(&counters);
        let name = format!("work-{}", self.group);
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || persist(&name, &ends, &counted, || self.run(&ends)))
            .at("starting a thread for", &dir)?;
        Ok(Running::new(stop, Arc::new(Mutex::new(vec![thread]))).counting(counters))
    }

    /// Continues after the lost records, after [`Error::Trimmed`] or [`Error::Corrupt`], and returns the
    /// offsets that are skipped. Workers of other lanes must skip their own records among them.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn skip(&mut self) -> Result<std::ops::Range<u64>> {
        self.dispatch.skip()
    }

    /// Returns the counters since the worker was opened.
    pub fn stats(&self) -> WorkerStats {
        self.dispatch.counters.read_out()
    }

    /// Returns true if the job is done, or is a dead letter.
    fn work(&mut self, job: &Job) -> Result<bool> {
        let worked = self.work_on(job);
        if worked.is_err() {
            self.dispatch.abandon(job);
        }
        worked
    }

    fn work_on(&mut self, job: &Job) -> Result<bool> {
        let (fate, why) = if self.dispatch.is_over(job) {
            (self.dispatch.stop_retrying(job), self.dispatch.why_over(job).to_owned())
        } else {
            let handler = &mut self.handler;
            match self.dispatch.call(job, Note::default(), || handler(job))? {
                Called::Done(()) => {
                    self.dispatch.done(job)?;
                    return Ok(true);
                }
                Called::Postponed => return Ok(false),
                Called::Failed(error) => (self.dispatch.failed(job, error.terminal), error.message),
            }
        };
        if fate != Fate::DeadLetter {
            return Ok(false);
        }
        let letter = DeadLetter {
            id: DeadLetter::id_of(&self.topic, &job.record),
            topic: self.topic.name().to_owned(),
            offset: job.offset(),
            group: self.group.clone(),
            attempts: job.attempt,
            sent_at: job.record().timestamp_nanos(),
            reason: why,
        };
        self.open_dead_topic()?;
        let dead = self.dead.as_ref().expect("opened above");
        let is_repeated = job.may_be_kept || job.attempt > 1;
        letter.keep(dead, &job.record, is_repeated.then_some(&mut self.kept))?;
        crate::sys::crash_point::crash_point!("lane.kept-dead");
        self.dispatch.done(job)?;
        Ok(true)
    }

    fn open_dead_topic(&mut self) -> Result<()> {
        if self.dead.is_none() {
            let durability = self.options.dead_letter.unwrap_or_else(|| TopicOptions {
                retention: Default::default(),
                ..*self.topic.options()
            });
            let topic = match self.log.open_topic(&self.dead_name) {
                Err(Error::NotFound { .. }) => self.log.topic_with(&self.dead_name, durability)?,
                other => other?,
            };
            self.dead = Some(topic);
        }
        Ok(())
    }
}
