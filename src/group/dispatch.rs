//! A worker's lanes, and the next record of them. (`share` decides which lanes it owns, `attempt` the fate
//! of a record.)
//!
//! Two readers go through the topic. The first one, `ahead`, is for lanes that have done everything before
//! its position; the second, `behind`, is for lanes that were taken over, or had to wait. They take turns,
//! so that no lane is delayed by another's past. A record that is retried later is kept until then, and is
//! not read again.
//!
//! The second reader goes back for a lane that it has passed only after it has read past its previous maximum
//! by as much as it goes back. Otherwise a lane with many failures would keep it from all later records.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::file::GroupFile;
use super::job::Job;
use super::lane::{later, Lane, Mode};
use super::members::Member;
use super::stats::{count, Counters};
use super::WorkerOptions;
use crate::cursor::Meaning;
use crate::error::Result;
use crate::events;
use crate::format::group::{lane_at, lane_of, LANE_DOUBT_AT};
use crate::reader::Reader;
use crate::record::OwnedRecord;
use crate::stop::Stop;
use crate::store::{Book, Books, Handle};
use crate::sys::atomic::Ordering;
use crate::sys::Access;
use crate::topic::Topic;

/// How often a worker looks for free lanes, and for workers that joined or left: a quarter of the 100 ms
/// within which the lanes of a killed worker move.
pub(super) const LOOK: Duration = Duration::from_millis(25);
/// The shortest time between two such looks, however many workers join and leave.
const LOOK_LEAST: Duration = Duration::from_millis(1);
/// How often lanes without records of their own follow the reader while the worker is busy.
const ADVANCE_INTERVAL: Duration = Duration::from_millis(10);
/// How often they follow the reader while the worker has nothing to do.
const IDLE_ADVANCE_INTERVAL: Duration = Duration::from_millis(1);
/// Most records of other lanes that a reader skips before the other reader gets its turn.
const TURN: u32 = 1024;

/// Where the next record may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
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

/// A worker's lanes and readers; see the module.
pub(crate) struct Dispatch {
    pub(crate) topic: Arc<Handle>,
    /// The group's name.
    pub(super) name: String,
    pub(super) group: Arc<GroupFile>,
    pub(super) member: Member,
    pub(super) options: WorkerOptions,
    /// The topic that handling appends to: positions are durable after its records.
    pub(super) effects: Option<Topic>,
    /// The next owners of the lanes may need the effects from here on.
    pub(crate) effects_kept: u64,
    /// Makes the lanes' positions durable.
    pub(super) book: Arc<Book>,
    pub(super) lanes: BTreeMap<u32, Lane>,
    pub(super) waiting: BTreeSet<(Instant, u32)>,
    /// Lanes whose kept record is to be retried.
    pub(super) due: VecDeque<u32>,
    pub(super) behind_count: usize,
    pub(super) ahead: Reader,
    pub(super) behind: Reader,
    /// The furthest offset of the second reader since there have been lanes for it.
    pub(super) behind_reached: u64,
    /// The second reader does not go back before it has reached this offset.
    pub(super) turn_back_at: u64,
    /// The reader that had the last turn: an error came from it.
    pub(super) turn_of: Source,
    /// Since when every look has found a free lane.
    pub(super) free_since: Option<Instant>,
    pub(super) wanted_at: Instant,
    pub(super) looked_at: Instant,
    /// The lowest floor of the lanes taken since the last call of `take_taken_floor`.
    pub(super) taken_floor: Option<u64>,
    pub(super) look_at: Instant,
    pub(super) advanced_at: Instant,
    pub(crate) counters: Arc<Counters>,
}

impl Dispatch {
    pub(crate) fn open(
        topic: &Arc<Handle>,
        name: &str,
        options: WorkerOptions,
        effects: Option<Topic>,
        counters: Arc<Counters>,
    ) -> Result<Dispatch> {
        topic.member()?;
        let group = Arc::new(GroupFile::open(topic, name, Access::ReadWrite)?);
        let member = Member::join(&group, topic.log.options.lock_timeout, || {
            if effects.is_some() {
                doubt_all(&group);
            }
        })?;
        group.check_not_deleted(topic)?;
        let now = Instant::now();
        let mut ahead = Reader::at(Arc::clone(topic), 0)?;
        ahead.set_spin(options.spin);
        ahead.pass_over_lost();
        let mut behind = Reader::at(Arc::clone(topic), 0)?;
        behind.pass_over_lost();
        let book = Arc::new(group.book(effects.as_ref().map(|topic| topic.inner().closable())));
        Books::keep(topic, &book)?;
        Ok(Dispatch {
            topic: Arc::clone(topic),
            name: name.to_owned(),
            book,
            group,
            member,
            options,
            effects,
            effects_kept: u64::MAX,
            lanes: BTreeMap::new(),
            waiting: BTreeSet::new(),
            due: VecDeque::new(),
            behind_count: 0,
            ahead,
            behind,
            behind_reached: 0,
            turn_back_at: 0,
            turn_of: Source::Ahead,
            free_since: None,
            wanted_at: now,
            looked_at: now,
            taken_floor: None,
            look_at: now,
            advanced_at: now,
            counters,
        })
    }

    /// Returns the next job. Waits for it until `until`, or until `stop` is requested; then returns `None`.
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
            self.wake_waiting(now);
            if let Some(job) = self.turn()? {
                return Ok(Some(job));
            }
            let is_over = until.is_some_and(|until| now >= until);
            if !is_over && (self.behind_count > 0 || !self.due.is_empty() || self.has_more()?) {
                continue;
            }
            // Not while this worker still looks for a request that is arriving, which this would delay.
            if is_over || now.duration_since(self.advanced_at) >= IDLE_ADVANCE_INTERVAL {
                self.advance()?;
            }
            if is_over {
                return Ok(None);
            }
            self.rest(now, until, stop)?;
        }
    }

    /// Sleeps until there may be something to do.
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

    /// Assigns a lane to the reader that its position calls for: the first or the second.
    pub(super) fn rejoin(&mut self, number: u32) {
        let ahead = self.ahead.offset();
        let Some(lane) = self.lanes.get_mut(&number) else { return };
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

    /// Keeps the record of a lane until then.
    pub(super) fn keep(&mut self, number: u32, record: OwnedRecord, until: Instant) {
        let Some(lane) = self.lanes.get_mut(&number) else { return };
        lane.kept = Some(record);
        lane.mode = Mode::Waiting(until);
        self.waiting.insert((until, number));
    }

    fn wake_waiting(&mut self, now: Instant) {
        while let Some((until, number)) = self.waiting.first().copied() {
            if until > now {
                break;
            }
            self.waiting.pop_first();
            if let Some(lane) = self.lanes.get_mut(&number) {
                lane.mode = Mode::Due;
                self.due.push_back(number);
            }
        }
    }

    /// Gives each reader a turn, until one of them has a record that is to be handled.
    fn turn(&mut self) -> Result<Option<Job>> {
        for _ in 0..3 {
            self.turn_of = self.turn_of.next();
            let found = match self.turn_of {
                Source::Kept => self.take_kept(),
                Source::Behind => self.turn_behind()?,
                Source::Ahead => self.turn_ahead()?,
            };
            if let Some((record, number)) = found {
                if let Some(job) = self.job(record, number) {
                    return Ok(Some(job));
                }
            }
        }
        Ok(None)
    }

    fn take_kept(&mut self) -> Option<(OwnedRecord, u32)> {
        let number = self.due.pop_front()?;
        let record = self.lanes.get_mut(&number)?.kept.take()?;
        Some((record, number))
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
            let is_through = self.behind.offset() >= self.ahead.offset();
            if is_through || self.behind.offset() >= self.turn_back_at {
                self.turn_back();
            }
            if self.behind.offset() >= self.ahead.offset() {
                self.catch_up()?;
                continue;
            }
            let Some(record) = self.behind.next()? else {
                count(&self.counters.read, passed.into());
                return Ok(None);
            };
            self.behind_reached = self.behind_reached.max(record.offset());
            let number = lane_of(record.key(), record.offset(), self.group.lanes);
            let is_wanted = self.lanes.get(&number).is_some_and(|lane| {
                lane.mode == Mode::Behind { missed: false }
                    && record.offset() >= lane.cursor.committed()
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

    /// Moves the second reader back to the lanes that it has passed, if there are any.
    fn turn_back(&mut self) {
        let missed = self.lanes.values_mut();
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
            self.turn_back_at = reached + reached.saturating_sub(at).max(TURN.into());
        }
    }

    /// All lanes of the second reader have reached the position of the first.
    fn catch_up(&mut self) -> Result<()> {
        let at = self.ahead.offset();
        let behind = self.lanes.values_mut();
        for lane in behind.filter(|lane| lane.mode == Mode::Behind { missed: false }) {
            lane.advance(at, None)?;
            lane.mode = Mode::Joined;
        }
        self.behind_count = 0;
        Ok(())
    }

    /// Returns the job of a record; `None` if its lane now waits for it.
    fn job(&mut self, record: OwnedRecord, number: u32) -> Option<Job> {
        let (now, most) = (Instant::now(), self.options.retry_most);
        let lane = self.lanes.get_mut(&number).expect("the caller has just found it");
        let offset = record.offset();
        if lane.about.is_some_and(|about| about < offset) {
            // The record that the state is about was lost, and skipped.
            lane.forget();
        }
        let about = lane.about.get_or_insert(offset);
        let is_about = *about == offset;
        if let Some(until) = lane.not_before.take_if(|_| is_about) {
            let until = until.min(later(now, most));
            if until > now {
                self.keep(number, record, until);
                return None;
            }
        }
        lane.mode = Mode::InHand;
        let doubtful = (offset < lane.cursor.doubt()).then(|| lane.cursor.floor());
        // While records before the one that the state is about are settled again, they have no state.
        let known = |of: u32| if is_about { of } else { 0 };
        let (attempts, blamed) = (known(lane.count), known(lane.blamed));
        Some(Job {
            topic: Arc::clone(&self.topic),
            group: Arc::clone(&self.group),
            lane: number,
            attempt: attempts.saturating_add(1),
            blamed,
            is_suspect: is_about && lane.is_suspect(),
            is_condemned: is_about && lane.is_condemned,
            in_doubt: lane.in_doubt.filter(|_| is_about),
            doubtful,
            is_last: self.options.max_attempts != 0
                && blamed.saturating_add(1) >= self.options.max_attempts,
            may_be_kept: offset < lane.kept_below || doubtful.is_some(),
            record,
        })
    }

    pub(super) fn lane(&mut self, job: &Job) -> &mut Lane {
        self.lanes.get_mut(&job.lane).expect("a lane is kept while a job of it is in flight")
    }

    /// Returns whether any lane has records that may have been handled before the last power loss.
    pub(crate) fn has_doubt(&self) -> bool {
        self.lanes.values().any(|lane| lane.cursor.doubt() != 0)
    }

    /// Takes the lowest floor of the lanes taken since the last call: the effects from there on may be unknown.
    pub(crate) fn take_taken_floor(&mut self) -> Option<u64> {
        self.taken_floor.take()
    }

    /// Moves lanes that have nothing between their position and the reader to the reader's position.
    pub(super) fn advance(&mut self) -> Result<()> {
        self.advanced_at = Instant::now();
        let floor = self.effects_floor()?;
        let at = self.ahead.offset();
        for lane in self.lanes.values_mut().filter(|lane| lane.mode == Mode::Joined) {
            // Even a lane that is there already: replies for other lanes need not be kept for it.
            lane.advance(at, floor)?;
        }
        Ok(())
    }

    /// Commits the handled records and makes the positions durable, after the effects that they imply.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.topic.not_forked()?;
        self.advance()?;
        self.book.sync(&self.topic)
    }

    /// Continues after the records of a `Trimmed` or `Corrupt` error, and returns the offsets that are skipped.
    pub(crate) fn skip(&mut self) -> Result<std::ops::Range<u64>> {
        self.topic.not_forked()?;
        let first = self.topic.first_offset()?;
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
        for lane in self.lanes.values_mut().filter(|lane| lane.cursor.committed() < first) {
            lane.advance(first, None)?;
            lane.cursor.end_attempt();
        }
        Ok(from..first)
    }

    /// Returns the lowest floor that any lane of the group needs after a power loss.
    pub(crate) fn durable_effects_floor(&self) -> Result<u64> {
        let mut floor = u64::MAX;
        for lane in 0..self.group.lanes {
            floor = floor.min(self.group.look(&self.topic, lane)?.durable_floor);
        }
        Ok(floor)
    }
}

impl Dispatch {
    /// Returns the meaning of the lanes' positions: those of a server imply replies.
    pub(super) fn meaning(&self) -> Meaning {
        match self.effects {
            Some(_) => Meaning::Answered,
            None => Meaning::Handled,
        }
    }
}

/// Puts all lanes in doubt. No worker of the group knows whether the lanes' live words are current: a file
/// system that was shut down and mounted again brings back older values of them on the same boot. A worker
/// that takes a lane begins at its durable position, and looks for the outcome of each record that is
/// there now.
fn doubt_all(group: &GroupFile) {
    for lane in 0..group.lanes {
        group.map.word(lane_at(lane) + LANE_DOUBT_AT).store(u64::MAX, Ordering::Release);
    }
}

impl Drop for Dispatch {
    fn drop(&mut self) {
        // A forked child has no mapping of the file, and the locks belong to its parent.
        if self.topic.not_forked().is_err() {
            return;
        }
        if let Err(error) = self.finish() {
            events::position_not_synced(&self.topic.name, &error);
        }
        self.member.leave();
        self.book.close();
    }
}
