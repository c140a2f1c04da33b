//! The segments of a topic, their indexes and the list of epochs.

use std::collections::HashMap;
use std::io::ErrorKind::NotFound;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::plan::{self, Gap};
use super::quarantine::Quarantine;
use super::survey::{self, Bounds};
use super::{finding, Contents, Note, Remedy, Report};
use crate::error::{Error, IoResultExt, Result};
use crate::format::segment::{self as layout, Header};
use crate::format::{epochs, frame, index, PAGE_LEN, SECTOR_LEN};
use crate::segment::{list_bases, Segment, Walk};
use crate::store::Frontier;
use crate::sys::crash_point::crash_point;
use crate::sys::{self, clock, Access, Directory};

/// Where the newest segment ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// Opening will find it. Everything below `published` was published on this boot; `found`: opening is
    /// known to find the end there. Readers get records below `visible`.
    Unknown { published: u64, found: u64, visible: u64 },
    /// Here.
    Known(Frontier),
}

/// A topic that is checked for damage, and repaired if `execute` is set.
pub(super) struct Repair<'a> {
    pub(super) files: &'a dyn Directory,
    pub(super) dir: &'a Path,
    pub(super) topic_id: u64,
    pub(super) execute: bool,
    /// Headers that are not in their files.
    pub(super) rebuilt: HashMap<u64, Header>,
    /// Segments of another topic, which a dry run leaves where they are.
    pub(super) foreign: Vec<u64>,
    pub(super) report: Report,
    /// Offsets marked lost, now or by an earlier repair.
    pub(super) marked_lost: Vec<Range<u64>>,
}

impl Repair<'_> {
    /// Checks all segments, and repairs them if `execute` is set. Returns the end that was found. `progress` gets
    /// the number of bytes that were read since its last call.
    pub(super) fn segments(&mut self, end: End, progress: &mut dyn FnMut(u64)) -> Result<u64> {
        let mut bases = list_bases(self.files, self.dir)?;
        if matches!(end, End::Unknown { .. }) && !self.execute {
            // A writer may have opened the topic since no process was found alive.
            let named = bases.last().copied();
            bases = list_bases(self.files, self.dir)?;
            bases.retain(|&base| Some(base) <= named);
        }
        if let End::Known(frontier) = end {
            // Later segments were named after the frontier was read, or named and never entered. A list that
            // was read while they were made may contain some of them and not all.
            bases.retain(|&base| base <= frontier.active);
        }
        bases.retain(|base| !self.foreign.contains(base));
        let (last, visible) = match end {
            End::Unknown { visible, .. } => (self.last_with_a_record(&bases)?, visible),
            End::Known(frontier) => (0, frontier.high_watermark),
        };
        self.marked_lost.clear();
        self.report.cuts.clear();
        self.report.contents = Contents { segments: bases.len(), ..Contents::default() };
        let mut found_end = bases.first().copied().unwrap_or(0);
        for (at, &base) in bases.iter().enumerate() {
            let Some(segment) = self.open(base)? else { continue };
            let next = bases.get(at + 1).copied();
            let (stop, limit) = match (next, end) {
                (Some(next), _) => (next, u64::MAX),
                (None, End::Known(frontier)) if base == frontier.active => {
                    (frontier.end, frontier.position)
                }
                // The active segment is missing.
                (None, End::Known(frontier)) => (frontier.end, u64::MAX),
                (None, End::Unknown { published: 0, .. }) => (u64::MAX, u64::MAX),
                (None, End::Unknown { published, .. }) => (published, u64::MAX),
            };
            let open_from = match (next, end) {
                (Some(_), End::Unknown { found, .. }) if at >= last => found,
                (None, End::Unknown { .. }) => 0,
                _ => u64::MAX,
            };
            let bounds = Bounds { next, stop, limit, visible };
            found_end = match segment {
                Ok(segment) => self.segment(&segment, bounds, open_from, progress)?,
                Err(_) if open_from <= base => found_end,
                Err((path, what)) => {
                    self.give_segment_up(&path, base..stop, what)?;
                    stop
                }
            };
        }
        Ok(found_end)
    }

    /// Returns the index of the last segment with a whole record, or 0: the bytes before a segment without one
    /// may be a tail in which no record was promised.
    fn last_with_a_record(&self, bases: &[u64]) -> Result<usize> {
        for (at, &base) in bases.iter().enumerate().rev() {
            let Some(Ok(segment)) = self.open(base)? else { continue };
            let mut walk = Walk::new(segment, layout::FIRST_FRAME_AT, false);
            if walk.resync(u64::MAX, base..u64::MAX)?.is_some() {
                return Ok(at);
            }
        }
        Ok(0)
    }

    /// Opens a segment; if its content cannot be determined, returns its path and the reason. None if it was
    /// trimmed since the directory was read.
    #[allow(clippy::type_complexity)]
    fn open(
        &self,
        base: u64,
    ) -> Result<Option<std::result::Result<Arc<Segment>, (PathBuf, String)>>> {
        let path = self.dir.join(layout::file_name(base));
        let access = if self.execute { Access::ReadWrite } else { Access::Read };
        let opened = match self.rebuilt.get(&base) {
            Some(&header) => {
                let file = self.files.open(&path, access).at("opening", &path)?;
                Segment::with_header(path.clone(), file, header, None)
            }
            None => Segment::open(self.files, self.dir, base, access),
        };
        match opened {
            Ok(segment) if segment.header.topic_id == self.topic_id => {
                Ok(Some(Ok(Arc::new(segment))))
            }
            Ok(_) => Ok(Some(Err((path, plan::FOREIGN.into())))),
            Err(Error::Corrupt { what, .. }) => {
                Ok(Some(Err((path, format!("the segment header is unreadable: {what}")))))
            }
            Err(error) if error.is_file_not_found() && !self.execute => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Looks at one segment; returns the offset after its last frame. From `open_from` on,
    /// frames that are missing at its end are not damage but a torn tail, which opening the topic settles.
    fn segment(
        &mut self,
        segment: &Arc<Segment>,
        bounds: Bounds,
        open_from: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<u64> {
        let (index_len, entries) = self.index(segment, bounds.next)?.unwrap_or_default();
        let mut found = survey::segment(segment, bounds, entries, progress)?;
        if let Some(what) = found.astray {
            self.remove_index(segment.base(), index_len, what)?;
        }
        let contents = &mut self.report.contents;
        contents.records += found.records;
        contents.frames_len += found.frames_len;
        contents.lost += found.marked_lost.iter().map(|lost| lost.end - lost.start).sum::<u64>();
        self.report.cuts.extend(found.cut);
        self.marked_lost.extend(found.marked_lost);
        let mut end = bounds.stop;
        let is_tail = |gap: &Gap| gap.reaches_the_end && gap.lost.start >= open_from;
        if found.gaps.last().is_some_and(is_tail) {
            end = found.gaps.pop().map_or(end, |tail| tail.lost.start);
        }
        if !found.gaps.is_empty() {
            self.give_up(segment, &found.gaps)?;
        }
        Ok(end)
    }

    /// Counts the whole records in the files that recoveries have set aside.
    pub(super) fn set_aside(&mut self) -> Result<()> {
        for name in self.files.list(self.dir).at("listing", self.dir)? {
            if layout::epoch_of_cut(&name).is_none() {
                continue;
            }
            let path = self.dir.join(name);
            // Its retention may end meanwhile.
            let file =
                self.files.open(&path, Access::Read).not_found_is_none().at("opening", &path)?;
            let Some(file) = file else { continue };
            match Segment::of_file(path, file) {
                Ok(segment) => {
                    let mut walk = Walk::new(Arc::new(segment), layout::FIRST_FRAME_AT, false);
                    self.report.cuts.extend(survey::cut(&mut walk, 0)?);
                }
                Err(Error::Corrupt { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Marks the damaged ranges of a segment lost.
    fn give_up(&mut self, segment: &Arc<Segment>, gaps: &[Gap]) -> Result<()> {
        let path = &segment.path;
        let now = clock::wall_coarse();
        let mut voids = Vec::new();
        for gap in gaps {
            let len = gap.range.end - gap.range.start;
            let mut finding = finding(path, gap.range.start, len, gap.what.clone());
            finding.lost = gap.lost.clone();
            finding.remedy = Remedy::MarkLost;
            self.marked_lost.push(gap.lost.clone());
            match gap.void(now, segment.header.salt, segment.len()) {
                Some(void) => voids.push((gap.range.start, void)),
                None => {
                    finding.remedy = Remedy::MakeSegment;
                    if self.execute {
                        let bytes = self.lost_segment(gap.lost.clone(), Some(&segment.header));
                        let path = self.dir.join(layout::file_name(gap.lost.start));
                        let made = sys::create_durably(self.files, &path, &bytes, sys::random());
                        made.at("creating", &path)?;
                        finding.done = true;
                    }
                }
            }
            if self.execute && finding.remedy == Remedy::MarkLost {
                let quarantine = Quarantine::of(self.files, self.dir);
                finding.kept = quarantine.keep(segment.file(), path, gap.range.clone())?;
                finding.done = true;
            }
            self.report.findings.push(finding);
        }
        if !self.execute || voids.is_empty() {
            return Ok(());
        }
        crash_point!("repair.kept");
        for (position, void) in voids {
            segment.file().write_all_at(&void, position).at("writing", path)?;
            crash_point!("repair.given-up");
        }
        segment.file().sync_data().at("writing", path)?;
        crash_point!("repair.synced");
        Ok(())
    }

    /// Returns the bytes of a segment that only marks these offsets lost. Its largest timestamp is at least that
    /// of the lost records, as far as the next header names it, so that seeking by time does not begin after them.
    fn lost_segment(&self, lost: Range<u64>, like: Option<&Header>) -> Vec<u8> {
        let len = layout::MIN_LEN;
        let max_timestamp = like.map_or(0, |like| like.max_timestamp);
        let next = Segment::open(self.files, self.dir, lost.end, Access::Read);
        let header = Header {
            epoch: like.map_or(0, |like| like.epoch),
            base: lost.start,
            salt: sys::random(),
            topic_id: self.topic_id,
            durable_end: like.map_or(0, |like| like.durable_end),
            max_timestamp: next
                .map_or(max_timestamp, |next| next.header.max_timestamp.max(max_timestamp)),
            file_len: len,
        };
        let start = layout::FIRST_FRAME_AT;
        let range = start..start + frame::FIXED_LEN as u64;
        let gap = Gap { range, lost, what: String::new(), reaches_the_end: true };
        let void = gap.void(clock::wall_coarse(), header.salt, len);
        let mut bytes = vec![0; PAGE_LEN];
        for at in [0, layout::HEADER_COPY_AT] {
            bytes[at..at + SECTOR_LEN].copy_from_slice(&header.encode());
        }
        bytes.extend(void.expect("it fits an empty segment"));
        bytes.resize(len as usize, 0);
        bytes
    }

    /// Marks all offsets of a segment lost, because none of its frames can be checked. Another segment takes its
    /// place: the file can be a link to that of another topic.
    fn give_segment_up(&mut self, path: &Path, lost: Range<u64>, what: String) -> Result<()> {
        let file = self.files.open(path, Access::Read).at("reading", path)?;
        let len = file.len().at("reading", path)?;
        let mut finding = finding(path, 0, len, what);
        finding.lost = lost.clone();
        finding.remedy = Remedy::MarkSegmentLost;
        self.marked_lost.push(lost.clone());
        if self.execute {
            finding.kept = Quarantine::of(self.files, self.dir).keep(&*file, path, 0..len)?;
            crash_point!("repair.kept");
            // The index of the frames that were there.
            remove_index_of(self.files, self.dir, lost.start)?;
            let bytes = self.lost_segment(lost, None);
            sys::replace_durably(self.files, path, &bytes).at("writing", path)?;
            crash_point!("repair.given-up");
            finding.done = true;
        }
        self.report.findings.push(finding);
        Ok(())
    }

    /// Returns the length and the entries of a sealed segment's index that is in use; removes an unreadable one.
    fn index(
        &mut self,
        segment: &Segment,
        next: Option<u64>,
    ) -> Result<Option<(u64, Vec<index::Entry>)>> {
        let path = self.dir.join(index::file_name(segment.base()));
        let Some(next) = next else { return Ok(None) };
        let bytes = match self.files.open(&path, Access::Read) {
            Ok(file) => {
                let most = (segment.len() / index::SPACING + 2) as usize;
                sys::read_start(&*file, index::HEADER_LEN + most * index::ENTRY_LEN)
            }
            Err(error) if error.kind() == NotFound => return Ok(None),
            Err(error) => Err(error),
        };
        let bytes = bytes.at("reading", &path)?;
        match index::decode(&bytes) {
            // It belongs to another use of the name, or to another end: it is built again in any case.
            Ok((salt, end, _)) if salt != segment.header.salt || end != next => Ok(None),
            Ok((_, _, entries)) => Ok(Some((bytes.len() as u64, entries))),
            Err(_) if index::is_unfinished(&bytes) => {
                let what = "the index was not finished: it is built again when it is needed".into();
                self.report.notes.push(Note { path, what });
                Ok(None)
            }
            Err(what) => {
                let what = format!("the index is unreadable: {what}");
                self.remove_index(segment.base(), bytes.len() as u64, what)?;
                Ok(None)
            }
        }
    }

    /// Removes an index that is unreadable or leads to wrong positions, before any of those positions is written
    /// over.
    fn remove_index(&mut self, base: u64, len: u64, what: String) -> Result<()> {
        let path = self.dir.join(index::file_name(base));
        let mut finding = finding(&path, 0, len, what);
        finding.remedy = Remedy::RemoveIndex;
        if self.execute {
            remove_index_of(self.files, self.dir, base)?;
            finding.done = true;
        }
        self.report.findings.push(finding);
        Ok(())
    }

    /// Reports entries of the list of epochs that cannot be read, or are out of order. Their content cannot be
    /// recovered.
    pub(super) fn epochs(&mut self) -> Result<()> {
        let path = self.dir.join("epochs");
        let bytes = match self.files.open(&path, Access::Read) {
            Ok(file) => sys::read_start(&*file, 64 << 20),
            Err(error) if error.kind() == NotFound => return Ok(()),
            Err(error) => Err(error),
        };
        let bytes = bytes.at("reading", &path)?;
        let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let entries = bytes[..used].chunks(epochs::ENTRY_LEN);
        let last = entries.len().saturating_sub(1);
        let mut newest = 0;
        for (at, entry) in entries.enumerate() {
            let what = match epochs::decode(entry).first() {
                Some(entry) if entry.epoch <= newest => {
                    format!("epoch {} follows epoch {newest}", entry.epoch)
                }
                Some(entry) => {
                    newest = entry.epoch;
                    continue;
                }
                // A last entry whose write was cut off never counted.
                None if at == last => continue,
                None => "an entry is unreadable: consumers that committed before that recovery may be past \
                         what it cut"
                    .to_owned(),
            };
            let (position, len) = ((at * epochs::ENTRY_LEN) as u64, epochs::ENTRY_LEN as u64);
            self.report.findings.push(finding(&path, position, len, what));
        }
        Ok(())
    }
}

/// Removes the index of a segment, if there is one.
pub(super) fn remove_index_of(files: &dyn Directory, dir: &Path, base: u64) -> Result<()> {
    let path = dir.join(index::file_name(base));
    files.remove_file(&path).not_found_is_none().at("removing", &path)?;
    files.sync_dir(dir).at("syncing", dir)?;
    crash_point!("repair.index-removed");
    Ok(())
}
