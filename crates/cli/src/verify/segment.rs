//! Checks one segment file, with its index.

use std::path::{Path, PathBuf};

use deaddrop::format::{headers, index, segment as layout};
use deaddrop::Topic;

use super::Check;
use crate::failure::Failure;
use crate::frames::{Found, Frames, Invalid};
use crate::ls::SegmentFile;
use crate::{hint, units};

/// Where a segment has to end.
pub(super) struct Bounds {
    /// The base of the segment behind it.
    pub(super) next: Option<u64>,
    /// The high watermark, unless the topic cannot be opened.
    pub(super) end: Option<u64>,
    /// Processes have the topic open: behind the high watermark they may be writing.
    pub(super) live: bool,
}

/// Where a file that no other follows was found to end: path, position, offset.
pub(super) type End = (PathBuf, u64, u64);

/// Said where nothing tells damage from a write that was never finished.
const DOUBT: &str =
    "; whole frames stand behind it: damage, or a write that was torn, or a copy taken \
                     while it was written";

/// How far a walk has come.
struct Walked {
    /// The offset that comes next.
    next: u64,
    position: u64,
    /// The newest record is to be followed by another one of its batch.
    in_batch: bool,
    /// Invalid bytes that were passed.
    pending: Option<Invalid>,
    /// Entries of the index whose frame was not met yet.
    entries: std::iter::Peekable<std::vec::IntoIter<index::Entry>>,
}

impl Check {
    /// Checks a segment.
    pub(super) fn segment(
        &mut self,
        topic: Option<&Topic>,
        dir: &Path,
        file: &SegmentFile,
        bounds: &Bounds,
    ) -> Result<Option<End>, Failure> {
        let path = dir.join(&file.file);
        let Some(mut frames) = Frames::open_listed(topic, &path, file.base)? else {
            return Ok(None);
        };
        self.header(&frames, file, bounds.next.is_none());
        let stop = bounds.next.or(bounds.end);
        let mut walked = Walked {
            next: file.base,
            position: layout::FIRST_FRAME_AT,
            in_batch: false,
            pending: None,
            entries: self.index(dir, &frames, file, bounds.next)?.into_iter().peekable(),
        };
        let start = self.progress.position();
        while stop.is_none_or(|stop| walked.next < stop) {
            let Some(found) = frames.next()? else { break };
            match found {
                Found::Invalid(invalid) => walked.pending = Some(invalid),
                Found::Frame(frame) => self.frame(&path, &frame, stop, &mut walked),
            }
            self.progress.set_position(start + frames.position);
        }
        self.progress.set_position(start + file.bytes);
        self.bytes += walked.position - layout::FIRST_FRAME_AT;
        match stop {
            Some(stop) => {
                self.close(&path, stop, &mut walked);
                match bounds.next {
                    Some(_) => self.cut(&mut frames, stop)?,
                    None if !bounds.live => self.behind_end(&path, &mut frames, stop)?,
                    None => {}
                }
            }
            // The end of a log that does not open: invalid bytes behind it are a torn tail.
            None => return Ok(Some((path, walked.position, walked.next))),
        }
        Ok(None)
    }

    fn frame(
        &mut self,
        path: &Path,
        frame: &crate::frames::Frame<'_>,
        stop: Option<u64>,
        walked: &mut Walked,
    ) {
        let offset = frame.fixed.offset;
        let expected = walked.next;
        let beyond = stop.is_some_and(|stop| offset >= stop && frame.is_record());
        if let Some(invalid) = walked.pending.take() {
            let lost = expected..offset.clamp(expected, stop.unwrap_or(u64::MAX).max(expected));
            let doubt = if stop.is_none() { DOUBT } else { "" };
            let what = format!("no whole frame: {}{doubt}", invalid.what);
            self.damage(path, invalid.range.start, lost, what);
        } else if !frame.is_record() && offset > expected && stop.is_none_or(|stop| offset <= stop)
        {
            // A repair has given these up.
            self.given_up += offset - expected;
            walked.in_batch = false;
        } else if beyond || offset != expected {
            let lost = expected..offset.clamp(expected, stop.unwrap_or(u64::MAX).max(expected));
            let what = format!("offset {expected} expected, {offset} found");
            self.damage(path, frame.position, lost, what);
        } else if walked.in_batch && !frame.is_record() {
            self.damage(path, frame.position, expected..expected, "a batch is not whole");
        }
        walked.position = frame.position + frame.fixed.padded_len() as u64;
        if !frame.is_record() {
            walked.next = expected.max(offset.min(stop.unwrap_or(offset)));
            return;
        }
        self.entries(path, frame, walked);
        if beyond {
            walked.next = stop.unwrap_or(offset);
            return;
        }
        self.records += 1;
        walked.next = expected.max(offset.saturating_add(1));
        walked.in_batch = frame.fixed.continues();
        let whole = frame.fixed.headers_len <= frame.headers().len();
        if let (true, Err(what)) = (whole, headers::check(frame.headers())) {
            let lost = offset..offset + 1;
            self.damage(path, frame.position, lost, format!("headers: {what}"));
        }
    }

    /// Behind the end of a log that nobody writes there is nothing, or a torn tail. Whole frames behind
    /// invalid bytes are more than that.
    fn behind_end(&mut self, path: &Path, frames: &mut Frames, end: u64) -> Result<(), Failure> {
        let mut pending: Option<Invalid> = None;
        while let Some(found) = frames.next()? {
            let frame = match found {
                Found::Invalid(invalid) => {
                    pending = Some(invalid);
                    continue;
                }
                Found::Frame(frame) if !frame.is_record() => continue,
                Found::Frame(frame) => frame,
            };
            if let Some(invalid) = pending {
                let lost = end..frame.fixed.offset.max(end);
                let what = format!("no whole frame: {}{DOUBT}", invalid.what);
                self.damage(path, invalid.range.start, lost, what);
                break;
            }
        }
        Ok(())
    }

    /// Where the next segment begins there are no more frames, unless a recovery has ended the segment there
    /// and left what follows in its file.
    fn cut(&mut self, frames: &mut Frames, stop: u64) -> Result<(), Failure> {
        let count = whole_records(frames, stop)?;
        if count > 0 {
            self.cut += count;
            let what = said_of_cut(count, &format!(" at offset {stop}"));
            self.note(&frames.path, what);
        }
        Ok(())
    }

    /// Compares the index with the frame at hand.
    fn entries(&mut self, path: &Path, frame: &crate::frames::Frame<'_>, walked: &mut Walked) {
        while let Some(entry) = walked.entries.next_if(|entry| entry.position <= frame.position) {
            let first = entry.position == layout::FIRST_FRAME_AT;
            let right = entry.position == frame.position && entry.offset == frame.fixed.offset;
            if !right && !first {
                let what = format!(
                    "it leads to offset {} at position {}, where there is no such frame: delete \
                     it, it is made anew",
                    entry.offset, entry.position
                );
                self.damage(&path.with_extension("idx"), 0, 0..0, what);
            }
        }
    }

    /// All that had to be in the segment must have been.
    fn close(&mut self, path: &Path, stop: u64, walked: &mut Walked) {
        if walked.next < stop {
            let lost = walked.next..stop;
            let (position, what) = match walked.pending.take() {
                Some(invalid) if !invalid.is_zeros() => {
                    (invalid.range.start, format!("no whole frame: {}", invalid.what))
                }
                _ => (walked.position, "the frames end here".to_owned()),
            };
            self.damage(path, position, lost, what);
        } else if walked.in_batch {
            let lost = stop..stop;
            self.damage(path, walked.position, lost, "the last batch is not whole");
        }
        if let Some(entry) = walked.entries.find(|entry| entry.offset >= stop) {
            let what = format!(
                "it leads to offset {}, behind the segment's end: delete it, it is made anew",
                entry.offset
            );
            self.damage(&path.with_extension("idx"), 0, 0..0, what);
        }
    }

    fn header(&mut self, frames: &Frames, file: &SegmentFile, is_newest: bool) {
        let header = match &frames.header {
            Ok(header) => header,
            Err(_) if is_newest && layout::is_blank(&frames.page) => {
                let what = "no header has reached the disk: opening the topic sets the file aside";
                return self.note(&frames.path, what);
            }
            Err(what) => {
                let what = format!("the segment header is unreadable: {what}");
                return self.damage(&frames.path, 0, file.base..file.base, what);
            }
        };
        let slot = layout::newest_slot(&frames.page, header.salt);
        let durable = slot.map_or(0, |slot| slot.durable_end).max(header.durable_end);
        self.promised = self.promised.max(durable);
        let lost = file.base..file.base;
        if header.base != file.base {
            let what = format!("the header says base {}, the name {}", header.base, file.base);
            self.damage(&frames.path, layout::BASE_AT as u64, lost.clone(), what);
        }
        if self.settings.is_some_and(|settings| settings.topic_id != header.topic_id) {
            let at = layout::TOPIC_ID_AT as u64;
            self.damage(&frames.path, at, lost.clone(), "the segment belongs to another topic");
        }
        if frames.len < header.file_len {
            let what = format!("{} bytes expected, {} there", header.file_len, frames.len);
            self.damage(&frames.path, frames.len, lost.clone(), what);
        }
        if let Some((at, what)) = frames.damaged_sector() {
            let repair = hint::command(&format!("repair {}", self.topic));
            let what = format!("{what}: `{repair}` restores it");
            self.damage(&frames.path, at, lost, what);
        }
        if layout::is_latched(&frames.page) {
            let at = layout::LATCH_AT as u64;
            let what = "a sync failed here: check the disk, close the topic in every process and \
                        open it again";
            self.damage(&frames.path, at, file.base..file.base, what);
        }
    }

    /// The entries of a sealed segment's index, as far as it has one that is in force.
    fn index(
        &mut self,
        dir: &Path,
        frames: &Frames,
        file: &SegmentFile,
        next: Option<u64>,
    ) -> Result<Vec<index::Entry>, Failure> {
        let path = dir.join(index::file_name(file.base));
        let (Some(next), Ok(header)) = (next, &frames.header) else { return Ok(Vec::new()) };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Failure::io("reading", &path, &error)),
        };
        match index::decode(&bytes) {
            // Of another use of the name, or of another end: it is made anew when it is needed.
            Ok((salt, end, _)) if salt != header.salt || end != next => Ok(Vec::new()),
            Ok((_, _, entries)) => Ok(entries),
            // A process is just writing it, or was killed then.
            Err(_) if index::is_unfinished(&bytes) => {
                self.note(&path, "the index was not finished: it is made anew when it is needed");
                Ok(Vec::new())
            }
            Err(what) => {
                let what = format!("the index is unreadable: {what}; delete it, it is made anew");
                self.damage(&path, 0, 0..0, what);
                Ok(Vec::new())
            }
        }
    }
}

/// The whole records from offset `from` on in the rest of a file.
pub(super) fn whole_records(frames: &mut Frames, from: u64) -> Result<u64, Failure> {
    let mut count = 0;
    while let Some(found) = frames.next()? {
        match found {
            Found::Frame(frame) if frame.is_record() && frame.fixed.offset >= from => count += 1,
            Found::Frame(_) | Found::Invalid(_) => {}
        }
    }
    Ok(count)
}

/// What is said of a file with records that were cut off.
pub(super) fn said_of_cut(count: u64, place: &str) -> String {
    let records = match count {
        1 => "a whole record".to_owned(),
        some => format!("{} whole records", units::grouped(some)),
    };
    format!(
        "{records} in it {} cut off by a recovery{place}: `dump` shows them, nothing deletes them",
        if count == 1 { "was" } else { "were" }
    )
}
