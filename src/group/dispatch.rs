//! A worker's lanes, and the next record of them. (`share` says which lanes it holds, `attempt` what
//! becomes of a record.)
//!
//! Two readers go through the topic: the first one ahead, for lanes that have done everything before
//! it; the second behind, for lanes that were taken over, or had to wait. They take turns, so that no
//! lane is delayed by another's past. A lane whose record is tried again later is passed by both until
//! then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::file::GroupFile;
use super::job::Job;
use super::lane::{Lane, Mode};
use super::members::Member;
use super::stats::{count, Counters};
use super::WorkerOptions;
use crate::cursor::{self, Cursor};
use crate::error::Result;
use crate::format::group::lane_of;
use crate::reader::Reader;
use crate::record::OwnedRecord;
use crate::stop::Stop;
use crate::sys::Access;
use crate::topic::{Open, Topic};

/// Free lanes, and workers that came or went, are looked for this often: a quarter of the 100 ms within
/// which the lanes of a killed worker move.
pub(super) const LOOK: Duration = Duration::from_millis(25);
/// Not more often, however many come and go.
const LOOK_LEAST: Duration = Duration::from_millis(1);
/// Positions are made durable this often, and at a graceful stop.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Lanes without records of their own follow this often while the worker is busy.
const ADVANCE_INTERVAL: Duration = Duration::from_millis(10);
/// The same while it has nothing to do.
const IDLE_ADVANCE_INTERVAL: Duration = Duration::from_millis(1);
/// A turn of a reader passes so many records of other lanes at most.
const TURN: u32 = 1024;

/// See the module.
pub(crate) struct Dispatch {
    pub(crate) topic: Arc<Open>,
    pub(super) group: Arc<GroupFile>,
    pub(super) member: Member,
    pub(super) options: WorkerOptions,
    /// The topic that handling appends to: positions are durable after its records.
    pub(super) effects: Option<Topic>,
    pub(super) lanes: BTreeMap<u32, Lane>,
    pub(super) waiting: BTreeSet<(Instant, u32)>,
    pub(super) behind_count: usize,
    pub(super) ahead: Reader,
    pub(super) behind: Reader,
    pub(super) is_behinds_turn: bool,
    /// The last error was of the reader behind.
    pub(super) failed_behind: bool,
    /// Since when a lane was free at every look.
    pub(super) free_since: Option<Instant>,
    pub(super) wanted_at: Instant,
    pub(super) looked_at: Instant,
    /// The least floor of the lanes taken since somebody asked.
    pub(super) taken_floor: Option<u64>,
    pub(super) look_at: Instant,
    pub(super) advanced_at: Instant,
    pub(super) synced_at: Instant,
    pub(crate) counters: Arc<Counters>,
}

impl Dispatch {
    pub(crate) fn open(
        topic: &Arc<Open>,
        name: &str,
        options: WorkerOptions,
        effects: Option<Topic>,
        counters: Arc<Counters>,
    ) -> Result<Dispatch> {
        topic.member()?;
        let group = Arc::new(GroupFile::open(topic, name, Access::ReadWrite)?);
        let member = Member::join(&group)?;
        group.check_not_deleted(topic)?;
        let now = Instant::now();
        let mut ahead = Reader::at(Arc::clone(topic), 0)?;
        ahead.set_spin(options.spin);
        ahead.pass_over_lost();
        let mut behind = Reader::at(Arc::clone(topic), 0)?;
        behind.pass_over_lost();
        Ok(Dispatch {
            topic: Arc::clone(topic),
            group,
            member,
            options,
            effects,
            lanes: BTreeMap::new(),
            waiting: BTreeSet::new(),
            behind_count: 0,
            ahead,
            behind,
            is_behinds_turn: false,
            failed_behind: false,
            free_since: None,
            wanted_at: now,
            looked_at: now,
            taken_floor: None,
            look_at: now,
            advanced_at: now,
            synced_at: now,
            counters,
        })
    }

    /// The next job; waits for it until `until`, or until `stop` is given: then `None`.
    pub(crate) fn next(&mut self, until: Option<Instant>, stop: &Stop) -> Result<Option<Job>> {
        self.topic.not_forked()?;
        loop {
            if stop.is_stopped() {
                return Ok(None);
            }
            let now = Instant::now();
            let is_due = now >= self.look_at;
            if is_due || (self.member.is_outdated() && now - self.looked_at >= LOOK_LEAST) {
                self.looked_at = now;
                self.look_at = now + LOOK;
                self.look()?;
            }
            if now.duration_since(self.advanced_at) >= ADVANCE_INTERVAL {
                self.advance()?;
            }
            if now.duration_since(self.synced_at) >= SYNC_INTERVAL {
                self.sync()?;
            }
            self.wake_waiting(now);
            if let Some(job) = self.turn()? {
                return Ok(Some(job));
            }
            if self.behind_count > 0 || self.has_more()? {
                continue;
            }
            let is_over = until.is_some_and(|until| now >= until);
            // Not on the way of a request that comes while this worker still looks for it.
            if is_over || now.duration_since(self.advanced_at) >= IDLE_ADVANCE_INTERVAL {
                self.advance()?;
            }
            if is_over {
                return Ok(None);
            }
            self.rest(now, until, stop)?;
        }
    }

    /// Sleeps until something may have come.
    fn rest(&mut self, now: Instant, until: Option<Instant>, stop: &Stop) -> Result<()> {
        let mut wake = self.look_at;
        if let Some((first, _)) = self.waiting.first() {
            wake = wake.min(*first);
        }
        let wake = until.map_or(wake, |until| wake.min(until));
        let wait = wake.saturating_duration_since(now);
        if self.lanes.is_empty() {
            std::thread::sleep(wait);
            return Ok(());
        }
        self.ahead.wait_until_more(wait, stop)
    }

    fn has_more(&self) -> Result<bool> {
        Ok(!self.lanes.is_empty() && self.ahead.lag()? > 0)
    }

    /// Puts a lane where its position says: with the reader ahead, or behind it.
    pub(super) fn rejoin(&mut self, number: u32) {
        let ahead = self.ahead.offset();
        let Some(lane) = self.lanes.get_mut(&number) else { return };
        let at = lane.cursor.committed();
        if at >= ahead {
            lane.mode = Mode::Joined;
            return;
        }
        lane.mode = Mode::Behind;
        let is_due = self.behind_count == 0 || at < self.behind.offset();
        if is_due && at != self.behind.offset() {
            self.behind.seek_to(at);
        }
        self.behind_count += 1;
    }

    fn wake_waiting(&mut self, now: Instant) {
        while let Some((until, number)) = self.waiting.first().copied() {
            if until > now {
                break;
            }
            self.waiting.pop_first();
            self.rejoin(number);
        }
    }

    /// A turn of each reader, until one comes to a record that is to be handled.
    fn turn(&mut self) -> Result<Option<Job>> {
        for _ in 0..2 {
            self.is_behinds_turn = !self.is_behinds_turn;
            let found = match self.is_behinds_turn {
                true => self.turn_behind(),
                false => self.turn_ahead(),
            };
            self.failed_behind = self.is_behinds_turn;
            if let Some((record, number)) = found? {
                return Ok(Some(self.job(record, number)));
            }
        }
        Ok(None)
    }

    fn turn_ahead(&mut self) -> Result<Option<(OwnedRecord, u32)>> {
        if self.lanes.is_empty() {
            return Ok(None);
        }
        for passed in 0..TURN {
            let Some(record) = self.ahead.next()? else {
                count(&self.counters.read, passed.into());
                return Ok(None);
            };
            let number = lane_of(record.key(), record.offset(), self.group.lanes);
            let is_ours = self.lanes.get(&number).is_some_and(|lane| {
                lane.mode == Mode::Joined && record.offset() >= lane.cursor.committed()
            });
            if is_ours {
                let record = record.to_owned();
                count(&self.counters.read, u64::from(passed) + 1);
                return Ok(Some((record, number)));
            }
        }
        count(&self.counters.read, TURN.into());
        Ok(None)
    }

    fn turn_behind(&mut self) -> Result<Option<(OwnedRecord, u32)>> {
        for passed in 0..TURN {
            if self.behind_count == 0 {
                count(&self.counters.read, passed.into());
                return Ok(None);
            }
            if self.behind.offset() >= self.ahead.offset() {
                self.catch_up()?;
                continue;
            }
            let Some(record) = self.behind.next()? else {
                count(&self.counters.read, passed.into());
                return Ok(None);
            };
            let number = lane_of(record.key(), record.offset(), self.group.lanes);
            let is_wanted = self.lanes.get(&number).is_some_and(|lane| {
                lane.mode == Mode::Behind && record.offset() >= lane.cursor.committed()
            });
            if is_wanted {
                let record = record.to_owned();
                self.behind_count -= 1;
                count(&self.counters.read, u64::from(passed) + 1);
                return Ok(Some((record, number)));
            }
        }
        count(&self.counters.read, TURN.into());
        Ok(None)
    }

    /// All lanes that were behind have come to where the reader ahead is.
    fn catch_up(&mut self) -> Result<()> {
        let at = self.ahead.offset();
        for lane in self.lanes.values_mut().filter(|lane| lane.mode == Mode::Behind) {
            lane.advance(at, None)?;
            lane.mode = Mode::Joined;
        }
        self.behind_count = 0;
        Ok(())
    }

    fn job(&mut self, record: OwnedRecord, number: u32) -> Job {
        let lane = self.lanes.get_mut(&number).expect("the caller has just found it");
        lane.mode = Mode::InHand;
        let offset = record.offset();
        if lane.about != Some(offset) {
            // That one was lost, and skipped.
            lane.forget();
            lane.about = Some(offset);
        }
        let doubtful = (offset < lane.cursor.doubt()).then(|| lane.cursor.floor());
        Job {
            topic: Arc::clone(&self.topic),
            group: Arc::clone(&self.group),
            lane: number,
            attempt: lane.count.saturating_add(1),
            blamed: lane.blamed,
            is_suspect: lane.is_suspect,
            in_doubt: lane.in_doubt,
            doubtful,
            is_last: self.options.max_attempts != 0
                && lane.blamed.saturating_add(1) >= self.options.max_attempts,
            may_be_kept: offset < lane.kept_below || doubtful.is_some(),
            record,
        }
    }

    pub(super) fn lane(&mut self, job: &Job) -> &mut Lane {
        self.lanes.get_mut(&job.lane).expect("a lane is not let go while a job of it is in hand")
    }

    /// Whether any lane has records that may have been handled before the last power loss.
    pub(crate) fn has_doubt(&self) -> bool {
        self.lanes.values().any(|lane| lane.cursor.doubt() != 0)
    }

    /// Where the effects begin of which an owner of lanes taken since the last call may not know.
    pub(crate) fn take_taken_floor(&mut self) -> Option<u64> {
        self.taken_floor.take()
    }

    /// Every record of this worker's lanes below it is done.
    pub(crate) fn oldest(&self) -> u64 {
        self.lanes.values().map(|lane| lane.cursor.committed()).min().unwrap_or(0)
    }

    /// Lanes that have nothing between their position and the reader follow it.
    pub(super) fn advance(&mut self) -> Result<()> {
        self.advanced_at = Instant::now();
        let floor = self.effects.as_ref().map(Topic::end_offset).transpose()?;
        let at = self.ahead.offset();
        for lane in self.lanes.values_mut().filter(|lane| lane.mode == Mode::Joined) {
            // Also one that is there already: replies that were of others need not be kept for it.
            lane.advance(at, floor)?;
        }
        Ok(())
    }

    /// Makes the positions durable, after what they stand for.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.synced_at = Instant::now();
        let changed = self.lanes.values_mut().filter(|lane| lane.cursor.is_changed());
        let mut cursors: Vec<&mut Cursor> = changed.map(|lane| &mut lane.cursor).collect();
        let Some(last) = cursors.iter().map(|cursor| cursor.committed()).max() else {
            return Ok(());
        };
        if last > 0 {
            self.topic.wait_durable(last)?;
        }
        if let Some(effects) = &self.effects {
            if let Some(last) = effects.end_offset()?.checked_sub(1) {
                effects.wait_durable(last)?;
            }
        }
        cursor::sync_all(&mut cursors)
    }

    /// Commits what is done and makes it durable: before a graceful end.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.topic.not_forked()?;
        self.advance()?;
        self.sync()
    }

    /// After `Trimmed` or `Corrupt`: goes on behind it, and returns the offsets that
    /// are passed over.
    pub(crate) fn skip(&mut self) -> Result<std::ops::Range<u64>> {
        self.topic.not_forked()?;
        let first = self.topic.first_offset()?;
        let reader = if self.failed_behind { &mut self.behind } else { &mut self.ahead };
        let from = reader.offset();
        if from >= first {
            return reader.skip_damage();
        }
        // Both: the other one would say the same again.
        for reader in [&mut self.ahead, &mut self.behind] {
            if reader.offset() < first {
                reader.seek_to(first);
            }
        }
        for lane in self.lanes.values_mut().filter(|lane| lane.cursor.committed() < first) {
            lane.advance(first, None)?;
            lane.cursor.end_attempt();
        }
        Ok(from..first)
    }

    /// The lowest floor that any lane of the group needs after a power loss.
    pub(crate) fn durable_effects_floor(&self) -> Result<u64> {
        let mut floor = u64::MAX;
        for lane in 0..self.group.lanes {
            floor = floor.min(self.group.look(&self.topic, lane)?.durable_floor);
        }
        Ok(floor)
    }
}

impl Drop for Dispatch {
    fn drop(&mut self) {
        // The kernel takes the locks back with the file. A forked child has no mapping of it.
        if self.topic.not_forked().is_ok() {
            self.member.leave();
        }
    }
}
