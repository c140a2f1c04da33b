//! The segments of a topic, their indexes and the list of epochs.

use std::collections::HashMap;
use std::io::ErrorKind::NotFound;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::plan::Gap;
use super::quarantine::Quarantine;
use super::{finding, survey, Finding, Remedy};
use crate::error::{Error, IoResultExt, Result};
use crate::format::segment::{self as layout, Header};
use crate::format::{epochs, frame, index, PAGE_LEN, SECTOR_LEN};
use crate::index::Index;
use crate::segment::{list_bases, Segment, Walk};
use crate::store::Frontier;
use crate::sys::crash_point::crash_point;
use crate::sys::{self, clock, Access, Directory, DiskFile};

/// Where the newest segment ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// Opening will find it. Everything below `published` was published on this boot; `found`: opening is
    /// known to find the end there.
    Unknown { published: u64, found: u64 },
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
    pub(super) findings: Vec<Finding>,
    /// Offsets marked lost, now or by an earlier repair.
    pub(super) given_up: Vec<Range<u64>>,
}

impl Repair<'_> {
    /// Checks all segments, and repairs them if `execute` is set. Returns the end that was found.
    pub(super) fn segments(&mut self, end: End) -> Result<u64> {
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
        let mut segments = Vec::new();
        for (at, &base) in bases.iter().enumerate() {
            let next = bases.get(at + 1).copied();
            if let Some(opened) = self.open(base)? {
                segments.push((base, next, opened));
            }
        }
        // The bytes before a segment without a record may be a tail in which no record was promised.
        let mut last = 0;
        for (at, (_, _, segment)) in segments.iter().enumerate() {
            if let Ok(segment) = segment {
                let start = layout::FIRST_FRAME_AT;
                let mut walk = Walk::new(Arc::clone(segment), start, false);
                if walk.resync(u64::MAX, segment.base()..u64::MAX)?.is_some() {
                    last = at;
                }
            }
        }
        let mut found_end = bases.first().copied().unwrap_or(0);
        for (at, (base, next, segment)) in segments.into_iter().enumerate() {
            let (stop, limit) = match (next, end) {
                (Some(next), _) => (next, u64::MAX),
                (None, End::Known(frontier)) => (frontier.end, frontier.position),
                (None, End::Unknown { published: 0, .. }) => (u64::MAX, u64::MAX),
                (None, End::Unknown { published, .. }) => (published, u64::MAX),
            };
            let open_from = match (next, end) {
                (Some(_), End::Unknown { found, .. }) if at >= last => found,
                (None, End::Unknown { .. }) => 0,
                _ => u64::MAX,
            };
            found_end = match segment {
                Ok(segment) => self.segment(&segment, next, stop, limit, open_from)?,
                Err(_) if open_from <= base => found_end,
                Err((path, what)) => {
                    self.give_segment_up(&path, base..stop, what)?;
                    stop
                }
            };
        }
        Ok(found_end)
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
            Ok(_) => Ok(Some(Err((path, "the segment belongs to another topic".into())))),
            Err(Error::Corrupt { what, .. }) => Ok(Some(Err((path, what)))),
            Err(error) if error.is_file_not_found() && !self.execute => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Looks at one segment; returns the offset after its last frame. From `open_from` on,
    /// frames that are missing at its end are not damage but a torn tail, which opening the topic settles.
    fn segment(
        &mut self,
        segment: &Arc<Segment>,
        next: Option<u64>,
        stop: u64,
        limit: u64,
        open_from: u64,
    ) -> Result<u64> {
        let mut found = survey::segment(segment, stop, limit)?;
        self.given_up.extend(found.given_up);
        let mut end = stop;
        let is_tail = |gap: &Gap| gap.reaches_the_end && gap.lost.start >= open_from;
        if found.gaps.last().is_some_and(is_tail) {
            end = found.gaps.pop().map_or(stop, |tail| tail.lost.start);
        }
        self.index(segment, next)?;
        if !found.gaps.is_empty() {
            self.give_up(segment, &found.gaps)?;
        }
        Ok(end)
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
            finding.remedy = Remedy::GiveUp;
            self.given_up.push(gap.lost.clone());
            match gap.void(now, segment.header.salt, segment.len()) {
                Some(void) => voids.push((gap.range.start, void)),
                None => {
                    finding.remedy = Remedy::MakeSegment;
                    finding.done = self.make_segment(&segment.header, gap.lost.clone())?;
                }
            }
            if self.execute && finding.remedy == Remedy::GiveUp {
                let quarantine = Quarantine::of(self.files, self.dir);
                finding.kept = quarantine.keep(segment.file(), path, gap.range.clone())?;
                finding.done = true;
            }
            self.findings.push(finding);
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

    /// Creates a segment that only marks these offsets lost. Returns true if it was created.
    fn make_segment(&self, like: &Header, lost: Range<u64>) -> Result<bool> {
        if !self.execute {
            return Ok(false);
        }
        let len = layout::MIN_LEN;
        let header = Header {
            base: lost.start,
            salt: sys::random(),
            file_len: len,
            max_timestamp: self.max_timestamp_before(lost.end, like.max_timestamp),
            ..*like
        };
        let start = layout::FIRST_FRAME_AT;
        let gap = Gap {
            range: start..start + frame::FIXED_LEN as u64,
            lost,
            what: String::new(),
            reaches_the_end: true,
        };
        let void = gap.void(clock::wall_coarse(), header.salt, len);
        let mut bytes = vec![0; PAGE_LEN + frame::FIXED_LEN];
        for at in [0, layout::HEADER_COPY_AT] {
            bytes[at..at + SECTOR_LEN].copy_from_slice(&header.encode());
        }
        bytes[PAGE_LEN..].copy_from_slice(&void.expect("it fits an empty segment"));
        bytes.resize(len as usize, 0);
        let path = self.dir.join(layout::file_name(header.base));
        sys::create_durably(self.files, &path, &bytes, sys::random()).at("creating", &path)?;
        Ok(true)
    }

    /// Marks all offsets of a segment lost, because none of its frames can be checked. Whatever part of this
    /// reaches the disk, the offsets stay lost, and a repeated repair does the rest.
    fn give_segment_up(&mut self, path: &Path, lost: Range<u64>, what: String) -> Result<()> {
        let access = if self.execute { Access::ReadWrite } else { Access::Read };
        let file = self.files.open(path, access).at("writing", path)?;
        let len = file.len().at("writing", path)?;
        let mut finding = finding(path, 0, len, what);
        finding.lost = lost.clone();
        finding.remedy = Remedy::GiveUpSegment;
        self.given_up.push(lost.clone());
        if self.execute {
            finding.kept = Quarantine::of(self.files, self.dir).keep(&*file, path, 0..len)?;
            crash_point!("repair.kept");
            let base = lost.start;
            self.write_lost_segment(&*file, path, lost)?;
            // The index of the frames that were there.
            match self.remove_index(&self.dir.join(index::file_name(base))) {
                Err(error) if error.is_file_not_found() => {}
                other => other?,
            }
            finding.done = true;
        }
        self.findings.push(finding);
        Ok(())
    }

    /// Returns the largest timestamp before the segment that begins at `base`, if its header names one: at
    /// least that of the lost records, so that seeking by time does not begin after them.
    fn max_timestamp_before(&self, base: u64, otherwise: u64) -> u64 {
        let follower = Segment::open(self.files, self.dir, base, Access::Read);
        follower.map_or(otherwise, |segment| segment.header.max_timestamp.max(otherwise))
    }

    fn write_lost_segment(&self, file: &dyn DiskFile, path: &Path, lost: Range<u64>) -> Result<()> {
        file.allocate(layout::MIN_LEN).at("writing", path)?;
        let file_len = file.len().at("writing", path)?;
        let header = Header {
            epoch: 0,
            base: lost.start,
            salt: sys::random(),
            topic_id: self.topic_id,
            durable_end: 0,
            max_timestamp: self.max_timestamp_before(lost.end, 0),
            file_len,
        };
        let start = layout::FIRST_FRAME_AT;
        let end = survey::end_of_bytes_in(file, start..file_len).at("writing", path)?;
        let end = end.min(file_len & !7).max(start + frame::FIXED_LEN as u64);
        let gap = Gap { range: start..end, lost, what: String::new(), reaches_the_end: true };
        let void = gap.void(clock::wall_coarse(), header.salt, file_len);
        file.write_all_at(&void.expect("a segment has room for it"), start).at("writing", path)?;
        crash_point!("repair.given-up");
        // The checkpoint slots and the latch of the lost header do not belong to this one.
        let mut page = vec![0; PAGE_LEN];
        for at in [layout::HEADER_COPY_AT, 0] {
            page[at..at + SECTOR_LEN].copy_from_slice(&header.encode());
        }
        file.write_all_at(&page, 0).at("writing", path)?;
        file.sync_data().at("writing", path)?;
        crash_point!("repair.synced");
        Ok(())
    }

    /// Removes the index of a sealed segment if it is unreadable or leads to wrong positions, before any of
    /// those positions is written over.
    fn index(&mut self, segment: &Arc<Segment>, next: Option<u64>) -> Result<()> {
        let files = self.files;
        let path = self.dir.join(index::file_name(segment.base()));
        let Some(next) = next else { return Ok(()) };
        let bytes = match files.open(&path, Access::Read) {
            Ok(file) => {
                let most = (segment.len() / index::SPACING + 2) as usize;
                sys::read_start(&*file, index::HEADER_LEN + most * index::ENTRY_LEN)
            }
            Err(error) if error.kind() == NotFound => return Ok(()),
            Err(error) => Err(error),
        };
        let bytes = bytes.at("reading", &path)?;
        let what = match index::decode(&bytes) {
            // It is built again when it is needed.
            Err(_) if index::is_unfinished(&bytes) => return Ok(()),
            Err(what) => format!("the index is unreadable: {what}"),
            // It belongs to another use of the name, or to another end: it is built again in any case.
            Ok((salt, end, _)) if salt != segment.header.salt || end != next => return Ok(()),
            Ok((_, _, entries)) => {
                // The new index ends at damage: an entry after that in the old one is wrong.
                let mut index = Index::new(segment);
                index.extend(segment, Some(next), segment.len(), false)?;
                if index.entries() == entries {
                    return Ok(());
                }
                "the index has wrong entries".into()
            }
        };
        let mut finding = finding(&path, 0, bytes.len() as u64, what);
        finding.remedy = Remedy::RemoveIndex;
        if self.execute {
            self.remove_index(&path)?;
            finding.done = true;
        }
        self.findings.push(finding);
        Ok(())
    }

    fn remove_index(&self, path: &Path) -> Result<()> {
        let (files, dir) = (self.files, self.dir);
        files.remove_file(path).at("removing", path)?;
        files.sync_dir(dir).at("syncing", dir)?;
        crash_point!("repair.index-removed");
        Ok(())
    }

    /// Reports entries of the list of epochs that cannot be read. Their content cannot be recovered.
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
        for (at, entry) in entries.enumerate().take(last) {
            if epochs::decode(entry).is_empty() {
                let what =
                    "an entry is unreadable: consumers that committed before that recovery may be \
                     past the end at which it cut the log";
                let position = (at * epochs::ENTRY_LEN) as u64;
                let len = epochs::ENTRY_LEN as u64;
                self.findings.push(finding(&path, position, len, what.to_owned()));
            }
        }
        Ok(())
    }
}
