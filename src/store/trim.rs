//! Retention: dropping whole segments from the start of a topic.
//!
//! Ordered steps: 1. The word of the first offset moves, so that a reader that misses a file knows why. 2. An
//! empty file, named by that offset, states durably that everything below it was dropped. 3. The files are
//! removed, in any order, without a sync: if a power cut brings some of them back, step 2 says that they are
//! not part of the log. The next trim, or the next process to open the topic, removes them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering as Local};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::ages::Ages;
use super::background::Scheduled;
use super::dropped::{leftovers, remove_files, remove_in_turns};
use super::locate::{segment_apart, segment_if_kept};
use super::positions::durable_floor;
use super::roll::Roller;
use super::sync::{latch, sync_up_to};
use super::times::{newest_of, oldest_of};
use super::Store;
use crate::control::Words;
use crate::error::{Error, IoResultExt, Result};
use crate::format::segment as layout;
use crate::housekeeper::Duty;
use crate::segment::bases_among;
use crate::sys::atomic::Ordering;
use crate::sys::clock;
use crate::sys::crash_point::crash_point;
use crate::sys::Access;

/// The most rolls since a trim began, on a topic with a limit of bytes; after that many, the roll trims
/// before the append continues.
const MOST_AHEAD: u64 = 4;

/// What a process knows about a topic's retention.
#[derive(Debug, Default)]
pub(super) struct Retaining {
    /// Whether a trim is waiting in the background.
    scheduled: Arc<AtomicBool>,
    /// One thread at a time decides which segments are dropped.
    turn: Mutex<()>,
    ages: Mutex<Ages>,
    /// Bytes of sealed segments, as far as they are known.
    lens: Mutex<HashMap<u64, u64>>,
    /// Rolls of this process since the last trim began.
    rolls_ahead: AtomicU64,
}

impl Retaining {
    /// Drops the segments all of whose records are below `offset`.
    fn trim_before(&self, topic: &Store, offset: u64) -> Result<u64> {
        let dropped = self.drop_before(topic, offset)?;
        remove_files(topic, &dropped)?;
        topic.first_offset()
    }

    /// Drops the segments that the topic's settings allow to drop, without regard to these consumers.
    fn trim_by_retention(&self, topic: &Store, despite: &[String]) -> Result<u64> {
        let dropped = self.drop_by_retention(topic, despite)?;
        remove_files(topic, &dropped)?;
        topic.first_offset()
    }

    /// The same in the background, unless that is scheduled already.
    pub(super) fn trim_in_background(&self, topic: &Store) {
        if topic.options.retention == super::Retention::default() {
            return;
        }
        let Some(scheduled) = Scheduled::take(&self.scheduled) else { return };
        topic.background.submit(Duty::Trim, move |topic| {
            // Before the job looks: segments that become droppable from here on are another job's.
            drop(scheduled);
            // A failure is retried at the next roll, or when the timer is due.
            let dropped = topic.retaining.drop_by_retention(topic, &[]).unwrap_or_default();
            remove_in_turns(topic, dropped);
        });
    }

    /// Called after a roll. Lets the writers of a topic with a limit of bytes go a few segments over it.
    pub(super) fn hold_to_limit(&self, topic: &Store) {
        if topic.options.retention.bytes.is_some()
            && self.rolls_ahead.fetch_add(1, Local::Relaxed) >= MOST_AHEAD
        {
            // A failure is retried at the next roll; a failed sync stops the next append.
            drop(self.trim_by_retention(topic, &[]));
        }
    }

    /// Decides which segments below `offset` to drop, and notes it durably. Returns the names of the files to
    /// remove, including those that an earlier trim left.
    fn drop_before(&self, topic: &Store, offset: u64) -> Result<Vec<String>> {
        let words = &topic.member()?.control;
        // Read before the directory: this segment has its name, and so do all before it.
        let active = words.tail.place().active;
        let mut names = topic.files.list(&topic.dir).at("listing", &topic.dir)?;
        let mut bases = bases_among(&names);
        bases.retain(|&base| base <= active);
        let first = match droppable(topic, words, &bases, offset)? {
            Some(first) => {
                words.tail.first.fetch_max(first, Ordering::AcqRel);
                note_first(topic, first)?;
                names.push(layout::first_file_name(first));
                first
            }
            None => layout::first_among(names.iter().map(String::as_str)).unwrap_or(0),
        };
        topic.segments.forget_below(first);
        topic.sealed.forget_below(first);
        self.lens.lock().retain(|&base, _| base >= first);
        leftovers(topic, names)
    }

    /// See [`trim_by_retention`](Self::trim_by_retention); returns the names of the files to remove.
    fn drop_by_retention(&self, topic: &Store, despite: &[String]) -> Result<Vec<String>> {
        let retention = topic.options.retention;
        if retention == super::Retention::default() {
            return Ok(Vec::new());
        }
        // If there is no room for another segment, the trim makes some.
        drop(roll_if_old(topic));
        let _turn = self.turn.lock();
        let rolls = self.rolls_ahead.swap(0, Local::Relaxed);
        let keep_from = self.keep_from(topic, despite);
        let dropped = keep_from.and_then(|offset| self.drop_before(topic, offset));
        if dropped.is_err() {
            self.rolls_ahead.fetch_add(rolls, Local::Relaxed);
        }
        dropped
    }

    /// Returns the offset below which the topic's settings allow to drop segments.
    fn keep_from(&self, topic: &Store, despite: &[String]) -> Result<u64> {
        let retention = topic.options.retention;
        let active = topic.member()?.control.tail.place().active;
        let bases: Vec<u64> = topic
            .segments
            .refresh(topic.words())?
            .into_iter()
            .filter(|&base| base <= active)
            .collect();
        let floor = match retention.consumed {
            // No consumer has committed anything yet: nothing is dropped.
            true => durable_floor(topic, despite)?.unwrap_or(0),
            false => u64::MAX,
        };
        let by_age = retention.age.map_or(Ok(0), |age| self.keep_by_age(topic, &bases, age))?;
        let by_bytes =
            retention.bytes.map_or(Ok(0), |limit| self.keep_by_bytes(topic, &bases, limit))?;
        let limit = match (retention.age, retention.bytes) {
            (None, None) => u64::MAX,
            _ => by_age.max(by_bytes),
        };
        Ok(limit.min(floor))
    }

    fn keep_by_age(&self, topic: &Store, bases: &[u64], age: Duration) -> Result<u64> {
        let active = bases.last().copied().unwrap_or(0);
        let Some(known_old) = self.ages.lock().look(age, active) else { return Ok(0) };
        let now = clock::wall();
        let mut keep_from = 0;
        for (&before, &base) in bases.iter().zip(bases.iter().skip(1)) {
            let Some(next) = segment_if_kept(topic, base)? else { continue };
            match newest_of(topic, before, &next, now)? {
                Some(newest) if now - newest > clock::nanos(age) => keep_from = base,
                Some(_) => break,
                // Stamped by a clock that was ahead of this one: at least as old as the next segment.
                None if base <= known_old => keep_from = base,
                None => {}
            }
        }
        Ok(keep_from)
    }

    fn keep_by_bytes(&self, topic: &Store, bases: &[u64], limit: u64) -> Result<u64> {
        let mut total = 0;
        for pair in bases.windows(2).rev() {
            total += match self.len_of_sealed(topic, pair[0])? {
                Some(len) => len,
                None => break,
            };
            if total > limit {
                return Ok(pair[1]);
            }
        }
        Ok(0)
    }

    /// Returns the bytes of a sealed segment's file, which do not change; `None` if it was dropped.
    fn len_of_sealed(&self, topic: &Store, base: u64) -> Result<Option<u64>> {
        if let Some(&len) = self.lens.lock().get(&base) {
            return Ok(Some(len));
        }
        let Some(segment) = segment_if_kept(topic, base)? else { return Ok(None) };
        self.lens.lock().insert(base, segment.len());
        Ok(Some(segment.len()))
    }
}

impl Store {
    /// Drops the segments all of whose records are below `offset`.
    pub(crate) fn trim_before(&self, offset: u64) -> Result<u64> {
        self.retaining.trim_before(self, offset)
    }

    /// Drops the segments that the topic's settings allow to drop, without regard to these consumers.
    pub(crate) fn trim_by_retention(&self, despite: &[String]) -> Result<u64> {
        self.retaining.trim_by_retention(self, despite)
    }

    /// Whether this process drops nothing for its age now.
    pub(crate) fn is_age_paused(&self) -> bool {
        self.retaining.ages.lock().is_paused()
    }
}

/// Returns the base of the segment that may become the first: the segment before it is the last one that ends
/// at or before `offset`.
fn droppable(topic: &Store, words: &Words, bases: &[u64], offset: u64) -> Result<Option<u64>> {
    let Some(others) = bases.get(1..) else { return Ok(None) };
    let firsts = &others[..others.partition_point(|&base| base <= offset)];
    let Some(&last) = firsts.last() else { return Ok(None) };
    // The remaining segments must begin with a header on the disk. Otherwise a power cut could leave nothing
    // that says where the log ends. A header is durable if a record after it is.
    let end = words.tail.end.load(Ordering::Acquire);
    if words.durable.end.load(Ordering::Acquire) <= last {
        let after = bases[bases.partition_point(|&base| base <= last)..].first().copied();
        sync_up_to(topic, after.unwrap_or(end), after.unwrap_or(u64::MAX))?;
    }
    if last == end {
        // The active segment, without a record yet. Step 2 makes its name durable. Another thread may be
        // syncing it, so it is opened again: a failure is then reported to both. If this thread dies before
        // it can latch the topic, the next sync writes the header again.
        words.sync.suspect_end.fetch_max(end + 1, Ordering::AcqRel);
        let segment = segment_apart(topic, last)?;
        segment.redirty(0..layout::FIRST_FRAME_AT)?;
        if segment.sync().is_err() {
            return Err(latch(topic, words, &segment));
        }
        return Ok(Some(last));
    }
    let durable = words.durable.end.load(Ordering::Acquire);
    Ok(firsts[..firsts.partition_point(|&base| base < durable)].last().copied())
}

/// Notes that everything below `first` was dropped; the note is durable once the directory is synced.
fn note_first(topic: &Store, first: u64) -> Result<()> {
    let path = topic.dir.join(layout::first_file_name(first));
    match topic.files.open(&path, Access::CreateNew) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::io("creating", &path, error))
        }
        _ => {}
    }
    crash_point!("trim.noted");
    Ok(())
}

/// Where records are dropped for their age, rolls when the active segment's oldest record has half of that
/// age: otherwise records of a quiet topic would stay for as long as it takes to fill a segment.
fn roll_if_old(topic: &Store) -> Result<()> {
    let Some(age) = topic.options.retention.age else { return Ok(()) };
    let words = &topic.member()?.control;
    let active = words.tail.place().active;
    if words.tail.end.load(Ordering::Acquire) <= active {
        return Ok(());
    }
    let now = clock::wall();
    let oldest = oldest_of(&*topic.segment(active)?, now)?;
    match oldest {
        Some(oldest) if now.saturating_sub(oldest) > clock::nanos(age / 2) => {
            Roller::of(topic)?.roll_in_background(active)
        }
        _ => Ok(()),
    }
}
