//! One segment file: opening it, walking its frames, finding the next valid one behind damage.
//!
//! Does not know which of its bytes are published: callers give the limit.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::error::{Error, Result};
use crate::format::frame::{self, Fixed};
use crate::format::segment::{self as layout, Header};
use crate::format::{Malformed, PAGE_LEN};
use crate::sys::{Access, Directory, DiskFile, Map};

/// An open segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) header: Header,
    file: Box<dyn DiskFile>,
    len: u64,
    map: OnceLock<Map>,
    /// Made if it is read in place by a process that does not write to it.
    read_map: OnceLock<Map>,
    /// Bytes below this position have been made resident in this process.
    resident: AtomicU64,
}

impl Segment {
    /// Opens a published segment and checks its header against its name.
    pub(crate) fn open(
        files: &dyn Directory,
        dir: &Path,
        base: u64,
        access: Access,
    ) -> Result<Segment> {
        let path = dir.join(layout::file_name(base));
        let file = files.open(&path, access).map_err(|error| Error::io("opening", &path, error))?;
        let segment = Segment::of_file(path, file)?;
        if segment.header.base != base {
            return Err(segment.corrupt(
                layout::BASE_AT as u64,
                Some(base),
                &Malformed::Field { name: "base", value: segment.header.base },
            ));
        }
        Ok(segment)
    }

    /// Wraps an open file of any name.
    pub(crate) fn of_file(path: PathBuf, file: Box<dyn DiskFile>) -> Result<Segment> {
        let page = crate::sys::read_start(&*file, PAGE_LEN)
            .map_err(|error| Error::io("reading", &path, error))?;
        let header =
            Header::decode_page(&page).map_err(|error| Error::malformed(&path, 0, error))?;
        Segment::with_header(path, file, header)
    }

    /// Wraps a file whose header is known.
    pub(crate) fn with_header(
        path: PathBuf,
        file: Box<dyn DiskFile>,
        header: Header,
    ) -> Result<Segment> {
        // Whole words: a file that was cut off in one holds no frame there.
        let len = file.len().map_err(|error| Error::io("asking the length of", &path, error))? & !7;
        if len < layout::FIRST_FRAME_AT {
            let what =
                Malformed::Short { needed: layout::FIRST_FRAME_AT as usize, found: len as usize };
            return Err(Error::malformed(&path, len, what));
        }
        Ok(Segment {
            path,
            header,
            file,
            len,
            map: OnceLock::new(),
            read_map: OnceLock::new(),
            resident: AtomicU64::new(0),
        })
    }

    pub(crate) fn base(&self) -> u64 {
        self.header.base
    }

    /// Bytes of the file when it was opened. An empty segment can be extended for a large record.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file is longer by now.
    pub(crate) fn is_outgrown(&self) -> Result<bool> {
        let len = self.file.len().map_err(|error| Error::io("sizing", &self.path, error))?;
        Ok(len & !7 > self.len)
    }

    /// The shared writable mapping; made at the first call.
    pub(crate) fn map(&self) -> Result<&Map> {
        self.mapped(&self.map, true)
    }

    /// A mapping to read from: the writable one if there is one; made at the first call.
    fn map_to_read(&self) -> Result<&Map> {
        match self.map.get() {
            Some(map) => Ok(map),
            None => self.mapped(&self.read_map, false),
        }
    }

    fn mapped<'a>(&self, slot: &'a OnceLock<Map>, writable: bool) -> Result<&'a Map> {
        if slot.get().is_none() {
            // Whole words: a file that was cut elsewhere has no frame in what is left out.
            let len = usize::try_from(self.len()).expect("a 64-bit platform") & !7;
            let map = self
                .file
                .map(len, writable)
                .map_err(|error| Error::io("mapping", &self.path, error))?;
            // Another thread may have been faster: its mapping stays, ours is dropped.
            slot.get_or_init(|| map);
        }
        Ok(slot.get().expect("just set"))
    }

    /// The file.
    pub(crate) fn file(&self) -> &dyn DiskFile {
        &*self.file
    }

    /// Has the next sync write the pages of a range, whatever the page cache believes of them.
    pub(crate) fn redirty(&self, positions: std::ops::Range<u64>) -> Result<()> {
        self.file
            .redirty(positions.start, positions.end)
            .map_err(|error| Error::io("marking pages of", &self.path, error))
    }

    /// fdatasync.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Reads the header page as it stands.
    pub(crate) fn header_page(&self) -> Result<Vec<u8>> {
        crate::sys::read_start(&*self.file, PAGE_LEN)
            .map_err(|error| Error::io("reading", &self.path, error))
    }

    /// Position below which pages are resident.
    #[inline]
    pub(crate) fn resident(&self) -> u64 {
        self.resident.load(Ordering::Relaxed)
    }

    /// Makes pages resident up to `end`, in one piece. Idempotent; several threads may call it.
    pub(crate) fn populate(&self, end: u64) -> Result<()> {
        let end = end.next_multiple_of(PAGE_LEN as u64).min(self.len());
        let start = self.resident() & !(PAGE_LEN as u64 - 1);
        if start < end {
            self.map()?
                .populate(start as usize, end as usize)
                .map_err(|error| Error::io("allocating pages of", &self.path, error))?;
            self.resident.fetch_max(end, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Notes that no page will be made resident ahead.
    pub(crate) fn skip_populate(&self) {
        self.resident.store(u64::MAX, Ordering::Relaxed);
    }

    /// Copies up to `out.len()` bytes from `position` (a multiple of 8), from the mapping if there is
    /// one and `hot` asks for it.
    fn read(&self, position: u64, out: &mut [u8], hot: bool) -> io::Result<usize> {
        match self.map.get().filter(|_| hot) {
            Some(map) => {
                let len = out.len().min(map.len().saturating_sub(position as usize));
                map.read(position as usize, &mut out[..len]);
                Ok(len)
            }
            None => self.file.read_at(out, position),
        }
    }

    /// The error for invalid bytes at `position`.
    pub(crate) fn corrupt(&self, position: u64, offset: Option<u64>, what: &Malformed) -> Error {
        Error::Corrupt { path: self.path.clone(), position, offset, what: what.to_string() }
    }
}

/// What stands at a position.
#[derive(Debug)]
pub(crate) enum Step {
    /// A whole frame; the walk stands behind it.
    Frame(Fixed),
    /// The limit is reached.
    End,
    /// Bytes that are no frame; the walk stands still.
    Bad(Malformed),
}

/// Bytes copied at once from a mapping: they are still in the nearest cache when they are checked.
const HOT_CHUNK: usize = 4 << 10;
/// Bytes of a mapping whose pages are entered at once.
const ENTER_LEN: u64 = 1 << 20;
/// Bytes read at once from a file.
const COLD_CHUNK: usize = 128 << 10;

/// Memory that starts on a cache line: the kernel's copies are slower by half into other places.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// The first `len` bytes.
    #[inline]
    fn first(&self, len: usize) -> &[u8] {
        &self.bytes[self.start..self.start + len]
    }

    /// Moves a range to the start, if there is room for `len` bytes as it is; returns its length.
    fn keep(&mut self, range: std::ops::Range<usize>, len: usize) -> usize {
        if self.bytes.len() < self.start + len || range.len() > len {
            return 0;
        }
        let count = range.len();
        self.bytes[self.start..].copy_within(range, 0);
        count
    }

    /// The same, to be written; makes the buffer longer if need be, and forgets what is in it then.
    fn first_mut(&mut self, len: usize) -> &mut [u8] {
        const LINE_LEN: usize = 64;
        if self.bytes.len() < self.start + len {
            self.bytes = vec![0; len + LINE_LEN];
            self.start = self.bytes.as_ptr().align_offset(LINE_LEN).min(LINE_LEN);
        }
        &mut self.bytes[self.start..self.start + len]
    }
}

/// Walks the frames of a segment. Copies first, then checks the copy.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) segment: Arc<Segment>,
    /// Where the next frame starts.
    pub(crate) position: u64,
    hot: bool,
    buffer: Buffer,
    /// Position of the first byte in `buffer`.
    buffer_at: u64,
    /// Valid bytes in `buffer`.
    filled: usize,
    /// Where the last frame starts in `buffer`.
    last: usize,
    /// Bytes over which [`resync`](Self::resync) may still compute checksums.
    resync_budget: u64,
    /// The pages of a mapping that is read in place were entered up to here.
    entered: u64,
}

impl Walk {
    /// A walk from `position`. `hot`: read from the mapping if the segment has one.
    pub(crate) fn new(segment: Arc<Segment>, position: u64, hot: bool) -> Walk {
        let resync_budget = 4 * segment.len();
        Walk {
            segment,
            position,
            hot,
            buffer: Buffer::default(),
            buffer_at: 0,
            filled: 0,
            last: 0,
            resync_budget,
            entered: 0,
        }
    }

    /// The next frame below `limit`: a position below which bytes no longer change. Only what is
    /// wanted at once is read ahead: `far` says that many frames will be.
    #[inline(always)]
    pub(crate) fn step(&mut self, limit: u64, far: bool) -> Result<Step> {
        match self.step_in_buffer(limit) {
            Some(fixed) => Ok(Step::Frame(fixed)),
            None => self.step_far(limit, far),
        }
    }

    /// The next frame, if all of it is in the buffer and it is whole. Inlined, as its callers are: a
    /// frame's fields handed on through memory cost a third of the time of a small record.
    #[inline(always)]
    fn step_in_buffer(&mut self, limit: u64) -> Option<Fixed> {
        let start = usize::try_from(self.position.checked_sub(self.buffer_at)?).ok()?;
        let here = self.buffer.first(self.filled).get(start..)?;
        let room = limit.saturating_sub(self.position).min(here.len() as u64);
        let fixed = Fixed::decode(here, room as usize).ok()?;
        fixed.verify(here, self.segment.header.salt, self.position).ok()?;
        self.last = start;
        self.position += fixed.padded_len() as u64;
        Some(fixed)
    }

    #[inline(never)]
    fn step_far(&mut self, limit: u64, far: bool) -> Result<Step> {
        let room = limit.min(self.segment.len()).saturating_sub(self.position);
        if room == 0 {
            return Ok(Step::End);
        }
        if !self.ensure(frame::FIXED_LEN, room, far)? {
            return Ok(Step::Bad(Malformed::Short {
                needed: frame::FIXED_LEN,
                found: room as usize,
            }));
        }
        let fixed = match Fixed::decode(self.here(), room as usize) {
            Ok(fixed) => fixed,
            Err(error) => return Ok(Step::Bad(error)),
        };
        if !self.ensure(fixed.checked_len(), room, far)? {
            return Ok(Step::Bad(Malformed::Short {
                needed: fixed.checked_len(),
                found: room as usize,
            }));
        }
        if let Err(error) = fixed.verify(self.here(), self.segment.header.salt, self.position) {
            return Ok(Step::Bad(error));
        }
        self.last = (self.position - self.buffer_at) as usize;
        self.position += fixed.padded_len() as u64;
        Ok(Step::Frame(fixed))
    }

    /// The same, checked where it lies in a mapping and not copied.
    ///
    /// # Safety
    ///
    /// While this runs nobody stores below `limit`, and nobody makes the file shorter.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn step_in_place(&mut self, limit: u64) -> Result<Step> {
        let map = self.segment.map_to_read()?;
        let room = limit.min(map.len() as u64).saturating_sub(self.position);
        if room == 0 {
            return Ok(Step::End);
        }
        if self.position >= self.entered {
            let end = self.position + room.min(ENTER_LEN);
            map.populate_to_read(self.position as usize, end as usize)
                .map_err(|error| Error::io("reading", &self.segment.path, error))?;
            self.entered = end;
        }
        // SAFETY: by the caller's promise; the position is inside, as `room` is not 0.
        let here = unsafe { map.slice(self.position as usize, room as usize) };
        let checked = Fixed::decode(here, here.len()).and_then(|fixed| {
            fixed.verify(here, self.segment.header.salt, self.position)?;
            Ok(fixed)
        });
        match checked {
            Ok(fixed) => {
                self.position += fixed.padded_len() as u64;
                Ok(Step::Frame(fixed))
            }
            Err(what) => Ok(Step::Bad(what)),
        }
    }

    /// The frame that [`step_in_place`](Self::step_in_place) has just returned as `fixed`.
    ///
    /// # Safety
    ///
    /// While the slice lives nobody stores into the frame, and nobody makes the file shorter.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn frame_in_place(&self, fixed: &Fixed) -> Result<&[u8]> {
        let start = self.position - fixed.padded_len() as u64;
        // SAFETY: by the caller's promise.
        Ok(unsafe { self.segment.map_to_read()?.slice(start as usize, fixed.len) })
    }

    /// The bytes of the frame that the last [`step`](Self::step) returned.
    pub(crate) fn frame(&self) -> &[u8] {
        &self.buffer.first(self.filled)[self.last..]
    }

    /// The position of that frame.
    pub(crate) fn frame_position(&self) -> u64 {
        self.buffer_at + self.last as u64
    }

    /// The bytes from `position` on that are in the buffer.
    fn here(&self) -> &[u8] {
        &self.buffer.first(self.filled)[(self.position - self.buffer_at) as usize..]
    }

    /// Has at least `needed` bytes from `position` in the buffer; false if the file has fewer.
    fn ensure(&mut self, needed: usize, room: u64, far: bool) -> Result<bool> {
        let have_from = self.buffer_at;
        let have_to = self.buffer_at + self.filled as u64;
        if self.position >= have_from && self.position + needed as u64 <= have_to {
            return Ok(true);
        }
        if (needed as u64) > room {
            return Ok(false);
        }
        let chunk = match (self.hot, far) {
            (true, true) => HOT_CHUNK,
            (true, false) => 512,
            (false, _) => COLD_CHUNK,
        };
        let wanted = chunk.max(needed).min(room as usize);
        // The start of a frame that was cut off is in the cache: it is not copied again.
        let have = match self.position.checked_sub(have_from) {
            Some(start) if self.hot && self.position < have_to => {
                // Whole words: a mapping is read from a word on, whatever the file's length.
                let end = self.filled & !(frame::ALIGN - 1);
                self.buffer.keep(start as usize..end.max(start as usize), wanted)
            }
            _ => 0,
        };
        self.buffer_at = self.position;
        self.filled = 0;
        let read = self
            .segment
            .read(self.position + have as u64, &mut self.buffer.first_mut(wanted)[have..], self.hot)
            .map_err(|error| Error::io("reading", &self.segment.path, error))?;
        self.filled = have + read;
        Ok(self.filled >= needed)
    }

    /// Forgets what was read ahead.
    pub(crate) fn forget(&mut self) {
        self.filled = 0;
        self.last = 0;
    }

    /// Goes to the next whole record frame at or behind `position` with an offset in `offsets`;
    /// false if there is none below `limit`. Lengths and offsets are checked before checksums, and a
    /// walk computes them over four times the file's length at most, however hostile its bytes are.
    pub(crate) fn resync(&mut self, limit: u64, offsets: std::ops::Range<u64>) -> Result<bool> {
        let limit = limit.min(self.segment.len());
        while self.position + frame::FIXED_LEN as u64 <= limit {
            let room = limit - self.position;
            if !self.ensure(frame::FIXED_LEN, room, true)? {
                return Ok(false);
            }
            if let Ok(fixed) = Fixed::decode(self.here(), room as usize) {
                let plausible = fixed.kind == frame::KIND_RECORD
                    && offsets.contains(&fixed.offset)
                    && fixed.checked_len() as u64 <= self.resync_budget;
                if plausible {
                    self.resync_budget -= fixed.checked_len() as u64;
                    if self.ensure(fixed.checked_len(), room, true)?
                        && fixed
                            .verify(self.here(), self.segment.header.salt, self.position)
                            .is_ok()
                    {
                        return Ok(true);
                    }
                }
            }
            self.position += frame::ALIGN as u64;
        }
        self.position = limit;
        Ok(false)
    }

    /// Whether every byte from `position` to the end of the file is zero.
    pub(crate) fn rest_is_zero(&self) -> Result<bool> {
        let mut chunk = vec![0; COLD_CHUNK];
        let mut position = self.position;
        while position < self.segment.len() {
            let wanted = chunk.len().min((self.segment.len() - position) as usize);
            let read = self
                .segment
                .read(position, &mut chunk[..wanted], false)
                .map_err(|error| Error::io("reading", &self.segment.path, error))?;
            if read == 0 {
                return Ok(true);
            }
            if chunk[..read].iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
            position += read as u64;
        }
        Ok(true)
    }
}

/// The base offsets of all published segments among the names in a topic's directory, in order.
pub(crate) fn bases_among(names: &[String]) -> Vec<u64> {
    let mut bases: Vec<u64> =
        names.iter().filter_map(|name| layout::parse_file_name(name)).collect();
    bases.sort_unstable();
    bases
}

/// The base offsets of all published segments in a topic's directory, in order.
pub(crate) fn list_bases(files: &dyn Directory, dir: &Path) -> Result<Vec<u64>> {
    let names = files.list(dir).map_err(|error| Error::io("listing", dir, error))?;
    Ok(bases_among(&names))
}
