//! What becomes of a record in hand: its attempts, noted before the handler runs.

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

/// While other handlers run beside a suspect; it doubles.
const AGAIN: Duration = Duration::from_millis(20);
/// After so many looks for a moment without others it runs beside them, and its death does not count:
/// one of them may be waiting for it.
const MAX_POSTPONED: u32 = 8;

/// What is noted with an attempt.
#[derive(Debug, Default)]
pub(crate) struct Note {
    /// Where the topic that its effect goes to ends now.
    pub(crate) floor: u64,
    /// For whoever settles it.
    pub(crate) bytes: Vec<u8>,
}

/// How a call of a handler ended.
pub(crate) enum Called<T> {
    /// It returned this.
    Done(T),
    /// It failed.
    Failed(HandlerError),
    /// It was not called: it is to run alone, and others were running. The job comes again.
    Postponed,
}

/// What becomes of a record that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It comes again.
    Again,
    /// It is the caller's to give up.
    GivenUp,
    /// Its lane is stopped.
    Stopped,
}

impl Dispatch {
    /// Calls a handler for a job: notes the attempt, and sees to it that a suspect runs alone.
    pub(crate) fn call<T>(
        &mut self,
        job: &Job,
        note: Note,
        handler: impl FnOnce() -> Result<T, HandlerError>,
    ) -> Result<Called<T>> {
        let suspect =
            (job.is_suspect && self.lane(job).postponed < MAX_POSTPONED).then(|| Suspect {
                map: Arc::clone(&self.group.map),
                trial_at: lane_at(job.lane) + LANE_TRIAL_AT,
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
        // What kills the process from here on may be another's.
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

    /// Notes that a job's handling begins, beside others.
    pub(crate) fn begin(&mut self, job: &Job, note: Note) -> Result<()> {
        let lane = self.lane(job);
        let offset = job.offset();
        lane.turn_to(offset);
        if lane.cursor.attempt().is_none() {
            // Nothing is said of this record before the attempt is there.
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

    /// The job is done: its record is not delivered again.
    pub(crate) fn done(&mut self, job: &Job) -> Result<()> {
        let floor = self.effects_floor()?;
        self.lane(job).done(job.offset(), floor)?;
        self.rejoin(job.lane);
        count(&self.counters.handled, 1);
        Ok(())
    }

    /// The job's handler has failed: it comes again after a while, unless that is too often.
    pub(crate) fn failed(&mut self, job: &Job, terminal: bool) -> Fate {
        let most = self.options.max_attempts;
        let wait = backoff(job.blamed + 1, self.options.retry_first, self.options.retry_most);
        let lane = self.lane(job);
        lane.turn_to(job.offset());
        lane.blamed = job.blamed.saturating_add(1);
        if terminal {
            // Killed before it is kept, it is not tried again.
            lane.blamed = lane.blamed.max(most);
        }
        // It has not died of it.
        lane.deaths = 0;
        lane.postponed = 0;
        let is_over = terminal || (most != 0 && lane.blamed >= most);
        // Before the state that has another owner look at it.
        let retry_at = clock::boottime().saturating_add(clock::nanos(wait));
        lane.cursor.set_retry_at(if is_over { 0 } else { retry_at });
        lane.store(State::Failed);
        if !is_over {
            self.wait(job, wait);
            return Fate::Again;
        }
        self.give_up(job)
    }

    /// The job's answer could not be kept, for a reason that is the job's own: as a failure, but
    /// whether it was answered is to be settled.
    pub(crate) fn troubled(&mut self, job: &Job) -> Fate {
        let lane = self.lane(job);
        let attempt = lane.cursor.attempt().filter(|attempt| attempt.offset == job.offset());
        lane.in_doubt = attempt.map(|attempt| attempt.floor).or(job.in_doubt);
        self.failed(job, false)
    }

    /// Whether a job has had its attempts: those that failed, and those that it did not survive.
    pub(crate) fn is_over(&self, job: &Job) -> bool {
        job.is_condemned
            || (self.options.max_attempts != 0 && job.blamed >= self.options.max_attempts)
    }

    /// Why a job that is over is not tried again.
    pub(crate) fn why_over(&self, job: &Job) -> &'static str {
        match job.is_condemned {
            true => "its lane was stopped at it, and told to skip it",
            false => "its handler died with the process",
        }
    }

    /// What becomes of a job that is given up.
    pub(crate) fn give_up(&mut self, job: &Job) -> Fate {
        if self.options.poison == Poison::DeadLetter || job.is_condemned {
            count(&self.counters.dead, 1);
            events::given_up(&self.topic.name, &self.name, job.offset(), job.attempt);
            return Fate::GivenUp;
        }
        let lane = self.lane(job);
        lane.store(State::Stopped);
        lane.mode = Mode::Stopped;
        // Durable: a payment that must not go on does not go on after a reboot either.
        let stopped = lane.cursor.set_stopped_at(Some(job.offset()));
        if let Err(error) = stopped {
            events::position_not_synced(&self.topic.name, &error);
        }
        count(&self.counters.stopped, 1);
        events::lane_stopped(&self.topic.name, &self.name, job.lane, job.offset());
        Fate::Stopped
    }

    /// Lets the job's lane wait, and keeps its record for then.
    pub(super) fn wait(&mut self, job: &Job, wait: Duration) {
        let record = job.record.clone();
        self.keep(job.lane, record, later(Instant::now(), wait));
    }

    /// An error came between: the job comes again, and whether it was done is to be settled.
    pub(crate) fn abandon(&mut self, job: &Job) {
        let lane = self.lane(job);
        if lane.mode != Mode::InHand {
            return;
        }
        if let Some(attempt) = lane.cursor.attempt().filter(|at| at.offset == job.offset()) {
            lane.in_doubt = Some(attempt.floor);
        }
        lane.kept = None;
        lane.kept_below = lane.kept_below.max(job.offset() + 1);
        self.rejoin(job.lane);
    }
}
