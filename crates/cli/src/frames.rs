//! Walks the frames of a segment file, whatever is in it: damaged, torn, from another machine, with
//! or without a whole header.
//!
//! Reads in pieces and holds at most [`HELD_LEN`] bytes of a frame, so memory is bounded whatever the
//! file says.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use deaddrop::format::frame::{self, Fixed};
use deaddrop::format::segment::{self as layout, Header};
use deaddrop::format::{Malformed, PAGE_LEN};
use deaddrop::Topic;

use crate::failure::Failure;

/// Bytes read at once.
const CHUNK_LEN: usize = 256 << 10;
/// Of a larger frame only so many bytes are held: enough for its key and headers and the start of its
/// payload.
pub(crate) const HELD_LEN: usize = frame::MAX_HEADERS_LEN + (2 << 20);
/// Zeros are passed in blocks of this length.
const SKIP_LEN: usize = 4096;
/// Frames are only guessed from when they are at most so long.
const GUESS_LEN: usize = 1 << 20;

/// A segment file, and a position in it.
pub(crate) struct Frames {
    pub(crate) path: PathBuf,
    /// The header, or why it is none.
    pub(crate) header: Result<Header, Malformed>,
    /// The header page, as far as the file has it.
    pub(crate) page: Vec<u8>,
    /// Bytes of the file.
    pub(crate) len: u64,
    /// What frame checksums are seeded with: the header's salt, or one that two frames agree on.
    salt: Option<u64>,
    /// Where the next frame should start.
    pub(crate) position: u64,
    file: File,
    buffer: Vec<u8>,
    buffer_at: u64,
    /// Bytes that may still be checksummed in vain while looking for a frame.
    budget: u64,
}

/// What stands at a position.
pub(crate) enum Found<'a> {
    /// A whole frame.
    Frame(Frame<'a>),
    /// Bytes up to the next whole frame, or to the end of the file.
    Invalid(Invalid),
}

/// A frame whose checksum matches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) position: u64,
    pub(crate) fixed: Fixed,
    /// Its bytes from its start, at most [`HELD_LEN`].
    held: &'a [u8],
}

/// Bytes that are no frame.
#[derive(Debug, Clone)]
pub(crate) struct Invalid {
    /// Their positions.
    pub(crate) range: Range<u64>,
    /// From here on they are zeros.
    pub(crate) zeros_from: u64,
    /// Why there is no frame at their start.
    pub(crate) what: Malformed,
}

impl Invalid {
    /// Whether they are what a segment is filled with ahead.
    pub(crate) fn is_zeros(&self) -> bool {
        self.zeros_from == self.range.start
    }
}

impl<'a> Frame<'a> {
    pub(crate) fn key(&self) -> Option<&'a [u8]> {
        self.fixed.key_range().map(|range| self.part(range))
    }

    pub(crate) fn headers(&self) -> &'a [u8] {
        self.part(self.fixed.headers_range())
    }

    /// The payload, or its first bytes.
    pub(crate) fn payload(&self) -> &'a [u8] {
        self.part(self.fixed.payload_range())
    }

    pub(crate) fn payload_len(&self) -> usize {
        self.fixed.payload_range().len()
    }

    pub(crate) fn is_record(&self) -> bool {
        self.fixed.kind == frame::KIND_RECORD
    }

    fn part(&self, range: Range<usize>) -> &'a [u8] {
        let end = range.end.min(self.held.len());
        &self.held[range.start.min(end)..end]
    }
}

impl Frames {
    /// Opens a file of any content.
    pub(crate) fn open(path: &Path) -> Result<Frames, Failure> {
        let failed = |doing: &'static str| move |error| Failure::io(doing, path, &error);
        let file = File::open(path).map_err(failed("opening"))?;
        let len = file.metadata().map_err(failed("asking the length of"))?.len();
        let mut page = vec![0; PAGE_LEN];
        let read = read_at(&file, 0, &mut page).map_err(failed("reading"))?;
        page.truncate(read);
        let header = Header::decode_page(&page);
        let mut frames = Frames {
            path: path.to_owned(),
            salt: header.as_ref().ok().map(|header| header.salt),
            header,
            page,
            len,
            position: layout::FIRST_FRAME_AT,
            file,
            buffer: Vec::new(),
            buffer_at: 0,
            budget: 8 * len,
        };
        if frames.salt.is_none() {
            frames.salt = frames.guess_salt()?;
            frames.position = layout::FIRST_FRAME_AT;
        }
        Ok(frames)
    }

    /// Opens a segment file that was in a list of the topic's files; none if it was trimmed since then.
    pub(crate) fn open_listed(
        topic: Option<&Topic>,
        path: &Path,
        base: u64,
    ) -> Result<Option<Frames>, Failure> {
        Frames::open(path).map(Some).or_else(|failure| {
            let first = topic.and_then(|topic| topic.first_offset().ok());
            let trimmed = first.is_some_and(|first| first > base) && !path.exists();
            if trimmed {
                Ok(None)
            } else {
                Err(failure)
            }
        })
    }

    /// Whether the header is no help and no two frames agree either: nothing can be checked.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.salt.is_none()
    }

    /// The one of the header's two sectors that is damaged, if the other one is whole and stands in for it:
    /// its position, and what is wrong with it.
    pub(crate) fn damaged_sector(&self) -> Option<(u64, &'static str)> {
        let header = *self.header.as_ref().ok()?;
        let first = "the segment header is unreadable in its first sector, its copy is whole";
        let sectors = [(0, first), (layout::HEADER_COPY_AT, "the copy of the header is damaged")];
        let damaged = sectors.into_iter().find(|(at, _)| {
            let sector = self.page.get(*at..).unwrap_or_default();
            Header::decode(sector).ok() != Some(header)
        });
        damaged.map(|(at, name)| (at as u64, name))
    }

    /// What stands at the position; goes behind it. `None` at the end of the file.
    pub(crate) fn next(&mut self) -> Result<Option<Found<'_>>, Failure> {
        if self.position >= self.len {
            return Ok(None);
        }
        let start = self.position;
        match self.check(start, false)? {
            Ok(fixed) => Ok(Some(Found::Frame(self.pass(start, fixed)?))),
            Err(what) => {
                let zeros_from = self.resync()?;
                Ok(Some(Found::Invalid(Invalid { range: start..self.position, zeros_from, what })))
            }
        }
    }

    /// Goes behind a frame that was checked.
    fn pass(&mut self, position: u64, fixed: Fixed) -> Result<Frame<'_>, Failure> {
        let wanted = fixed.len.min(HELD_LEN);
        self.fill(
            position,
            if fixed.kind == frame::KIND_VOID { frame::FIXED_LEN } else { wanted },
        )?;
        self.position = position + fixed.padded_len() as u64;
        let held = &self.buffer[(position - self.buffer_at) as usize..];
        Ok(Frame { position, fixed, held: &held[..held.len().min(wanted)] })
    }

    /// The frame at `position`, if there is one.
    fn check(&mut self, position: u64, bounded: bool) -> Result<Result<Fixed, Malformed>, Failure> {
        let Some(salt) = self.salt else {
            return Ok(Err(Malformed::Magic));
        };
        let room = usize::try_from(self.len - position).unwrap_or(usize::MAX);
        let fixed = match Fixed::decode(self.fill(position, frame::FIXED_LEN)?, room) {
            Ok(fixed) => fixed,
            Err(what) => return Ok(Err(what)),
        };
        let checked = fixed.checked_len();
        if bounded {
            let cost = checked as u64;
            if cost > self.budget {
                return Ok(Err(Malformed::Field { name: "len", value: cost }));
            }
            self.budget -= cost;
        }
        if checked <= CHUNK_LEN {
            let bytes = self.fill(position, checked)?;
            return Ok(fixed.verify(bytes, salt, position).map(|()| fixed));
        }
        let seed = frame::seed(salt, position);
        let computed =
            self.checksum(position + frame::LEN_AT as u64, position + checked as u64, seed)?;
        if computed != fixed.crc {
            return Ok(Err(Malformed::Checksum { stored: fixed.crc, computed }));
        }
        Ok(Ok(fixed))
    }

    /// CRC-32 of a range of the file, in pieces.
    fn checksum(&mut self, start: u64, end: u64, seed: u32) -> Result<u32, Failure> {
        let mut hasher = crc32fast::Hasher::new_with_initial(seed);
        let mut piece = vec![0; CHUNK_LEN];
        let mut at = start;
        while at < end {
            let wanted = (end - at).min(CHUNK_LEN as u64) as usize;
            let read = read_at(&self.file, at, &mut piece[..wanted])
                .map_err(|error| Failure::io("reading", &self.path, &error))?;
            if read == 0 {
                break;
            }
            hasher.update(&piece[..read]);
            at += read as u64;
        }
        Ok(hasher.finalize())
    }

    /// Goes to the next whole frame, or to the end; returns from where on the bytes before are zeros.
    fn resync(&mut self) -> Result<u64, Failure> {
        let mut zeros_from = self.position;
        let first = self.header.as_ref().map_or(0, |header| header.base);
        // No segment holds more frames than this.
        let last = first.saturating_add(self.len / frame::FIXED_LEN as u64);
        let start = self.position;
        while self.position < self.len {
            let position = self.position;
            if position % SKIP_LEN as u64 == 0 && position > start {
                let block = self.fill(position, SKIP_LEN)?;
                if block.len() >= SKIP_LEN && block[..SKIP_LEN].iter().all(|&byte| byte == 0) {
                    self.position = position + SKIP_LEN as u64;
                    continue;
                }
            }
            let bytes = self.fill(position, frame::FIXED_LEN)?;
            let word = &bytes[..bytes.len().min(frame::ALIGN)];
            let is_zero = word.iter().all(|&byte| byte == 0);
            // A frame whose checksum is 0 starts with a zero, but not with eight: its length follows.
            let plausible = !is_zero
                && position > start
                && Fixed::decode(bytes, usize::MAX).is_ok_and(|fixed| {
                    self.header.is_err() || (first..=last).contains(&fixed.offset)
                });
            if plausible && self.check(position, true)?.is_ok() {
                return Ok(zeros_from);
            }
            self.position = (position + frame::ALIGN as u64).min(self.len);
            if !is_zero {
                zeros_from = self.position;
            }
        }
        Ok(zeros_from)
    }

    /// At least `wanted` bytes from `position`, unless the file ends before: then fewer.
    fn fill(&mut self, position: u64, wanted: usize) -> Result<&[u8], Failure> {
        let end = self.buffer_at + self.buffer.len() as u64;
        let wanted_end = (position + wanted as u64).min(self.len);
        if position < self.buffer_at || wanted_end > end {
            let len = wanted.max(CHUNK_LEN).min((self.len - position) as usize);
            self.buffer.resize(len, 0);
            self.buffer_at = position;
            let read = read_at(&self.file, position, &mut self.buffer)
                .map_err(|error| Failure::io("reading", &self.path, &error))?;
            self.buffer.truncate(read);
        }
        Ok(&self.buffer[(position - self.buffer_at) as usize..])
    }

    /// A salt that gives the same checksum seeds as the one in the lost header: the seed of a frame
    /// can be computed from its checksum and its bytes, and two frames that follow each other and
    /// agree on it are no accident.
    fn guess_salt(&mut self) -> Result<Option<u64>, Failure> {
        let mut position = layout::FIRST_FRAME_AT;
        let mut budget = 8 * self.len;
        while position < self.len {
            if let Some((salt, len)) = self.salt_of(position)? {
                let follows = self.salt_of(position + len)?;
                if follows.is_some_and(|(other, _)| other == salt) {
                    return Ok(Some(salt));
                }
                budget = budget.saturating_sub(2 * len);
                if budget == 0 {
                    return Ok(None);
                }
            }
            position += frame::ALIGN as u64;
        }
        Ok(None)
    }

    /// The salt that would make the bytes at `position` a frame, and the frame's length.
    fn salt_of(&mut self, position: u64) -> Result<Option<(u64, u64)>, Failure> {
        if position >= self.len {
            return Ok(None);
        }
        let room = (self.len - position).min(GUESS_LEN as u64) as usize;
        let Ok(fixed) = Fixed::decode(self.fill(position, frame::FIXED_LEN)?, room) else {
            return Ok(None);
        };
        let bytes = self.fill(position, fixed.checked_len())?;
        let Some(bytes) = bytes.get(frame::LEN_AT..fixed.checked_len()) else { return Ok(None) };
        let salt = frame::salt_of(fixed.crc, bytes, position);
        Ok(Some((salt, fixed.padded_len() as u64)))
    }
}

/// Reads until `out` is full or the file ends.
fn read_at(file: &File, position: u64, out: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < out.len() {
        match file.read_at(&mut out[filled..], position + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
