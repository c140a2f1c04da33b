//! A worker's lanes, and the next record of them. (`share` says which lanes it holds, `attempt` what
//! becomes of a record.)
//!
//! Two readers go through the topic: the first one ahead, for lanes that have done everything before
//! it; the second behind, for lanes that were taken over, or had to wait. They take turns, so that no
//! lane is delayed by another's past. A record that is tried again later is kept until then, and is not
//! sought again.
//!
//! The reader behind turns back for a lane that it has passed only after it has got further than before, by as
//! much as it goes back: else a lane with many failures would keep it from all behind it.

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

/// Free lanes, and workers that came or went, are looked for this often: a quarter of the 100 ms within
/// which the lanes of a killed worker move.
pub(super) const LOOK: Duration = Duration::from_millis(25);
/// Not more often, however many come and go.
const LOOK_LEAST: Duration = Duration::from_millis(1);
/// Lanes without records of their own follow this often while the worker is busy.
const ADVANCE_INTERVAL: Duration = Duration::from_millis(10);
/// The same while it has nothing to do.
const IDLE_ADVANCE_INTERVAL: Duration = Duration::from_millis(1);
/// A turn of a reader passes so many records of other lanes at most.
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

/// See the module.
pub(crate) struct Dispatch {
    pub(crate) topic: Arc<Handle>,
    /// The group's name.
    pub(super) name: String,
    pub(super) group: Arc<GroupFile>,
    pub(super) member: Member,
    pub(super) options: WorkerOptions,
    /// The topic that handling appends to: positions are durable after its records.
    pub(super) effects: Option<Topic>,
    /// Effects from here on may be of interest to the next owners of the lanes.
    pub(crate) effects_kept: u64,
    /// What makes the lanes' positions durable.
    pub(super) book: Arc<Book>,
    pub(super) lanes: BTreeMap<u32, Lane>,
    pub(super) waiting: BTreeSet<(Instant, u32)>,
    /// Lanes whose kept record is to be tried again.
    pub(super) due: VecDeque<u32>,
    pub(super) behind_count: usize,
    pub(super) ahead: Reader,
    pub(super) behind: Reader,
    /// How far the reader behind has got since there are lanes behind.
    pub(super) behind_reached: u64,
    /// It does not turn back before.
    pub(super) turn_back_at: u64,
    /// Whose turn it was last: an error was of this one.
    pub(super) turn_of: Source,
    /// Since when a lane was free at every look.
    pub(super) free_since: Option<Instant>,
    pub(super) wanted_at: Instant,
    pub(super) looked_at: Instant,
    /// The least floor of the lanes taken since somebody asked.
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
            self.wake_waiting(now);
            if let Some(job) = self.turn()? {
                return Ok(Some(job));
            }
            let is_over = until.is_some_and(|until| now >= until);
            if !is_over && (self.behind_count > 0 || !self.due.is_empty() || self.has_more()?) {
                continue;
            }
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

    /// A turn of each, until one has a record that is to be handled.
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

    /// Goes back to the lanes that the reader behind has passed, if there are any.
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

    /// All lanes that were behind have come to where the reader ahead is.
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

    /// `None` if its lane waits for it now.
    fn job(&mut self, record: OwnedRecord, number: u32) -> Option<Job> {
        let (now, most) = (Instant::now(), self.options.retry_most);
        let lane = self.lanes.get_mut(&number).expect("the caller has just found it");
        let offset = record.offset();
        if lane.about.is_some_and(|about| about < offset) {
            // That one was lost, and skipped.
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
        // While records before the one that is known are settled again, nothing is known of them.
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

    /// Lanes that have nothing between their position and the reader follow it.
    pub(super) fn advance(&mut self) -> Result<()> {
        self.advanced_at = Instant::now();
        let floor = self.effects_floor()?;
        let at = self.ahead.offset();
        for lane in self.lanes.values_mut().filter(|lane| lane.mode == Mode::Joined) {
            // Also one that is there already: replies that were of others need not be kept for it.
            lane.advance(at, floor)?;
        }
        Ok(())
    }

    /// Commits what is done and makes it durable, after what it stands for.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.topic.not_forked()?;
        self.advance()?;
        self.book.sync(&self.topic)
    }

    /// After `Trimmed` or `Corrupt`: goes on behind it, and returns the offsets that
    /// are passed over.
    pub(crate) fn skip(&mut self) -> Result<std::ops::Range<u64>> {
        self.topic.not_forked()?;
        let first = self.topic.first_offset()?;
        let failed_behind = self.turn_of == Source::Behind;
        let reader = if failed_behind { &mut self.behind } else { &mut self.ahead };
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

impl Dispatch {
    /// Which of its lanes' positions count: those of a server stand for replies.
    pub(super) fn meaning(&self) -> Meaning {
        match self.effects {
            Some(_) => Meaning::Answered,
            None => Meaning::Handled,
        }
    }
}

/// Nobody who works in the group knows what the lanes' live words are worth: a file system that was shut down
/// and mounted again brings back an older instant of them on the same boot. Whoever takes a lane
/// begins at its durable position, and looks for the outcome of each record that is there now.
fn doubt_all(group: &GroupFile) {
    for lane in 0..group.lanes {
        group.map.word(lane_at(lane) + LANE_DOUBT_AT).store(u64::MAX, Ordering::Release);
    }
}

impl Drop for Dispatch {
    fn drop(&mut self) {
        // A forked child has no mapping of the file, and the locks are its parent's.
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
