//! The frames of an append, put together in memory of the appending thread.
//!
//! Everything in a frame except its offset and its checksum is known before the append lock is taken. The
//! offset can be guessed: the guess is right unless another writer appends in between, and is corrected then.
//! Frames are put together some time before their checksums are computed, because a checksum over bytes that
//! were stored just now waits for the stores. Each checksum is followed by the copy of its frame, so that the
//! processor computes one while it waits for memory with the other.

use std::cell::Cell;
use std::io::IoSlice;

use crate::error::Result;
use crate::format::frame::{self, Parts};
use crate::record::ToFrame;
use crate::segment::Segment;
use crate::sys::crash_point::{self, crash_point};
use crate::sys::Map;

/// Bytes that are put together at once: they stay in the nearest cache.
const SCRATCH_LEN: usize = 16 << 10;

thread_local! {
    /// Empty while the buffer is in use.
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// How frames are written.
#[derive(Clone, Copy)]
pub(super) enum To<'a> {
    /// By stores into a mapping.
    Map(&'a Map),
    /// By system calls.
    File(&'a Segment),
}

/// Where frames are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    pub(super) salt: u64,
    pub(super) offset: u64,
    pub(super) position: u64,
}

/// See the module's documentation.
pub(super) struct Draft<'a, R: ToFrame> {
    /// The records whose frames are not put together yet.
    records: &'a [R],
    timestamp: u64,
    scratch: Box<[u8]>,
    /// Length of the frames at the start of the scratch buffer.
    staged_len: usize,
    /// The offset that the first of them was given.
    offset: u64,
}

impl<'a, R: ToFrame> Draft<'a, R> {
    /// Puts the first frames together. `offset`: a guess of the first record's offset.
    #[inline]
    pub(super) fn new(records: &'a [R], timestamp: u64, offset: u64) -> Draft<'a, R> {
        let scratch = SCRATCH.try_with(Cell::take).ok().flatten();
        let scratch = scratch.unwrap_or_else(|| vec![0; SCRATCH_LEN].into());
        let mut draft = Draft { records, timestamp, scratch, staged_len: 0, offset };
        draft.stage(offset);
        draft
    }

    /// Writes the frames to their place.
    #[inline]
    pub(super) fn write(&mut self, to: To<'_>, mut site: Site) -> Result<()> {
        if site.offset != self.offset {
            self.renumber(site.offset);
        }
        loop {
            match to {
                To::Map(map) => self.copy_staged(map, &mut site),
                To::File(segment) => self.write_staged(segment, &mut site)?,
            }
            match self.records {
                [] => return Ok(()),
                [large, rest @ ..] if frame::padded(large.parts().frame_len()) > SCRATCH_LEN => {
                    crash_point!("append.between-frames");
                    self.records = rest;
                    let (parts, timestamp) = (large.parts(), self.timestamp);
                    let salt = site.salt;
                    let more = !rest.is_empty();
                    let fixed = parts.fixed(site.offset, timestamp, more, salt, site.position);
                    match to {
                        To::Map(map) => copy_large(map, &parts, &fixed, site.position),
                        To::File(segment) => write_large(segment, &parts, &fixed, site.position)?,
                    }
                    site.position += frame::padded(parts.frame_len()) as u64;
                    site.offset += 1;
                }
                _ => {}
            }
            self.stage(site.offset);
        }
    }

    /// Puts together the frames of as many records as fit, the first with `offset`.
    #[inline]
    fn stage(&mut self, mut offset: u64) {
        let mut at = 0;
        self.offset = offset;
        while let [record, rest @ ..] = self.records {
            let parts = record.parts();
            let out = &mut self.scratch[at..];
            if frame::padded(parts.frame_len()) > out.len() {
                break;
            }
            at += parts.encode(offset, self.timestamp, !rest.is_empty(), out);
            offset += 1;
            self.records = rest;
        }
        self.staged_len = at;
    }

    /// Adds the checksums of the frames in the scratch buffer, writes them in one call, and moves `site` past
    /// them.
    fn write_staged(&mut self, segment: &Segment, site: &mut Site) -> Result<()> {
        let (salt, start) = (site.salt, site.position);
        self.for_each_staged(|frame| {
            let crc = frame::seal(frame, salt, site.position);
            frame[frame::CRC_AT..][..crc.len()].copy_from_slice(&crc);
            site.position += frame.len() as u64;
            site.offset += 1;
        });
        let staged = &self.scratch[..std::mem::take(&mut self.staged_len)];
        write(segment, start, &mut [IoSlice::new(staged)])
    }

    /// Adds the checksums of the frames in the scratch buffer, copies them, and moves `site` past them.
    #[inline]
    fn copy_staged(&mut self, map: &Map, site: &mut Site) {
        let mut staged = &self.scratch[..self.staged_len];
        while !staged.is_empty() {
            let (frame, rest) = staged.split_at(frame::encoded_len(staged));
            let crc = frame::seal(frame, site.salt, site.position);
            map.write(site.position as usize, frame);
            map.write(site.position as usize + frame::CRC_AT, &crc);
            site.position += frame.len() as u64;
            site.offset += 1;
            staged = rest;
            if !staged.is_empty() {
                crash_point!("append.between-frames");
            }
        }
        self.staged_len = 0;
    }

    /// Gives all records another timestamp.
    #[cold]
    pub(super) fn restamp(&mut self, timestamp: u64) {
        self.timestamp = timestamp;
        self.for_each_staged(|frame| frame::restamp(frame, timestamp));
    }

    /// Gives the frames in the scratch buffer other offsets.
    #[cold]
    fn renumber(&mut self, mut offset: u64) {
        self.for_each_staged(|frame| {
            frame::renumber(frame, offset);
            offset += 1;
        });
    }

    fn for_each_staged(&mut self, mut change: impl FnMut(&mut [u8])) {
        let mut staged = &mut self.scratch[..self.staged_len];
        while !staged.is_empty() {
            let len = frame::encoded_len(staged);
            let (frame, rest) = staged.split_at_mut(len);
            change(frame);
            staged = rest;
        }
    }
}

impl<R: ToFrame> Drop for Draft<'_, R> {
    #[inline]
    fn drop(&mut self) {
        let scratch = std::mem::take(&mut self.scratch);
        // This fails only while the thread ends: then the memory is freed.
        if let Ok(()) = SCRATCH.try_with(|cell| cell.set(Some(scratch))) {}
    }
}

/// Writes the frame of a record that is larger than the scratch buffer. `fixed`: its fixed part.
fn write_large(segment: &Segment, parts: &Parts<'_>, fixed: &[u8], position: u64) -> Result<()> {
    let mut head = fixed.to_vec();
    head.extend_from_slice(parts.key.unwrap_or_default());
    parts.headers.for_each_piece(&mut |piece| head.extend_from_slice(piece));
    let len = parts.frame_len();
    let padding = [0; frame::ALIGN];
    let padding = &padding[..frame::padded(len) - len];
    write(segment, position, &mut [&head, parts.payload, padding].map(IoSlice::new))
}

/// Writes frames by one system call.
fn write(segment: &Segment, position: u64, pieces: &mut [IoSlice<'_>]) -> Result<()> {
    if crash_point::is_armed() {
        // A kernel that kills the process meanwhile may have written any part of them.
        let half = pieces[0].len() / 2;
        segment.write(position, &mut [IoSlice::new(&pieces[0][..half])])?;
        crash_point!("append.half-written");
    }
    segment.write(position, pieces)
}

/// Copies such a frame to its place in a mapping.
fn copy_large(map: &Map, parts: &Parts<'_>, fixed: &[u8], position: u64) {
    let mut at = position as usize;
    let next = at + frame::padded(parts.frame_len());
    let mut write = |piece: &[u8]| {
        if !piece.is_empty() {
            map.write(at, piece);
            at += piece.len();
        }
    };
    write(fixed);
    parts.for_each_piece(write);
    if at < next {
        map.write_zeros(at, next - at);
    }
}
