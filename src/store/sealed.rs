//! Full segments: they are synced and indexed in the background, several at once. A writer that is far ahead
//! of that waits a little at each roll. A waiting segment takes no descriptor, because a process has few.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::backlog::{Backlog, Place};
use super::sync::sync_up_to;
use super::{indexes, Store};
use crate::format::PAGE_LEN;
use crate::housekeeper::Duty;
use crate::segment::Segment;
use crate::sys::Map;

/// The most segments of a topic that may wait before a roll waits.
const MOST_WAITING: usize = 256;
/// The most segments of a topic that one job takes before it is another topic's turn.
const BATCH: usize = 16;
/// The longest wait in a roll: a disk that hangs slows a writer down, but does not stop it.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// Keeps a full segment's file in memory. The kernel remembers a failed write with the file until a sync
/// reports it. If the file left memory before that, a later sync would succeed.
#[derive(Debug)]
enum Hold {
    /// It stays open. (The segment is dropped before its place is free.)
    Open { segment: Arc<Segment>, _place: Place },
    /// One page of it.
    Mapped { _page: Map },
    /// This process did not write to it.
    Not,
}

impl Hold {
    fn of(backlog: &Arc<Backlog>, segment: Option<Arc<Segment>>) -> Hold {
        let Some(segment) = segment else { return Hold::Not };
        if let Some(_place) = Place::take(backlog) {
            return Hold::Open { segment, _place };
        }
        // If no page of it can be mapped, the sync may miss an earlier failure.
        let page = segment.file().map(PAGE_LEN, false);
        page.map_or(Hold::Not, |_page| Hold::Mapped { _page })
    }
}

/// A full segment.
#[derive(Debug)]
struct Full {
    base: u64,
    /// The base of the next segment.
    next: u64,
    hold: Hold,
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
    taken_count: usize,
    /// Whether a job will take some of them.
    is_scheduled: bool,
}

impl Sealed {
    /// Has the segment at `base`, which ends at `next`, synced and indexed in the background, with every
    /// durability, and starts a trim by retention.
    pub(super) fn seal(topic: &Store, base: u64, next: u64, segment: Option<Arc<Segment>>) {
        let full = Full { base, next, hold: Hold::of(&topic.log.backlog, segment) };
        if let Some(batch) = Sealed::add(&topic.sealed, full) {
            topic.background.submit(Duty::Seal, move |topic| settle_some(topic, batch));
        }
        topic.retaining.trim_in_background(topic);
    }

    /// Syncs the full segments that still wait when no job will take them, because the topic is closed.
    pub(super) fn sync_rest(topic: &Store) {
        let left = std::mem::take(&mut topic.sealed.state.lock().waiting);
        if let Some(last) = left.back() {
            // A failed sync latches the topic, and the next process to open it recovers.
            drop(sync_up_to(topic, last.next, last.next));
        }
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
            let dropped = std::mem::take(&mut *self.sealed.state.lock());
            self.sealed.fewer.notify_all();
            drop(dropped);
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

fn settle_sealed(topic: &Store, full: Vec<Full>) {
    // A failure here shows again where it matters: a failed sync latches the topic, and the reader that needs
    // an index builds it.
    let end = full.iter().map(|full| full.next).max().unwrap_or(0);
    let synced = sync_up_to(topic, end, end);
    for Full { base, next, hold } in full {
        // Dropped segments need no index, and the next process to open the topic builds missing ones.
        let first = topic.first_offset().unwrap_or(0);
        if base < first || topic.background.is_closed() {
            continue;
        }
        let segment = match &hold {
            Hold::Open { segment, .. } => Ok(Arc::clone(segment)),
            _ => topic.segment(base),
        };
        drop(segment.and_then(|segment| indexes::build(topic, &segment, next).map(drop)));
    }
    drop(synced);
}
