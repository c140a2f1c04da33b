//! A worker: calls a handler for the records of its lanes.

use std::sync::Arc;
use std::time::Duration;

use super::attempt::{Called, Fate, Note};
use super::claim::Claim;
use super::dead_letter::Letters;
use super::dispatch::Dispatch;
use super::stats::{Counters, WorkerStats};
use super::work::{self, Work};
use super::{Group, HandlerError, Job, Running, WorkerOptions};
use crate::error::{Error, Result};
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
    topic: Topic,
    dispatch: Dispatch,
    letters: Letters,
    dead_name: String,
    handler: Handler,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("group", &self.dispatch.name).finish_non_exhaustive()
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
        let dispatch = Dispatch::open(&group.open, &group.name, options, None, counters)?;
        let (topic, letters) = (group.topic.clone(), Letters::new(&group.topic, &group.name));
        Ok(Worker { topic, dispatch, letters, dead_name: dead, handler })
    }

    /// Works until `stop` is requested, and finishes the record in flight.
    ///
    /// # Errors
    ///
    /// An error of the topic, or of the dead-letter topic: [`Error::Trimmed`] and [`Error::Corrupt`]
    /// until [`skip`](Self::skip) was called. Handled records stay done; the next call continues.
    pub fn run(&mut self, stop: &Stop) -> Result<()> {
        work::run(self, stop)
    }

    /// Handles the records that are there, or waits up to `timeout` for the first. Returns the number of
    /// records that are done.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn poll(&mut self, timeout: Duration) -> Result<u64> {
        work::poll(self, timeout)
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
    pub fn spawn(self) -> Result<Running> {
        let (name, log) = (format!("work-{}", self.dispatch.name), self.topic.log());
        work::spawn(vec![self], &name, log.dir())
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
}

impl Work for Worker {
    fn dispatch(&mut self) -> &mut Dispatch {
        &mut self.dispatch
    }

    fn work(&mut self, job: &Job) -> Result<bool> {
        let (fate, why) = if self.dispatch.is_over(job) {
            (self.dispatch.stop_retrying(job), self.dispatch.why_over(job).to_owned())
        } else {
            let handler = &mut self.handler;
            match self.dispatch.call(job, Note::default(), || handler(job))? {
                Called::Done(()) => return Ok(true),
                Called::Postponed => return Ok(false),
                Called::Failed(error) => (self.dispatch.failed(job, error.terminal), error.message),
            }
        };
        if fate != Fate::DeadLetter {
            return Ok(false);
        }
        let (topic, name) = (&self.topic, &self.dead_name);
        let options = self.dispatch.options.dead_letter;
        self.letters.keep(job, None, &why, || {
            let log = topic.log();
            let options = options.unwrap_or_else(|| TopicOptions {
                retention: Default::default(),
                ..*topic.options()
            });
            match log.open_topic(name) {
                Err(Error::NotFound { .. }) => log.topic_with(name, options),
                other => other,
            }
        })?;
        crate::sys::crash_point::crash_point!("lane.kept-dead");
        Ok(true)
    }
}
