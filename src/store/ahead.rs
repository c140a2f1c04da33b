//! Work ahead of the writers: the next pages of the active segment, and the next segments, whole, mapped and
//! resident in this process before the roll. Full segments are unmapped.
//!
//! The work is done in pieces, each of which takes microseconds, by a background thread. An appending thread
//! that is about to overtake it does a piece itself: on a busy processor the background may not get to run.
//! Zeros are written only into files without a segment's name, before their word says that they are ready.
//! Otherwise a writer of zeros that is stopped and wakes up late would overwrite records.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::background::Scheduled;
use super::prepared::{Claim, Making, Unnamed, PIECE_LEN};
use super::{remove_if_there, Durability, Local, Store};
use crate::control::lock::Liveness;
use crate::control::Words;
use crate::error::{IoResultExt, Result};
use crate::format::index::Entry;
use crate::housekeeper::Duty;
use crate::segment::Segment;
use crate::sys::atomic::Ordering;
use crate::sys::clock;
use crate::sys::crash_point::crash_point;

/// A topic that fills a segment in less time than this has its next segments written ahead.
const FAST: Duration = Duration::from_secs(5);
/// Pages of the active segment are made resident at least and at most this far ahead of the writer; between
/// these limits, as far ahead as the segment is full.
const POPULATE_LEAST: u64 = 2 * PIECE_LEN;
const POPULATE_MOST: u64 = 8 << 20;
/// Appended bytes after which an appending thread looks at the work ahead again.
const LOOK_LEN: u64 = 64 << 10;
/// Bytes of a full segment that are unmapped at once.
const UNMAP_LEN: u64 = 1 << 20;
/// The most pieces that a job does before it is another topic's turn.
const TURN: usize = 32;
/// The most pieces that an appending thread does after one append.
const MOST_HELP: usize = 4;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    work: Mutex<Work>,
    /// Whether a job is waiting or running.
    scheduled: Arc<AtomicBool>,
    /// Whether the topic fills segments fast.
    is_fast: AtomicBool,
    /// Whether a next segment is needed: the active one is half full, or the topic is fast.
    is_due: AtomicBool,
    /// Whether the next segments are made, or cannot be, until the next roll.
    is_made: AtomicBool,
    /// Pages of the active segment below this position are to be resident.
    populate_to: AtomicU64,
    /// Bytes that are left to do before the next segment is ready.
    left_len: AtomicU64,
}

/// The work of one process on a topic.
#[derive(Default)]
struct Work {
    /// The segment to which this process appends.
    active: Option<Arc<Segment>>,
    /// Segments that this process has left, with the position up to which they are unmapped.
    full: VecDeque<(Arc<Segment>, u64)>,
    /// The file that this process makes.
    making: Option<(Claim, Making)>,
    /// The ready file that this process has mapped.
    next: Option<Unnamed>,
}

/// What a step has done.
enum Step {
    /// A piece; there may be more.
    Piece,
    /// Nothing: it is done, or another process does it.
    Done,
}

impl Ahead {
    /// Called under the append lock after an append from `entry` to `end`, once for each [`LOOK_LEN`] bytes:
    /// also notes the entry for the segment's index. Returns whether the background is late, so that this thread
    /// should [`help`](Self::help) when it has released the lock.
    #[cold]
    pub(super) fn look(&self, topic: &Store, local: &Local, entry: Entry, end: u64) -> bool {
        let Some(segment) = &local.active else { return false };
        let len = segment.len();
        let step = (len / 8).min(LOOK_LEN);
        local.look_at.set((entry.position / step + 1) * step);
        if let Some(index) = &mut *local.index.borrow_mut() {
            index.note(entry, end);
        }
        if end >= len / 2 {
            let began = segment.begun_at.unwrap_or(0);
            let took = clock::wall_coarse().saturating_sub(began);
            let is_fast = took / (end >> 10).max(1) < clock::nanos(FAST) / (len >> 10);
            self.is_fast.store(is_fast, Ordering::Relaxed);
        }
        let is_fast = self.is_fast.load(Ordering::Relaxed);
        let mut target = (end + end.clamp(POPULATE_LEAST, POPULATE_MOST)).min(len);
        if topic.writes_by_call(segment) {
            target = 0;
        }
        self.populate_to.store(target, Ordering::Relaxed);
        let is_due = is_fast || end >= len / 2;
        self.is_due.store(is_due, Ordering::Relaxed);
        // Not at every look: another process may be making the file, and a thread is woken for nothing.
        let is_turn = (entry.position / step) % (len / step / 32).max(1) == 0;
        let is_made = self.is_made.load(Ordering::Relaxed);
        if segment.resident() < target || is_turn && is_due && !is_made {
            self.schedule(topic);
        }
        let room = len.saturating_sub(end);
        is_fast && self.left_len.load(Ordering::Relaxed) > 2 * room
    }

    /// Does pieces of the work in this thread, unless another thread is doing one.
    #[cold]
    pub(super) fn help(&self, topic: &Store) {
        if !maps_ahead(topic) {
            return;
        }
        for _ in 0..MOST_HELP {
            // The roll that needs the file gets the same error and reports it.
            let Some(mut work) = self.work.try_lock() else { return };
            if !matches!(work.step(topic), Ok(Step::Piece)) {
                return;
            }
        }
    }

    /// This process appends to `segment` now, and no longer to `full`.
    pub(super) fn entered(
        &self,
        topic: &Store,
        segment: &Arc<Segment>,
        full: Option<Arc<Segment>>,
    ) {
        let mut work = self.work.lock();
        if work.active.as_ref().is_none_or(|active| active.base() <= segment.base()) {
            self.populate_to.store(0, Ordering::Relaxed);
            work.active = Some(Arc::clone(segment));
        }
        work.full.extend(full.filter(|full| full.base() < segment.base()).map(|full| (full, 0)));
        self.is_due.store(self.is_fast.load(Ordering::Relaxed), Ordering::Relaxed);
        self.is_made.store(false, Ordering::Relaxed);
        work.measure(topic);
        let has_work = !work.full.is_empty() || self.is_due.load(Ordering::Relaxed);
        drop(work);
        if has_work {
            self.schedule(topic);
        }
    }

    /// Returns the ready file that this process has mapped, or any that is ready.
    pub(super) fn take_ready(&self, topic: &Store, words: &Words) -> Result<Option<Unnamed>> {
        let mapped = self.work.lock().next.take_if(|next| next.is_prepared(words));
        mapped.map_or_else(|| Unnamed::ready(topic, words), |next| Ok(Some(next)))
    }

    /// Takes back a file of [`take_ready`](Self::take_ready) that was not used.
    pub(super) fn give_back(&self, unnamed: Unnamed) {
        self.work.lock().next.get_or_insert(unnamed);
    }

    /// Makes `segment` ready for this process's appends: with the mapping that it has made of the file before
    /// another process entered it, or a new one.
    pub(super) fn map(&self, topic: &Store, segment: &Segment) -> Result<()> {
        if !segment.is_mapped() {
            let words = &topic.member()?.control;
            let mut work = self.work.lock();
            if let Some(next) = work.next.take_if(|next| !next.is_prepared(words)) {
                let identity = next.file.identity().at("identifying", &next.path)?;
                let named = segment.file().identity().at("identifying", &segment.path)?;
                match next.mapped {
                    Some((map, resident)) if identity == named => segment.install(map, resident),
                    // Of a segment after which others were entered meanwhile.
                    mapped => topic.background.submit(Duty::Prepare, move |_| drop(mapped)),
                }
            }
        }
        segment.fill_holes()?;
        if !topic.writes_by_call(segment) {
            segment.map()?;
        }
        Ok(())
    }

    /// Removes the file that this process has not finished: the topic is closed.
    pub(super) fn abandon(&self, topic: &Store) -> Result<()> {
        let mut work = self.work.lock();
        let Some((claim, _)) = work.making.take() else { return Ok(()) };
        let removed = remove_if_there(&*topic.files, &claim.path(topic));
        claim.clear(&topic.member()?.control);
        removed
    }

    fn schedule(&self, topic: &Store) {
        if let Some(scheduled) = Scheduled::take(&self.scheduled) {
            topic.background.submit(Duty::Prepare, move |topic| advance(topic, scheduled));
        }
    }
}

/// Whether the next segment is mapped before its roll.
fn maps_ahead(topic: &Store) -> bool {
    topic.options.durability == Durability::ProcessCrash && !topic.by_call
}

/// Does some pieces, then has the rest done after the jobs of other topics.
fn advance(topic: &Store, scheduled: Scheduled) {
    for _ in 0..TURN {
        if topic.background.is_closed() {
            return drop(scheduled);
        }
        let step = topic.ahead.work.lock().step(topic);
        match step {
            // A writer on this processor goes first: it helps if it must.
            Ok(Step::Piece) => std::thread::yield_now(),
            // On a full disk, the append that needs the segment gets the error and reports it.
            Ok(Step::Done) | Err(_) => return drop(scheduled),
        }
    }
    topic.background.submit(Duty::Prepare, move |topic| advance(topic, scheduled));
}

impl Work {
    /// Does the most urgent piece.
    fn step(&mut self, topic: &Store) -> Result<Step> {
        let step = self.step_unmeasured(topic);
        if step.is_err() {
            topic.ahead.is_made.store(true, Ordering::Relaxed);
        }
        self.measure(topic);
        step
    }

    fn step_unmeasured(&mut self, topic: &Store) -> Result<Step> {
        let words = &*topic.member()?.control;
        let populate_to = topic.ahead.populate_to.load(Ordering::Relaxed);
        if let Some(active) = self.active.as_ref().filter(|one| one.resident() < populate_to) {
            active.populate(active.resident() + PIECE_LEN)?;
            return Ok(Step::Piece);
        }
        let is_fast = topic.ahead.is_fast.load(Ordering::Relaxed);
        if self.next.is_none() && is_fast && maps_ahead(topic) {
            self.next = Unnamed::ready(topic, words)?;
        }
        // Once another process has entered the file, its mapping is that of the active segment.
        let next = self.next.as_mut().filter(|next| next.is_prepared(words));
        if next.is_some_and(|next| next.populate().unwrap_or(false)) {
            return Ok(Step::Piece);
        }
        if let Some((full, position)) = self.full.front_mut() {
            *position = full.unmap(*position, UNMAP_LEN);
            if *position >= full.len() {
                self.full.pop_front();
            }
            return Ok(Step::Piece);
        }
        if let Some((claim, making)) = &mut self.making {
            crash_point!("prepare.zeros");
            let done = making.advance(topic);
            match done {
                Ok(false) => {}
                Ok(true) => {
                    claim.make_ready(words);
                    crash_point!("prepare.ready");
                    self.making = None;
                }
                Err(error) => {
                    claim.clear(words);
                    self.making = None;
                    return Err(error);
                }
            }
            return Ok(Step::Piece);
        }
        self.begin(topic)
    }

    /// Begins another file, unless there are enough, or living processes are making them.
    fn begin(&mut self, topic: &Store) -> Result<Step> {
        let member = topic.member()?;
        let words = &*member.control;
        if !topic.ahead.is_due.load(Ordering::Relaxed) {
            return Ok(Step::Done);
        }
        let is_fast = topic.ahead.is_fast.load(Ordering::Relaxed);
        let wanted = if is_fast { words.prepared.words.len() } else { 1 };
        let claims = Claim::all(words);
        let ready = claims.iter().filter(|claim| claim.is_ready()).count();
        let is_being_made = |claim: &Claim| {
            !claim.is_ready() && claim.owner().is_some_and(|owner| member.is_alive(owner))
        };
        if ready >= wanted {
            topic.ahead.is_made.store(true, Ordering::Relaxed);
            return Ok(Step::Done);
        }
        let (busy, free): (Vec<Claim>, Vec<Claim>) =
            claims.into_iter().filter(|claim| !claim.is_ready()).partition(is_being_made);
        let (true, Some(&seen)) = (ready + busy.len() < wanted, free.first()) else {
            return Ok(Step::Done);
        };
        let Some(claim) = seen.take(topic, words, member.me) else { return Ok(Step::Done) };
        if seen.owner().is_some() {
            remove_if_there(&*topic.files, &seen.path(topic))?;
        }
        crash_point!("prepare.claimed");
        let len = topic.settings.segment_len;
        match Making::begin(topic, &claim.path(topic), len, is_fast) {
            Ok(making) => self.making = Some((claim, making)),
            Err(error) => {
                claim.clear(words);
                return Err(error);
            }
        }
        Ok(Step::Piece)
    }

    /// Notes how much is left to do before the next segment is ready.
    fn measure(&self, topic: &Store) {
        let len = topic.settings.segment_len;
        let unwritten = self.making.as_ref().map_or(len, |(_, making)| making.left_len());
        let left = match &self.next {
            Some(next) => len.saturating_sub(next.mapped.as_ref().map_or(0, |mapped| mapped.1)),
            None => len + unwritten,
        };
        let full: u64 = self.full.iter().map(|(full, position)| full.len() - position).sum();
        topic.ahead.left_len.store(left + full / 4, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").finish_non_exhaustive()
    }
}

impl Store {
    /// Makes the pages of the active segment's next `len` bytes resident now.
    pub(crate) fn populate_ahead(&self, len: u64) -> Result<()> {
        let place = self.member()?.control.tail.place();
        let segment = self.segment(place.active)?;
        segment.fill_holes()?;
        if self.writes_by_call(&segment) {
            return Ok(());
        }
        let target = (place.position + len).min(segment.len());
        while segment.resident() < target {
            segment.populate(segment.resident() + PIECE_LEN)?;
        }
        let mut held = self.lock_append()?;
        if held.active.as_ref().is_none_or(|active| active.base() != place.active) {
            held.enter(segment);
        }
        Ok(())
    }
}
