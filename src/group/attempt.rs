//! The fate of a record in flight: its attempts, which are stored before the handler runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::alone::Suspect;
use super::dispatch::Dispatch;
use super::job::Job;
use super::lane::{later, Mode, State};
use super::stats::count;
use super::{alone, backoff, guarded, HandlerError, Poison};
use crate::cursor::Attempt;
use crate::error::Result;
use crate::events;
use crate::format::group::{lane_at, LANE_TRIAL_AT};
use crate::sys::clock;

/// The wait before a suspect is tried again while other handlers run; it doubles.
const AGAIN: Duration = Duration::from_millis(20);
/// How often a suspect may be postponed. Then it runs beside other handlers, because one of them may be
/// waiting for it, and its process's death does not count against it.
const MAX_POSTPONED: u32 = 8;

/// The data that is stored with an attempt.
#[derive(Debug, Default)]
pub(crate) struct Note {
    /// The current end of the topic that its effect goes to.
    pub(crate) floor: u64,
    /// Bytes for the worker that settles the attempt.
    pub(crate) bytes: Vec<u8>,
}

/// How a call of a handler ended.
pub(crate) enum Called<T> {
    /// It returned this.
    Done(T),
    /// It failed.
    Failed(HandlerError),
    /// The handler was not called: the job must run alone, and others were running. The job comes again.
    Postponed,
}

/// The fate of a record that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is retried.
    Again,
    /// It is no longer retried: the caller dead-letters it.
    DeadLetter,
    /// Its lane is stopped.
    Stopped,
}

impl Dispatch {
    /// Calls a handler for a job: stores the attempt, and makes a suspect run alone.
    pub(crate) fn call<T>(
        &mut self,
        job: &Job,
        note: Note,
        handler: impl FnOnce() -> Result<T, HandlerError>,
    ) -> Result<Called<T>> {
        let map = Arc::clone(&self.group.map);
        let lane = self.lane(job);
        let suspect = (job.is_suspect && lane.postponed < MAX_POSTPONED).then(|| Suspect {
            map,
            trial_at: lane_at(job.lane) + LANE_TRIAL_AT,
            deaths: lane.deaths,
        });
        let Some(inside) = alone::enter(suspect) else {
            let lane = self.lane(job);
            lane.postponed += 1;
            let wait = AGAIN * (1 << lane.postponed.min(MAX_POSTPONED));
            self.wait(job, wait);
            return Ok(Called::Postponed);
        };
        self.begin(job, note)?;
        let lane = self.lane(job);
        inside.tell(|state| lane.store(state));
        let called = guarded(handler);
        // From here on another handler may be what kills the process.
        lane.store(State::Running);
        drop(inside);
        Ok(match called {
            Ok(done) => Called::Done(done),
            Err(error) => {
                count(&self.counters.failed, 1);
                let (topic, group) = (&self.topic.name, &self.name);
                let why = &error.message;
                events::attempt_failed(topic, group, job.offset(), job.attempt, why);
                Called::Failed(error)
            }
        })
    }

    /// Stores that the handling of a job begins, beside other handlers.
    pub(crate) fn begin(&mut self, job: &Job, note: Note) -> Result<()> {
        let lane = self.lane(job);
        let offset = job.offset();
        lane.turn_to(offset);
        if lane.cursor.attempted().is_none() {
            // The lane's page says nothing about this record until the attempt is stored.
            lane.store(State::Running);
        }
        let Note { floor, bytes: note } = note;
        lane.cursor.begin_attempt(&Attempt { offset, count: job.attempt, floor, note })?;
        lane.store(State::Running);
        lane.count = job.attempt;
        lane.in_doubt = None;
        crate::sys::crash_point::crash_point!("lane.attempted");
        Ok(())
    }

    /// Marks a job as done: its record is not delivered again.
    pub(crate) fn done(&mut self, job: &Job) -> Result<()> {
        let floor = self.effects_floor()?;
        self.lane(job).done(job.offset(), floor)?;
        self.lanes.rejoin(job.lane);
        count(&self.counters.handled, 1);
        Ok(())
    }

    /// Marks a job as failed: it is retried after the backoff, unless it has failed too often.
    pub(crate) fn failed(&mut self, job: &Job, terminal: bool) -> Fate {
        let most = self.options.max_attempts;
        let wait = backoff(job.blamed + 1, self.options.retry_first, self.options.retry_most);
        let lane = self.lane(job);
        lane.turn_to(job.offset());
        lane.blamed = job.blamed.saturating_add(1);
        if terminal {
            // If the process is killed before the dead letter exists, the record is not retried.
            lane.blamed = lane.blamed.max(most.unwrap_or(0));
        }
        // The process did not die of this record.
        lane.deaths = 0;
        lane.postponed = 0;
        let is_over = terminal || most.is_some_and(|most| lane.blamed >= most);
        // Before the state that makes another owner read it.
        let retry_at = clock::boottime().saturating_add(clock::nanos(wait));
        lane.cursor.set_retry_at(if is_over { 0 } else { retry_at });
        lane.store(State::Failed);
        if !is_over {
            self.wait(job, wait);
            return Fate::Again;
        }
        self.stop_retrying(job)
    }

    /// Marks a job as failed because its answer could not be stored, for a reason of the job's own. Whether it
    /// was answered must be settled later.
    pub(crate) fn troubled(&mut self, job: &Job) -> Fate {
        let lane = self.lane(job);
        let attempt = lane.cursor.attempt().filter(|attempt| attempt.offset == job.offset());
        lane.in_doubt = attempt.map(|attempt| attempt.floor).or(job.in_doubt);
        self.failed(job, false)
    }

    /// Returns whether a job has used up its attempts: those that failed, and those during which the process died.
    pub(crate) fn is_over(&self, job: &Job) -> bool {
        job.is_condemned || self.options.max_attempts.is_some_and(|most| job.blamed >= most)
    }

    /// Returns why a job is no longer retried.
    pub(crate) fn why_over(&self, job: &Job) -> &'static str {
        match job.is_condemned {
            true => "its lane was stopped at it, and then made to skip it",
            false => "its handler died with the process",
        }
    }

    /// Stops retrying a job, and returns its fate.
    pub(crate) fn stop_retrying(&mut self, job: &Job) -> Fate {
        if self.options.poison == Poison::DeadLetter || job.is_condemned {
            count(&self.counters.dead, 1);
            events::dead_lettered(&self.topic.name, &self.name, job.offset(), job.attempt);
            return Fate::DeadLetter;
        }
        let lane = self.lane(job);
        lane.store(State::Stopped);
        lane.mode = Mode::Stopped;
        // Durable: a payment that must not continue does not continue after a reboot either.
        let stopped = lane.cursor.set_stopped_at(Some(job.offset()));
        if let Err(error) = stopped {
            events::position_not_synced(&self.topic.name, &error);
        }
        count(&self.counters.stopped, 1);
        events::lane_stopped(&self.topic.name, &self.name, job.lane, job.offset());
        Fate::Stopped
    }

    /// Makes the job's lane wait, and keeps the job's record meanwhile.
    pub(super) fn wait(&mut self, job: &Job, wait: Duration) {
        let record = job.record.clone();
        self.lanes.keep(job.lane, record, later(Instant::now(), wait));
    }

    /// Returns a job after an error: it comes again, and whether it was done must be settled.
    pub(crate) fn abandon(&mut self, job: &Job) {
        let lane = self.lane(job);
        if lane.mode != Mode::InFlight {
            return;
        }
        if let Some(attempt) = lane.cursor.attempt().filter(|at| at.offset == job.offset()) {
            lane.in_doubt = Some(attempt.floor);
        }
        lane.kept = None;
        lane.kept_below = lane.kept_below.max(job.offset() + 1);
        self.lanes.rejoin(job.lane);
    }
}
