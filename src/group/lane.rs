//! A lane in a worker's hands: its position, and what is known of the record at it.

use std::time::Instant;

use super::file::GroupFile;
use crate::cursor::{Attempt, Cursor};
use crate::error::Result;
use crate::format::group;
use crate::topic::Open;
use std::sync::Arc;

/// What is known of an attempt that was begun, as stored in the lane's page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Its handler was called, and others beside it.
    Running,
    /// Its handler was called, with no other in its process.
    Alone,
    /// Its handler has failed.
    Failed,
    /// Its process has died while it ran: it runs alone next.
    Suspect,
    /// Given up: nothing of the lane is handled until it is resumed.
    Stopped,
}

const STATES: [State; 5] =
    [State::Running, State::Alone, State::Failed, State::Suspect, State::Stopped];

/// State, and the attempts that count against the record, in one word: stored at once.
pub(super) fn encode_trial(state: State, blamed: u32) -> u64 {
    let code = STATES.iter().position(|other| *other == state).unwrap_or(0) as u64;
    u64::from(blamed) << 8 | code
}

/// The reverse.
pub(super) fn decode_trial(trial: u64) -> (State, u32) {
    let state = STATES.get((trial & 0xff) as usize).copied().unwrap_or(State::Suspect);
    (state, (trial >> 8) as u32)
}

/// What a worker does with a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Its records are taken as the worker comes to them.
    Joined,
    /// It is behind where the worker is.
    Behind,
    /// The record at its position is tried again then.
    Waiting(Instant),
    /// The record at its position is in hand.
    InHand,
    /// Until somebody resumes it.
    Stopped,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) cursor: Cursor,
    pub(super) mode: Mode,
    /// Attempts that were begun at the record at the position.
    pub(super) count: u32,
    /// Those of them that count against it.
    pub(super) blamed: u32,
    /// It runs alone next.
    pub(super) is_suspect: bool,
    /// An attempt whose end is not known was begun when the effects ended here.
    pub(super) in_doubt: Option<u64>,
    /// Records below it may be dead letters already.
    pub(super) kept_below: u64,
    /// The record that all of this is about.
    pub(super) about: Option<u64>,
    /// How often it was to run alone, and others were running.
    pub(super) postponed: u32,
}

impl Lane {
    /// Takes over a lane whose lock is held.
    pub(super) fn take(topic: &Arc<Open>, group: &GroupFile, number: u32) -> Result<Lane> {
        let (file, map) = (Arc::clone(&group.file), Arc::clone(&group.map));
        let cursor = Cursor::take(topic, file, map, &group.path, group::lane_at(number))?;
        let mut lane = Lane {
            cursor,
            mode: Mode::Behind,
            count: 0,
            blamed: 0,
            is_suspect: false,
            in_doubt: None,
            kept_below: topic.frontier()?.end,
            about: None,
            postponed: 0,
        };
        if lane.cursor.doubt() == u64::MAX {
            lane.cursor.set_doubt(topic.settled_end()?);
        }
        match lane.cursor.attempt() {
            Some(attempt) if lane.is_at(attempt.offset) => lane.inherit(&attempt),
            // Committed, and killed before the attempt was ended; or another record's, from before a
            // power loss.
            _ => lane.cursor.end_attempt(),
        }
        Ok(lane)
    }

    fn is_at(&self, offset: u64) -> bool {
        self.cursor.was_live() && offset >= self.cursor.committed()
    }

    fn inherit(&mut self, attempt: &Attempt) {
        let (state, blamed) = decode_trial(self.cursor.trial());
        self.about = Some(attempt.offset);
        self.count = attempt.count;
        self.in_doubt = Some(attempt.floor);
        // Only a death that it had to itself counts: in company it may have been a bystander.
        self.blamed = blamed.saturating_add(u32::from(state == State::Alone));
        match state {
            State::Stopped => self.mode = Mode::Stopped,
            State::Failed => {}
            State::Running | State::Alone | State::Suspect => {
                self.is_suspect = true;
                self.store(State::Suspect);
            }
        }
    }

    pub(super) fn store(&self, state: State) {
        self.cursor.set_trial(encode_trial(state, self.blamed));
    }

    /// Notes that a record was handled.
    pub(super) fn done(&mut self, offset: u64, floor: Option<u64>) -> Result<()> {
        self.advance(offset + 1, floor)?;
        crate::sys::crash_point::crash_point!("lane.committed");
        self.cursor.end_attempt();
        self.forget();
        Ok(())
    }

    /// Forgets the record that it was at.
    pub(super) fn forget(&mut self) {
        self.about = None;
        self.count = 0;
        self.blamed = 0;
        self.is_suspect = false;
        self.in_doubt = None;
        self.postponed = 0;
    }

    /// Moves the position; and the floor, unless replies below the new one are still of interest.
    pub(super) fn advance(&mut self, offset: u64, floor: Option<u64>) -> Result<()> {
        if offset > self.cursor.committed() {
            self.cursor.commit(offset)?;
        }
        let doubt = self.cursor.doubt();
        if doubt != 0 && self.cursor.committed() >= doubt {
            self.cursor.set_doubt(0);
        }
        if let Some(floor) = floor.filter(|_| self.cursor.doubt() == 0) {
            self.cursor.set_floor(floor);
        }
        Ok(())
    }
}
