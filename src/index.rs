//! The sparse index of one segment: from an offset or a time to a position shortly before it.
//!
//! Disposable: it holds nothing that the segment does not.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, IoResultExt, Result};
use crate::format::index::{self as layout, Entry};
use crate::format::segment;
use crate::segment::{Frames, Seen, Segment};
use crate::sys::{Access, Directory};

/// Positions in a segment, growing with it.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    entries: Vec<Entry>,
    /// The end of the indexed frames, and the entry for that place.
    pub(crate) reached: Entry,
    /// The most bytes between two appends that were noted.
    gap_len: u64,
}

/// An index made by an appending process is used if it misses no more than this between two of its appends.
const MOST_GAP: u64 = 4 * layout::SPACING;

impl Index {
    /// The entry of a segment's start.
    pub(crate) fn start(segment: &Segment) -> Entry {
        Entry {
            offset: segment.base(),
            max_timestamp: segment.header.max_timestamp,
            position: segment::FIRST_FRAME_AT,
        }
    }

    /// The index of a segment of which nothing was looked at.
    pub(crate) fn new(segment: &Segment) -> Index {
        let start = Index::start(segment);
        Index { entries: vec![start], reached: start, gap_len: 0 }
    }

    /// Notes an append that began at `entry` and ended at the position `end`. An appending process notes at
    /// least the first of its appends after each multiple of [`layout::SPACING`].
    pub(crate) fn note(&mut self, entry: Entry, end: u64) {
        let last = self.entries.last().map_or(0, |last| last.position);
        if entry.position / layout::SPACING > last / layout::SPACING {
            self.entries.push(entry);
        }
        self.gap_len = self.gap_len.max(entry.position.saturating_sub(self.reached.position));
        self.reached.position = end;
    }

    /// Whether few frames before the position `end`, where the segment's frames end, are far from an entry:
    /// other processes may have appended, too.
    pub(crate) fn is_dense(&self, end: u64) -> bool {
        self.gap_len.max(end.saturating_sub(self.reached.position)) <= MOST_GAP
    }

    /// Looks at the frames up to the position `limit`, which are published, and before the offset `stop`,
    /// where the next segment begins. Stops at damage.
    pub(crate) fn extend(
        &mut self,
        segment: &Arc<Segment>,
        stop: Option<u64>,
        limit: u64,
        hot: bool,
    ) -> Result<()> {
        if self.reached.position >= limit {
            return Ok(());
        }
        let frames = Frames::from(segment, self.reached.position, self.reached.offset);
        let mut frames = frames.before(stop).up_to(limit);
        if hot {
            frames = frames.hot();
        }
        loop {
            match frames.step()? {
                Seen::Record(fixed) => {
                    let last = self.entries.last().map_or(0, |entry| entry.position);
                    if self.reached.position / layout::SPACING > last / layout::SPACING {
                        self.entries.push(Entry { offset: fixed.offset, ..self.reached });
                    }
                    let newest = self.reached.max_timestamp.max(fixed.timestamp);
                    self.reached.max_timestamp = newest;
                }
                Seen::Covers | Seen::Lost(..) => {}
                Seen::Bad(_) | Seen::End => return Ok(()),
            }
            self.reached.offset = frames.next;
            self.reached.position = frames.walk.position;
        }
    }

    /// Returns the last entry at or before `offset`.
    pub(crate) fn before_offset(&self, offset: u64) -> Entry {
        let behind = self.entries.partition_point(|entry| entry.offset <= offset);
        self.entries[behind.saturating_sub(1)]
    }

    /// Returns the last entry before which every record is older than `timestamp`.
    pub(crate) fn before_time(&self, timestamp: u64) -> Entry {
        let behind = self.entries.partition_point(|entry| entry.max_timestamp < timestamp);
        self.entries[behind.saturating_sub(1)]
    }

    /// Loads the index stored for a sealed segment that ends at `end`; `None` if there is none or it does not
    /// belong to this segment: then it is built again.
    pub(crate) fn load(
        files: &dyn Directory,
        dir: &Path,
        segment: &Segment,
        end: u64,
    ) -> Option<Index> {
        let file = files.open(&dir.join(layout::file_name(segment.base())), Access::Read).ok()?;
        // At most one entry for each stretch of the segment.
        let most = segment.len() / layout::SPACING + 2;
        let limit = layout::HEADER_LEN + most as usize * layout::ENTRY_LEN;
        let bytes = crate::sys::read_start(&*file, limit).ok()?;
        let (salt, stored_end, entries) = layout::decode(&bytes).ok()?;
        let increasing = entries.windows(2).all(|pair| {
            pair[0].offset < pair[1].offset
                && pair[0].position < pair[1].position
                && pair[0].max_timestamp <= pair[1].max_timestamp
        });
        let fits = salt == segment.header.salt
            && stored_end == end
            && increasing
            && entries.first().is_some_and(|first| *first == Index::start(segment))
            && entries
                .last()
                .is_some_and(|last| last.offset < end && last.position < segment.len());
        let reached = *entries.last()?;
        fits.then_some(Index { entries, reached, gap_len: 0 })
    }

    /// Stores the index of a sealed segment that ends at `end`, replacing any other.
    pub(crate) fn store(
        &self,
        files: &dyn Directory,
        dir: &Path,
        segment: &Segment,
        end: u64,
    ) -> Result<()> {
        let path = dir.join(layout::file_name(segment.base()));
        files.remove_file(&path).not_found_is_none().at("removing", &path)?;
        let bytes = layout::encode(segment.header.salt, end, &self.entries);
        let file = match files.open(&path, Access::CreateNew) {
            Ok(file) => file,
            // Another process stores the same index.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) => return Err(Error::io("creating", &path, error)),
        };
        file.allocate(bytes.len() as u64)
            .and_then(|()| file.write_all_at(&bytes, 0))
            .at("writing", &path)
    }
}
