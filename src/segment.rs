//! One segment file: opening it; [`walk`]: walking its frames, finding the next valid one after damage;
//! [`batches`]: what the frames mean.
//!
//! Does not know which of its bytes are published: callers give the limit.

mod batches;
mod walk;

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::OnceLock;

use crate::error::{Error, IoResultExt, Result};
use crate::format::segment::{self as layout, Header, Slot};
use crate::format::{Malformed, PAGE_LEN, SECTOR_LEN};
use crate::sys::{Access, Directory, DiskFile, Map};

pub(crate) use batches::{is_record, meaning, Batches, Found, Frames, Meaning, Seen};
pub(crate) use walk::{Step, Walk, HELD_LEN};

/// An open segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) header: Header,
    /// See [`layout::BEGUN_AT`].
    pub(crate) begun_at: Option<u64>,
    file: Box<dyn DiskFile>,
    len: u64,
    map: OnceLock<Map>,
    /// Created when a process that does not write to the file reads it in place.
    read_map: OnceLock<Map>,
    /// Bytes below this position have been made resident in this process.
    resident: AtomicU64,
    /// The writers of this process have left it: it is read with `pread`, and its pages are unmapped.
    is_left: AtomicBool,
    /// Set, before the file is mapped for writing, when the file is known to have its blocks (true) or to be
    /// unable to have them (false).
    has_blocks: OnceLock<bool>,
    /// Whether a copy of the file shares blocks with it: set before this process writes to it.
    shares_blocks: OnceLock<bool>,
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
        let file = files.open(&path, access).at("opening", &path)?;
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
        let page = crate::sys::read_start(&*file, PAGE_LEN).at("reading", &path)?;
        let header =
            Header::decode_page(&page).map_err(|error| Error::malformed(&path, 0, error))?;
        Segment::with_header(path, file, header, layout::decode_begun(&page, header.salt))
    }

    /// Wraps a file whose header is known.
    pub(crate) fn with_header(
        path: PathBuf,
        file: Box<dyn DiskFile>,
        header: Header,
        begun_at: Option<u64>,
    ) -> Result<Segment> {
        // Whole words: a file that was cut off inside a word has no frame there.
        let len = file.len().at("asking the length of", &path)? & !7;
        if len < layout::FIRST_FRAME_AT {
            let what =
                Malformed::Short { needed: layout::FIRST_FRAME_AT as usize, found: len as usize };
            return Err(Error::malformed(&path, len, what));
        }
        Ok(Segment {
            path,
            header,
            begun_at,
            file,
            len,
            map: OnceLock::new(),
            read_map: OnceLock::new(),
            resident: AtomicU64::new(0),
            is_left: AtomicBool::new(false),
            has_blocks: OnceLock::new(),
            shares_blocks: OnceLock::new(),
        })
    }

    pub(crate) fn base(&self) -> u64 {
        self.header.base
    }

    /// The length of the file when it was opened. An empty segment can be extended for a large record.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file is longer now.
    pub(crate) fn is_outgrown(&self) -> Result<bool> {
        let len = self.file.len().at("sizing", &self.path)?;
        Ok(len & !7 > self.len)
    }

    /// Returns the shared writable mapping, created at the first call.
    #[inline]
    pub(crate) fn map(&self) -> Result<&Map> {
        match self.map.get() {
            Some(map) => Ok(map),
            None => self.make_map(),
        }
    }

    /// Whether the shared writable mapping exists.
    pub(crate) fn is_mapped(&self) -> bool {
        self.map.get().is_some()
    }

    /// Takes a writable mapping of the whole file, whose pages below `resident` are resident, unless there is
    /// one.
    pub(crate) fn install(&self, map: Map, resident: u64) {
        self.was_allocated();
        if map.len() as u64 == self.len && self.map.set(map).is_ok() {
            self.resident.fetch_max(resident, Ordering::Relaxed);
        }
    }

    /// Unmaps `len` bytes at `position`, which this process no longer writes to; returns the position after
    /// them. A page that is mapped writable costs the processors an interrupt when it is written back, and a
    /// mapping that is dropped whole blocks the threads that map others.
    pub(crate) fn unmap(&self, position: u64, len: u64) -> u64 {
        self.is_left.store(true, Ordering::Relaxed);
        let end = (position + len).min(self.len);
        if let Some(map) = self.map.get() {
            map.release(position as usize, end as usize);
        }
        end
    }

    /// Returns the mapping, unless the segment is to be read with `pread`.
    fn mapping(&self) -> Option<&Map> {
        self.map.get().filter(|_| !self.is_left.load(Ordering::Relaxed))
    }

    #[cold]
    fn make_map(&self) -> Result<&Map> {
        self.fill_holes()?;
        self.mapped(&self.map, true)
    }

    /// Allocates the holes of the file, before this process writes to it.
    pub(crate) fn fill_holes(&self) -> Result<()> {
        if self.has_blocks.get().is_none() {
            let filled = self.file.fill_holes(self.len).at("allocating", &self.path)?;
            let shares = self.file.shares_blocks().at("asking for the blocks of", &self.path)?;
            self.shares_blocks.get_or_init(|| shares);
            self.has_blocks.get_or_init(|| filled);
        }
        Ok(())
    }

    /// Whether a store can need a block, because a copy of the file shared blocks with it when this process began to
    /// write to it.
    #[inline]
    pub(crate) fn shares_blocks(&self) -> bool {
        self.shares_blocks.get() == Some(&true)
    }

    /// Notes that this process, or another living one, has just allocated the file.
    pub(crate) fn was_allocated(&self) {
        self.has_blocks.get_or_init(|| true);
    }

    /// Writes the pieces one after another by a system call: an error is returned where a store into a mapping
    /// would be a signal. After an error, any of their bytes may have been written.
    pub(crate) fn write(&self, position: u64, pieces: &mut [IoSlice<'_>]) -> Result<()> {
        self.file.write_pieces_at(pieces, position).at("writing", &self.path)
    }

    /// Sets a range to zeros. Writes nothing after its last other byte, so a disk that has no room for the range
    /// is not asked for it.
    pub(crate) fn write_zeros(&self, positions: std::ops::Range<u64>) -> Result<()> {
        const ZEROS: [u8; 4 * PAGE_LEN] = [0; 4 * PAGE_LEN];
        let end = self.end_of_bytes(positions.clone())?;
        for position in (positions.start..end).step_by(ZEROS.len()) {
            let len = ZEROS.len().min((end - position) as usize);
            self.write(position, &mut [IoSlice::new(&ZEROS[..len])])?;
        }
        Ok(())
    }

    /// Returns a mapping to read from: the writable one if it exists, else one created at the first call.
    #[inline]
    pub(crate) fn map_to_read(&self) -> Result<&Map> {
        match self.mapping() {
            Some(map) => Ok(map),
            None => match self.read_map.get() {
                Some(map) => Ok(map),
                None => self.mapped(&self.read_map, false),
            },
        }
    }

    fn mapped<'a>(&self, slot: &'a OnceLock<Map>, writable: bool) -> Result<&'a Map> {
        if slot.get().is_none() {
            // Whole words: a file that was cut off elsewhere has no frame in the part that is left out.
            let len = usize::try_from(self.len()).expect("a 64-bit platform") & !7;
            let map = self.file.map(len, writable).at("mapping", &self.path)?;
            // Another thread may have been faster: then its mapping is kept and this one dropped.
            slot.get_or_init(|| map);
        }
        Ok(slot.get().expect("just set"))
    }

    /// Returns the file.
    pub(crate) fn file(&self) -> &dyn DiskFile {
        &*self.file
    }

    /// Makes the next sync write the pages of a range, even if the page cache holds them to be clean.
    pub(crate) fn redirty(&self, positions: std::ops::Range<u64>) -> Result<()> {
        self.file.redirty(positions.start, positions.end).at("marking pages of", &self.path)
    }

    /// Calls fdatasync.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Whether part of a range that was just synced would be lost with the page cache: see
    /// [`DiskFile::has_unwritten_blocks`].
    pub(crate) fn has_unwritten_blocks(&self, positions: std::ops::Range<u64>) -> Result<bool> {
        self.file
            .has_unwritten_blocks(positions.start, positions.end)
            .at("asking for the blocks of", &self.path)
    }

    /// Reads the header page as it is now.
    pub(crate) fn header_page(&self) -> Result<Vec<u8>> {
        crate::sys::read_start(&*self.file, PAGE_LEN).at("reading", &self.path)
    }

    /// Returns the newest valid checkpoint slot of the header page, as it is now.
    pub(crate) fn newest_slot(&self) -> Result<Option<Slot>> {
        Ok(layout::newest_slot(&self.header_page()?, self.header.salt))
    }

    /// Returns the position below which pages are resident.
    #[inline]
    pub(crate) fn resident(&self) -> u64 {
        self.resident.load(Ordering::Relaxed)
    }

    /// Makes pages resident up to `end`, in one call. Idempotent; several threads may call it.
    pub(crate) fn populate(&self, end: u64) -> Result<()> {
        let end = end.next_multiple_of(PAGE_LEN as u64).min(self.len());
        let start = self.resident() & !(PAGE_LEN as u64 - 1);
        if start < end {
            crate::sys::populate(&*self.file, self.map()?, start as usize, end as usize)
                .at("allocating pages of", &self.path)?;
            self.resident.fetch_max(end, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Turns off making pages resident ahead, if every page has its blocks.
    pub(crate) fn skip_populate(&self) {
        if self.has_blocks.get() == Some(&true) {
            self.resident.store(u64::MAX, Ordering::Relaxed);
        }
    }

    /// Copies up to `out.len()` bytes from `position` (a multiple of 8): from the mapping, if there is one
    /// and `hot` is set, else from the file.
    fn read(&self, position: u64, out: &mut [u8], hot: bool) -> io::Result<usize> {
        let maps = self.mapping().or_else(|| self.read_map.get());
        match maps.filter(|_| hot && !self.is_left.load(Ordering::Relaxed)) {
            Some(map) => {
                let len = out.len().min(map.len().saturating_sub(position as usize));
                map.read(position as usize, &mut out[..len]);
                Ok(len)
            }
            None => self.file.read_at(out, position),
        }
    }

    /// Returns the position after the last byte of a range that is not zero, a multiple of 8; the start of the range
    /// if there is none.
    pub(crate) fn end_of_bytes(&self, positions: std::ops::Range<u64>) -> Result<u64> {
        let end = crate::sys::end_of_bytes(&*self.file, positions).at("reading", &self.path)?;
        Ok(end.next_multiple_of(8))
    }

    /// Returns whether every byte at `position` and later is zero.
    pub(crate) fn is_zero_from(&self, position: u64) -> Result<bool> {
        Ok(self.end_of_bytes(position..self.len())? <= position)
    }

    /// Whether the range begins with zeros, or one of its sectors ends with zeros: such a sector was never
    /// written, or not to its end. Only the caller's bytes in a frame can be zeros otherwise.
    pub(crate) fn has_unwritten(&self, positions: std::ops::Range<u64>) -> Result<bool> {
        const WORD: u64 = 8;
        let is_zero = |position: u64, len: u64| -> Result<bool> {
            let mut word = [0; WORD as usize];
            let word = &mut word[..len as usize];
            let read = self.file.read_at(word, position);
            read.at("reading", &self.path)?;
            Ok(word.iter().all(|&byte| byte == 0))
        };
        let mut at = positions.start;
        if at >= positions.end || is_zero(at, WORD)? {
            return Ok(true);
        }
        while at < positions.end {
            let end = (at / SECTOR_LEN as u64 + 1) * SECTOR_LEN as u64;
            let end = end.min(positions.end);
            let len = WORD.min(end - at);
            if is_zero(end - len, len)? {
                return Ok(true);
            }
            at = end;
        }
        Ok(false)
    }

    /// Returns the error for invalid bytes at `position`.
    pub(crate) fn corrupt(&self, position: u64, offset: Option<u64>, what: &Malformed) -> Error {
        Error::Corrupt { path: self.path.clone(), position, offset, what: what.to_string() }
    }
}

/// Returns the bases of all segments among the names in a topic's directory, in order, without dropped ones.
pub(crate) fn bases_among(names: &[String]) -> Vec<u64> {
    let first = layout::first_among(names.iter().map(String::as_str)).unwrap_or(0);
    let bases = names.iter().filter_map(|name| layout::parse_file_name(name));
    let mut bases: Vec<u64> = bases.filter(|&base| base >= first).collect();
    bases.sort_unstable();
    bases
}

/// Returns the bases of all published segments in a topic's directory, in order.
pub(crate) fn list_bases(files: &dyn Directory, dir: &Path) -> Result<Vec<u64>> {
    let names = files.list(dir).at("listing", dir)?;
    Ok(bases_among(&names))
}
