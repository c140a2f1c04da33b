//! Segments that are full: synced, indexed, and old ones dropped, in the background, as many at once as
//! have come together. A writer that is far ahead of that waits a little at each roll, so that neither
//! open files nor what retention should have dropped pile up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::TopicInner;
use crate::housekeeper::Duty;
use crate::segment::Segment;

/// So many segments may wait before a roll does.
const MOST_WAITING: usize = 256;
/// So many are taken at once.
const BATCH: usize = 16;
/// The longest wait in a roll: a disk that hangs slows a writer down, and does not stop it.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

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
    fewer: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Full>,
    in_hand: usize,
    /// A job will take them.
    is_scheduled: bool,
}

/// Held by the job. Gone without having run, because no thread can be started or the topic is closed,
/// it leaves nothing waiting.
struct Scheduled {
    sealed: Arc<Sealed>,
    has_run: bool,
}

impl Scheduled {
    fn end(mut self) {
        self.has_run = true;
    }
}

impl Drop for Scheduled {
    fn drop(&mut self) {
        if !self.has_run {
            *self.sealed.state.lock() = State::default();
            self.sealed.fewer.notify_all();
        }
    }
}

impl Sealed {
    /// Waits, but not for long, while too many are waiting.
    pub(super) fn wait_for_room(&self) {
        let until = Instant::now() + LONGEST_WAIT;
        let mut state = self.state.lock();
        while state.waiting.len() + state.in_hand > MOST_WAITING {
            if self.fewer.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }

    /// Those that are waiting; none ends the job.
    fn take(&self) -> Vec<Full> {
        let mut state = self.state.lock();
        let count = state.waiting.len().min(BATCH);
        let taken: Vec<Full> = state.waiting.drain(..count).collect();
        state.in_hand = taken.len();
        state.is_scheduled = !taken.is_empty();
        self.fewer.notify_all();
        taken
    }
}

impl TopicInner {
    /// Has the segment at `base`, which ends at `next`, synced and indexed in the background, in every
    /// mode, and trims.
    pub(super) fn seal(&self, base: u64, next: u64, segment: Option<Arc<Segment>>) {
        {
            let mut state = self.sealed.state.lock();
            state.waiting.push_back(Full { base, next, segment });
            if std::mem::replace(&mut state.is_scheduled, true) {
                return;
            }
        }
        let scheduled = Scheduled { sealed: Arc::clone(&self.sealed), has_run: false };
        self.in_background(Duty::Sync, move |topic| {
            loop {
                let full = scheduled.sealed.take();
                if full.is_empty() {
                    break;
                }
                topic.settle_sealed(full);
            }
            // Others may have scheduled the next job by now.
            scheduled.end();
        });
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
