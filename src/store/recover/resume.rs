//! Opening a topic whose members are all dead, on the boot on which they died: their words say where the log
//! continues, if they agree with the files.

use std::sync::Arc;

use super::scan::{possible_end, readable};
use super::Recovery;
use crate::control::{Place, Words};
use crate::error::{Error, Result};
use crate::format::segment::{self as layout, Slot};
use crate::format::{frame, MAX_OFFSET};
use crate::segment::{Batches, Frames, Step, Walk};
use crate::store::{Durability, Frontier};
use crate::sys::atomic::Ordering;

impl Recovery<'_> {
    /// Whether the files hold something newer than the words say, or the words contradict themselves. If a
    /// file system was shut down and mounted again on the same boot, an older state of the control page comes
    /// back. Writes nothing: even settling the intents in such words would overwrite records.
    pub(super) fn is_overtaken(&self, bases: &[u64]) -> Result<bool> {
        let (topic, words) = (self.topic, self.words);
        let Place { active, position } = words.tail.place();
        let rolling_to = words.intent.roll.load(Ordering::Acquire).checked_sub(1);
        let newest = bases.last().copied();
        if newest > Some(active) && newest != rolling_to {
            return Ok(true);
        }
        let segment = match topic.segment(active) {
            // The words say more than the files hold: see `words_fit`.
            Err(Error::Corrupt { .. }) => return Ok(false),
            Err(error) if error.is_file_not_found() => return Ok(false),
            segment => segment?,
        };
        let Some(written) = written_end(words, position, segment.len()) else { return Ok(true) };
        let durable = words.durable.end.load(Ordering::Acquire);
        let slot = segment.newest_slot()?;
        let is_newer = |slot: Slot| {
            slot.durable_end > durable
                || slot.sequence > words.sync.slot_sequence.load(Ordering::Relaxed)
        };
        if segment.header.durable_end > durable || slot.is_some_and(is_newer) {
            return Ok(true);
        }
        let mut places = vec![(segment, written)];
        if let Some(named) = rolling_to.filter(|&base| newest == Some(base) && base != active) {
            // The file may have got its name but not its header.
            let Some(segment) = readable(topic, named)? else { return Ok(true) };
            places.push((segment, layout::FIRST_FRAME_AT));
        }
        for (segment, position) in places {
            let mut walk = Walk::new(Arc::clone(&segment), position, false);
            // If the page cache was not lost, the words are as new as the bytes. If it may have been lost, a
            // frame can be missing here while later frames exist.
            let is_same_mount = words.identity.is_on(topic.files.mount());
            if !is_same_mount && !segment.is_zero_from(position)? {
                return Ok(true);
            }
            if matches!(walk.step(u64::MAX, false)?, Step::Frame(_)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Continues from the words of this boot. All members are dead: their intents are settled, and records
    /// that they had not synced are synced as if a failure had been reported and lost.
    pub(super) fn resume(&self) -> Result<()> {
        let (topic, words) = (self.topic, self.words);
        words.lock.word.store(0, Ordering::Release);
        words.sync.owner.store(0, Ordering::Release);
        match topic.lock_append() {
            Ok(held) => drop(held),
            // The words contradict the files; the check below finds out how far.
            Err(Error::Corrupt { .. }) => {}
            Err(other) => return Err(other),
        }
        let end = words.tail.end.load(Ordering::Acquire);
        // On this boot no record that readers could see can be lost: a missing one is damage.
        let shown = Frontier::of(words, topic.options.durability).high_watermark;
        let mut bases = topic.segments.bases();
        if bases.last() != Some(&words.tail.place().active) {
            // A settled roll has named one more segment.
            bases = topic.segments.refresh_alone()?;
        }
        if !self.words_fit(&bases)? || !self.is_whole_from(shown, &bases)? {
            return self.rebuild(Some(possible_end(topic, &bases, shown)));
        }
        let epoch = match self.may_have_lost_records() {
            true => topic.epochs.begin(end)?,
            false => {
                topic.epochs.load()?;
                topic.epochs.current()
            }
        };
        words.identity.epoch.store(epoch.into(), Ordering::Relaxed);
        words.tail.first.store(bases.first().copied().unwrap_or(0), Ordering::Release);
        words.sync.names_durable.store(0, Ordering::Release);
        if words.durable.end.load(Ordering::Acquire) < end {
            words.sync.suspect_end.fetch_max(end, Ordering::AcqRel);
            if topic.options.durability == Durability::PowerLoss {
                match topic.wait_durable(end) {
                    // As at the next opening, which finds the topic latched: blocks that cannot be written
                    // where they are, are copied.
                    Err(Error::SyncFailed { .. }) => {
                        return self.rebuild(Some(possible_end(topic, &bases, shown)));
                    }
                    waited => waited?,
                }
            }
        }
        Ok(())
    }

    /// Whether the files, and the words with them, may be older than positions that were stored in the same
    /// epoch: the file system may have been shut down and mounted again. On a topic that survives power loss
    /// no position is past the durable end, and a later end would have been found on the disk.
    fn may_have_lost_records(&self) -> bool {
        self.topic.options.durability != Durability::PowerLoss
            && !self.words.identity.is_on(self.topic.files.mount())
    }

    /// Whether the tail's words agree with the frames: the last appended batch leads from its start to the
    /// end, in the newest segment. Its checksums cover offsets and, by their seed, positions.
    fn words_fit(&self, bases: &[u64]) -> Result<bool> {
        let words = self.words;
        let Place { active, position } = words.tail.place();
        let end = words.tail.end.load(Ordering::Acquire);
        if bases.last() != Some(&active) || words.durable.end.load(Ordering::Acquire) > end {
            return Ok(false);
        }
        let Some(segment) = readable(self.topic, active)? else { return Ok(false) };
        if position == layout::FIRST_FRAME_AT {
            return Ok(end == active);
        }
        let start = words.intent.start.load(Ordering::Relaxed);
        let aligned = (start | position) % frame::ALIGN as u64 == 0;
        if !aligned || start < layout::FIRST_FRAME_AT || position > segment.len() {
            return Ok(false);
        }
        let offset = words.intent.offset.load(Ordering::Relaxed);
        let mut batches = Batches::of(Frames::from(&segment, start, offset).up_to(position));
        batches.walk()?;
        Ok((batches.end, batches.end_position) == (end, position))
    }

    /// Whether all frames from the offset `shown` to the end are whole.
    fn is_whole_from(&self, shown: u64, bases: &[u64]) -> Result<bool> {
        let topic = self.topic;
        let frontier = topic.frontier()?;
        let first = bases.partition_point(|&base| base <= shown).saturating_sub(1);
        for (index, &base) in bases.iter().enumerate().skip(first) {
            if shown >= self.words.tail.end.load(Ordering::Acquire) {
                break;
            }
            let next = bases.get(index + 1).copied();
            let Some(segment) = readable(topic, base)? else { return Ok(false) };
            let start = topic.indexes.entry_before(topic, &segment, next, &frontier, shown)?;
            let limit = if next.is_some() { u64::MAX } else { frontier.position };
            let frames = Frames::from(&segment, start.position, start.offset);
            let mut batches = Batches::of(frames.before(next).up_to(limit));
            batches.walk()?;
            let is_whole = next.map_or(batches.end_position == limit, |next| batches.end == next);
            if !is_whole {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Creates the first segment of a new topic, or of a topic that has lost all its segments: its offsets
    /// are not used again as far as the words know them, and its stored positions are clamped.
    pub(super) fn create_first_segment(&self, words_trusted: bool, existed: bool) -> Result<()> {
        let (topic, words) = (self.topic, self.words);
        let base = if words_trusted { words.tail.end.load(Ordering::Acquire) } else { 0 };
        let base = base.min(MAX_OFFSET);
        let epoch = if existed { topic.epochs.begin(base)? } else { 0 };
        words.reset();
        words.identity.epoch.store(epoch.into(), Ordering::Relaxed);
        self.start_segment(base, (epoch, 0), topic.settings.segment_len)?;
        words.tail.first.store(base, Ordering::Release);
        Ok(())
    }
}

/// Returns the position after the last byte of the active segment that was, or was about to be, written;
/// `None` if the intent contradicts the place.
fn written_end(words: &Words, position: u64, segment_len: u64) -> Option<u64> {
    let end = words.intent.end.load(Ordering::Acquire);
    if end == 0 {
        return Some(position);
    }
    let start = words.intent.start.load(Ordering::Relaxed);
    let offset = words.intent.offset.load(Ordering::Relaxed);
    let next = words.tail.end.load(Ordering::Acquire);
    let is_possible = layout::FIRST_FRAME_AT <= start && start < end && end <= segment_len;
    let is_begun = position == start && next == offset;
    let is_positioned = position == end && next >= offset;
    let is_aligned = (start | end) % frame::ALIGN as u64 == 0;
    (is_possible && is_aligned && (is_begun || is_positioned)).then_some(end)
}
