//! Which blocks of a file the file system records as written, and which as shared with another file.
//!
//! Blocks that were allocated but not written yet carry a mark. If the first write to such a block fails, ext4
//! keeps the mark and no longer removes it: later writes and fdatasync succeed, and the bytes are lost with
//! the page cache. Only the extent map of the file shows it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `_IOWR('f', 11, struct fiemap)`.
const FIEMAP: libc::c_ulong = 0xc020_660b;
const EXTENT_IS_LAST: u32 = 0x1;
const EXTENT_IS_UNWRITTEN: u32 = 0x800;
const EXTENT_IS_SHARED: u32 = 0x2000;
const AT_ONCE: usize = 32;

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    len: u64,
    reserved_64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap`, with room for extents.
#[repr(C)]
#[derive(Default)]
struct Request {
    start: u64,
    len: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [Extent; AT_ONCE],
}

const _: () = {
    assert!(std::mem::size_of::<Extent>() == 56);
    assert!(std::mem::offset_of!(Request, extents) == 32);
};

/// See [`DiskFile::has_unwritten_blocks`](super::DiskFile::has_unwritten_blocks).
pub(super) fn any_unwritten(file: &File, start: u64, end: u64) -> io::Result<bool> {
    any_with(file, start, end, EXTENT_IS_UNWRITTEN)
}

/// See [`DiskFile::shares_blocks`](super::DiskFile::shares_blocks).
pub(super) fn any_shared(file: &File) -> io::Result<bool> {
    any_with(file, 0, u64::MAX, EXTENT_IS_SHARED)
}

/// Whether any extent in a range has this flag; false if the file system cannot report it.
fn any_with(file: &File, start: u64, end: u64, flag: u32) -> io::Result<bool> {
    let found = any(file, start, end, |extent| extent.flags & flag != 0);
    found.or_else(|error| match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS) => Ok(false),
        _ => Err(error),
    })
}

/// Returns the positions and lengths of a file's blocks on its device, for tests that change the device.
#[cfg(feature = "sim")]
pub fn blocks(file: &File) -> io::Result<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    any(file, 0, u64::MAX, |extent| {
        found.push((extent.physical, extent.len));
        false
    })?;
    Ok(found)
}

/// Whether any extent in a range is one of those.
fn any(
    file: &File,
    mut start: u64,
    end: u64,
    mut is_it: impl FnMut(&Extent) -> bool,
) -> io::Result<bool> {
    while start < end {
        let extent_count = AT_ONCE as u32;
        let mut request = Request { start, len: end - start, extent_count, ..Request::default() };
        // SAFETY: an open descriptor, and a live request that says for how many extents it has room.
        let done = unsafe { libc::ioctl(file.as_raw_fd(), FIEMAP, &mut request) };
        if done != 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::EINTR) {
                continue;
            }
            return Err(error);
        }
        let found = &request.extents[..AT_ONCE.min(request.mapped_extents as usize)];
        if found.iter().any(&mut is_it) {
            return Ok(true);
        }
        match found.last() {
            Some(last) if last.flags & EXTENT_IS_LAST == 0 => {
                start = start.max(last.logical.saturating_add(last.len));
            }
            _ => break,
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn blocks_are_written_when_they_were_synced_and_not_when_they_were_only_allocated() {
        const LEN: u64 = 256 << 10;
        let binary = std::env::current_exe().unwrap();
        let file = tempfile::tempfile_in(binary.parent().unwrap()).unwrap();
        // SAFETY: an open descriptor and plain integers.
        let allocated = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, LEN as libc::off_t) };
        if allocated != 0 || !any_unwritten(&file, 0, LEN).unwrap() {
            // The file system of the build has no such marks.
            return;
        }
        // Every second page: more pieces than are asked for at once.
        for position in (0..LEN).step_by(8192) {
            file.write_all_at(&[1; 4096], position).unwrap();
        }
        file.sync_data().unwrap();
        assert!(any_unwritten(&file, 0, LEN).unwrap());
        assert!(any_unwritten(&file, LEN - 4096, LEN).unwrap());
        assert!(!any_unwritten(&file, LEN - 8192, LEN - 4096).unwrap());
        for position in (4096..LEN).step_by(8192) {
            file.write_all_at(&[1; 4096], position).unwrap();
        }
        file.sync_data().unwrap();
        assert!(!any_unwritten(&file, 0, LEN).unwrap());
        assert!(!any_unwritten(&file, LEN, LEN).unwrap());
    }
}
