//! Segments that are full: synced, indexed, and old ones dropped, in the background, several at once. A
//! writer that is far ahead of that waits a little at each roll, so that what retention should have
//! dropped does not pile up, and open files do so slowly at most.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::TopicInner;
use crate::housekeeper::Duty;
use crate::segment::Segment;

/// So many segments, of all topics of a log, may wait before a roll does.
const MOST_WAITING: usize = 256;
/// So many of a topic are taken at once; then it is another topic's turn.
const BATCH: usize = 16;
/// The longest wait in a roll: a disk that hangs slows a writer down, and does not stop it.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// Counts the full segments of all topics of a log that are not settled.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    count: Mutex<usize>,
    fewer: Condvar,
}

impl Backlog {
    /// Waits, but not for long, while there are too many.
    fn wait_for_room(&self) {
        let until = Instant::now() + LONGEST_WAIT;
        let mut count = self.count.lock();
        while *count > MOST_WAITING {
            if self.fewer.wait_until(&mut count, until).timed_out() {
                return;
            }
        }
    }

    fn add(&self) {
        *self.count.lock() += 1;
    }

    fn remove(&self, settled: usize) {
        *self.count.lock() -= settled;
        self.fewer.notify_all();
    }
}

/// A full segment.
#[derive(Debug)]
struct Full {
    base: u64,
    /// The base of the segment behind it.
    next: u64,
    /// If this process had it open.
    segment: Option<Arc<Segment>>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sealed {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Full>,
    /// A job will take some of them.
    is_scheduled: bool,
}

/// Held by the job. Gone without having run, because no thread can be started or the topic is closed,
/// it leaves nothing waiting.
struct Scheduled {
    sealed: Arc<Sealed>,
    backlog: Arc<Backlog>,
    has_run: bool,
}

impl Scheduled {
    fn take(&self) -> Vec<Full> {
        let mut state = self.sealed.state.lock();
        let count = state.waiting.len().min(BATCH);
        state.waiting.drain(..count).collect()
    }

    /// Whether more have come: then another job is due.
    fn end(mut self) -> bool {
        self.has_run = true;
        let mut state = self.sealed.state.lock();
        state.is_scheduled = !state.waiting.is_empty();
        state.is_scheduled
    }
}

impl Drop for Scheduled {
    fn drop(&mut self) {
        if !self.has_run {
            let dropped = std::mem::take(&mut *self.sealed.state.lock());
            self.backlog.remove(dropped.waiting.len());
        }
    }
}

/// Segments in hand; settled when dropped, well or not.
struct InHand<'a> {
    backlog: &'a Backlog,
    count: usize,
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.backlog.remove(self.count);
    }
}

impl TopicInner {
    /// Waits for a moment if the background is far behind.
    pub(super) fn let_background_follow(&self) {
        self.log.backlog.wait_for_room();
    }

    /// Has the segment at `base`, which ends at `next`, synced and indexed in the background, in every
    /// mode, and trims.
    pub(super) fn seal(&self, base: u64, next: u64, segment: Option<Arc<Segment>>) {
        let was_scheduled = {
            let mut state = self.sealed.state.lock();
            self.log.backlog.add();
            state.waiting.push_back(Full { base, next, segment });
            std::mem::replace(&mut state.is_scheduled, true)
        };
        if !was_scheduled {
            let scheduled = self.scheduled();
            self.in_background(Duty::Sync, move |topic| topic.settle_some(scheduled));
        }
    }

    fn scheduled(&self) -> Scheduled {
        let (sealed, backlog) = (Arc::clone(&self.sealed), Arc::clone(&self.log.backlog));
        Scheduled { sealed, backlog, has_run: false }
    }

    fn settle_some(&self, scheduled: Scheduled) {
        let full = scheduled.take();
        let in_hand = InHand { backlog: &self.log.backlog, count: full.len() };
        self.settle_sealed(full);
        drop(in_hand);
        if scheduled.end() {
            let scheduled = self.scheduled();
            // Behind the jobs of other topics.
            self.next_in_background(Duty::Sync, move |topic| topic.settle_some(scheduled));
        }
    }

    fn settle_sealed(&self, full: Vec<Full>) {
        // What fails here fails again where it matters: a sync latches the topic, an index is built
        // by the reader that needs it, a trim is tried at the next roll.
        let end = full.iter().map(|full| full.next).max().unwrap_or(0);
        let synced = self.sync_up_to(end, end);
        // Before the indexes, of which those that go need none.
        let first = self.trim_by_retention();
        let first = *first.as_ref().unwrap_or(&0);
        for Full { base, next, segment } in full.into_iter().filter(|full| full.base >= first) {
            let segment = segment.map_or_else(|| self.segment(base), Ok);
            drop(segment.and_then(|segment| self.build_index(&segment, next).map(drop)));
        }
        drop(synced);
    }
}
