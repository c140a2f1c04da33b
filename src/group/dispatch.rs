//! A worker's next job. (`lanes` has its lanes and their records, `share` decides which lanes it owns,
//! `attempt` the fate of a record.)

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::file::GroupFile;
use super::job::Job;
use super::lane::{later, EffectsFloor, Lane, Mode};
use super::lanes::Lanes;
use super::members::Member;
use super::stats::Counters;
use super::WorkerOptions;
use crate::cursor::Meaning;
use crate::error::{Error, Result};
use crate::events;
use crate::format::group::{lane_at, lane_of, LANE_DOUBT_AT};
use crate::record::{OwnedRecord, RecordRef};
use crate::stop::Stop;
use crate::store::{Book, Books, Handle};
use crate::sys::atomic::Ordering;
use crate::sys::Access;
use crate::topic::Topic;

/// How often a worker looks for workers that joined, left or died, whose lanes are free then: a quarter of the
/// 100 ms within which the lanes of a killed worker move.
pub(super) const LOOK: Duration = Duration::from_millis(25);
/// The shortest time between two such looks, however many workers join and leave.
const LOOK_LEAST: Duration = Duration::from_millis(1);
/// How often lanes without records of their own follow the reader while the worker is busy.
const ADVANCE_INTERVAL: Duration = Duration::from_millis(10);
/// How often they follow the reader while the worker has nothing to do.
const IDLE_ADVANCE_INTERVAL: Duration = Duration::from_millis(1);
/// Finds the next job of a worker, and decides the fate of its record; see the module.
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
    pub(super) lanes: Lanes,
    /// Since when every look has found a free lane.
    pub(super) free_since: Option<Instant>,
    /// When all lanes were last looked at; and how many changes of the group this worker had seen then, how
    /// many members, and its rank among them.
    pub(super) scanned: Option<(Instant, [u64; 3])>,
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
        if options.max_attempts == Some(0) {
            let what = "max_attempts is 0: use `None` for no limit".into();
            return Err(Error::Invalid { what });
        }
        let group = Arc::new(GroupFile::open(topic, name, Access::ReadWrite)?);
        let member = Member::join(&group, topic.log.options.lock_timeout, || {
            if effects.is_some() {
                doubt_all(&group);
            }
        })?;
        group.check_not_deleted(topic)?;
        let now = Instant::now();
        let lanes = Lanes::new(topic, group.lanes, options.spin, &counters)?;
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
            lanes,
            free_since: None,
            scanned: None,
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
            self.lanes.wake_waiting(now);
            // One turn of each source.
            for _ in 0..3 {
                if let Some((record, number)) = self.lanes.turn()? {
                    if let Some(job) = self.job(record, number) {
                        return Ok(Some(job));
                    }
                }
            }
            let is_over = until.is_some_and(|until| now >= until);
            if !is_over && self.lanes.has_more()? {
                continue;
            }
            // Not while this worker still looks for a request that is arriving, which this would delay.
            if is_over || now.duration_since(self.advanced_at) >= IDLE_ADVANCE_INTERVAL {
                self.advance()?;
            }
            if is_over {
                return Ok(None);
            }
            let wake = until.map_or(self.look_at, |until| until.min(self.look_at));
            self.lanes.rest(now, wake, stop)?;
        }
    }

    /// Returns the job of a record; `None` if its lane now waits for it.
    fn job(&mut self, record: OwnedRecord, number: u32) -> Option<Job> {
        let most = self.options.retry_most;
        let lane = self.lanes.lane(number);
        let offset = record.offset();
        if lane.about.is_some_and(|about| about < offset) {
            // The record that the state is about was lost, and skipped.
            lane.forget();
        }
        let about = lane.about.get_or_insert(offset);
        let is_about = *about == offset;
        if let Some(until) = lane.not_before.take_if(|_| is_about) {
            let now = Instant::now();
            let until = until.min(later(now, most));
            if until > now {
                self.lanes.keep(number, record, until);
                return None;
            }
        }
        lane.mode = Mode::InFlight;
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
            is_last: self.options.max_attempts.is_some_and(|most| blamed.saturating_add(1) >= most),
            may_be_kept: offset < lane.kept_below || doubtful.is_some(),
            record,
        })
    }

    pub(super) fn lane(&mut self, job: &Job) -> &mut Lane {
        self.lanes.lane(job.lane)
    }

    /// Returns whether any lane has records that may have been handled before the last power loss.
    pub(crate) fn has_doubt(&self) -> bool {
        self.lanes.iter().any(|(_, lane)| lane.cursor.doubt() != 0)
    }

    /// Takes the lowest floor of the lanes taken since the last call: the effects from there on may be unknown.
    pub(crate) fn take_taken_floor(&mut self) -> Option<u64> {
        self.taken_floor.take()
    }

    /// Moves lanes that have nothing to do before the first reader's position to that position.
    pub(super) fn advance(&mut self) -> Result<()> {
        self.advanced_at = Instant::now();
        self.lanes.advance(self.effects_floor()?)
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
        self.lanes.skip(self.topic.first_offset()?)
    }

    /// Returns the lowest floor that any lane of the group needs after a power loss.
    pub(crate) fn durable_effects_floor(&self) -> Result<u64> {
        let mut floor = u64::MAX;
        for lane in 0..self.group.lanes {
            floor = floor.min(self.group.look(&self.topic, lane)?.durable_floor);
        }
        Ok(floor)
    }

    /// Returns whether a record is yet to come: its lane belongs to this worker and has not passed it.
    pub(crate) fn awaits(&self, lane: u32, offset: u64) -> bool {
        self.lanes.get(lane).is_some_and(|lane| lane.cursor.committed() <= offset)
    }

    /// Returns the lane of a record.
    pub(crate) fn lane_of(&self, record: &RecordRef<'_>) -> u32 {
        lane_of(record.key(), record.offset(), self.group.lanes)
    }

    /// Returns the current end of the effects, and the floor of lanes that have done everything.
    pub(super) fn effects_floor(&self) -> Result<Option<EffectsFloor>> {
        let end = self.effects.as_ref().map(Topic::end_offset).transpose()?;
        Ok(end.map(|end| EffectsFloor { end, floor: end.min(self.effects_kept) }))
    }

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
        // The other workers take the lanes at once.
        self.member.offer();
    }
}
