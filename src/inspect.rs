//! Shows the contents of a topic's files, for the tool: the frames of one segment file, even one that was copied
//! without its topic, and the findings of a check.
//!
//! `segment` decides what a frame means, and `repair` which bytes are damaged.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{IoResultExt, Result};
use crate::format::frame::Fixed;
use crate::format::segment::{self as layout, Header};
use crate::format::{Malformed, PAGE_LEN, SECTOR_LEN};
use crate::repair::{self, plan, survey, Report};
use crate::segment::{self, Seen, Segment, Walk, HELD_LEN};
use crate::sys::{self, DiskFile};
use crate::topic::Topic;

/// As [`repair::plan`], for an open topic. `progress` gets the number of bytes that were read since its last
/// call.
///
/// # Errors
///
/// As [`repair::plan`].
pub fn check(topic: &Topic, progress: &mut dyn FnMut(u64)) -> Result<Report> {
    repair::plan_of(topic.inner(), progress)
}

/// A segment file of any content: damaged, torn, or from another machine.
#[derive(Debug)]
pub struct SegmentFile {
    /// The file.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
    /// The header, or why there is none.
    pub header: std::result::Result<Header, Malformed>,
    /// The header page, or as much of it as the file has.
    pub page: Vec<u8>,
    /// Until the frames are read.
    file: Option<Box<dyn DiskFile>>,
}

impl SegmentFile {
    /// Opens a file and reads its header page.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io).
    pub fn open(path: &Path) -> Result<SegmentFile> {
        let file = sys::open_path(path).at("opening", path)?;
        let len = file.len().at("sizing", path)?;
        let page = sys::read_start(&*file, PAGE_LEN).at("reading", path)?;
        let header = Header::decode_page(&page);
        Ok(SegmentFile { path: path.to_owned(), len, header, page, file: Some(file) })
    }

    /// Returns the position of the one header sector that is damaged, and a description, if the other one is
    /// whole.
    pub fn damaged_sector(&self) -> Option<(usize, &'static str)> {
        let header = self.header.as_ref().ok()?;
        let is_damaged = |at: &usize| {
            let sector = self.page.get(*at..*at + SECTOR_LEN).unwrap_or_default();
            Header::decode(sector).as_ref() != Ok(header)
        };
        let at = [0, layout::HEADER_COPY_AT].into_iter().find(is_damaged)?;
        Some((at, plan::damaged_sector(at)))
    }

    /// Returns a walk over the frames, once; `None` if the file ends before the first one. Without a header,
    /// frames are checked with a salt that two of them agree on. `end`: the base of the next segment, if it is
    /// known.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io).
    pub fn frames(&mut self, end: Option<u64>) -> Result<Option<Frames>> {
        let path = self.path.clone();
        let long_enough = self.len >= layout::FIRST_FRAME_AT;
        let Some(file) = self.file.take().filter(|_| long_enough) else { return Ok(None) };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (salt, base) = match &self.header {
            Ok(header) => (Some(header.salt), Some(header.base)),
            Err(_) => (survey::salt(&*file).at("reading", &path)?, layout::parse_file_name(&name)),
        };
        let is_checked = salt.is_some();
        let (salt, known) = (salt.unwrap_or(0), base.unwrap_or(0));
        let header = Header { salt, base: known, ..Header::default() };
        let segment = Arc::new(Segment::with_header(path, file, header, None)?);
        let start = layout::FIRST_FRAME_AT;
        let base = match base {
            // Nothing says which records were there before the first whole one.
            None if is_checked => {
                let mut walk = Walk::new(Arc::clone(&segment), start, false);
                walk.resync(u64::MAX, 0..u64::MAX)?.unwrap_or(0)
            }
            _ => known,
        };
        let frames = segment::Frames::from(&segment, start, base).before(end);
        Ok(Some(Frames { frames, is_cut: false, is_checked }))
    }
}

/// Walks the frames of a segment file, past the base of the next segment as well: there are frames that a recovery
/// cut off.
#[derive(Debug)]
pub struct Frames {
    frames: segment::Frames,
    /// The walk is past the base of the next segment.
    is_cut: bool,
    is_checked: bool,
}

/// The frame at a position, or why there is none.
#[derive(Debug)]
pub enum Found {
    /// A record, or a void frame that marks `lost` offsets lost.
    Frame {
        /// Its fixed part.
        fixed: Fixed,
        /// The position of its first byte.
        position: u64,
        /// Of a void frame: the offsets that it marks lost.
        lost: Range<u64>,
    },
    /// No frame of the log, and why.
    Bad(String),
    /// The end of the file.
    End,
}

/// Bytes that are not frames of the log.
#[derive(Debug, Clone)]
pub struct Stretch {
    /// Their positions.
    pub positions: Range<u64>,
    /// Bytes at this position and later are zeros.
    pub zeros_from: u64,
}

impl Stretch {
    /// Returns how many bytes there are.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.positions.end - self.positions.start
    }

    /// Returns whether all of them are zeros, as in the part of a segment that is not used yet.
    pub fn is_zeros(&self) -> bool {
        self.zeros_from == self.positions.start
    }
}

impl Frames {
    /// Returns whether frames can be checked. If not, all bytes are [bad](Found::Bad).
    pub fn is_checked(&self) -> bool {
        self.is_checked
    }

    /// Returns the frame at the position, and moves past it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io).
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Found> {
        let position = self.frames.walk.position;
        if !self.is_checked && position < self.frames.walk.segment.len() {
            return Ok(Found::Bad(Malformed::Magic.to_string()));
        }
        let (fixed, lost) = match self.frames.step()? {
            Seen::Record(fixed) => (fixed, 0..0),
            Seen::Covers => (self.void(), 0..0),
            Seen::Lost(lost) => (self.void(), lost),
            Seen::Bad(why) => return Ok(Found::Bad(why.to_string())),
            Seen::End if self.frames.is_complete() && !self.is_cut => {
                self.go_past_the_end(position);
                return self.next();
            }
            Seen::End => return Ok(Found::End),
        };
        Ok(Found::Frame { fixed, position, lost })
    }

    /// The fixed part of the void frame that was just passed.
    fn void(&self) -> Fixed {
        let decoded = Fixed::decode(self.frames.walk.frame(), usize::MAX);
        decoded.expect("it was decoded before")
    }

    fn go_past_the_end(&mut self, position: u64) {
        let segment = &self.frames.walk.segment;
        self.frames = segment::Frames::from(segment, position, self.frames.next);
        self.is_cut = true;
    }

    /// Moves past [bad](Found::Bad) bytes to the next record.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io).
    pub fn pass(&mut self) -> Result<Stretch> {
        if !self.is_checked {
            return self.pass_all();
        }
        let start = self.frames.walk.position;
        let mut passed = self.frames.pass()?;
        if passed.found.is_none() && !self.is_cut {
            self.go_past_the_end(start);
            passed = self.frames.pass()?;
        }
        self.stretch(passed.positions)
    }

    /// Moves past all bytes up to the end of the file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io).
    pub fn pass_all(&mut self) -> Result<Stretch> {
        let walk = &mut self.frames.walk;
        let start = walk.position;
        walk.position = walk.segment.len().max(start);
        let end = walk.position;
        self.stretch(start..end)
    }

    fn stretch(&self, positions: Range<u64>) -> Result<Stretch> {
        let zeros_from = self.frames.walk.segment.end_of_bytes(positions.clone())?;
        Ok(Stretch { zeros_from: zeros_from.min(positions.end), positions })
    }

    /// Returns the frame that [`next`](Self::next) has just returned, from its start: all of it, or as much as
    /// is held in memory.
    pub fn frame(&self, fixed: &Fixed) -> &[u8] {
        let bytes = self.frames.walk.frame();
        &bytes[..bytes.len().min(fixed.len).min(HELD_LEN)]
    }

    /// Returns the offset of the next record.
    pub fn next_offset(&self) -> u64 {
        self.frames.next
    }
}
