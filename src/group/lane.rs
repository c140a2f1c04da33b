//! A lane that a worker owns: its position, and the state of its next record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::file::GroupFile;
use crate::cursor::{Attempt, Cursor, Meaning};
use crate::error::{IoResultExt, Result};
use crate::format::group;
use crate::record::OwnedRecord;
use crate::store::{Book, Handle};
use crate::sys::{clock, Access};

/// After this many deaths beside other handlers, the record runs alone. Any of the handlers may have caused
/// the first death, and the records that were in flight then are not to wait.
pub(super) const DEATHS_OF_A_SUSPECT: u8 = 2;

/// The state of an attempt that was begun, as stored in the lane's page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Its handler was called, with others beside it.
    Running,
    /// Its handler was called, with no other in its process.
    Alone,
    /// Its handler has failed.
    Failed,
    /// Its process died while its handler ran.
    Suspect,
    /// No longer retried: no record of the lane is handled until it is resumed.
    Stopped,
    /// To be copied to the dead-letter topic without another attempt.
    Condemned,
}

const STATES: [State; 6] =
    [State::Running, State::Alone, State::Failed, State::Suspect, State::Stopped, State::Condemned];

impl State {
    /// Returns its name, such as `running alone`.
    pub fn name(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Alone => "running alone",
            State::Failed => "failed",
            State::Suspect => "suspect",
            State::Stopped => "stopped",
            State::Condemned => "condemned",
        }
    }
}

/// One word of the lane's page, written in one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trial {
    pub(super) state: State,
    /// The attempts that count against the record.
    pub(super) blamed: u32,
    /// The attempts that ended in the death of a process in which other handlers ran.
    pub(super) deaths: u8,
}

pub(super) fn encode_trial(trial: Trial) -> u64 {
    let code = STATES.iter().position(|other| *other == trial.state).unwrap_or(0) as u64;
    u64::from(trial.deaths) << 40 | u64::from(trial.blamed) << 8 | code
}

/// Decodes the word.
pub(super) fn decode_trial(word: u64) -> Trial {
    let state = STATES.get((word & 0xff) as usize).copied().unwrap_or(State::Suspect);
    Trial { state, blamed: (word >> 8) as u32, deaths: (word >> 40) as u8 }
}

/// How a worker treats a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Its records are handled when the worker reaches them.
    Joined,
    /// Its position is below the one of the worker. `missed`: the second reader is past its position as well.
    Behind { missed: bool },
    /// The record that is kept is retried at this time.
    Waiting(Instant),
    /// The record that is kept is retried when its turn comes.
    Due,
    /// The record at its position is in flight.
    InFlight,
    /// Nothing is handled until the lane is resumed.
    Stopped,
}

/// A lane that a worker owns; see the module.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) cursor: Cursor,
    pub(super) mode: Mode,
    /// The record that the state is about: at the position, or after it where records are settled again.
    pub(super) about: Option<u64>,
    /// The attempts at it that were begun.
    pub(super) count: u32,
    /// The attempts that count against it.
    pub(super) blamed: u32,
    /// The attempts that ended in the death of a process in which other handlers ran.
    pub(super) deaths: u8,
    /// Whether it becomes a dead letter without another attempt.
    pub(super) is_condemned: bool,
    /// It is not retried before this time.
    pub(super) not_before: Option<Instant>,
    /// If an attempt without a known end was begun: the end of the effects at that time.
    pub(super) in_doubt: Option<u64>,
    /// How often it was postponed because it must run alone and other handlers were running.
    pub(super) postponed: u32,
    /// The record itself, while it waits for its next attempt.
    pub(super) kept: Option<OwnedRecord>,
    /// Records below it may be dead letters already.
    pub(super) kept_below: u64,
}

/// Where the effects end, and from where on they are of interest to the next owner of a lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct EffectsFloor {
    pub(super) end: u64,
    pub(super) floor: u64,
}

impl Lane {
    /// Takes over a lane whose lock is held.
    pub(super) fn take(
        topic: &Arc<Handle>,
        book: &Arc<Book>,
        number: u32,
        meaning: Meaning,
    ) -> Result<Lane> {
        let cursor = Cursor::take(topic, book, group::lane_at(number), meaning)?;
        let mut lane = Lane {
            cursor,
            mode: Mode::Joined,
            about: None,
            count: 0,
            blamed: 0,
            deaths: 0,
            is_condemned: false,
            not_before: None,
            in_doubt: None,
            postponed: 0,
            kept: None,
            kept_below: topic.frontier()?.end,
        };
        if lane.cursor.doubt() == u64::MAX {
            lane.cursor.set_doubt(topic.settled_end()?);
        }
        let stopped_at = lane.cursor.stopped_at();
        match lane.cursor.attempt() {
            Some(attempt) if stopped_at == Some(attempt.offset) && !lane.cursor.was_live() => {
                lane.inherit(&attempt);
                lane.mode = Mode::Stopped;
                lane.store(State::Stopped);
            }
            Some(attempt) if lane.is_at(attempt.offset) => lane.inherit(&attempt),
            // The process was killed after the commit and before the attempt was ended; or the attempt is
            // another record's, from before a power loss.
            _ => lane.cursor.end_attempt(),
        }
        Ok(lane)
    }

    fn is_at(&self, offset: u64) -> bool {
        self.cursor.was_live() && offset >= self.cursor.committed()
    }

    fn inherit(&mut self, attempt: &Attempt) {
        let trial = decode_trial(self.cursor.trial());
        self.about = Some(attempt.offset);
        self.count = attempt.count;
        self.blamed = trial.blamed;
        self.deaths = trial.deaths;
        self.in_doubt = Some(attempt.floor);
        match trial.state {
            State::Stopped => self.mode = Mode::Stopped,
            State::Condemned => self.is_condemned = true,
            State::Failed => {
                let left = self.cursor.retry_at().saturating_sub(clock::boottime());
                self.not_before = Some(later(Instant::now(), Duration::from_nanos(left)));
            }
            State::Suspect => {}
            // Beside other handlers it may have been a bystander.
            State::Running => self.deaths = self.deaths.saturating_add(1),
            State::Alone => self.blamed = self.blamed.saturating_add(1),
        }
        if matches!(trial.state, State::Running | State::Alone) {
            self.store(State::Suspect);
        }
    }

    /// Returns whether its record runs alone next.
    pub(super) fn is_suspect(&self) -> bool {
        self.deaths >= DEATHS_OF_A_SUSPECT
    }

    pub(super) fn store(&self, state: State) {
        let trial = Trial { state, blamed: self.blamed, deaths: self.deaths };
        self.cursor.set_trial(encode_trial(trial));
    }

    /// Makes this record the one that the stored state is about.
    pub(super) fn turn_to(&mut self, offset: u64) {
        if self.about != Some(offset) {
            self.cursor.end_attempt();
            self.forget();
            self.about = Some(offset);
        }
    }

    /// Records that a record was handled.
    pub(super) fn done(&mut self, offset: u64, floor: Option<EffectsFloor>) -> Result<()> {
        self.advance(offset + 1, floor)?;
        crate::sys::crash_point::crash_point!("lane.committed");
        // The attempt of a later record is kept while records before it are settled again.
        if self.cursor.attempted().is_some_and(|attempted| attempted <= offset) {
            self.cursor.end_attempt();
        }
        if self.about.is_none_or(|about| about <= offset) {
            self.forget();
        }
        Ok(())
    }

    /// Forgets the state of its record.
    pub(super) fn forget(&mut self) {
        self.about = None;
        self.count = 0;
        self.blamed = 0;
        self.deaths = 0;
        self.is_condemned = false;
        self.not_before = None;
        self.in_doubt = None;
        self.postponed = 0;
        self.kept = None;
    }

    /// Moves the position, and the floor as well unless replies below the new floor are still needed.
    pub(super) fn advance(&mut self, offset: u64, floor: Option<EffectsFloor>) -> Result<()> {
        if offset > self.cursor.committed() {
            self.cursor.commit(offset)?;
        }
        let doubt = self.cursor.doubt();
        if doubt != 0 && self.cursor.committed() >= doubt {
            self.cursor.set_doubt(0);
        }
        if let Some(EffectsFloor { end, floor }) = floor.filter(|_| self.cursor.doubt() == 0) {
            let before = self.cursor.floor();
            // The floor does not move back: the records below it may be trimmed. A floor above the end belongs
            // to a topic that was deleted since.
            if floor > before || before > end {
                self.cursor.set_floor(floor);
            }
        }
        Ok(())
    }
}

/// Returns the time `wait` from now; a very long time from now if that overflows.
pub(super) fn later(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now + Duration::from_secs(1 << 32))
}

/// Takes a lane that no worker has, and lets it go again: its live words are of this boot then.
pub(super) fn take_once(topic: &Arc<Handle>, name: &str, lane: u32) -> Result<()> {
    let group = GroupFile::open(topic, name, Access::ReadWrite)?;
    if group.file.try_lock(lane.into(), 1).at("locking", &group.path)? {
        let book = Arc::new(group.book(None));
        drop(Lane::take(topic, &book, lane, Meaning::Answered)?);
    }
    Ok(())
}
