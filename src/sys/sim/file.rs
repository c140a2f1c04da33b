//! An open file: its bytes, its locks, and the errors that it has reported.

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

use super::content::Inode;
use super::names::Node;
use super::{errno, Op, SimDisk, State};
use crate::sys::{DiskFile, FileIdentity, Map};

const FILE_LEN_MAX: u64 = 4 << 30;

/// An exclusive lock of one open file on the bytes from `start` to `end`.
#[derive(Clone, Copy)]
pub(super) struct Lock {
    pub(super) inode: u64,
    pub(super) process: u64,
    open: u64,
    start: u64,
    end: u64,
}

impl State {
    fn extend(&self, inode: &Inode, len: u64) -> io::Result<()> {
        if len > FILE_LEN_MAX {
            return errno(libc::EFBIG);
        }
        let named_len = |node: &Node| match node {
            Node::File(inode) => inode.content.lock().len() as u64,
            Node::Directory(_) => 0,
        };
        let used_len: u64 = self.names.0.values().map(named_len).sum();
        let mut content = inode.content.lock();
        if len > content.len() as u64 && used_len + len - content.len() as u64 > self.capacity_len {
            return errno(libc::ENOSPC);
        }
        content.grow(len as usize)
    }

    fn conflicts(&self, inode: u64, open: u64, start: u64, end: u64) -> bool {
        self.locks.iter().any(|lock| {
            lock.inode == inode && lock.open != open && lock.start < end && start < lock.end
        })
    }

    fn release(&mut self, open: u64, start: u64, end: u64) {
        for lock in std::mem::take(&mut self.locks) {
            if lock.open != open || lock.end <= start || end <= lock.start {
                self.locks.push(lock);
                continue;
            }
            if lock.start < start {
                self.locks.push(Lock { end: start, ..lock });
            }
            if end < lock.end {
                self.locks.push(Lock { start: end, ..lock });
            }
        }
    }
}

pub(super) struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) open: u64,
    pub(super) inode: Arc<Inode>,
    pub(super) writable: bool,
    /// How many failures to write it back were reported to this open file, or to others before it was opened.
    pub(super) failures_known: AtomicU64,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SimFile { disk, open, inode, writable, .. } = self;
        let number = inode.number;
        write!(f, "SimFile {{ {disk:?}, open: {open}, inode: {number}, writable: {writable} }}")
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.state.lock().locks.retain(|lock| lock.open != self.open);
    }
}

impl SimFile {
    fn need_write_access(&self) -> io::Result<()> {
        if self.writable {
            return Ok(());
        }
        errno(libc::EBADF)
    }
}

/// Returns the end of a range; as with fcntl(2), a length of 0 means one without end.
fn end_of(start: u64, len: u64) -> u64 {
    if len == 0 {
        return u64::MAX;
    }
    start.saturating_add(len)
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let _state = self.disk.alive()?;
        let len = self.inode.content.lock().len();
        Ok(len as u64)
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        let _state = self.disk.alive()?;
        Ok(FileIdentity { dev: 1, ino: self.inode.number })
    }

    fn has_other_names(&self) -> io::Result<bool> {
        drop(self.disk.alive()?);
        Ok(false)
    }

    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let _state = self.disk.begin(Op::Read)?;
        let content = self.inode.content.lock();
        let rest_len = (content.len() as u64).saturating_sub(position);
        let read_len = rest_len.min(buf.len() as u64) as usize;
        if read_len > 0 {
            content.memory().read(position as usize, &mut buf[..read_len]);
        }
        Ok(read_len)
    }

    fn write_some_at(&self, pieces: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        let mut state = self.disk.alive()?;
        let mut bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        if bytes.len() > 1 && state.is_cut_short() {
            bytes.truncate(bytes.len() / 2);
        } else {
            state.count(Op::Write)?;
        }
        self.need_write_access()?;
        if bytes.is_empty() {
            return Ok(0);
        }
        let end = position.saturating_add(bytes.len() as u64);
        state.extend(&self.inode, end)?;
        let mut content = self.inode.content.lock();
        content.memory().write(position as usize, &bytes);
        content.force(position as usize, end as usize);
        Ok(bytes.len())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let state = self.disk.begin(Op::Allocate)?;
        self.need_write_access()?;
        state.extend(&self.inode, len)
    }

    fn redirty(&self, start: u64, end: u64) -> io::Result<()> {
        let _state = self.disk.begin(Op::Redirty)?;
        self.need_write_access()?;
        self.inode.content.lock().force(start as usize, end as usize);
        Ok(())
    }

    fn fill_holes(&self, _len: u64) -> io::Result<bool> {
        drop(self.disk.begin(Op::Allocate)?);
        self.need_write_access()?;
        Ok(true)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.alive()?;
        let written = state.count(Op::SyncData);
        self.inode.content.lock().sync(written);
        let action = state.during_syncs.pop_front();
        drop(state);
        if let Some(action) = action {
            action();
        }
        let _state = self.disk.alive()?;
        let result = self.inode.content.lock().report(&self.failures_known);
        result
    }

    fn has_unwritten_blocks(&self, _start: u64, _end: u64) -> io::Result<bool> {
        // A block here has no mark besides its bytes.
        Ok(false)
    }

    fn shares_blocks(&self) -> io::Result<bool> {
        Ok(false)
    }

    fn map(&self, len: usize, writable: bool) -> io::Result<Map> {
        let _state = self.disk.begin(Op::Map)?;
        if writable && !self.writable {
            return errno(libc::EACCES);
        }
        let content = self.inode.content.lock();
        if content.len() < len {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the file is shorter than the {len} bytes to map"),
            ));
        }
        let memory = content.memory().clone();
        let start = memory.as_mut_ptr();
        // This share of the memory keeps `Content::grow` from replacing it.
        // SAFETY: `start` is on a page boundary, its memory has at least the file's length, checked
        // above, and is readable and writable; the owner holds it, and it is never moved.
        Ok(unsafe { Map::of_memory(start, len, writable, memory) })
    }

    fn try_lock(&self, start: u64, len: u64) -> io::Result<bool> {
        let mut state = self.disk.begin(Op::Lock)?;
        self.need_write_access()?;
        let (inode, open, end) = (self.inode.number, self.open, end_of(start, len));
        if state.conflicts(inode, open, start, end) {
            return Ok(false);
        }
        state.release(open, start, end);
        state.locks.push(Lock { inode, process: self.disk.process, open, start, end });
        Ok(true)
    }

    fn unlock(&self, start: u64, len: u64) -> io::Result<()> {
        self.disk.begin(Op::Lock)?.release(self.open, start, end_of(start, len));
        Ok(())
    }

    fn locked_by_other(&self, start: u64, len: u64) -> io::Result<bool> {
        let state = self.disk.begin(Op::Lock)?;
        Ok(state.conflicts(self.inode.number, self.open, start, end_of(start, len)))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::Ordering;

    use parking_lot::Mutex;

    use super::super::tests::{disk_with, errno_of, open, root, FILE};
    use super::*;
    use crate::sys::directory::RealDirectory;
    use crate::sys::{Access, Directory};

    #[test]
    fn an_error_is_reported_once_to_each_open_file_and_to_none_that_is_opened_after_the_first_report(
    ) {
        let disk = disk_with(&[1; 4096]);
        let open = || open(&disk, FILE, Access::ReadWrite);
        let (one, other) = (open(), open());
        one.write_all_at(&[2; 8], 0).expect("writes");
        disk.fail(Op::SyncData, 0, libc::EIO);
        let opened = Arc::new(Mutex::new(None));
        let before_the_report = {
            let (disk, opened) = (disk.clone(), Arc::clone(&opened));
            move || *opened.lock() = Some(root(&disk).open(Path::new(FILE), Access::ReadWrite))
        };
        disk.during_sync(before_the_report);
        assert_eq!(errno_of(one.sync_data()), Some(libc::EIO));
        let early = opened.lock().take().expect("was called").expect("opens");
        let late = open();
        late.sync_data().expect("it was reported before");
        for file in [other, early] {
            assert_eq!(errno_of(file.sync_data()), Some(libc::EIO));
            file.sync_data().expect("once");
        }
        one.sync_data().expect("once");
    }

    #[test]
    fn a_killed_handle_releases_its_locks_and_fails_for_ever() {
        let disk = disk_with(&[3; 64]);
        let (doomed, other) = (disk.process(), disk.process());
        let (file, probe) =
            (open(&doomed, FILE, Access::ReadWrite), open(&other, FILE, Access::ReadWrite));
        let map = file.map(64, false).expect("maps");
        assert!(file.try_lock(0, 1).expect("locks"));
        assert!(!probe.try_lock(0, 1).expect("probes"));
        doomed.kill();
        assert!(probe.try_lock(0, 1).expect("locks"));
        let error = file.sync_data().expect_err("killed");
        assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::Other, "killed"));
        assert!(file.unlock(0, 1).is_err() && file.len().is_err());
        assert!(doomed.open_root(Path::new("/log"), false).is_err());
        drop(file);
        assert!(open(&disk, FILE, Access::Read).locked_by_other(0, 1).expect("probes"));
        assert_eq!(map.word(56).load(Ordering::Relaxed), u64::from_ne_bytes([3; 8]));
    }

    #[test]
    fn locks_conflict_between_two_open_files_of_one_process() {
        let disk = disk_with(&[]);
        let (a, b) = (open(&disk, FILE, Access::ReadWrite), open(&disk, FILE, Access::ReadWrite));
        assert!(a.try_lock(0, 10).expect("locks") && a.try_lock(0, 10).expect("locks again"));
        assert!(!b.try_lock(9, 5).expect("probes") && b.try_lock(10, 5).expect("locks"));
        assert!(!a.locked_by_other(0, 10).expect("probes"));
        assert!(b.locked_by_other(0, 10).expect("probes"));
        a.unlock(4, 2).expect("unlocks");
        assert!(b.try_lock(4, 2).expect("locks the hole"));
        assert!(
            b.locked_by_other(3, 1).expect("probes") && b.locked_by_other(6, 1).expect("probes")
        );
        drop(a);
        assert!(!b.locked_by_other(0, 10).expect("probes"));
        let reader = open(&disk, FILE, Access::Read);
        assert_eq!(errno_of(reader.try_lock(100, 1)), Some(libc::EBADF));
    }

    #[test]
    fn a_file_beyond_the_capacity_of_the_disk_gets_no_space() {
        let disk = disk_with(&[0; 1000]);
        disk.set_capacity(3000);
        let file = open(&disk, "/log/new", Access::CreateNew);
        assert_eq!(errno_of(file.allocate(2001)), Some(libc::ENOSPC));
        file.allocate(2000).expect("fits");
        assert_eq!(errno_of(file.write_all_at(b"x", 2000)), Some(libc::ENOSPC));
        root(&disk).remove_file(Path::new(FILE)).expect("removes");
        file.allocate(3000).expect("fits");
        assert_eq!(disk.read("/log/new"), Some(vec![0; 3000]));
    }

    #[test]
    fn errors_are_those_of_the_real_disk() {
        let disk = disk_with(&[9; 3]);
        let real_root = tempfile::tempdir().expect("creates");
        let real = RealDirectory::make(&real_root.path().join("log"), 0o600).expect("creates");
        std::fs::write(real.path().join("file"), [9; 3]).expect("writes");
        let outcomes = |disk: &dyn Directory| {
            let root = disk.path();
            let path = |name| root.join(name);
            let mut outcomes = Vec::new();
            let mut say = |result: io::Result<()>| outcomes.push(result.map_err(|e| e.kind()));
            say(disk.make_dir(&path("dir/inner")).map(drop));
            say(disk.make_dir(&path("dir")).map(drop));
            say(disk.make_dir(&path("dir/inner")).map(drop));
            say(disk.remove_dir(&path("dir")));
            say(disk.remove_dir(&path("dir/inner")));
            for name in ["file", "missing", "file/below", "missing/below", "dir"] {
                say(disk.open(&path(name), Access::ReadWrite).map(drop));
                say(disk.open(&path(name), Access::Read).map(drop));
                say(disk.list(&path(name)).map(drop));
                say(disk.rename_no_replace(&path(name), &path("file")));
                say(disk.remove_dir(&path(name)));
                say(disk.make_dir(&path("file/below")).map(drop));
                say(disk.open_dir(&path(name)).map(drop));
                say(disk.identity_of(&path(name)).map(drop));
            }
            say(disk.open(&path("file"), Access::CreateNew).map(drop));
            say(disk.remove_file(&path("missing")));
            say(disk.make_dir(&path("file")).map(drop));
            let file = disk.open(&path("file"), Access::Read).expect("opens");
            say(file.write_all_at(b"x", 0));
            say(file.map(3, true).map(drop));
            say(file.map(4, false).map(drop));
            say(file.allocate(10));
            let mut buf = [0; 5];
            let read = [0, 2, 3, 9].map(|at| file.read_at(&mut buf, at).expect("reads"));
            say(disk.remove_file(&path("file")));
            let below = disk.make_dir(&path("below")).expect("creates");
            say(disk.rename_no_replace(&path("below"), &path("moved")));
            say(below.open(&path("below/file"), Access::CreateNew).map(drop));
            say(disk.open(&path("moved/file"), Access::Read).map(drop));
            say(disk.remove_dir(&path("moved")));
            say(below.remove_file(&path("below/file")));
            say(disk.remove_dir(&path("moved")));
            say(below.open(&path("below/file"), Access::CreateNew).map(drop));
            say(below.list(&path("below")).map(drop));
            say(below.sync_dir(&path("below")));
            (outcomes, read)
        };
        let simulated = disk.open_root(Path::new("/log"), false).expect("is there");
        assert_eq!(outcomes(&*simulated), outcomes(&real));
    }
}
