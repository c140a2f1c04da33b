//! Reading a topic for damage. Changes nothing.

use std::ops::Range;
use std::sync::Arc;

use super::plan::Gap;
use crate::error::Result;
use crate::format::frame::{self, Fixed, FIXED_LEN};
use crate::format::index::Entry;
use crate::format::segment as layout;
use crate::recovery::Cut;
use crate::segment::{Frames, Seen, Segment, Walk};
use crate::sys::DiskFile;

/// Frames are only guessed from when they are at most so long.
const GUESS_LEN: u64 = 1 << 20;
/// Bytes read at once.
const CHUNK_LEN: usize = 1 << 20;

/// How far a segment goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The base of the next segment.
    pub(super) next: Option<u64>,
    /// Records have offsets below this.
    pub(super) stop: u64,
    /// Bytes at this position and later do not count.
    pub(super) limit: u64,
    /// Readers get records below this offset.
    pub(super) visible: u64,
}

/// The contents of a segment.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) gaps: Vec<Gap>,
    /// Offsets that an earlier repair marked lost.
    pub(super) marked_lost: Vec<Range<u64>>,
    /// Records that readers get.
    pub(super) records: u64,
    /// Whole records after the end of the segment.
    pub(super) cut: Option<Cut>,
    /// Bytes of frames, including damaged ones before the last whole one.
    pub(super) frames_len: u64,
    /// Describes the first wrong entry of the index.
    pub(super) astray: Option<String>,
}

/// Walks the frames of a segment, and compares the entries of its index with them. `progress` gets the number
/// of bytes that were read since its last call.
pub(super) fn segment(
    segment: &Arc<Segment>,
    bounds: Bounds,
    entries: Vec<Entry>,
    progress: &mut dyn FnMut(u64),
) -> Result<Survey> {
    let limit = bounds.limit.min(segment.len());
    let stop = (bounds.stop < u64::MAX).then_some(bounds.stop);
    let mut frames = Frames::of(segment).before(stop).up_to(limit);
    let mut survey = Survey::default();
    let mut entries = Entries { entries: entries.into_iter().peekable(), newest: 0, astray: None };
    let mut reported = 0;
    loop {
        let start = frames.walk.position;
        let what = match frames.step()? {
            Seen::Record(fixed) => {
                entries.pass(start, &fixed);
                if frames.next <= bounds.visible {
                    survey.records += 1;
                    survey.frames_len = frames.walk.position - layout::FIRST_FRAME_AT;
                }
                if start - reported >= CHUNK_LEN as u64 {
                    progress(start - reported);
                    reported = start;
                }
                continue;
            }
            Seen::Covers => continue,
            Seen::Lost(offsets) => {
                survey.frames_len = frames.walk.position - layout::FIRST_FRAME_AT;
                survey.marked_lost.push(offsets);
                continue;
            }
            Seen::Bad(why) => Some(why.to_string()),
            Seen::End if frames.is_complete() => break,
            Seen::End => None,
        };
        let gap = gap(&mut frames, what, limit, bounds.stop)?;
        let reaches_the_end = gap.reaches_the_end;
        survey.gaps.push(gap);
        if reaches_the_end {
            break;
        }
    }
    if let Some(next) = bounds.next {
        survey.cut = cut(&mut frames.walk, next)?;
        survey.astray = entries.end(next);
    }
    progress(segment.len() - reported);
    Ok(survey)
}

/// Counts the whole records from a walk's position on that have the offset `from` or a later one: a recovery has
/// cut them off.
pub(super) fn cut(walk: &mut Walk, from: u64) -> Result<Option<Cut>> {
    let (path, position) = (walk.segment.path.clone(), walk.position);
    let frames = walk.count_records(from)?;
    Ok((frames > 0).then_some(Cut { path, position, frames }))
}

/// Passes the bytes at which a walk found no frame of the log. `what`: why; `None` at the end of the bytes.
fn gap(frames: &mut Frames, what: Option<String>, limit: u64, stop: u64) -> Result<Gap> {
    let passed = frames.pass()?;
    let start = passed.positions.start;
    let (used, end) = match passed.found {
        Some(_) => (true, passed.positions.end),
        // Zeros after the damage are what a segment is filled with.
        None => {
            let end = frames.walk.segment.end_of_bytes(start..limit)?;
            (end > start, end.max(start + FIXED_LEN as u64))
        }
    };
    Ok(Gap {
        range: start..end,
        lost: passed.expected..passed.found.unwrap_or(stop),
        what: what.filter(|_| used).unwrap_or_else(|| "the frames end here".into()),
        reaches_the_end: passed.found.is_none(),
    })
}

/// The entries of an index whose frames were not met yet.
struct Entries {
    entries: std::iter::Peekable<std::vec::IntoIter<Entry>>,
    /// The newest time of the records that were met.
    newest: u64,
    astray: Option<String>,
}

impl Entries {
    /// Compares the entries up to a record with it.
    fn pass(&mut self, position: u64, fixed: &Fixed) {
        while let Some(entry) = self.entries.next_if(|entry| entry.position <= position) {
            let is_right = entry.position == position
                && entry.offset == fixed.offset
                && entry.max_timestamp >= self.newest;
            // That of the first record leads to the first frame even if another record is there.
            let is_first = entry.position == layout::FIRST_FRAME_AT;
            if !is_first && !is_right {
                self.lead_astray(&entry, "where there is no such frame");
            }
        }
        self.newest = self.newest.max(fixed.timestamp);
    }

    /// All records were met; the next segment begins at the offset `next`.
    fn end(mut self, next: u64) -> Option<String> {
        let position = |entry: &Entry| entry.position != layout::FIRST_FRAME_AT;
        while let Some(entry) = self.entries.find(position) {
            let is_after = entry.offset >= next;
            let why =
                if is_after { "past the segment's end" } else { "where there is no such frame" };
            self.lead_astray(&entry, why);
        }
        self.astray
    }

    fn lead_astray(&mut self, entry: &Entry, why: &str) {
        let Entry { offset, position, .. } = entry;
        let what = || format!("the index leads to offset {offset} at position {position}, {why}");
        self.astray.get_or_insert_with(what);
    }
}

/// Returns a salt that gives the same seeds as the one in a lost header, if two consecutive frames agree on it.
pub(crate) fn salt(file: &dyn DiskFile) -> std::io::Result<Option<u64>> {
    let len = file.len()?;
    // However hostile the bytes are, checksums are computed over a few times the file's length.
    let mut budget = 8 * len;
    let mut chunk = vec![0; CHUNK_LEN];
    let mut at = layout::FIRST_FRAME_AT;
    while at < len {
        let wanted = chunk.len().min((len - at) as usize);
        let read = file.read_at(&mut chunk[..wanted], at)?;
        if read == 0 {
            break;
        }
        for start in (0..read).step_by(frame::ALIGN) {
            let position = at + start as u64;
            let Some((salt, frame_len)) = salt_at(file, position, len, &chunk[start..read])? else {
                continue;
            };
            let after = chunk[..read].get(start + frame_len as usize..).unwrap_or_default();
            let follower = salt_at(file, position + frame_len, len, after)?;
            if follower.is_some_and(|(other, _)| other == salt) {
                return Ok(Some(salt));
            }
            budget = budget.saturating_sub(2 * frame_len);
            if budget == 0 {
                return Ok(None);
            }
        }
        at += read as u64;
    }
    Ok(None)
}

/// Returns the salt that would make the bytes at `position` a frame, and the frame's length with padding. `here`:
/// those of these bytes that were read.
fn salt_at(
    file: &dyn DiskFile,
    position: u64,
    file_len: u64,
    here: &[u8],
) -> std::io::Result<Option<(u64, u64)>> {
    let room = file_len.saturating_sub(position).min(GUESS_LEN) as usize;
    let mut fixed_part = [0; FIXED_LEN];
    let head = match here.get(..FIXED_LEN) {
        Some(head) => head,
        None => {
            let read = file.read_at(&mut fixed_part, position)?;
            &fixed_part[..read]
        }
    };
    let Ok(fixed) = Fixed::decode(head, room) else { return Ok(None) };
    let mut rest = Vec::new();
    let bytes = match here.get(..fixed.checked_len()) {
        Some(bytes) => bytes,
        None => {
            rest.resize(fixed.checked_len(), 0);
            if file.read_at(&mut rest, position)? < rest.len() {
                return Ok(None);
            }
            &rest
        }
    };
    let salt = frame::salt_of(fixed.crc, &bytes[frame::LEN_AT..], position);
    Ok(Some((salt, fixed.padded_len() as u64)))
}
