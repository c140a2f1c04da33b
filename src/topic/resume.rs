//! Opening a topic whose members are all dead, on the boot on which they died: their words say where to
//! go on, if they agree with the files.

use super::TopicInner;
use crate::control::{Place, Words};
use crate::error::{Error, Result};
use crate::format::{frame, segment as layout, settings, MAX_OFFSET};
use crate::segment::{Step, Walk};
use crate::sys::atomic::Ordering;

impl TopicInner {
    /// Goes on from the words of this boot. All members are dead: what they were doing is settled, and
    /// what they had not synced is synced as if a failure had been seen and lost.
    pub(super) fn resume(&self, words: &Words) -> Result<()> {
        words.lock.word.store(0, Ordering::Release);
        words.sync.owner.store(0, Ordering::Release);
        match self.lock_append() {
            Ok(held) => drop(held),
            // The words contradict the files; the check below finds out how far.
            Err(Error::Corrupt { .. }) => {}
            Err(other) => return Err(other),
        }
        let mut bases = self.segments.bases.lock().clone();
        if bases.last() != Some(&words.tail.place().active) {
            // A roll that was settled has named one more.
            bases = self.refresh_bases_alone()?;
        }
        let end = words.tail.end.load(Ordering::Acquire);
        if !self.words_fit(words, &bases)? {
            // On this boot nothing below the end can be lost: what is missing there is damage.
            return self.recover(words, Some(self.possible_end(&bases, end)));
        }
        self.load_epochs()?;
        words.identity.epoch.store(self.epoch().into(), Ordering::Relaxed);
        words.tail.first.store(bases.first().copied().unwrap_or(0), Ordering::Release);
        words.sync.names_durable.store(0, Ordering::Release);
        if words.durable.end.load(Ordering::Acquire) < end {
            words.sync.suspect_end.fetch_max(end, Ordering::AcqRel);
            if self.settings.durability == settings::POWER_LOSS {
                self.wait_durable(end)?;
            }
        }
        Ok(())
    }

    /// `end` as far as the newest segment has room for it: words have no checksum.
    pub(super) fn possible_end(&self, bases: &[u64], end: u64) -> u64 {
        let Some(&last) = bases.last() else { return 0 };
        let len = self.segment(last).map_or(0, |segment| segment.len());
        end.min(last.saturating_add(layout::most_records(len.max(self.settings.segment_len))))
    }

    /// Whether the tail's words are those of the frames: the batch appended last leads from its start
    /// to the end, in the newest segment. Its checksums cover offsets and, by their seed, positions.
    fn words_fit(&self, words: &Words, bases: &[u64]) -> Result<bool> {
        let Place { active, position } = words.tail.place();
        let end = words.tail.end.load(Ordering::Acquire);
        if bases.last() != Some(&active) || words.durable.end.load(Ordering::Acquire) > end {
            return Ok(false);
        }
        let segment = match self.segment(active) {
            Ok(segment) => segment,
            Err(Error::Corrupt { .. }) => return Ok(false),
            Err(other) => return Err(other),
        };
        if position == layout::FIRST_FRAME_AT {
            return Ok(end == active);
        }
        let start = words.intent.start.load(Ordering::Relaxed);
        let aligned = (start | position) % frame::ALIGN as u64 == 0;
        if !aligned || start < layout::FIRST_FRAME_AT || position > segment.len() {
            return Ok(false);
        }
        let mut walk = Walk::new(segment, start, false);
        let mut offset = words.intent.offset.load(Ordering::Relaxed);
        while let Step::Frame(fixed) = walk.step(position, true)? {
            if fixed.kind == frame::KIND_RECORD {
                if fixed.offset != offset {
                    return Ok(false);
                }
                offset += 1;
            } else {
                // It may give offsets up.
                offset = offset.max(fixed.offset);
            }
        }
        Ok(walk.position == position && offset == end)
    }

    /// The first segment of a new topic; or of one all of whose segments are gone, whose offsets are
    /// not used again as far as the words know them, and whose stored positions are clamped.
    pub(super) fn create_first_segment(
        &self,
        words: &Words,
        words_trusted: bool,
        existed: bool,
    ) -> Result<()> {
        let base = if words_trusted { words.tail.end.load(Ordering::Acquire) } else { 0 };
        let base = base.min(MAX_OFFSET);
        let epoch = if existed { self.begin_epoch(base)? } else { 0 };
        reset(words);
        words.identity.epoch.store(epoch.into(), Ordering::Relaxed);
        self.start_segment(words, base, epoch, 0)?;
        words.tail.first.store(base, Ordering::Release);
        Ok(())
    }
}

/// Sets every word but the identity, the epoch and the generations to its first value.
pub(super) fn reset(words: &Words) {
    words.lock.word.store(0, Ordering::Relaxed);
    for word in [
        &words.intent.start,
        &words.intent.offset,
        &words.intent.end,
        &words.intent.roll,
        &words.intent.max_timestamp,
        &words.tail.end,
        &words.tail.first,
        &words.durable.end,
        &words.sync.slot_sequence,
        &words.sync.begun_at,
        &words.sync.recent,
        &words.sync.suspect_end,
        &words.sync.names_durable,
        &words.prepared.word,
        &words.identity.latched,
    ] {
        word.store(0, Ordering::Relaxed);
    }
    words.sync.owner.store(0, Ordering::Relaxed);
}
