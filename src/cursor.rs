//! An offset file, or one page of a group file, as its owner uses it: a position, its durable slots, and the
//! note of the record in flight.
//!
//! It knows no reader and takes no lock: the caller that makes one holds the lock.

mod look;

use std::sync::Arc;

use crate::error::{Error, IoResultExt, Result};
use crate::format::cursor;
use crate::format::{group, PAGE_LEN};
use crate::store::{is_live_trusted, Book, Handle, Page, Store};
use crate::sys;
use crate::sys::atomic::Ordering;

use look::{attempt_in, check_header, live_in, stopped_at, unreadable};
pub(crate) use look::{look, Seen};

/// What a position says of the records below it, and so which of the stored positions counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// They were handed out: the newest known position counts, in a copy as well.
    Handled,
    /// The log holds something for each of them: on another boot, or in doubt, the durable position counts,
    /// because it became durable after the records that it depends on.
    Answered,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Cursor {
    topic: Arc<Handle>,
    book: Arc<Book>,
    /// The position of its page in the file.
    base: usize,
    clamped_from: Option<u64>,
    trusted_live: bool,
    /// The position in the live words: only the owner stores them.
    committed: u64,
    turn: u32,
    /// Part of the check of every position of this turn.
    seed: u64,
}

/// A record in flight, as noted in the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// The record's offset.
    pub(crate) offset: u64,
    /// How often its handling was begun, including this time.
    pub(crate) count: u32,
    /// The end of the reply topic when it was begun, or an offset before it.
    pub(crate) floor: u64,
    /// The owner's own bytes.
    pub(crate) note: Vec<u8>,
}

impl Cursor {
    /// Takes over the page at `base`, whose lock the caller holds.
    pub(crate) fn take(
        topic: &Arc<Handle>,
        book: &Arc<Book>,
        base: usize,
        meaning: Meaning,
    ) -> Result<Cursor> {
        let (map, path) = (&book.map, &book.path);
        let mut bytes = vec![0; PAGE_LEN];
        map.read(base, &mut bytes);
        check_header(topic, path, base, &bytes)?;
        let identity = book.file.identity().at("asking for the identity of", path)?;
        let slot = cursor::newest_slot(&bytes);
        let trusted_live = is_live_trusted(topic, map, base, identity);
        let word = |at: usize| map.word(base + at).load(Ordering::Acquire);
        let live = live_in(map, base);
        let in_doubt = base != 0 && word(group::LANE_DOUBT_AT) == u64::MAX;
        let found = match (meaning, slot) {
            (Meaning::Answered, Some(slot)) if !trusted_live || in_doubt => {
                Some((slot.epoch, slot.turn, slot.offset))
            }
            _ => cursor::position(slot, live, trusted_live),
        };
        let found = found.ok_or_else(|| unreadable(path, base, "no valid slot"))?;
        let (epoch, mut turn, stored) = found;
        let is_live = trusted_live && found == (live.epoch, live.turn, live.offset);
        let floor = match (is_live, slot) {
            (false, Some(slot)) => slot.floor,
            _ => word(cursor::LIVE_FLOOR_AT),
        };
        let end = topic.frontier()?.high_watermark;
        let offset = topic.epochs.clamp(epoch, stored).min(end);
        if (epoch, offset) != (topic.epochs.current(), stored) || (trusted_live && !is_live) {
            // The remaining live words belong to an earlier turn.
            turn = turn.max(if trusted_live { live.turn } else { 0 }).saturating_add(1);
        }
        let stopped = stopped_at(topic, map, base, offset);
        let page = Page {
            sequence: slot.map_or(0, |slot| slot.sequence),
            slot_is_durable: trusted_live
                && slot.is_some_and(|slot| slot.sequence == word(cursor::LIVE_SLOT_AT)),
            synced: slot,
            epoch: topic.epochs.current(),
        };
        book.pages.lock().insert(base, page);
        let mut taken = Cursor {
            topic: Arc::clone(topic),
            book: Arc::clone(book),
            base,
            clamped_from: (offset < stored).then_some(stored),
            trusted_live,
            committed: offset,
            turn,
            seed: 0,
        };
        taken.stamp_live(identity, floor, stopped.is_some());
        Ok(taken)
    }

    /// Makes the live state this owner's. If the process dies on the way, the live state is untrusted, and
    /// the durable slots count.
    fn stamp_live(&mut self, identity: sys::FileIdentity, floor: u64, is_stopped: bool) {
        self.seed = cursor::live_seed(self.topic.epochs.current(), self.turn);
        let live = |at| self.word(at);
        if !self.trusted_live {
            live(cursor::LIVE_READY_AT).store(0, Ordering::Release);
            live(cursor::LIVE_SLOT_AT).store(0, Ordering::Release);
            if !is_stopped {
                live(cursor::ATTEMPT_AT).store(0, Ordering::Release);
            }
        }
        if self.base != 0 && !is_stopped {
            live(group::LANE_STOPPED_AT).store(0, Ordering::Release);
        }
        if !self.was_live() && self.base != 0 {
            // Stored together with the words below: a later owner on this boot knows no more than this one.
            live(group::LANE_DOUBT_AT).store(u64::MAX, Ordering::Release);
        }
        // The position is stored before its epoch: if a clamped position has an older epoch, it is clamped
        // again.
        self.store_position(self.committed);
        live(cursor::LIVE_EPOCH_AT).store(self.topic.epochs.current().into(), Ordering::Release);
        live(cursor::LIVE_FLOOR_AT).store(floor, Ordering::Release);
        live(cursor::LIVE_TURN_AT).store(self.turn.into(), Ordering::Release);
        live(cursor::LIVE_BOOT_AT).store(self.topic.log.boot[0], Ordering::Release);
        live(cursor::LIVE_BOOT_AT + 8).store(self.topic.log.boot[1], Ordering::Release);
        live(cursor::LIVE_DEV_AT).store(identity.dev, Ordering::Release);
        live(cursor::LIVE_INO_AT).store(identity.ino, Ordering::Release);
        live(cursor::LIVE_PID_AT).store(std::process::id().into(), Ordering::Release);
        live(cursor::LIVE_READY_AT).store(1, Ordering::Release);
    }

    fn word(&self, at: usize) -> &crate::sys::atomic::AtomicU64 {
        self.book.map.word(self.base + at)
    }

    #[inline]
    fn store_position(&self, offset: u64) {
        self.word(cursor::LIVE_OFFSET_AT).store(offset, Ordering::Release);
        // If the page is written back between the two stores, its live position does not count.
        let check = cursor::live_check(self.seed, offset);
        self.word(cursor::LIVE_CHECK_AT).store(check, Ordering::Release);
    }

    /// Stores the committed position, which then survives `kill -9`.
    #[inline]
    pub(crate) fn commit(&mut self, offset: u64) -> Result<()> {
        self.topic.not_forked()?;
        if offset < self.committed {
            self.move_back(offset);
        } else {
            self.store_position(offset);
        }
        self.committed = offset;
        Ok(())
    }

    /// Begins a turn, so that no older state of the words, or of the slots, is taken for a newer one.
    fn move_back(&mut self, offset: u64) {
        // The background must not read a position of one turn with the number of another.
        let _pages = self.book.pages.lock();
        self.turn = self.turn.saturating_add(1);
        self.seed = cursor::live_seed(self.topic.epochs.current(), self.turn);
        self.store_position(offset);
        self.word(cursor::LIVE_TURN_AT).store(self.turn.into(), Ordering::Release);
    }

    /// Makes the position durable, together with all other positions of its owner in the same file.
    pub(crate) fn sync(&self) -> Result<()> {
        self.book.sync(&self.topic)
    }

    pub(crate) fn committed(&self) -> u64 {
        self.committed
    }

    pub(crate) fn clamped_from(&self) -> Option<u64> {
        self.clamped_from
    }

    /// Returns whether the live state is of this boot and no recovery has cut the log below the position.
    pub(crate) fn was_live(&self) -> bool {
        self.trusted_live && self.clamped_from.is_none()
    }

    /// Returns the owner's second position.
    pub(crate) fn floor(&self) -> u64 {
        self.word(cursor::LIVE_FLOOR_AT).load(Ordering::Acquire)
    }

    pub(crate) fn set_floor(&self, floor: u64) {
        self.word(cursor::LIVE_FLOOR_AT).store(floor, Ordering::Release);
    }

    /// Returns the offset below which records may have been handled before a power loss; 0 if there are none.
    pub(crate) fn doubt(&self) -> u64 {
        self.word(group::LANE_DOUBT_AT).load(Ordering::Acquire)
    }

    pub(crate) fn set_doubt(&self, below: u64) {
        self.word(group::LANE_DOUBT_AT).store(below, Ordering::Release);
    }

    /// Returns the state of the attempt, in one word: see `group::lane`.
    pub(crate) fn trial(&self) -> u64 {
        self.word(group::LANE_TRIAL_AT).load(Ordering::Acquire)
    }

    pub(crate) fn set_trial(&self, trial: u64) {
        self.word(group::LANE_TRIAL_AT).store(trial, Ordering::Release);
    }

    /// Returns the boot clock's nanosecond before which the record in flight is not tried again.
    pub(crate) fn retry_at(&self) -> u64 {
        self.word(group::LANE_RETRY_AT).load(Ordering::Acquire)
    }

    pub(crate) fn set_retry_at(&self, nanos: u64) {
        self.word(group::LANE_RETRY_AT).store(nanos, Ordering::Release);
    }

    /// Returns the record at which the lane is stopped.
    pub(crate) fn stopped_at(&self) -> Option<u64> {
        stopped_at(&self.topic, &self.book.map, self.base, self.committed)
    }

    /// Stops the lane at the record in flight, durably: the record is not handled again before the lane is
    /// resumed.
    pub(crate) fn set_stopped_at(&self, offset: Option<u64>) -> Result<()> {
        let word = offset.map_or(0, |offset| offset + 1);
        self.word(group::LANE_STOPPED_AT).store(word, Ordering::Release);
        self.book.sync_page(self.base)
    }

    /// Notes that the handling of a record begins. The note survives `kill -9`, not a power loss.
    pub(crate) fn begin_attempt(&self, attempt: &Attempt) -> Result<()> {
        if attempt.note.len() > cursor::MAX_NOTE_LEN {
            return Err(Error::TooLarge { len: attempt.note.len(), limit: cursor::MAX_NOTE_LEN });
        }
        let again = self.word(cursor::ATTEMPT_AT).load(Ordering::Acquire) == attempt.offset + 1;
        if !again {
            self.word(cursor::ATTEMPT_AT).store(0, Ordering::Release);
        }
        self.word(cursor::ATTEMPT_COUNT_AT).store(attempt.count.into(), Ordering::Release);
        if again {
            // The floor of the first attempt is below that of any later one, and serves for all of them.
            return Ok(());
        }
        self.word(cursor::ATTEMPT_FLOOR_AT).store(attempt.floor, Ordering::Release);
        self.word(cursor::ATTEMPT_NOTE_LEN_AT).store(attempt.note.len() as u64, Ordering::Release);
        self.book.map.write(self.base + cursor::ATTEMPT_NOTE_AT, &attempt.note);
        // Stored last: it makes the attempt count.
        self.word(cursor::ATTEMPT_AT).store(attempt.offset + 1, Ordering::Release);
        Ok(())
    }

    /// Returns the attempt that was begun and has not ended.
    pub(crate) fn attempt(&self) -> Option<Attempt> {
        attempt_in(&self.book.map, self.base)
    }

    /// Returns the record of that attempt.
    #[inline]
    pub(crate) fn attempted(&self) -> Option<u64> {
        self.word(cursor::ATTEMPT_AT).load(Ordering::Acquire).checked_sub(1)
    }

    /// Notes that no record is in flight.
    pub(crate) fn end_attempt(&self) {
        self.word(cursor::ATTEMPT_AT).store(0, Ordering::Release);
    }
}

impl Drop for Cursor {
    /// From now on the page belongs to another owner: the background no longer writes into it.
    fn drop(&mut self) {
        self.book.pages.lock().remove(&self.base);
    }
}

/// Returns the bytes of a new page.
pub(crate) fn new_page(topic: &Store, offset: u64, floor: u64) -> Vec<u8> {
    let epoch = topic.epochs.current();
    let saved = cursor::Saved { sequence: 1, epoch, turn: 0, offset, floor };
    let mut bytes = vec![0; PAGE_LEN];
    let header = cursor::encode_header(topic.settings.topic_id);
    bytes[..header.len()].copy_from_slice(&header);
    bytes[cursor::slot_at(1)..][..cursor::SLOT_LEN].copy_from_slice(&saved.encode());
    bytes
}
