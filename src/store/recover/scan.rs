//! Reading the newest segments after a crash: where the log ends, and the damage in them. Writes nothing.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::Store;
use crate::error::{Error, IoResultExt, Result};
use crate::format::segment::{self as layout, Header};
use crate::format::{frame, PAGE_LEN, SECTOR_LEN};
use crate::recovery::{Cut, Damage, RecoveryReport, ScanFacts};
use crate::segment::{Batches, Found, Frames, Segment, Step, Walk};
use crate::store::directory::SETTINGS;
use crate::sys::{self, Directory};

/// How far a scan has come, and what it has found.
pub(super) struct Scan<'a> {
    topic: &'a Store,
    /// All records below it were promised to survive.
    boundary: u64,
    /// The next offset.
    pub(super) end: u64,
    /// The position after the last whole batch of the current segment.
    pub(super) position: u64,
    /// The current segment; `None` if its header is unreadable.
    pub(super) segment: Option<Arc<Segment>>,
    pub(super) max_timestamp: u64,
    /// Where the last whole batch starts: its position and its first offset.
    pub(super) last_batch: (u64, u64),
    /// Whether everything after the end is zero, and no segment follows.
    clean: bool,
    /// Whole frames after the end.
    frames_cut: u64,
    /// Segments after a cut.
    pub(super) unpromised: Vec<u64>,
    damage: Vec<Damage>,
    cuts: Vec<Cut>,
    /// For each segment that was read: its base, and the range of positions of its frames that are not below
    /// the boundary.
    pub(super) unpromised_frames: Vec<(u64, Range<u64>)>,
}

impl<'a> Scan<'a> {
    /// Reads from the segment of `boundary` on.
    pub(super) fn run(topic: &'a Store, bases: &[u64], boundary: u64) -> Result<Scan<'a>> {
        let first = bases.partition_point(|&base| base <= boundary).saturating_sub(1);
        let start = bases[first];
        let mut scan = Scan {
            topic,
            boundary,
            end: start,
            position: layout::FIRST_FRAME_AT,
            segment: None,
            max_timestamp: 0,
            last_batch: (0, 0),
            clean: true,
            frames_cut: 0,
            unpromised: Vec::new(),
            damage: Vec::new(),
            cuts: Vec::new(),
            unpromised_frames: Vec::new(),
        };
        for (index, &base) in bases.iter().enumerate().skip(first) {
            scan.read(base, bases.get(index + 1).copied())?;
        }
        Ok(scan)
    }

    /// Reads the segment at `base`, which ends at `next` if another one follows.
    fn read(&mut self, base: u64, next: Option<u64>) -> Result<()> {
        if self.end < base && self.end >= self.boundary {
            // The end was found before this segment, none of which was promised.
            self.unpromised.push(base);
            self.clean = false;
            if let Ok(segment) = self.topic.segment(base) {
                let walk = Walk::new(segment, layout::FIRST_FRAME_AT, false);
                self.count_cut(walk, layout::FIRST_FRAME_AT, base)?;
            }
            return Ok(());
        }
        self.end = self.end.max(base);
        match self.topic.segment(base) {
            Ok(segment) => {
                self.unpromised_frames.push((base, layout::FIRST_FRAME_AT..u64::MAX));
                self.read_frames(segment, next)?;
                let frames = self.unpromised_frames.last_mut().expect("just pushed");
                frames.1.end = self.position;
            }
            Err(Error::Corrupt { path, position, what, .. }) => {
                self.clean = false;
                let (blank, most) = look_at_header(self.topic, &path)?;
                if blank && base >= self.boundary {
                    // It has its name, but its header never reached the disk.
                    self.unpromised.push(base);
                    return Ok(());
                }
                // There was a header, and it is unknown how many records followed it.
                let end = match blank {
                    true => self.boundary,
                    false => base.saturating_add(most).max(self.boundary),
                };
                let offsets = base..next.unwrap_or(end);
                self.end = offsets.end;
                self.damage.push(Damage { path, position, offsets, what });
                self.segment = None;
            }
            Err(other) => return Err(other),
        }
        Ok(())
    }

    fn read_frames(&mut self, segment: Arc<Segment>, next: Option<u64>) -> Result<()> {
        let mut batches = Batches::of(Frames::of(&segment).before(next));
        self.end_at(&batches);
        self.max_timestamp = self.max_timestamp.max(segment.header.max_timestamp);
        self.segment = Some(Arc::clone(&segment));
        self.clean = true;
        loop {
            let what = match batches.next()? {
                Found::Batch(batch) => {
                    self.last_batch = (batch.positions.start, batch.offsets.start);
                    if batch.offsets.end <= self.boundary {
                        let frames = self.unpromised_frames.last_mut();
                        frames.expect("the caller has added it").1.start = batch.positions.end;
                    }
                    continue;
                }
                Found::Lost => continue,
                Found::Bad(why) => why.to_string(),
                Found::End => "the file ends".into(),
            };
            self.end_at(&batches);
            if batches.is_complete() {
                // The bytes after it were cut off before the next segment was begun.
                return Ok(());
            }
            if self.end >= self.boundary && !self.is_rotten(&batches, next)? {
                return self.read_after_end(&batches, next);
            }
            // Every batch here was whole, so the frames before the damage count.
            let passed = batches.pass()?;
            self.end_at(&batches);
            let end = passed.found.or(next).unwrap_or(self.boundary).max(passed.expected);
            let (path, position) = (segment.path.clone(), passed.positions.start);
            let offsets = passed.expected..end;
            self.damage.push(Damage { path, position, offsets, what });
            if passed.found.is_none() {
                self.end = end;
                self.clean = false;
                return Ok(());
            }
        }
    }

    /// Moves the end to where `batches` has found it so far.
    fn end_at(&mut self, batches: &Batches) {
        (self.end, self.position) = (batches.end, batches.end_position);
        self.max_timestamp = self.max_timestamp.max(batches.newest);
    }

    /// Whether the missing frame at which `batches` is was once whole. A power cut takes sectors, which then
    /// hold their earlier contents: zeros after some byte. If nothing here looks like that, and whole frames
    /// or a segment follow, bytes have changed.
    fn is_rotten(&self, batches: &Batches, next: Option<u64>) -> Result<bool> {
        let (segment, at) = (batches.segment(), batches.position());
        let mut search = Walk::new(Arc::clone(segment), at, false);
        if !matches!(search.step(u64::MAX, false)?, Step::Bad(_)) {
            // There is nothing, or a frame of another offset.
            return Ok(false);
        }
        let after = at.saturating_add(frame::ALIGN as u64);
        let mut search = Walk::new(Arc::clone(segment), after, false);
        let offsets = batches.expected()..next.unwrap_or(u64::MAX);
        let end = if search.resync(u64::MAX, offsets)?.is_some() {
            search.position
        } else if next.is_some_and(|next| self.topic.segment(next).is_ok()) {
            Walk::new(Arc::clone(segment), at, false).end_of_frame()?
        } else {
            return Ok(false);
        };
        Ok(!segment.has_unwritten(at..end)?)
    }

    /// Examines the bytes after the end that was found: zeros, or the rest of a torn tail. `batches` is at
    /// the first bad byte, which is after the end if a batch is cut in two.
    fn read_after_end(&mut self, batches: &Batches, next: Option<u64>) -> Result<()> {
        let walk = |position| Walk::new(Arc::clone(batches.segment()), position, false);
        self.clean = next.is_none() && batches.segment().is_zero_from(self.position)?;
        if self.clean {
            return Ok(());
        }
        self.count_cut(walk(batches.position()), self.position, self.end)
    }

    /// Counts the whole frames from the walk's position to the end of its segment. All of them are cut off,
    /// from `position` on.
    fn count_cut(&mut self, mut walk: Walk, position: u64, from: u64) -> Result<()> {
        let frames = walk.count_records(from)?;
        self.frames_cut += frames;
        self.cuts.push(Cut { path: walk.segment.path.clone(), position, frames });
        Ok(())
    }

    /// Returns the facts that say what the end means.
    pub(super) fn facts(&self) -> ScanFacts {
        let ends_in_damage =
            self.damage.last().is_some_and(|damage| damage.offsets.end == self.end) && !self.clean;
        ScanFacts {
            boundary_reached: self.end >= self.boundary && !ends_in_damage,
            rest_is_clean: self.clean,
            whole_frames_after: self.frames_cut > 0,
        }
    }

    /// Returns what an opening for writing would report, for a process that only reads.
    pub(super) fn report(&self) -> RecoveryReport {
        RecoveryReport {
            promised_boundary: self.boundary,
            end: self.end.max(self.boundary),
            cut: !self.clean,
            frames_cut: self.frames_cut,
            cuts: self.cuts.clone(),
            damage: self.damage.clone(),
            ..RecoveryReport::default()
        }
    }
}

/// Returns the highest durable end in any valid segment header or checkpoint slot of the newest segments.
pub(super) fn promised_boundary(topic: &Store, bases: &[u64]) -> Result<u64> {
    let mut boundary = 0;
    // A later header states at least as much as an earlier one, so the newest readable header decides. Its
    // slots, and those of the segment before, are read as well.
    for &base in bases.iter().rev() {
        let Some(segment) = readable(topic, base)? else { continue };
        let most = base.saturating_add(layout::most_records(segment.len()));
        let slot_end = segment.newest_slot()?.map(|slot| slot.durable_end);
        let before = boundary;
        boundary = boundary
            .max(segment.header.durable_end)
            .max(slot_end.filter(|&end| end <= most).unwrap_or(0));
        if before != 0 {
            break;
        }
    }
    Ok(boundary)
}

/// Returns the segment at `base`; `None` if its header is damaged.
pub(super) fn readable(topic: &Store, base: u64) -> Result<Option<Arc<Segment>>> {
    match topic.segment(base) {
        Err(Error::Corrupt { .. }) => Ok(None),
        other => other.map(Some),
    }
}

/// Returns `end`, limited to what the newest segment has room for: words have no checksum.
pub(super) fn possible_end(topic: &Store, bases: &[u64], end: u64) -> u64 {
    let Some(&last) = bases.last() else { return 0 };
    let len = topic.segment(last).map_or(0, |segment| segment.len());
    end.min(last.saturating_add(layout::most_records(len.max(topic.settings.segment_len))))
}

/// Refuses settings to which no segment belongs: they, or the segments, were copied from another topic.
pub(crate) fn check_settings(files: &dyn Directory, bases: &[u64], topic_id: u64) -> Result<()> {
    let mut is_foreign = false;
    for &base in bases.iter().rev() {
        let path = files.path().join(layout::file_name(base));
        let Some(file) =
            files.open(&path, sys::Access::Read).not_found_is_none().at("opening", &path)?
        else {
            continue;
        };
        let page = sys::read_start(&*file, PAGE_LEN).at("reading", &path)?;
        for sector in [0, layout::HEADER_COPY_AT].map(|at| page.get(at..at + SECTOR_LEN)) {
            match sector.map(Header::decode) {
                Some(Ok(header)) if header.topic_id == topic_id => return Ok(()),
                Some(Ok(_)) => is_foreign = true,
                _ => {}
            }
        }
    }
    if !is_foreign {
        return Ok(());
    }
    let what = "no segment belongs to these settings: this file or the segments were copied from another topic; \
                restore the file, or move the segments out of the directory";
    let (path, what) = (files.path().join(SETTINGS), what.to_owned());
    Err(Error::Corrupt { path, position: 0, offset: None, what })
}

/// For a segment file whose header does not decode: returns whether no header was ever written, and how many
/// records the file can hold.
pub(super) fn look_at_header(topic: &Store, path: &Path) -> Result<(bool, u64)> {
    let file = topic.files.open(path, sys::Access::Read).at("opening", path)?;
    let page = sys::read_start(&*file, PAGE_LEN).at("reading", path)?;
    Ok((layout::is_blank(&page), layout::most_records(file.len().at("reading", path)?)))
}
