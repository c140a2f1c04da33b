//! A walk over the frames of a segment.
//!
//! Does not know which of its bytes are published: callers give the limit.

use std::sync::Arc;

use super::Segment;
use crate::error::{IoResultExt, Result};
use crate::format::frame::{self, Fixed};
use crate::format::Malformed;

/// What a walk finds at its position.
#[derive(Debug)]
pub(crate) enum Step {
    /// A whole frame; the walk has moved past it.
    Frame(Fixed),
    /// The limit is reached.
    End,
    /// Bytes that are not a frame; the walk has not moved.
    Bad(Malformed),
}

/// Bytes that are copied at once from a mapping: they are still in the nearest cache when they are checked.
const HOT_CHUNK: usize = 4 << 10;
/// Bytes of a mapping whose pages are entered into the page table at once.
const ENTER_LEN: u64 = 1 << 20;
/// Bytes that are read at once from a file.
const COLD_CHUNK: usize = 128 << 10;
/// Bytes of one frame in memory, unless all of them are wanted: enough for its key, its headers and the first
/// MiB of its payload. The rest of a longer frame is checked in pieces.
pub(crate) const HELD_LEN: usize = frame::MAX_HEADERS_LEN + (2 << 20);

/// Memory that starts on a cache line: the kernel's copies into other places are slower by half.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// Returns the first `len` bytes.
    #[inline]
    fn first(&self, len: usize) -> &[u8] {
        &self.bytes[self.start..self.start + len]
    }

    /// Moves a range to the start if the buffer has room for `len` bytes; returns the range's length, else 0.
    fn keep(&mut self, range: std::ops::Range<usize>, len: usize) -> usize {
        if self.bytes.len() < self.start + len || range.len() > len {
            return 0;
        }
        let count = range.len();
        self.bytes[self.start..].copy_within(range, 0);
        count
    }

    /// The same, to be written. A buffer that is too short is replaced, and its contents are lost.
    fn first_mut(&mut self, len: usize) -> &mut [u8] {
        const LINE_LEN: usize = 64;
        if self.bytes.len() < self.start + len {
            self.bytes = vec![0; len + LINE_LEN];
            self.start = self.bytes.as_ptr().align_offset(LINE_LEN).min(LINE_LEN);
        }
        &mut self.bytes[self.start..self.start + len]
    }
}

/// Walks the frames of a segment. Copies first, then checks the copy.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) segment: Arc<Segment>,
    /// Where the next frame starts.
    pub(crate) position: u64,
    hot: bool,
    /// Bytes of one frame that the buffer may hold.
    held_max: usize,
    buffer: Buffer,
    /// Position of the first byte in `buffer`.
    buffer_at: u64,
    /// Valid bytes in `buffer`.
    filled: usize,
    /// Where the last frame starts in `buffer`.
    last: usize,
    /// Bytes over which [`resync`](Self::resync) may still compute checksums.
    resync_budget: u64,
    /// When a mapping is read in place, its pages up to here are entered into the page table.
    entered: u64,
}

impl Walk {
    /// Creates a walk from `position`. `hot`: it reads from the mapping if the segment has one.
    pub(crate) fn new(segment: Arc<Segment>, position: u64, hot: bool) -> Walk {
        let resync_budget = 4 * segment.len();
        Walk {
            segment,
            position,
            hot,
            held_max: HELD_LEN,
            buffer: Buffer::default(),
            buffer_at: 0,
            filled: 0,
            last: 0,
            resync_budget,
            entered: 0,
        }
    }

    /// Has all bytes of every frame in memory: see [`frame`](Self::frame).
    pub(crate) fn holding_all(mut self) -> Walk {
        self.held_max = usize::MAX;
        self
    }

    /// Returns the next frame below `limit`, a position below which bytes no longer change. Reads ahead only
    /// a little, unless `far` says that many frames will be read.
    #[inline(always)]
    pub(crate) fn step(&mut self, limit: u64, far: bool) -> Result<Step> {
        match self.step_in_buffer(limit, |_| true) {
            Some(fixed) => Ok(Step::Frame(fixed)),
            None => self.step_far(limit, far),
        }
    }

    /// Returns the next frame if it is whole, entirely in the buffer, and `wanted`; the walk has not moved
    /// otherwise. Inlined, as its callers are: passing a frame's fields through memory costs a third of the
    /// time of a small record.
    #[inline(always)]
    pub(crate) fn step_in_buffer(
        &mut self,
        limit: u64,
        wanted: impl FnOnce(&Fixed) -> bool,
    ) -> Option<Fixed> {
        let start = usize::try_from(self.position.checked_sub(self.buffer_at)?).ok()?;
        let here = self.buffer.first(self.filled).get(start..)?;
        let room = limit.saturating_sub(self.position).min(here.len() as u64);
        let fixed = Fixed::decode(here, room as usize).ok().filter(wanted)?;
        fixed.verify(here, self.segment.header.salt, self.position).ok()?;
        self.last = start;
        self.position += fixed.padded_len() as u64;
        Some(fixed)
    }

    #[inline(never)]
    fn step_far(&mut self, limit: u64, far: bool) -> Result<Step> {
        let room = limit.min(self.segment.len()).saturating_sub(self.position);
        if room == 0 {
            return Ok(Step::End);
        }
        if !self.ensure(frame::FIXED_LEN, room, far)? {
            return Ok(Step::Bad(Malformed::Short {
                needed: frame::FIXED_LEN,
                found: room as usize,
            }));
        }
        if let Some(fixed) = self.step_in_buffer(limit, |_| true) {
            return Ok(Step::Frame(fixed));
        }
        let fixed = match Fixed::decode(self.here(), room as usize) {
            Ok(fixed) => fixed,
            Err(error) => return Ok(Step::Bad(error)),
        };
        if let Err(what) = self.check(&fixed, room, far, self.held_max)? {
            return Ok(Step::Bad(what));
        }
        self.last = (self.position - self.buffer_at) as usize;
        self.position += fixed.padded_len() as u64;
        Ok(Step::Frame(fixed))
    }

    /// Checks the frame at the position, with at most `held` of its bytes in the buffer.
    fn check(
        &mut self,
        fixed: &Fixed,
        room: u64,
        far: bool,
        held: usize,
    ) -> Result<std::result::Result<(), Malformed>> {
        let (salt, position, len) = (self.segment.header.salt, self.position, fixed.checked_len());
        if !self.ensure(len.min(held), room, far)? {
            return Ok(Err(Malformed::Short { needed: len, found: room as usize }));
        }
        if len <= held {
            return Ok(fixed.verify(self.here(), salt, position));
        }
        let mut hasher = frame::hasher(salt, position);
        hasher.update(&self.here()[frame::LEN_AT..held]);
        let mut piece = vec![0; COLD_CHUNK];
        let mut at = held;
        while at < len {
            let wanted = piece.len().min(len - at);
            let read = self.segment.read(position + at as u64, &mut piece[..wanted], self.hot);
            let read = read.at("reading", &self.segment.path)?;
            if read == 0 {
                return Ok(Err(Malformed::Short { needed: len, found: at }));
            }
            hasher.update(&piece[..read]);
            at += read;
        }
        let computed = hasher.finalize();
        Ok(match computed == fixed.crc {
            true => Ok(()),
            false => Err(Malformed::Checksum { stored: fixed.crc, computed }),
        })
    }

    /// The same, but checks the frame in place in a mapping, without a copy.
    ///
    /// # Safety
    ///
    /// While this runs, no thread or process stores below `limit` or makes the file shorter.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn step_in_place(&mut self, limit: u64) -> Result<Step> {
        let map = self.segment.map_to_read()?;
        let room = limit.min(map.len() as u64).saturating_sub(self.position);
        if room == 0 {
            return Ok(Step::End);
        }
        if self.position >= self.entered {
            let end = self.position + room.min(ENTER_LEN);
            map.populate_to_read(self.position as usize, end as usize)
                .at("reading", &self.segment.path)?;
            self.entered = end;
        }
        // SAFETY: by the caller's promise; the position is inside, because `room` is not 0.
        let here = unsafe { map.slice(self.position as usize, room as usize) };
        let checked = Fixed::decode(here, here.len()).and_then(|fixed| {
            fixed.verify(here, self.segment.header.salt, self.position)?;
            Ok(fixed)
        });
        match checked {
            Ok(fixed) => {
                self.position += fixed.padded_len() as u64;
                Ok(Step::Frame(fixed))
            }
            Err(what) => Ok(Step::Bad(what)),
        }
    }

    /// The same, if the frame starts in a page that was entered, and is `wanted`; else the walk does not move.
    ///
    /// # Safety
    ///
    /// As [`step_in_place`](Self::step_in_place).
    #[allow(unsafe_code)]
    #[inline(always)]
    pub(crate) unsafe fn step_in_entered(
        &mut self,
        limit: u64,
        wanted: impl FnOnce(&Fixed) -> bool,
    ) -> Option<Fixed> {
        let map = self.segment.map_to_read().ok()?;
        let room = limit.min(map.len() as u64).checked_sub(self.position)?;
        if self.position >= self.entered {
            return None;
        }
        // SAFETY: by the caller's promise; the range ends inside the mapping.
        let here = unsafe { map.slice(self.position as usize, room as usize) };
        let fixed = Fixed::decode(here, here.len()).ok().filter(wanted)?;
        fixed.verify(here, self.segment.header.salt, self.position).ok()?;
        self.position += fixed.padded_len() as u64;
        Some(fixed)
    }

    /// Returns the frame that [`step_in_place`](Self::step_in_place) has just returned as `fixed`.
    ///
    /// # Safety
    ///
    /// While the slice lives, no thread or process stores into the frame or makes the file shorter.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn frame_in_place(&self, fixed: &Fixed) -> Result<&[u8]> {
        let start = self.position - fixed.padded_len() as u64;
        // SAFETY: by the caller's promise.
        Ok(unsafe { self.segment.map_to_read()?.slice(start as usize, fixed.len) })
    }

    /// Returns the bytes of the frame that the last [`step`](Self::step) returned: all of them or [`HELD_LEN`], and
    /// possibly bytes after them.
    pub(crate) fn frame(&self) -> &[u8] {
        &self.buffer.first(self.filled)[self.last..]
    }

    /// Returns the bytes from `position` on that are in the buffer.
    fn here(&self) -> &[u8] {
        &self.buffer.first(self.filled)[(self.position - self.buffer_at) as usize..]
    }

    /// Fills the buffer with at least `needed` bytes from `position`; returns false if the file has fewer.
    fn ensure(&mut self, needed: usize, room: u64, far: bool) -> Result<bool> {
        let have_from = self.buffer_at;
        let have_to = self.buffer_at + self.filled as u64;
        if self.position >= have_from && self.position + needed as u64 <= have_to {
            return Ok(true);
        }
        if (needed as u64) > room {
            return Ok(false);
        }
        let chunk = match (self.hot, far) {
            (true, true) => HOT_CHUNK,
            (true, false) => 512,
            (false, _) => COLD_CHUNK,
        };
        let wanted = chunk.max(needed).min(room as usize);
        // The start of a frame at the buffer's end is in the cache, so it is not copied again.
        let have = match self.position.checked_sub(have_from) {
            Some(start) if self.hot && self.position < have_to => {
                // Whole words: reads of a mapping start at a word, whatever the file's length.
                let end = self.filled & !(frame::ALIGN - 1);
                self.buffer.keep(start as usize..end.max(start as usize), wanted)
            }
            _ => 0,
        };
        self.buffer_at = self.position;
        self.filled = 0;
        let read = self
            .segment
            .read(self.position + have as u64, &mut self.buffer.first_mut(wanted)[have..], self.hot)
            .at("reading", &self.segment.path)?;
        self.filled = have + read;
        Ok(self.filled >= needed)
    }

    /// Drops the bytes that were read ahead.
    pub(crate) fn forget(&mut self) {
        self.filled = 0;
        self.last = 0;
    }

    /// Goes to the next whole record frame at `position` or later with an offset in `offsets`, and returns
    /// that offset; `None` if there is none below `limit`. Checks lengths and offsets before checksums, and a
    /// walk computes checksums over at most four times the file's length, however hostile its bytes are.
    pub(crate) fn resync(
        &mut self,
        limit: u64,
        offsets: std::ops::Range<u64>,
    ) -> Result<Option<u64>> {
        let limit = limit.min(self.segment.len());
        while self.position + frame::FIXED_LEN as u64 <= limit {
            let room = limit - self.position;
            if !self.ensure(frame::FIXED_LEN, room, true)? {
                return Ok(None);
            }
            // A frame's first eight bytes contain its length: they are not all zeros.
            let words = self.here().chunks_exact(frame::ALIGN);
            let zeros = words.take_while(|word| *word == [0; frame::ALIGN]).count();
            if zeros > 0 {
                self.position += (zeros * frame::ALIGN) as u64;
                continue;
            }
            if let Ok(fixed) = Fixed::decode(self.here(), room as usize) {
                let plausible = fixed.kind == frame::KIND_RECORD
                    && offsets.contains(&fixed.offset)
                    && fixed.checked_len() as u64 <= self.resync_budget;
                if plausible {
                    self.resync_budget -= fixed.checked_len() as u64;
                    if self.check(&fixed, room, true, HELD_LEN)?.is_ok() {
                        return Ok(Some(fixed.offset));
                    }
                }
            }
            self.position += frame::ALIGN as u64;
        }
        self.position = limit;
        Ok(None)
    }

    /// Counts the whole records from the position to the end of the file that have the offset `from` or a
    /// later one.
    pub(crate) fn count_records(&mut self, from: u64) -> Result<u64> {
        let mut count = 0;
        while self.resync(u64::MAX, from..u64::MAX)?.is_some() {
            match self.step(u64::MAX, true)? {
                Step::Frame(_) => count += 1,
                Step::End | Step::Bad(_) => break,
            }
        }
        Ok(count)
    }

    /// Returns the position after the frame if its length is plausible, or after the last byte of the file that is
    /// not zero.
    pub(crate) fn end_of_frame(&self) -> Result<u64> {
        let mut fixed = [0; frame::FIXED_LEN];
        let room = self.segment.len().saturating_sub(self.position);
        let read = self
            .segment
            .read(self.position, &mut fixed, false)
            .at("reading", &self.segment.path)?;
        if let Ok(fixed) = Fixed::decode(&fixed[..read], room as usize) {
            return Ok(self.position + fixed.padded_len() as u64);
        }
        // Zeros in the fixed part belong to a sector that was never written.
        let end = self.segment.end_of_bytes(self.position..self.segment.len())?;
        Ok(end.max(self.position + frame::FIXED_LEN as u64))
    }
}
