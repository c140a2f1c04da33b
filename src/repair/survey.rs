//! Reading a topic for damage. Changes nothing.

use std::ops::Range;
use std::sync::Arc;

use super::plan::Gap;
use crate::error::{IoResultExt, Result};
use crate::format::frame::{self, Fixed, FIXED_LEN};
use crate::format::segment as layout;
use crate::segment::{Batches, Found, Frames, Segment};
use crate::sys::DiskFile;

/// Frames are only guessed from when they are at most so long.
const GUESS_LEN: u64 = 1 << 20;
/// Bytes read at once.
const CHUNK_LEN: usize = 1 << 20;

/// What a segment holds besides its records.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) gaps: Vec<Gap>,
    /// Offsets that an earlier repair marked lost.
    pub(super) given_up: Vec<Range<u64>>,
}

/// Walks the frames of a segment up to the offset `stop`; bytes at `limit` and past it do not count.
pub(super) fn segment(segment: &Arc<Segment>, stop: u64, limit: u64) -> Result<Survey> {
    let limit = limit.min(segment.len());
    let mut survey = Survey::default();
    let mut batches =
        Batches::of(Frames::of(segment).before((stop < u64::MAX).then_some(stop)).up_to(limit));
    loop {
        let what = match batches.next()? {
            Found::Batch(_) => continue,
            Found::GivenUp(offsets) => {
                survey.given_up.push(offsets);
                continue;
            }
            Found::Bad(why) => why.to_string(),
            Found::End if batches.is_complete() => break,
            Found::End => "the frames end here".into(),
        };
        let passed = batches.pass()?;
        let start = passed.positions.start;
        let end = match passed.found {
            Some(_) => passed.positions.end,
            // Zeros after the damage are what a segment is filled with.
            None => end_of_bytes(segment, start..limit)?.max(start + FIXED_LEN as u64),
        };
        let lost = passed.expected..passed.found.unwrap_or(stop);
        let reaches_the_end = passed.found.is_none();
        survey.gaps.push(Gap { range: start..end, lost, what, reaches_the_end });
        if reaches_the_end {
            break;
        }
    }
    Ok(survey)
}

/// Returns the position after the last nonzero byte of a range of a segment, rounded up to a multiple of 8;
/// the range's start if there is none.
fn end_of_bytes(segment: &Segment, range: Range<u64>) -> Result<u64> {
    end_of_bytes_in(segment.file(), range).at("reading", &segment.path)
}

/// The same of a file.
pub(super) fn end_of_bytes_in(file: &dyn DiskFile, range: Range<u64>) -> std::io::Result<u64> {
    let mut chunk = vec![0; CHUNK_LEN];
    let mut end = range.start;
    let mut at = range.start;
    while at < range.end {
        let wanted = chunk.len().min((range.end - at) as usize);
        let read = file.read_at(&mut chunk[..wanted], at)?;
        if read == 0 {
            break;
        }
        if let Some(last) = chunk[..read].iter().rposition(|&byte| byte != 0) {
            end = at + last as u64 + 1;
        }
        at += read as u64;
    }
    Ok(end.next_multiple_of(frame::ALIGN as u64))
}

/// A salt that gives the seeds of the one in a lost header, if two frames in a row agree on it.
pub(super) fn salt(file: &dyn DiskFile) -> std::io::Result<Option<u64>> {
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
            let follower = salt_at(file, position + frame_len, len, &[])?;
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

/// The salt that would make the bytes at `position` a frame, and the frame's length with padding.
/// `here`: these bytes, as far as they were read.
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
    let mut bytes = vec![0; fixed.checked_len()];
    if file.read_at(&mut bytes, position)? < bytes.len() {
        return Ok(None);
    }
    let salt = frame::salt_of(fixed.crc, &bytes[frame::LEN_AT..], position);
    Ok(Some((salt, fixed.padded_len() as u64)))
}
