//! The append path, and settling a dead writer's intent.
//!
//! An append makes these stores, in an order that is visible to the next owner of the lock: the intent
//! (start, offset, then end); the frames; the tail's position; the tail's end, which publishes the records;
//! clearing the intent. If the writer is killed between any two of them, the next owner of the lock finds
//! the intent and settles it before it does anything else.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::directory::CONTROL;
use super::draft::{Draft, Site, To};
use super::prepared::PIECE_LEN;
use super::roll::Roller;
use super::{Durability, Local, Store};
use crate::control::lock::Owner;
use crate::control::member::{Held, Membership};
use crate::control::Place;
use crate::error::{Error, Result};
use crate::format::index::Entry;
use crate::format::{frame, segment as layout};
use crate::record::{self, ToFrame};
use crate::segment::{Batches, Frames, Segment};
use crate::sys::atomic::{fence, Ordering};
use crate::sys::clock;
use crate::sys::crash_point::crash_point;

/// Appends of at least this many bytes are written by a system call on every topic: it needs no resident pages,
/// and its cost is small beside that of the bytes.
const LARGE: u64 = 64 << 10;

impl Store {
    /// Appends records as one batch; they are published on return, durable or not. With `end`, appends only if
    /// that is the end.
    pub(crate) fn append<R: ToFrame>(&self, records: &[R], end: Option<u64>) -> Result<Range<u64>> {
        Appender::of(self)?.append(records, end)
    }

    /// Takes the append lock, and settles a dead owner's intent first.
    pub(super) fn lock_append(&self) -> Result<Held<'_, Local>> {
        Appender::of(self)?.lock(self.log.options.lock_deadline())
    }

    /// Returns the end, after everything that a dead process had begun to append was published or covered.
    pub(crate) fn settled_end(&self) -> Result<u64> {
        let held = self.lock_append()?;
        let end = self.member()?.control.tail.end.load(Ordering::Relaxed);
        drop(held);
        if self.options.durability == Durability::PowerLoss {
            self.wait_durable(end)?;
        }
        Ok(end)
    }
}

/// A thread of a member that appends, or needs the append lock to do something else.
pub(super) struct Appender<'a> {
    topic: &'a Store,
    member: &'a Membership<Local>,
}

impl<'a> Appender<'a> {
    #[inline]
    pub(super) fn of(topic: &'a Store) -> Result<Appender<'a>> {
        Ok(Appender { topic, member: topic.member()? })
    }

    #[inline]
    fn append<R: ToFrame>(&self, records: &[R], end: Option<u64>) -> Result<Range<u64>> {
        let (topic, words) = (self.topic, &*self.member.control);
        let total = checked_len(records)?;
        let mut timestamp = clock::wall_coarse();
        topic.location.check_sometimes(timestamp)?;
        let mut draft = Draft::new(records, timestamp, topic.last_end.load(Ordering::Relaxed));
        loop {
            let held = self.lock(topic.log.options.lock_deadline())?;
            if words.identity.latched.load(Ordering::Relaxed) != 0 {
                return Err(Error::SyncFailed { path: topic.dir.clone() });
            }
            let Place { active, position } = words.tail.place();
            let fits = |one: &&Arc<Segment>| one.base() == active && one.len() >= position;
            let Some(segment) = held.active.as_ref().filter(fits) else {
                drop(held);
                self.adopt(active)?;
                continue;
            };
            let offset = words.tail.end.load(Ordering::Relaxed);
            if let Some(expected) = end.filter(|&expected| expected != offset) {
                return Err(Error::EndMoved { expected, end: offset });
            }
            let end = position + total;
            if end > segment.len() {
                drop(held);
                Roller::of(topic)?.roll(active, total)?;
                continue;
            }
            let to = self.way(segment, position, end)?;
            let newest = words.intent.max_timestamp.load(Ordering::Relaxed);
            if timestamp < newest && timestamp != clock::wall_coarse() {
                // Taken before the wait for the lock. Timestamps rise with offsets if the clock does.
                timestamp = clock::wall_coarse();
                draft.restamp(timestamp);
            }
            words.intent.start.store(position, Ordering::Relaxed);
            words.intent.offset.store(offset, Ordering::Relaxed);
            words.intent.end.store(end, Ordering::Release);
            // The intent must be in memory before the first byte of a frame.
            fence(Ordering::AcqRel);
            crash_point!("append.announced");
            let site = Site { salt: segment.header.salt, offset, position };
            if let Err(error) = draft.write(to, site) {
                return Err(self.withdraw(segment, position..end, offset, error));
            }
            crash_point!("append.written");
            if newest < timestamp {
                words.intent.max_timestamp.store(timestamp, Ordering::Relaxed);
            }
            words.tail.advance(end);
            crash_point!("append.positioned");
            // Release: pairs with the Acquire load of `frontier`.
            words.tail.end.store(offset + records.len() as u64, Ordering::Release);
            crash_point!("append.published");
            words.intent.end.store(0, Ordering::Release);
            let entry = Entry { offset, max_timestamp: newest, position };
            let is_late =
                position >= held.look_at.get() && topic.ahead.look(topic, &held, entry, end);
            let appended = offset..offset + records.len() as u64;
            topic.last_end.store(appended.end, Ordering::Relaxed);
            drop(held);
            // The release of the lock was a full barrier: a waiter that this thread does not see here sees
            // the new end.
            crate::control::waiters::wake(&words.appended.word);
            if is_late {
                topic.ahead.help(topic);
            }
            return Ok(appended);
        }
    }

    /// Returns how the frames from `position` to `end` are written.
    #[inline]
    fn way<'s>(&self, segment: &'s Segment, position: u64, end: u64) -> Result<To<'s>> {
        if end - position >= LARGE || self.topic.writes_by_call(segment) {
            return Ok(To::File(segment));
        }
        if end > segment.resident() {
            // The background has not kept up. One page fault after another would cost more.
            segment.populate(end.max(position + PIECE_LEN))?;
        }
        Ok(To::Map(segment.map()?))
    }

    /// Takes back frames that could not be written whole, under the lock and before they are published. If that
    /// fails too, the intent stays: the next owner of the lock settles it as that of a dead owner, and may find
    /// that the frames are whole.
    #[cold]
    fn withdraw(&self, segment: &Segment, frames: Range<u64>, offset: u64, error: Error) -> Error {
        crash_point!("append.failed");
        if segment.write_zeros(frames).is_err() {
            return Error::Unknown { offset, source: Box::new(error) };
        }
        crash_point!("append.withdrawn");
        self.member.control.intent.end.store(0, Ordering::Release);
        error
    }

    /// Takes the append lock until `deadline` at the latest, and settles a dead owner's intent first.
    #[inline]
    pub(super) fn lock(&self, deadline: Option<Instant>) -> Result<Held<'a, Local>> {
        let Some(mut held) = self.member.lock(deadline) else {
            return Err(self.timed_out());
        };
        let intent = &self.member.control.intent;
        if intent.end.load(Ordering::Relaxed) | intent.roll.load(Ordering::Relaxed) != 0 {
            self.settle(&mut held)?;
        }
        Ok(held)
    }

    /// Opens the segment that is active now, so that the next attempt under the lock finds it.
    fn adopt(&self, active: u64) -> Result<()> {
        let topic = self.topic;
        let place = self.member.control.tail.place();
        let needed = if place.active == active { place.position } else { 0 };
        let segment = topic.segment_reaching(active, needed)?;
        topic.ahead.map(topic, &segment)?;
        if topic.options.durability != Durability::ProcessCrash {
            // Its blocks were written ahead, and every sync write-protects its pages again.
            segment.skip_populate();
        }
        let left = self.lock(topic.log.options.lock_deadline())?.enter(Arc::clone(&segment));
        topic.ahead.entered(topic, &segment, left);
        Ok(())
    }

    /// Completes or covers the write that a dead owner of the lock had begun. Idempotent: the intent is
    /// cleared last, so dying here leaves the same work to the next owner.
    #[cold]
    fn settle(&self, held: &mut Held<'_, Local>) -> Result<()> {
        let (topic, words) = (self.topic, &*self.member.control);
        if words.intent.roll.load(Ordering::Acquire) != 0 {
            Roller::of(topic)?.settle(held)?;
        }
        let end = words.intent.end.load(Ordering::Acquire);
        if end == 0 {
            return Ok(());
        }
        let start = words.intent.start.load(Ordering::Relaxed);
        let segment = topic.segment(words.tail.place().active)?;
        let plausible = start >= layout::FIRST_FRAME_AT
            && start < end
            && end <= segment.len()
            && (start | end) % frame::ALIGN as u64 == 0;
        if !plausible {
            return Err(Error::Corrupt {
                path: topic.dir.join(CONTROL),
                position: 256,
                offset: None,
                what: format!(
                    "an impossible intent to write {start}..{end} in a segment of {} bytes",
                    segment.len()
                ),
            });
        }
        let offset = words.intent.offset.load(Ordering::Relaxed);
        segment.fill_holes()?;
        let mut whole = Batches::of(Frames::from(&segment, start, offset).up_to(end));
        whole.walk()?;
        let (next, covered_from) = (whole.end, whole.end_position);
        if covered_from < end {
            let void = frame::void(
                (end - covered_from) as usize,
                next,
                clock::wall_coarse(),
                segment.header.salt,
                covered_from,
            );
            segment.write(covered_from, &mut [IoSlice::new(&void)])?;
        }
        // Before the records are published, because the next segment's header states it.
        words.intent.max_timestamp.fetch_max(whole.newest, Ordering::Relaxed);
        crash_point!("settle.covered");
        words.tail.advance(end);
        words.tail.end.store(next, Ordering::Release);
        crash_point!("settle.published");
        words.intent.end.store(0, Ordering::Release);
        crate::control::waiters::wake_after_fence(&words.appended.word);
        Ok(())
    }

    #[cold]
    fn timed_out(&self) -> Error {
        let words = &*self.member.control;
        let owner = Owner::of_word(words.lock.word.load(Ordering::Relaxed));
        let owner = owner.and_then(|owner| words.members.get(owner.slot()));
        let pid = owner.map_or(0, |member| member.pid.load(Ordering::Relaxed));
        Error::TimedOut {
            what: format!(
                "the append lock of topic {}: process {pid} holds it and is alive (perhaps stopped)",
                self.topic.name
            ),
        }
    }
}

/// Checks the records and adds up their padded frames.
fn checked_len(records: &[impl ToFrame]) -> Result<u64> {
    if records.is_empty() {
        return Err(Error::Invalid { what: "the batch is empty: nothing was appended".into() });
    }
    let mut total = 0;
    for record in records {
        total += frame::padded(record::checked_len(record)?);
        if total > frame::MAX_LEN + frame::ALIGN {
            return Err(Error::TooLarge { len: total, limit: frame::MAX_LEN });
        }
    }
    Ok(total as u64)
}
