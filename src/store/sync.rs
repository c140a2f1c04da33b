//! Durability: which thread syncs, what a sync covers, what a failed sync means.
//!
//! A thread that waits and finds no sync running syncs itself, up to the current end, also for the other
//! waiting threads. Before the durable end moves to T, every segment that holds unsynced records below T is
//! synced in order, and the directory if it has a new name. Another thread takes over from a dead syncer and
//! overtakes a slow one. In both cases a failure may have been reported and lost, so the pages are marked as
//! changed first.
//!
//! The kernel reports a failed write once to each open file description. So the owner of the sync word, one
//! thread at a time, syncs through the files that its process has open. An overtaker opens each file for
//! itself before it marks the pages, so every later failure is reported to it as well. With no descriptor
//! left for that, it waits.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::locate::segment_apart;
use super::{Durability, Local, Store};
use crate::control::lock::{Liveness, Owner};
use crate::control::member::Membership;
use crate::control::{waiters, Words};
use crate::error::{Error, Result};
use crate::events;
use crate::format::segment::{self as layout, Slot};
use crate::segment::Segment;
use crate::sys::atomic::Ordering;
use crate::sys::clock;
use crate::sys::crash_point::crash_point;

/// A sync that began less than this many nanoseconds ago is not overtaken.
const SLOW: u64 = 10_000_000;

/// If a sync seems to have begun more nanoseconds ago than this, the waiting thread measures its age itself:
/// its process may have another clock, in a time namespace of its own.
const OLDEST: u64 = 10_000_000_000;

/// A sync that a thread waits for: its owner and beginning by its words, and since when the thread waits.
type Watched = Option<((u32, u64), Instant)>;

/// A sync that takes at least this many nanoseconds is reported as an event.
const SLOW_ENOUGH_TO_TELL: u64 = 1_000_000_000;

/// A thread's role in a sync.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It owns the sync word, and the previous sync has ended.
    Owner,
    /// It owns the sync word; the previous owner died during its sync.
    Heir,
    /// It syncs beside a slow owner.
    Overtaker,
}

/// What the sync word says about the running sync.
enum Turn {
    /// This thread owns the word, as the owner or the heir.
    Mine(Role),
    /// The owner is alive and has taken too long.
    Overtake,
    /// The owner is alive: sleep for at most this long.
    Wait(Duration),
}

impl Store {
    /// Completes an append of these records: waits as the topic's durability requires.
    pub(crate) fn acknowledge(&self, appended: &Range<u64>) -> Result<()> {
        let waited = match self.options.durability {
            Durability::PowerLoss => self.wait_durable(appended.end),
            Durability::PowerLossWithin(interval) => sync_if_overdue(self, interval),
            Durability::ProcessCrash => Ok(()),
        };
        waited.map_err(|source| Error::Unknown { offset: appended.start, source: Box::new(source) })
    }

    /// Returns when everything below `target` is durable. `target` is at most the end.
    pub(crate) fn wait_durable(&self, target: u64) -> Result<()> {
        sync_up_to(self, target, u64::MAX)
    }
}

/// Syncs if the oldest unsynced record may be older than the topic's interval.
fn sync_if_overdue(topic: &Store, interval: Duration) -> Result<()> {
    let words = &topic.member()?.control;
    let begun = words.sync.begun_at.load(Ordering::Relaxed);
    if clock::monotonic_coarse().saturating_sub(begun) < clock::nanos(interval) {
        return Ok(());
    }
    topic.wait_durable(words.tail.end.load(Ordering::Acquire))
}

/// Returns when everything below `target` is durable. If this thread syncs, it skips the segments that start
/// at or after `limit`.
pub(super) fn sync_up_to(topic: &Store, target: u64, limit: u64) -> Result<()> {
    let member = topic.member()?;
    Syncer { topic, member, words: &member.control, watched: None }.up_to(target, limit)
}

/// Stops all appends of all processes: after a failed sync the page cache holds bytes that are not on the disk
/// and marks them clean.
pub(super) fn latch(topic: &Store, words: &Words, segment: &Segment) -> Error {
    crash_point!("sync.failed");
    words.identity.latched.store(1, Ordering::Release);
    let latched = layout::LATCHED.to_le_bytes();
    // If the header cannot be written either, the word is what stops the appends of this boot.
    drop(segment.write(layout::LATCH_AT as u64, &mut [IoSlice::new(&latched)]));
    crash_point!("sync.latched");
    events::sync_failed(&topic.name);
    Error::SyncFailed { path: topic.dir.clone() }
}

/// A thread that needs records to be durable: it syncs, or waits for another thread that does.
struct Syncer<'a> {
    topic: &'a Store,
    member: &'a Membership<Local>,
    words: &'a Words,
    watched: Watched,
}

impl Syncer<'_> {
    /// See [`sync_up_to`].
    fn up_to(&mut self, target: u64, limit: u64) -> Result<()> {
        let words = self.words;
        loop {
            // Acquire: pairs with the fetch_max in `once`.
            let durable = words.durable.end.load(Ordering::Acquire);
            if durable >= target {
                return Ok(());
            }
            self.check_not_latched()?;
            crash_point!("sync.due");
            let wait = |timeout| {
                waiters::sleep(&words.synced.word, timeout, || {
                    words.durable.end.load(Ordering::SeqCst) >= target
                        || words.sync.owner.load(Ordering::SeqCst) == 0
                });
                Ok(())
            };
            let synced = match self.turn() {
                Turn::Mine(role) => {
                    // Checked again: the previous owner may have latched the topic since. The failure was
                    // reported to it, and will not be reported to this thread.
                    let synced = self.check_not_latched();
                    let synced = synced.and_then(|()| self.once(role, limit));
                    // Only now: a thread that finds the word free also finds the durable end or the latch.
                    words.sync.owner.store(0, Ordering::Release);
                    waiters::wake_after_fence(&words.synced.word);
                    synced
                }
                Turn::Overtake => match self.once(Role::Overtaker, limit) {
                    Err(error) if error.is_out_of_descriptors() => wait(Duration::from_nanos(SLOW)),
                    synced => {
                        waiters::wake_after_fence(&words.synced.word);
                        synced
                    }
                },
                Turn::Wait(timeout) => wait(timeout),
            };
            match synced {
                Err(failed @ Error::SyncFailed { .. }) => return Err(failed),
                // Another sync was faster. Only durable segments are dropped, so a trim after it may have
                // dropped those that this sync had not reached.
                Err(_) if words.durable.end.load(Ordering::Acquire) > durable => {}
                synced => synced?,
            }
        }
    }

    /// Takes the sync word if it is free or its owner is dead.
    fn turn(&mut self) -> Turn {
        let (words, me) = (self.words, self.member.me);
        let take = |from| {
            // Before the word is taken, so that no thread takes the new owner for a slow one.
            words.sync.begun_at.store(clock::monotonic_coarse(), Ordering::Relaxed);
            words
                .sync
                .owner
                .compare_exchange(from, me.word(), Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        };
        let seen = words.sync.owner.load(Ordering::Acquire);
        let Some(owner) = Owner::of_word(seen) else {
            return match take(seen) {
                true => Turn::Mine(Role::Owner),
                false => Turn::Wait(Duration::ZERO),
            };
        };
        let begun = words.sync.begun_at.load(Ordering::Relaxed);
        let slow = SLOW.max(4 * words.sync.recent.load(Ordering::Relaxed));
        let age = age_of((seen, begun), &mut self.watched);
        if age >= slow && owner == me {
            return Turn::Overtake;
        }
        if !self.member.is_alive(owner) {
            return match take(seen) {
                true => Turn::Mine(Role::Heir),
                false => Turn::Wait(Duration::ZERO),
            };
        }
        if age >= slow {
            return Turn::Overtake;
        }
        Turn::Wait(Duration::from_nanos(slow - age))
    }

    fn check_not_latched(&self) -> Result<()> {
        match self.words.identity.latched.load(Ordering::Acquire) {
            0 => Ok(()),
            _ => Err(Error::SyncFailed { path: self.topic.dir.clone() }),
        }
    }

    /// Syncs everything appended so far and moves the durable end.
    fn once(&self, role: Role, limit: u64) -> Result<()> {
        let (topic, words) = (self.topic, self.words);
        let begun = clock::monotonic_coarse();
        words.sync.begun_at.store(begun, Ordering::Relaxed);
        let durable = words.durable.end.load(Ordering::Acquire);
        // The end is read before the place, so every segment with records below the end is synced.
        let end = words.tail.end.load(Ordering::Acquire);
        let target = end.min(limit);
        if role != Role::Owner {
            // Kept until a sync has succeeded: if a failure is reported to this thread and it dies, the next
            // syncer also marks the pages.
            words.sync.suspect_end.fetch_max(end, Ordering::AcqRel);
        }
        let suspect = words.sync.suspect_end.load(Ordering::Acquire);
        let active = words.tail.place().active;
        let mut base = topic.around(durable.min(active), active)?.0;
        loop {
            let (_, next) = topic.around(base, active)?;
            self.segment(role, (base, next), durable)?;
            match next {
                Some(next) if next < limit => base = next,
                _ => break,
            }
        }
        self.names(role, active)?;
        crash_point!("sync.after");
        if suspect > durable && suspect <= target {
            // Only if no thread has raised it meanwhile.
            let cleared = words.sync.suspect_end.compare_exchange(
                suspect,
                0,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            debug_assert!(cleared.is_ok_and(|was| was == suspect) || cleared.is_err());
        }
        topic.location.check_after_sync()?;
        words.durable.end.fetch_max(target, Ordering::AcqRel);
        let took = clock::monotonic_coarse().saturating_sub(begun);
        words.sync.recent.store(took, Ordering::Relaxed);
        if took >= SLOW_ENOUGH_TO_TELL {
            events::sync_was_slow(&topic.name, took);
        }
        crash_point!("sync.published");
        Ok(())
    }

    /// Syncs one segment, which ends where the next one begins if there is one.
    fn segment(&self, role: Role, (base, next): (u64, Option<u64>), durable: u64) -> Result<()> {
        let (topic, words) = (self.topic, self.words);
        let segment = match role {
            Role::Overtaker => segment_apart(topic, base)?,
            Role::Owner | Role::Heir => topic.segment(base)?,
        };
        // Read after the open: an overtaker that got a report of a failure before that has raised it.
        let suspect = words.sync.suspect_end.load(Ordering::Acquire);
        let mut marked = 0..0;
        if role != Role::Owner || suspect > durable {
            marked = self.redirty_from(&segment, next, durable)?;
        }
        if role == Role::Owner && next.is_none() {
            // Without it, the slot before it states a lower bound.
            drop(write_slot(words, &segment, durable));
        }
        crash_point!("sync.before");
        if segment.sync().is_err() || segment.has_unwritten_blocks(marked)? {
            return Err(latch(topic, words, &segment));
        }
        Ok(())
    }

    /// Makes the names of the segments up to the active one durable, if they are not.
    fn names(&self, role: Role, active: u64) -> Result<()> {
        let (topic, words) = (self.topic, self.words);
        if words.sync.names_durable.load(Ordering::Acquire) > active {
            return Ok(());
        }
        let synced = match role {
            Role::Overtaker => topic.files.sync_dir(&topic.dir),
            Role::Owner | Role::Heir => topic.files.sync_own_names(),
        };
        if let Err(error) = synced {
            let error = Error::io("syncing", &topic.dir, error);
            return Err(match topic.location.displaced() {
                Some(displaced) => displaced,
                None if error.is_out_of_descriptors() => error,
                None => latch(topic, words, &*topic.segment(active)?),
            });
        }
        words.sync.names_durable.fetch_max(active + 1, Ordering::AcqRel);
        Ok(())
    }

    /// Makes the next sync write all bytes of a segment from the offset `durable` on, and the header page.
    /// Returns the positions of those bytes.
    fn redirty_from(
        &self,
        segment: &Arc<Segment>,
        next: Option<u64>,
        durable: u64,
    ) -> Result<Range<u64>> {
        let topic = self.topic;
        let frontier = topic.frontier()?;
        let is_active = next.is_none() && frontier.active == segment.base();
        let end = if is_active { frontier.position } else { segment.len() };
        segment.redirty(0..layout::FIRST_FRAME_AT)?;
        let start = topic.indexes.entry_before(topic, segment, next, &frontier, durable)?.position;
        segment.redirty(start..end)?;
        Ok(start..end)
    }
}

/// Returns how long the sync `seen` has been running, in nanoseconds: as its words say, and at least as long
/// as this thread has seen it.
fn age_of(seen: (u32, u64), watched: &mut Watched) -> u64 {
    let since = match *watched {
        Some((known, since)) if known == seen => since,
        _ => watched.insert((seen, Instant::now())).1,
    };
    let said = clock::monotonic_coarse().saturating_sub(seen.1);
    clock::nanos(since.elapsed()).max(if said < OLDEST { said } else { 0 })
}

/// Writes the durable end known so far into the slot that the sync before last wrote; the sync that follows
/// writes it to the disk.
pub(super) fn write_slot(words: &Words, segment: &Segment, durable_end: u64) -> Result<()> {
    let sequence = words.sync.slot_sequence.fetch_add(1, Ordering::Relaxed) + 1;
    let slot = Slot { sequence, durable_end }.encode(segment.header.salt);
    let written = segment.write(layout::slot_at(sequence) as u64, &mut [IoSlice::new(&slot)]);
    if written.is_err() {
        // The next one goes into the same slot, so that the other one stays whole.
        words.sync.slot_sequence.fetch_sub(1, Ordering::Relaxed);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_of_a_process_with_another_clock_is_as_old_as_it_was_seen_to_be() {
        let now = clock::monotonic_coarse();
        let second = Duration::from_secs(1);
        for begun in [now + 3_600_000_000_000, now.saturating_sub(1000 * OLDEST)] {
            let mut watched = None;
            assert!(age_of((7, begun), &mut watched) < SLOW.max(OLDEST / 2), "not seen before");
            let since = Instant::now().checked_sub(second).unwrap();
            watched = Some(((7, begun), since));
            assert!(age_of((7, begun), &mut watched) >= clock::nanos(second));
            assert!(age_of((8, begun), &mut watched) < OLDEST / 2, "another sync");
        }
        assert!(age_of((7, now - clock::nanos(second)), &mut None) >= clock::nanos(second));
    }
}
