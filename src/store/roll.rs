//! The next segment: prepared ahead, entered under the append lock without a sync.
//!
//! Ordered steps of a roll, under the lock: 1. announce it, 2. write the header, 3. give the file its name,
//! 4. enter it, 5. clear the announcement. If the roller dies, its successor looks for the name: if it
//! exists, the successor enters the segment, else there was no roll.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::append::Appender;
use super::prepared::{make_file, Claim, Unnamed};
use super::sealed::{Full, Hold, Sealed};
use super::{remove_if_there, Durability, Local, Store};
use crate::control::member::{Held, Membership};
use crate::error::{Error, IoResultExt, Result};
use crate::format::segment::{self as layout, Header};
use crate::format::PAGE_LEN;
use crate::segment::Segment;
use crate::sys::atomic::Ordering;
use crate::sys::crash_point::crash_point;
use crate::sys::{self, clock};

/// The longest wait for the append lock in a roll that no append waits for.
const BACKGROUND_WAIT: Duration = Duration::from_millis(100);

/// A thread of a member that leaves the active segment for the next one.
pub(super) struct Roller<'a> {
    topic: &'a Store,
    member: &'a Membership<Local>,
}

impl<'a> Roller<'a> {
    pub(super) fn of(topic: &'a Store) -> Result<Roller<'a>> {
        Ok(Roller { topic, member: topic.member()? })
    }

    /// Leaves the segment `seen`, which has no room for `needed` bytes. On return the next segment is active,
    /// this thread's or another writer's.
    pub(super) fn roll(&self, seen: u64, needed: u64) -> Result<()> {
        let topic = self.topic;
        if self.member.control.tail.end.load(Ordering::Acquire) == seen {
            return self.extend_empty(seen, needed);
        }
        if topic.options.durability != Durability::ProcessCrash {
            // At most two segments are ever unsynced, so a recovery reads no more than two.
            topic.wait_durable(seen)?;
        }
        topic.sealed.wait_for_room();
        self.leave(seen, self.unnamed_file(needed)?, topic.log.options.lock_deadline())?;
        topic.retaining.hold_to_limit(topic);
        Ok(())
    }

    /// Leaves the segment `seen`, which has records, although it still has room. Does nothing if the append
    /// lock is not free soon.
    pub(super) fn roll_in_background(&self, seen: u64) -> Result<()> {
        if self.topic.options.durability != Durability::ProcessCrash {
            self.topic.wait_durable(seen)?;
        }
        let unnamed = self.unnamed_file(0)?;
        match self.leave(seen, unnamed, Some(Instant::now() + BACKGROUND_WAIT)) {
            Err(Error::TimedOut { .. }) => Ok(()),
            left => left,
        }
    }

    /// Completes a dead owner's roll, or forgets it.
    pub(super) fn settle(&self, held: &mut Held<'_, Local>) -> Result<()> {
        let (topic, words) = (self.topic, &*self.member.control);
        let base = words.intent.roll.load(Ordering::Acquire) - 1;
        match topic.segment(base) {
            Ok(_) => {
                if words.tail.place().active != base {
                    words.tail.enter(base, layout::FIRST_FRAME_AT);
                }
                held.active = None;
                Claim::forget_entered(topic, words)?;
            }
            Err(error) if error.is_file_not_found() => {}
            Err(error) => return Err(error),
        }
        crash_point!("settle.rolled");
        words.intent.roll.store(0, Ordering::Release);
        Ok(())
    }

    /// Enters `unnamed` after the segment `seen`, unless another writer has left `seen`.
    fn leave(&self, seen: u64, unnamed: Unnamed, deadline: Option<Instant>) -> Result<()> {
        let (topic, words) = (self.topic, &*self.member.control);
        let len = unnamed.file.len().at("sizing", &unnamed.path)?;
        let salt = sys::random();
        let mut held = match Appender::of(topic)?.lock(deadline) {
            Ok(held) => held,
            Err(error) => {
                self.give_back(unnamed)?;
                return Err(error);
            }
        };
        let base = words.tail.end.load(Ordering::Relaxed);
        let stands = unnamed.claim.is_none_or(|claim| claim.stands(words));
        if words.tail.place().active != seen || base == seen || !stands {
            drop(held);
            return self.give_back(unnamed);
        }
        if let Err(error) = topic.location.check() {
            drop(held);
            self.give_back(unnamed)?;
            return Err(error);
        }
        let header = Header {
            epoch: words.identity.epoch.load(Ordering::Relaxed) as u32,
            base,
            salt,
            topic_id: topic.settings.topic_id,
            durable_end: words.durable.end.load(Ordering::Acquire),
            max_timestamp: words.intent.max_timestamp.load(Ordering::Relaxed),
            file_len: len,
        };
        let made = unnamed.claim.is_none().then(|| unnamed.path.clone());
        let sealed = held.active.take();
        let full_to = words.tail.place().position;
        let index = held.index.take().filter(|index| index.is_dense(full_to));
        let entered = self.enter_named(unnamed, header);
        if let Ok(segment) = &entered {
            held.enter(Arc::clone(segment));
        }
        drop(held);
        if let (Err(_), Some(made)) = (&entered, made) {
            remove_if_there(&*topic.files, &made)?;
        }
        let _hold = sealed.as_deref().and_then(Hold::of);
        topic.ahead.entered(topic, &entered?, sealed);
        Sealed::seal(topic, Full { base: seen, next: base, index, _hold });
        Ok(())
    }

    fn enter_named(&self, unnamed: Unnamed, header: Header) -> Result<Arc<Segment>> {
        let (topic, words) = (self.topic, &*self.member.control);
        let path = topic.dir.join(layout::file_name(header.base));
        words.intent.roll.store(header.base + 1, Ordering::Release);
        crash_point!("roll.announced");
        let named = (|| {
            let begun_at = clock::wall();
            let segment = Segment::with_header(path.clone(), unnamed.file, header, Some(begun_at))?;
            segment.was_allocated();
            if let Some((map, resident)) = unnamed.mapped {
                segment.install(map, resident);
            }
            segment.write(0, &mut [IoSlice::new(&header.encode_page(begun_at))])?;
            crash_point!("roll.headed");
            topic.files.rename_no_replace(&unnamed.path, &path).at("naming", &path)?;
            Ok(segment)
        })();
        crash_point!("roll.named");
        let entered = named.map(|segment| {
            if topic.options.durability != Durability::ProcessCrash {
                segment.skip_populate();
            }
            let segment = Arc::new(segment);
            topic.segments.keep(&segment);
            words.tail.enter(header.base, layout::FIRST_FRAME_AT);
            segment
        });
        crash_point!("roll.entered");
        if let (Ok(_), Some(claim)) = (&entered, unnamed.claim) {
            claim.clear(words);
        }
        words.intent.roll.store(0, Ordering::Release);
        entered
    }

    /// Makes room in the active segment, which has no record yet, for a record that is larger than a segment.
    fn extend_empty(&self, active: u64, needed: u64) -> Result<()> {
        let topic = self.topic;
        let path = topic.dir.join(layout::file_name(active));
        let len =
            (self.member.control.tail.place().position + needed).next_multiple_of(PAGE_LEN as u64);
        let file = topic.files.open(&path, sys::Access::ReadWrite).at("opening", &path)?;
        file.allocate(len).map_err(|error| Error::allocating(&path, len, error))?;
        // Its file has grown: the next use opens it again.
        topic.segments.forget(active);
        let mut held = topic.lock_append()?;
        if held.active.as_ref().is_some_and(|segment| segment.base() == active) {
            held.active = None;
        }
        Ok(())
    }

    /// Returns the prepared file if it is ready and large enough, else a file made now.
    fn unnamed_file(&self, needed: u64) -> Result<Unnamed> {
        let (topic, member) = (self.topic, self.member);
        let least = layout::FIRST_FRAME_AT + needed;
        if least <= topic.settings.segment_len {
            if let Some(unnamed) = topic.ahead.take_ready(topic, &member.control)? {
                return Ok(unnamed);
            }
        }
        // A number among this process's files; the slot distinguishes them from those of other processes.
        let number = topic.files_made.fetch_add(1, Ordering::Relaxed) + 1;
        let me = member.me;
        let path = topic.dir.join(format!("roll-{}-{}-{number}.tmp", me.slot(), me.generation()));
        let len = least.max(topic.settings.segment_len).next_multiple_of(PAGE_LEN as u64);
        let file = make_file(topic, &path, len)?;
        Ok(Unnamed { path, file, claim: None, mapped: None })
    }

    fn give_back(&self, unnamed: Unnamed) -> Result<()> {
        if unnamed.claim.is_some() {
            self.topic.ahead.give_back(unnamed);
            return Ok(());
        }
        self.topic.files.remove_file(&unnamed.path).at("removing", &unnamed.path)
    }
}
