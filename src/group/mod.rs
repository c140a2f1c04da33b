//! Worker groups: competing consumers with order per key.
//!
//! A group has a fixed number of *lanes*. A record belongs to the lane `hash(key) % lanes`, or, without
//! a key, `offset % lanes`. Each worker owns a fair share of the lanes by kernel locks, so the lanes of
//! a killed worker are free at once, and other workers look for free lanes every 25 ms. All records of a
//! lane below its position are done. Before a record's handler runs, the attempt is stored in the lane's
//! page. So a record that kills its process is known, runs alone later, and is poison after
//! `max_attempts` deaths during which it ran alone.
//!
//! A worker has one record in flight; the records of its other lanes wait meanwhile. Of `n` workers each
//! owns every `n`-th lane where possible, so records without a key go to the workers in turn.
//!
//! Every worker reads every record of the topic and skips those of other workers' lanes: with `n` workers
//! the topic is read `n` times.

mod alone;
mod attempt;
pub(crate) mod claim;
mod dead_letter;
mod dispatch;
mod file;
mod guard;
mod handler;
mod job;
mod lane;
mod lanes;
mod members;
mod running;
mod share;
mod stats;
mod work;
mod worker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::format::group::{
    lane_at, lane_of, LANE_RETRY_AT, LANE_STOPPED_AT, LANE_TRIAL_AT, MAX_LANES,
};
use crate::reader::{Reader, Start};
use crate::record::RecordRef;
use crate::store::{Handle, Store, GROUPS};
use crate::sys::atomic::Ordering;
use crate::sys::Access;
use crate::topic::{Topic, TopicOptions};

pub(crate) use attempt::{Called, Fate, Note};
pub use dead_letter::DeadLetter;
pub(crate) use dead_letter::{for_each_letter, shortened, Letters};
pub(crate) use dispatch::Dispatch;
pub use guard::LaneGuard;
pub use handler::HandlerError;
pub(crate) use handler::{backoff, guarded};
pub use job::Job;
pub use lane::State as AttemptState;
pub use running::Running;
pub(crate) use running::Threads;
pub use stats::WorkerStats;
pub(crate) use stats::{count, Counters};
pub(crate) use work::{poll, run, spawn, Work};
pub use worker::Worker;

use claim::Claim;
use file::GroupFile;
use lane::State;

/// The options of a group that is created.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct GroupOptions {
    /// The number of lanes, fixed when the group is created: the most records in flight at a time, and the
    /// most workers that are useful. `None`: the number of the existing group, or 64.
    #[doc(alias("partition", "partitions", "shard"))]
    pub lanes: Option<u32>,
    /// Where a new group begins.
    pub start: Start,
}

impl Default for GroupOptions {
    /// 64 lanes, from the first record.
    fn default() -> GroupOptions {
        GroupOptions { lanes: None, start: Start::First }
    }
}

setters! { GroupOptions:
    with_lanes lanes: impl Into<Option<u32>>,
    with_start start: Start,
}

const DEFAULT_LANES: u32 = 64;
/// The group of a request topic that its servers work in. Other workers there would take requests from them.
pub(crate) const SERVERS: &str = "server";

/// What happens to a poison record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Poison {
    /// It is copied to the dead-letter topic, and its lane continues.
    #[default]
    #[doc(alias = "dlq")]
    DeadLetter,
    /// Its lane stops, so that no later record of its key is handled, until [`Group::resume`].
    StopLane,
}

/// The options of a worker.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WorkerOptions {
    /// Number of attempts after which a record is poison. Counts attempts that failed, and attempts during
    /// which the process died while running no other handler. `None`: no limit.
    pub max_attempts: Option<u32>,
    /// What happens to a poison record.
    pub poison: Poison,
    /// The wait before the second attempt; it doubles with each attempt, less a random part.
    pub retry_first: Duration,
    /// The longest wait between attempts.
    pub retry_most: Duration,
    /// How long a wait spins before it sleeps; see [`Reader::set_spin`](crate::Reader::set_spin).
    pub spin: Duration,
    /// Settings of the dead-letter topic, if this worker creates it; `None`: those of the topic, without a
    /// retention.
    pub dead_letter: Option<TopicOptions>,
}

impl Default for WorkerOptions {
    /// Ten attempts, 10 ms to 10 s apart, then the dead-letter topic.
    fn default() -> WorkerOptions {
        WorkerOptions {
            max_attempts: Some(10),
            poison: Poison::DeadLetter,
            retry_first: Duration::from_millis(10),
            retry_most: Duration::from_secs(10),
            spin: Duration::from_micros(5),
            dead_letter: None,
        }
    }
}

setters! { WorkerOptions:
    with_max_attempts max_attempts: impl Into<Option<u32>>,
    with_poison poison: Poison,
    with_retry_first retry_first: Duration,
    with_retry_most retry_most: Duration,
    with_spin spin: Duration,
    with_dead_letter dead_letter: impl Into<Option<TopicOptions>>,
}

/// Workers that share the records of a topic. Made by [`Topic::group`]; clones share one group.
///
/// ```
/// # fn main() -> deaddrop::Result<()> {
/// # let dir = deaddrop::doc_dir();
/// # let log = deaddrop::Log::open_or_create(&dir)?;
/// use deaddrop::group::{GroupOptions, WorkerOptions};
/// use deaddrop::Record;
/// use std::time::Duration;
/// let orders = log.topic("orders")?;
/// let last = orders.append(&Record::new("3 of item 7").with_key("customer-12"))?;
/// let shipping = orders.group("shipping", GroupOptions::default())?;
/// let mut worker = shipping.worker(WorkerOptions::default(), |job| {
///     println!("ship {:?}, attempt {}", job.payload(), job.attempt());
///     Ok(())
/// })?;
/// assert_eq!(worker.poll(Duration::from_secs(10))?, 1);
/// assert!(shipping.wait_for(last, Duration::from_secs(10))?);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Group {
    topic: Topic,
    open: Arc<Handle>,
    name: String,
    file: Arc<GroupFile>,
}

/// The state of a group, as read by any process.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GroupInfo {
    /// The group's name.
    pub name: String,
    /// Every record below it is done, in every lane.
    pub committed: u64,
    /// The value of `committed` at the last sync.
    pub durable: u64,
    /// High watermark less `committed`: an upper bound of the number of records that are not done.
    pub lag: u64,
    /// How many of the records in `lag` some lane never gets, because retention has dropped them.
    pub trimmed: u64,
    /// The group's lanes, in order.
    pub lanes: Vec<LaneInfo>,
}

impl GroupInfo {
    /// If a record waits in a stopped lane, returns the offset of the record that the lane was stopped at:
    /// this one, or one before it. See [`Group::resume`].
    pub fn stopped_at(&self, record: &RecordRef<'_>) -> Option<u64> {
        let lane = lane_of(record.key(), record.offset(), self.lanes.len() as u32);
        let at = self.lanes.get(lane as usize)?.stopped_at()?;
        (at <= record.offset()).then_some(at)
    }
}

impl LaneInfo {
    /// Returns the offset of the record that the lane was stopped at, if it was.
    pub fn stopped_at(&self) -> Option<u64> {
        let stopped = self.in_hand.as_ref().filter(|hand| hand.state == State::Stopped);
        stopped.map(|hand| hand.offset)
    }
}

/// The state of a lane.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LaneInfo {
    /// Every record of the lane below it is done.
    pub committed: u64,
    /// The value of `committed` at the last sync.
    pub durable: u64,
    /// The process of the worker that owns the lane.
    pub owner: Option<u32>,
    /// The record in flight.
    pub in_hand: Option<InHand>,
}

/// A record that a worker has begun and not finished.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct InHand {
    /// The record's offset.
    pub offset: u64,
    /// How many attempts to handle it were begun.
    pub attempt: u32,
    /// Attempts that count against the record.
    pub blamed: u32,
    /// Its state.
    pub state: AttemptState,
}

impl Topic {
    /// Opens the worker group of this name; creates it with these options if it does not exist.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if it has another number of lanes, [`Error::Corrupt`] if its file is
    /// unreadable (it is never reset), [`Error::InvalidName`], [`Error::Trimmed`], [`Error::Io`].
    #[doc(alias("subscribe", "queue", "workers"))]
    pub fn group(&self, name: &str, options: GroupOptions) -> Result<Group> {
        Group::open(self, name, options)
    }

    /// Returns the state of all groups, or why a group's file is unreadable. Sorted by name.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn groups(&self) -> Result<Vec<(String, Result<GroupInfo>)>> {
        let topic = self.inner();
        topic.location.check()?;
        let mut all = Vec::new();
        for name in file::names_of(topic)? {
            let found = look(topic, &name);
            if !matches!(found, Err(Error::NotFound { .. })) {
                all.push((name, found));
            }
        }
        Ok(all)
    }

    /// Sets all lanes of a group to `start`, and returns its offset. Records from there on are handled
    /// again. A server looks for the outcome of each request that was in the topic already, and answers none
    /// twice.
    ///
    /// If the process is killed during the call, some lanes are set and others are not: call it again.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if it has workers, [`Error::NotFound`], [`Error::Corrupt`] if a lane is
    /// unreadable, [`Error::Trimmed`], [`Error::Io`].
    pub fn reset_group(&self, name: &str, start: Start) -> Result<u64> {
        self.inner().member()?;
        file::reset(self.inner(), name, start)
    }

    /// Deletes a group.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if it has workers, [`Error::NotFound`], [`Error::Io`].
    pub fn delete_group(&self, name: &str) -> Result<()> {
        self.inner().member()?;
        file::delete(self.inner(), name)
    }
}

impl Group {
    fn open(topic: &Topic, name: &str, options: GroupOptions) -> Result<Group> {
        let open = topic.inner();
        open.member()?;
        let lanes = options.lanes.unwrap_or(DEFAULT_LANES);
        if lanes == 0 || lanes > MAX_LANES {
            return Err(Error::Invalid {
                what: format!("lanes must be between 1 and {MAX_LANES}, not {lanes}"),
            });
        }
        let file = match GroupFile::open(open, name, Access::ReadWrite) {
            Err(Error::NotFound { .. }) => {
                Claim::Group(topic.name(), name).check_alone(&open.log)?;
                file::create(open, name, lanes, options.start)?;
                GroupFile::open(open, name, Access::ReadWrite)?
            }
            other => other?,
        };
        // A process that made it may have died before its name was durable.
        open.location.sync_names_in(GROUPS)?;
        if options.lanes.is_some_and(|asked| asked != file.lanes) {
            return Err(Error::Conflict {
                topic: open.name.clone(),
                what: format!("group {name} has {} lanes, but {lanes} were requested", file.lanes),
            });
        }
        let (topic, open) = (topic.clone(), Arc::clone(open));
        Ok(Group { topic, open, name: name.to_owned(), file: Arc::new(file) })
    }

    /// Opens a worker of the group, which calls `handler` for each record of its share of the lanes.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the group has 256 workers, if it is that of a service's servers, or if a service
    /// or another group of the log keeps its dead letters in the same topic; [`Error::Io`].
    pub fn worker<H>(&self, options: WorkerOptions, handler: H) -> Result<Worker>
    where
        H: FnMut(&Job) -> Result<(), HandlerError> + Send + 'static,
    {
        Worker::open(self, options, Box::new(handler))
    }

    /// Waits up to `timeout` until the record at `offset` is done; returns false if it is not. Once it is
    /// done, the records that its handler has written can be read.
    ///
    /// # Errors
    ///
    /// [`Error::Trimmed`], [`Error::Corrupt`] or [`Error::Io`] of the record; [`Error::Invalid`] if
    /// there is no such record.
    pub fn wait_for(&self, offset: u64, timeout: Duration) -> Result<bool> {
        self.open.not_forked()?;
        let until = Instant::now().checked_add(timeout);
        let mut reader = Reader::new(Arc::clone(&self.open), Start::Offset(offset))?;
        let lane = match reader.wait_timeout(timeout)? {
            Some(record) => lane_of(record.key(), offset, self.file.lanes),
            None => return Ok(false),
        };
        let mut pause = Duration::from_micros(50);
        loop {
            if self.file.look(&self.open, lane)?.committed > offset {
                return Ok(true);
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
            std::thread::sleep(left.map_or(pause, |left| pause.min(left)));
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }

    /// Resumes a stopped lane at the record that it stopped at, whose attempts are forgotten. Durable
    /// when it returns. Returns false if the lane was not stopped.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there is no such lane, [`Error::Io`].
    pub fn resume(&self, lane: u32) -> Result<bool> {
        self.end_stop(lane, State::Failed)
    }

    /// Resumes a stopped lane after the record that it stopped at: the worker that owns the lane, or the
    /// next one that takes it, copies that record to the dead-letter topic without another attempt. A server
    /// answers the request with `DeadLettered` as well. Returns false if the lane was not stopped.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there is no such lane, [`Error::Io`].
    pub fn skip_stopped(&self, lane: u32) -> Result<bool> {
        self.end_stop(lane, State::Condemned)
    }

    fn end_stop(&self, lane: u32, next: State) -> Result<bool> {
        self.open.not_forked()?;
        if lane >= self.file.lanes {
            let what = format!("lane {lane}: the group has {}", self.file.lanes);
            return Err(Error::Invalid { what });
        }
        let seen = self.file.look(&self.open, lane)?;
        if seen.stopped_at.is_some() && !seen.is_live {
            // No worker has taken it since the last boot, or since it was copied.
            lane::take_once(&self.open, &self.name, lane)?;
        }
        let word = self.file.map.word(lane_at(lane) + LANE_TRIAL_AT);
        let stopped = word.load(Ordering::Acquire);
        let trial = lane::decode_trial(stopped);
        if trial.state != State::Stopped {
            return Ok(false);
        }
        let (blamed, deaths) = if next == State::Failed { (0, 0) } else { (trial.blamed, 0) };
        let next = lane::encode_trial(lane::Trial { state: next, blamed, deaths });
        // Retried at once, without the backoff of the earlier attempts.
        self.file.map.word(lane_at(lane) + LANE_RETRY_AT).store(0, Ordering::Release);
        // The lane's owner reads the word, and stores nothing into it while the lane is stopped.
        let was = word.compare_exchange(stopped, next, Ordering::AcqRel, Ordering::Relaxed);
        if was.is_err() {
            return Ok(false);
        }
        self.file.map.word(lane_at(lane) + LANE_STOPPED_AT).store(0, Ordering::Release);
        self.file.sync()?;
        Ok(true)
    }

    /// Returns the group's current state.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if a page is unreadable, [`Error::Io`].
    pub fn info(&self) -> Result<GroupInfo> {
        self.open.not_forked()?;
        info(&self.open, &self.name, &self.file)
    }

    /// Returns the number of lanes.
    pub fn lanes(&self) -> u32 {
        self.file.lanes
    }

    /// Returns the group's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn info(topic: &Store, name: &str, file: &GroupFile) -> Result<GroupInfo> {
    let mut lanes = Vec::new();
    for number in 0..file.lanes {
        let seen = file.look(topic, number)?;
        // Not all systems report the locks of a file that was opened for reading: then there is no owner.
        let owner = file.is_held(number).unwrap_or(false).then_some(seen.pid);
        let in_hand = seen.attempt.filter(|(attempt, _)| attempt.offset >= seen.committed);
        let in_hand = in_hand.map(|(attempt, trial)| {
            let lane::Trial { state, blamed, .. } = lane::decode_trial(trial);
            let state =
                if seen.stopped_at.is_some() && !seen.is_live { State::Stopped } else { state };
            InHand { offset: attempt.offset, attempt: attempt.count, blamed, state }
        });
        let (committed, durable) = (seen.committed, seen.durable);
        lanes.push(LaneInfo { committed, durable, owner, in_hand });
    }
    let least = |of: fn(&LaneInfo) -> u64| lanes.iter().map(of).min().unwrap_or(0);
    let (committed, durable) = (least(|lane| lane.committed), least(|lane| lane.durable));
    let lag = topic.frontier()?.high_watermark.saturating_sub(committed);
    let trimmed = topic.first_offset()?.saturating_sub(committed);
    Ok(GroupInfo { name: name.to_owned(), committed, durable, lag, trimmed, lanes })
}

/// Returns the state of a group.
pub(crate) fn look(topic: &Store, name: &str) -> Result<GroupInfo> {
    GroupFile::open(topic, name, Access::Read).and_then(|file| info(topic, name, &file))
}
