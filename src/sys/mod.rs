//! The interface to the operating system: files, maps, locks, futex, clock, fork. No other module names them,
//! and this one knows no format.
//!
//! [`Directory`] has two implementations: [`directory`] and, for tests, [`sim`], which keeps files in memory,
//! distinguishes durable bytes from cached ones, cuts the power and injects faults.

pub(crate) mod atomic;
pub(crate) mod clock;
pub(crate) mod crash_point;
pub(crate) mod directory;
mod extents;
pub(crate) mod fork;
pub(crate) mod futex;
mod inherited;
mod lock_files;
pub(crate) mod map;
mod real;
#[cfg(feature = "sim")]
pub mod sim;

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(feature = "sim")]
pub use extents::blocks;
pub(crate) use inherited::InheritableLock;
pub(crate) use map::Map;

/// The kind of storage that holds a directory, as far as it changes which promises can be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Medium {
    /// A file system on a disk.
    Disk,
    /// Memory: gone after a power loss.
    Memory,
    /// Copies on write: an allocated page can still fail on a store.
    CopyOnWrite,
    /// The file system of another machine: locks and maps are not shared. Holds the file system's name.
    Network(&'static str),
}

/// Which file a descriptor refers to, independent of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
}

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// It must exist.
    Read,
    /// It must exist.
    ReadWrite,
    /// It must not exist.
    CreateNew,
    /// Opened, or created empty.
    OpenOrCreate,
}

/// One open directory. Names are looked up from its descriptor, so the directory stays the same when it is
/// moved, when its path leads elsewhere, or when the process changes its current directory.
///
/// Paths given to its methods are those for messages: they start with [`path`](Self::path), and only the rest
/// is looked up. A symbolic link is never followed.
pub(crate) trait Directory: Send + Sync + std::fmt::Debug {
    /// Returns the absolute path under which it was opened.
    fn path(&self) -> &Path;
    /// Returns which directory it is.
    fn identity(&self) -> io::Result<FileIdentity>;
    /// Opens a directory in this one.
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Directory>>;
    /// Opens a directory in this one, and creates it first if it is missing: its name is durable on return.
    fn make_dir(&self, path: &Path) -> io::Result<Arc<dyn Directory>>;
    /// Opens a regular file.
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>>;
    /// Returns which file or directory has this name now.
    fn identity_of(&self, path: &Path) -> io::Result<FileIdentity>;
    /// Gives a file or a directory another name; fails with `AlreadyExists` if that exists.
    fn rename_no_replace(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file another name, replacing the file that has it.
    fn replace(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Returns the names in a directory, in no order. Names that are not UTF-8 are left out.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Makes the names in a directory durable, through a file description opened for this call: the kernel
    /// reports an error once to each description.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in this directory durable, through the description that has been open all the time.
    /// One thread at a time may call it, and it must stop all writers if the call fails.
    fn sync_own_names(&self) -> io::Result<()>;
    /// Takes the lock on a byte of a file through a separate open file, shared with other locks of this kind,
    /// for a child process to inherit.
    fn inheritable_lock(&self, path: &Path, byte: u64) -> io::Result<InheritableLock>;
    /// Returns the random identity of this boot of this machine.
    fn boot_id(&self) -> io::Result<[u64; 2]>;
    /// Returns the number of the mount that contains the directory. It is never used again on this boot: as
    /// long as it is the same, the page cache was not lost. `None` if the kernel cannot report it (before
    /// 6.8).
    fn mount(&self) -> Option<u64>;
    /// Returns the kind of storage that holds it.
    fn medium(&self) -> io::Result<Medium>;
}

/// One open file.
pub(crate) trait DiskFile: Send + Sync + std::fmt::Debug {
    /// Returns the length of the file in bytes.
    fn len(&self) -> io::Result<u64>;
    /// See [`FileIdentity`].
    fn identity(&self) -> io::Result<FileIdentity>;
    /// Whether the file has another name, by a hard link: then another directory may lead to it too.
    fn has_other_names(&self) -> io::Result<bool>;
    /// Reads up to `buf.len()` bytes; 0 at the end of the file. Never a partial read before it.
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes the pieces one after another, in one call. Returns how many bytes were written: possibly not all.
    fn write_some_at(&self, pieces: &[IoSlice<'_>], position: u64) -> io::Result<usize>;
    /// Writes all of `bytes`.
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.write_pieces_at(&mut [IoSlice::new(bytes)], position)
    }
    /// Writes all bytes of the pieces, one after another. After an error, any of them may have been written.
    fn write_pieces_at(&self, mut pieces: &mut [IoSlice<'_>], mut position: u64) -> io::Result<()> {
        IoSlice::advance_slices(&mut pieces, 0);
        while !pieces.is_empty() {
            match self.write_some_at(pieces, position) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    IoSlice::advance_slices(&mut pieces, written);
                    position += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
    /// Extends the file to `len` bytes of allocated zeros; does nothing if it already has that length.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Marks the pages of a range as changed, so that the next sync writes them even if the page cache
    /// considers them clean: after a failed sync it takes lost pages for clean ones. No byte changes, and no
    /// store of another process is lost.
    fn redirty(&self, start: u64, end: u64) -> io::Result<()>;
    /// Allocates the holes in the first `len` bytes, which the file has, and changes no byte: a file that was
    /// restored from a sparse copy has holes, and a store into one is a signal if the disk is full. Returns
    /// false if the file system cannot report them.
    fn fill_holes(&self, len: u64) -> io::Result<bool>;
    /// fdatasync: the file's bytes and length are durable on return.
    ///
    /// The kernel reports a write error once to each open file description. Two threads that both depend on
    /// the result need a description each, opened before the bytes are stored or marked as changed.
    fn sync_data(&self) -> io::Result<()>;
    /// Returns whether part of a range that was just synced is in blocks that the file system still records
    /// as unwritten: reading them gives zeros once the page cache has dropped the pages. False if the file
    /// system cannot report it.
    fn has_unwritten_blocks(&self, start: u64, end: u64) -> io::Result<bool>;
    /// Returns whether blocks of the file are shared with a copy of it (`cp --reflink`, a snapshot): a store into
    /// one needs a new block. False if the file system cannot report it.
    fn shares_blocks(&self) -> io::Result<bool>;
    /// Maps the first `len` bytes, shared; the file must have them.
    fn map(&self, len: usize, writable: bool) -> io::Result<Map>;
    /// Takes the exclusive lock on a range of bytes, unless another open file has locked part of it. Needs
    /// write access. Held until [`unlock`](Self::unlock) or until this open file is closed.
    fn try_lock(&self, start: u64, len: u64) -> io::Result<bool>;
    /// Releases the lock.
    fn unlock(&self, start: u64, len: u64) -> io::Result<()>;
    /// Returns whether another open file, of this or any process, holds a lock on part of the range.
    fn locked_by_other(&self, start: u64, len: u64) -> io::Result<bool>;
}

/// Returns whether the error is that of a symbolic link, which is never followed.
pub(crate) fn is_symbolic_link(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ELOOP)
}

/// Opens the file at `path` for reading. Symbolic links are followed.
pub(crate) fn open_path(path: &Path) -> io::Result<Box<dyn DiskFile>> {
    let opened_at = fork::Moment::now();
    Ok(Box::new(real::RealFile::new(std::fs::File::open(path)?, opened_at)))
}

/// Reads the first `limit` bytes of a file, or all of it if it is shorter.
pub(crate) fn read_start(file: &dyn DiskFile, limit: usize) -> io::Result<Vec<u8>> {
    let len = file.len()?.min(limit as u64) as usize;
    let mut bytes = vec![0; len];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Returns the position after the last byte of a range of a file that is not zero; the start of the range if there
/// is none.
pub(crate) fn end_of_bytes(file: &dyn DiskFile, range: std::ops::Range<u64>) -> io::Result<u64> {
    const CHUNK_LEN: u64 = 128 << 10;
    let mut chunk = vec![0; CHUNK_LEN.min(range.end.saturating_sub(range.start)) as usize];
    let (mut at, mut end) = (range.start, range.start);
    while at < range.end {
        let wanted = chunk.len().min((range.end - at) as usize);
        let read = file.read_at(&mut chunk[..wanted], at)?;
        if read == 0 {
            break;
        }
        // A sum without branches first: it is taken many bytes at a time.
        if chunk[..read].iter().fold(0, |all, byte| all | byte) != 0 {
            let last = chunk[..read].iter().rposition(|&byte| byte != 0);
            end = at + last.map_or(0, |last| last as u64 + 1);
        }
        at += read as u64;
    }
    Ok(end)
}

/// Makes the pages of a range of a mapped file resident and writable; if this succeeds, a store there takes
/// no fault.
pub(crate) fn populate(file: &dyn DiskFile, map: &Map, start: usize, end: usize) -> io::Result<()> {
    match map.populate(start, end) {
        Err(error) if error.raw_os_error() == Some(libc::EFAULT) => {
            Err(why_no_page(file, start, end))
        }
        other => other,
    }
}

/// Returns the reason why a page is not available, which the kernel does not report: the page could not be
/// read, which a read reports as well, or there was no room for it. A store into it would be a signal.
fn why_no_page(file: &dyn DiskFile, start: usize, end: usize) -> io::Error {
    let mut piece = [0; 4096];
    for position in (start..end).step_by(piece.len()) {
        let wanted = piece.len().min(end - position);
        match file.read_at(&mut piece[..wanted], position as u64) {
            Ok(read) if read < wanted => return io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => {}
            Err(error) => return error,
        }
    }
    io::Error::from_raw_os_error(libc::ENOSPC)
}

/// Creates a small file under its final name so that after a crash it exists whole or not at all. `unique`
/// makes the temporary name unique; the file is durable on return.
pub(crate) fn create_durably(
    files: &dyn Directory,
    path: &Path,
    bytes: &[u8],
    unique: u64,
) -> io::Result<()> {
    put_durably(files, path, bytes, unique, |temporary| files.rename_no_replace(temporary, path))
}

/// Puts a copy of the first `len` bytes of a small file in its place, in one step: durable on return.
pub(crate) fn replace_by_copy(
    files: &dyn Directory,
    path: &Path,
    file: &dyn DiskFile,
    len: usize,
) -> io::Result<()> {
    replace_durably(files, path, &read_start(file, len)?)
}

/// Replaces a file by a small one, in one step: durable on return.
pub(crate) fn replace_durably(files: &dyn Directory, path: &Path, bytes: &[u8]) -> io::Result<()> {
    put_durably(files, path, bytes, random(), |temporary| files.replace(temporary, path))
}

fn put_durably(
    files: &dyn Directory,
    path: &Path,
    bytes: &[u8],
    unique: u64,
    rename: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = with_suffix(path, &format!(".{unique:016x}.tmp"));
    let written = (|| {
        let file = files.open(&temporary, Access::CreateNew)?;
        file.allocate(bytes.len() as u64)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        rename(&temporary)
    })();
    if let Err(error) = written {
        return match files.remove_file(&temporary) {
            Err(other) if other.kind() != io::ErrorKind::NotFound => Err(other),
            _ => Err(error),
        };
    }
    files.sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Returns `path` with `suffix` appended to its last part.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Returns 64 random bits from the kernel.
pub(crate) fn random() -> u64 {
    let mut bytes = [0u8; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: `rest` is a live, writable buffer of `rest.len()` bytes.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        filled += usize::try_from(got).unwrap_or(0);
    }
    u64::from_ne_bytes(bytes)
}
