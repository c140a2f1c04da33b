//! Full segments: they are indexed and synced in the background, several at once. A writer that is far ahead
//! of that waits a little at each roll. A waiting segment takes no descriptor, because a process has few.
//!
//! Segments of a topic that survives power loss are synced at once. With `ProcessCrash` nothing waits for
//! that, and the kernel writes them when it likes: the oldest are synced once there are many, so that a
//! recovery after a power cut has a bounded number of bytes to read, and the rest when the topic is closed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::sync::sync_up_to;
use super::{indexes, Durability, Store};
use crate::format::PAGE_LEN;
use crate::housekeeper::Duty;
use crate::index::Index;
use crate::segment::Segment;
use crate::sys::atomic::Ordering;
use crate::sys::Map;

/// The most segments of a topic that may wait before a roll waits.
const MOST_WAITING: usize = 256;
/// The most segments of a topic that one job takes before it is another topic's turn.
const BATCH: usize = 16;
/// The longest wait in a roll: a disk that hangs slows a writer down, but does not stop it.
const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// Of a `ProcessCrash` topic, full segments with more bytes than this are not left unsynced.
const MOST_UNSYNCED_LEN: u64 = 1 << 30;

/// Keeps a full segment's file in memory, by a mapping of its first page that is never touched. The kernel
/// remembers a failed write with the file until a sync reports it, also to a descriptor that is opened after
/// the failure. If the file left memory before that, a later sync would succeed.
#[derive(Debug)]
pub(super) struct Hold {
    _page: Map,
}

impl Hold {
    /// If no page of it can be mapped, the sync may miss an earlier failure.
    pub(super) fn of(segment: &Segment) -> Option<Hold> {
        segment.file().map(PAGE_LEN, false).ok().map(|_page| Hold { _page })
    }
}

/// A full segment.
#[derive(Debug)]
pub(super) struct Full {
    pub(super) base: u64,
    /// The base of the next segment.
    pub(super) next: u64,
    /// Its index, if this process has noted enough of it.
    pub(super) index: Option<Index>,
    /// `None` if this process did not write to it.
    pub(super) _hold: Option<Hold>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Sealed {
    state: Mutex<State>,
    fewer: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Full>,
    /// Those that are indexed, and need not be synced yet.
    unsynced: VecDeque<Full>,
    taken_count: usize,
    /// Whether a job will take some of them.
    is_scheduled: bool,
}

impl Sealed {
    /// Has a full segment indexed and synced in the background, and starts a trim by retention.
    pub(super) fn seal(topic: &Store, full: Full) {
        if let Some(batch) = Sealed::add(&topic.sealed, full) {
            topic.background.submit(Duty::Seal, move |topic| settle_some(topic, batch));
        }
        topic.retaining.trim_in_background(topic);
    }

    /// Syncs the full segments that no job will sync, because the topic is closed.
    pub(super) fn sync_rest(topic: &Store) {
        let left = std::mem::take(&mut *topic.sealed.state.lock());
        if let Some(last) = left.unsynced.iter().chain(&left.waiting).map(|full| full.next).max() {
            // A failed sync latches the topic, and the next process to open it recovers.
            drop(sync_up_to(topic, last, last));
        }
    }

    /// Has the full segments that dead processes left unsynced synced in the background.
    pub(super) fn sync_inherited(topic: &Store) {
        let Some(words) = topic.words() else { return };
        let active = words.tail.place().active;
        if words.durable.end.load(Ordering::Acquire) < active {
            // A failed sync latches the topic.
            let job = move |topic: &Store| drop(sync_up_to(topic, active, active));
            topic.background.submit(Duty::Seal, job);
        }
    }

    /// Forgets the segments below `first`, which were dropped: a file that is held keeps its space.
    pub(super) fn forget_below(&self, first: u64) {
        self.state.lock().unsynced.retain(|full| full.base >= first);
    }

    /// Adds a full segment. Returns a batch to take in a job, unless such a job is scheduled already.
    fn add(sealed: &Arc<Sealed>, full: Full) -> Option<Batch> {
        let mut state = sealed.state.lock();
        state.waiting.push_back(full);
        let was_scheduled = std::mem::replace(&mut state.is_scheduled, true);
        (!was_scheduled).then(|| Batch::of(sealed))
    }

    /// Waits, for a short time at most, while too many segments wait.
    pub(super) fn wait_for_room(&self) {
        let until = Instant::now() + LONGEST_WAIT;
        let mut state = self.state.lock();
        while state.waiting.len() + state.taken_count > MOST_WAITING {
            if self.fewer.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }
}

/// Belongs to a job. If it is dropped without having run, because no thread can be started or the topic is
/// closed, no segment is left waiting.
struct Batch {
    sealed: Arc<Sealed>,
    has_run: bool,
}

impl Batch {
    fn of(sealed: &Arc<Sealed>) -> Batch {
        Batch { sealed: Arc::clone(sealed), has_run: false }
    }

    fn take(&self) -> Vec<Full> {
        let mut state = self.sealed.state.lock();
        let count = state.waiting.len().min(BATCH);
        state.taken_count = count;
        state.waiting.drain(..count).collect()
    }

    /// Ends the batch. Returns whether more segments wait, so that another job is due.
    fn end(mut self) -> bool {
        self.has_run = true;
        let mut state = self.sealed.state.lock();
        state.taken_count = 0;
        state.is_scheduled = !state.waiting.is_empty();
        self.sealed.fewer.notify_all();
        state.is_scheduled
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.has_run {
            let mut state = self.sealed.state.lock();
            let dropped = std::mem::take(&mut state.waiting);
            (state.taken_count, state.is_scheduled) = (0, false);
            self.sealed.fewer.notify_all();
            drop((state, dropped));
        }
    }
}

fn settle_some(topic: &Store, batch: Batch) {
    settle_sealed(topic, batch.take());
    if batch.end() {
        let batch = Batch::of(&topic.sealed);
        // After the jobs of other topics.
        topic.background.submit(Duty::Seal, move |topic| settle_some(topic, batch));
    }
}

fn settle_sealed(topic: &Store, mut full: Vec<Full>) {
    // A failure here shows again where it matters: a failed sync latches the topic, and the reader that needs
    // an index builds it.
    for Full { base, next, index, .. } in &mut full {
        // Dropped segments need no index.
        if *base < topic.first_offset().unwrap_or(0) || topic.background.is_closed() {
            continue;
        }
        let segment = topic.segment(*base);
        drop(segment.and_then(|segment| match index.take() {
            Some(index) => indexes::store(topic, &segment, *next, &index),
            None => indexes::build(topic, &segment, *next).map(drop),
        }));
    }
    if topic.options.durability == Durability::ProcessCrash {
        let most = (MOST_UNSYNCED_LEN / topic.settings.segment_len).clamp(2, MOST_WAITING as u64);
        let unsynced = &mut topic.sealed.state.lock().unsynced;
        unsynced.extend(full);
        let first = topic.first_offset().unwrap_or(0);
        unsynced.retain(|full| full.base >= first);
        let most = most as usize;
        let excess = if unsynced.len() > most { unsynced.len() - most / 2 } else { 0 };
        full = unsynced.drain(..excess).collect();
    }
    if let Some(end) = full.iter().map(|full| full.next).max() {
        drop(sync_up_to(topic, end, end));
    }
}
