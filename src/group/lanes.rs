//! The lanes that a worker owns, and their next records.
//!
//! Two readers go through the topic. The first one, `ahead`, is for lanes that have done everything before
//! its position; the second, `behind`, is for lanes that were taken over, or had to wait. They take turns,
//! so that no lane is delayed by another's past. A record that is retried later is kept until then, and is
//! not read again.
//!
//! The second reader goes back for a lane that it has passed only after it has read past its previous maximum
//! by as much as it goes back. Otherwise a lane with many failures would keep it from all later records.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lane::{decode_trial, EffectsFloor, Lane, Mode, State};
use super::stats::{count, Counters};
use crate::error::Result;
use crate::format::group::lane_of;
use crate::reader::Reader;
use crate::record::OwnedRecord;
use crate::stop::Stop;
use crate::store::Handle;

/// Most records of other lanes that a reader skips before the other reader gets its turn.
const TURN: u64 = 1024;

/// Where the next record may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Kept,
    Behind,
    Ahead,
}

impl Source {
    fn next(self) -> Source {
        match self {
            Source::Kept => Source::Behind,
            Source::Behind => Source::Ahead,
            Source::Ahead => Source::Kept,
        }
    }
}

/// See the module's documentation.
pub(super) struct Lanes {
    /// The lanes of the group, by their numbers; `None` for those of other workers.
    all: Vec<Option<Box<Lane>>>,
    /// The lanes that are owned.
    owned_count: usize,
    /// Lanes that wait until their kept record is retried.
    waiting: BTreeSet<(Instant, u32)>,
    /// Lanes whose kept record is to be retried.
    due: VecDeque<u32>,
    ahead: Reader,
    behind: Reader,
    /// The lanes for which the second reader reads.
    behind_count: usize,
    /// The furthest offset of the second reader since there have been lanes for it.
    behind_reached: u64,
    /// The second reader does not go back before it has reached this offset.
    turn_back_at: u64,
    /// The source that had the last turn: an error came from it.
    turn_of: Source,
    counters: Arc<Counters>,
}

impl Lanes {
    /// `total`: the number of lanes of the group. `spin`: how long the first reader spins for a record.
    pub(super) fn new(
        topic: &Arc<Handle>,
        total: u32,
        spin: Duration,
        counters: &Arc<Counters>,
    ) -> Result<Lanes> {
        let mut ahead = Reader::at(Arc::clone(topic), 0)?;
        ahead.set_spin(spin);
        ahead.pass_over_lost();
        let mut behind = Reader::at(Arc::clone(topic), 0)?;
        behind.pass_over_lost();
        Ok(Lanes {
            all: (0..total).map(|_| None).collect(),
            owned_count: 0,
            waiting: BTreeSet::new(),
            due: VecDeque::new(),
            ahead,
            behind,
            behind_count: 0,
            behind_reached: 0,
            turn_back_at: 0,
            turn_of: Source::Ahead,
            counters: Arc::clone(counters),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.owned_count
    }

    pub(super) fn get(&self, number: u32) -> Option<&Lane> {
        self.all.get(number as usize)?.as_deref()
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut Lane> {
        self.all.get_mut(number as usize)?.as_deref_mut()
    }

    /// Returns a lane that the worker owns.
    pub(super) fn lane(&mut self, number: u32) -> &mut Lane {
        self.get_mut(number).expect("a lane is kept while a job of it is in flight")
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Lane)> {
        (0..).zip(&self.all).filter_map(|(number, lane)| Some((number, lane.as_deref()?)))
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Lane> {
        self.all.iter_mut().filter_map(Option::as_deref_mut)
    }

    /// Adds a lane that was taken.
    pub(super) fn insert(&mut self, number: u32, lane: Lane) {
        if self.owned_count == 0 {
            self.ahead.seek_to(lane.cursor.committed());
        }
        let is_stopped = lane.mode == Mode::Stopped;
        self.all[number as usize] = Some(Box::new(lane));
        self.owned_count += 1;
        if !is_stopped {
            self.rejoin(number);
        }
    }

    /// Removes a lane that is released.
    pub(super) fn remove(&mut self, number: u32) -> Option<Lane> {
        let lane = *self.all[number as usize].take()?;
        self.owned_count -= 1;
        match lane.mode {
            Mode::Behind { .. } => self.behind_count -= 1,
            Mode::Waiting(until) => {
                self.waiting.remove(&(until, number));
            }
            Mode::Due => self.due.retain(|due| *due != number),
            Mode::Joined | Mode::InFlight | Mode::Stopped => {}
        }
        Some(lane)
    }

    /// Assigns a lane to the reader that its position calls for: the first or the second.
    pub(super) fn rejoin(&mut self, number: u32) {
        let ahead = self.ahead.offset();
        let Some(lane) = &mut self.all[number as usize] else { return };
        let at = lane.cursor.committed();
        if at >= ahead {
            lane.mode = Mode::Joined;
            return;
        }
        let is_first = self.behind_count == 0;
        lane.mode = Mode::Behind { missed: !is_first && at < self.behind.offset() };
        self.behind_count += 1;
        if is_first {
            self.behind.seek_to(at);
            (self.behind_reached, self.turn_back_at) = (0, 0);
        }
    }

    /// Resumes stopped lanes for which an operator called `resume` or `skip_stopped`, by taking the state
    /// back.
    pub(super) fn resume_stopped(&mut self) {
        let mut resumed = Vec::new();
        for (number, lane) in (0..).zip(&mut self.all) {
            let Some(lane) = lane else { continue };
            let state = decode_trial(lane.cursor.trial()).state;
            if lane.mode == Mode::Stopped && state != State::Stopped {
                (lane.blamed, lane.deaths, lane.not_before) = (0, 0, None);
                lane.is_condemned = state == State::Condemned;
                resumed.push(number);
            }
        }
        for number in resumed {
            self.rejoin(number);
        }
    }

    /// Keeps the record of a lane until then.
    pub(super) fn keep(&mut self, number: u32, record: OwnedRecord, until: Instant) {
        let Some(lane) = self.get_mut(number) else { return };
        lane.kept = Some(record);
        lane.mode = Mode::Waiting(until);
        self.waiting.insert((until, number));
    }

    /// Makes kept records due whose time has come.
    pub(super) fn wake_waiting(&mut self, now: Instant) {
        while let Some((until, number)) = self.waiting.first().copied() {
            if until > now {
                break;
            }
            self.waiting.pop_first();
            if let Some(lane) = self.get_mut(number) {
                lane.mode = Mode::Due;
                self.due.push_back(number);
            }
        }
    }

    /// Whether there is, or may be, a record for one of the lanes.
    pub(super) fn has_more(&self) -> Result<bool> {
        Ok(self.behind_count > 0
            || !self.due.is_empty()
            || (self.owned_count > 0 && self.ahead.lag()? > 0))
    }

    /// Sleeps until there may be a record, until `wake` at the latest.
    pub(super) fn rest(&mut self, now: Instant, wake: Instant, stop: &Stop) -> Result<()> {
        let wake = self.waiting.first().map_or(wake, |(first, _)| wake.min(*first));
        let wait = wake.saturating_duration_since(now);
        if self.owned_count == 0 {
            std::thread::sleep(wait);
            return Ok(());
        }
        self.ahead.wait_until_more(wait, stop)
    }

    /// Gives the next source its turn. Returns the record that is to be handled next, and its lane, if the
    /// source has found one.
    pub(super) fn turn(&mut self) -> Result<Option<(OwnedRecord, u32)>> {
        self.turn_of = self.turn_of.next();
        let mut read = 0;
        let found = match self.turn_of {
            Source::Kept => self.take_kept(),
            Source::Behind => self.turn_behind(&mut read)?,
            Source::Ahead => self.turn_ahead(&mut read)?,
        };
        if read > 0 {
            count(&self.counters.read, read);
        }
        Ok(found)
    }

    fn take_kept(&mut self) -> Option<(OwnedRecord, u32)> {
        let number = self.due.pop_front()?;
        let record = self.get_mut(number)?.kept.take()?;
        Some((record, number))
    }

    fn turn_ahead(&mut self, read: &mut u64) -> Result<Option<(OwnedRecord, u32)>> {
        if self.owned_count == 0 {
            return Ok(None);
        }
        while *read < TURN {
            let Some(record) = self.ahead.next()? else { break };
            *read += 1;
            let number = lane_of(record.key(), record.offset(), self.all.len() as u32);
            let is_ours = self.all[number as usize].as_ref().is_some_and(|lane| {
                lane.mode == Mode::Joined && record.offset() >= lane.cursor.committed()
            });
            if is_ours {
                return Ok(Some((record.to_owned(), number)));
            }
        }
        Ok(None)
    }

    fn turn_behind(&mut self, read: &mut u64) -> Result<Option<(OwnedRecord, u32)>> {
        while *read < TURN && self.behind_count > 0 {
            let is_through = self.behind.offset() >= self.ahead.offset();
            if is_through || self.behind.offset() >= self.turn_back_at {
                self.turn_back();
            }
            if self.behind.offset() >= self.ahead.offset() {
                self.catch_up()?;
                continue;
            }
            let Some(record) = self.behind.next()? else { break };
            *read += 1;
            self.behind_reached = self.behind_reached.max(record.offset());
            let number = lane_of(record.key(), record.offset(), self.all.len() as u32);
            let is_wanted = self.all[number as usize].as_ref().is_some_and(|lane| {
                lane.mode == Mode::Behind { missed: false }
                    && record.offset() >= lane.cursor.committed()
            });
            if is_wanted {
                self.behind_count -= 1;
                return Ok(Some((record.to_owned(), number)));
            }
        }
        Ok(None)
    }

    /// Moves the second reader back to the lanes that it has passed, if there are any.
    fn turn_back(&mut self) {
        let missed = self.iter_mut();
        let missed = missed.filter(|lane| lane.mode == Mode::Behind { missed: true });
        let mut least = None;
        for lane in missed {
            lane.mode = Mode::Behind { missed: false };
            let at = lane.cursor.committed();
            least = Some(least.map_or(at, |least: u64| least.min(at)));
        }
        if let Some(at) = least.filter(|at| *at < self.behind.offset()) {
            self.behind.seek_to(at);
            let reached = self.behind_reached;
            self.turn_back_at = reached + reached.saturating_sub(at).max(TURN);
        }
    }

    /// All lanes of the second reader have reached the position of the first.
    fn catch_up(&mut self) -> Result<()> {
        let at = self.ahead.offset();
        let behind = self.iter_mut();
        for lane in behind.filter(|lane| lane.mode == Mode::Behind { missed: false }) {
            lane.advance(at, None)?;
            lane.mode = Mode::Joined;
        }
        self.behind_count = 0;
        Ok(())
    }

    /// Moves lanes that have nothing between their position and the first reader to the reader's position.
    pub(super) fn advance(&mut self, floor: Option<EffectsFloor>) -> Result<()> {
        let at = self.ahead.offset();
        for lane in self.iter_mut().filter(|lane| lane.mode == Mode::Joined) {
            // Even a lane that is there already: replies for other lanes need not be kept for it.
            lane.advance(at, floor)?;
        }
        Ok(())
    }

    /// Continues after the records of a `Trimmed` or `Corrupt` error, and returns the offsets that are
    /// skipped. `first`: the topic's first offset.
    pub(super) fn skip(&mut self, first: u64) -> Result<Range<u64>> {
        let failed_behind = self.turn_of == Source::Behind;
        let reader = if failed_behind { &mut self.behind } else { &mut self.ahead };
        let from = reader.offset();
        if from >= first {
            return reader.skip_damage();
        }
        // Both readers, because the other one would return the same error.
        for reader in [&mut self.ahead, &mut self.behind] {
            if reader.offset() < first {
                reader.seek_to(first);
            }
        }
        for lane in self.iter_mut().filter(|lane| lane.cursor.committed() < first) {
            lane.advance(first, None)?;
            lane.cursor.end_attempt();
        }
        Ok(from..first)
    }
}
