//! An open file of the operating system.

use std::fs::File;
use std::io::{self, IoSlice, Seek, SeekFrom};
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::OnceLock;

use parking_lot::Mutex;

use super::{extents, fork, why_no_page, DiskFile, FileIdentity, Map};

/// Moves a file off the descriptors of standard streams: if a data file had the descriptor of a closed
/// stream, another component's output could be written into it.
pub(super) fn above_standard_streams(file: File) -> io::Result<File> {
    if file.as_raw_fd() > 2 {
        return Ok(file);
    }
    // SAFETY: duplicates an open descriptor; the result is owned below.
    let fd = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(fd) })
}

/// See the module.
#[derive(Debug)]
pub(super) struct RealFile {
    file: ManuallyDrop<File>,
    /// Set with the first lock: forked children close the descriptor.
    registered: OnceLock<u32>,
    /// Of two threads that take the first lock, one registers the file: opening it again would release the
    /// other's lock.
    registering: Mutex<()>,
    made_in: fork::Generation,
    /// A moment before it was opened.
    opened_at: fork::Moment,
}

/// How often a file is opened again because the process forks meanwhile.
const MOST_REOPENINGS: usize = 1000;

impl Drop for RealFile {
    fn drop(&mut self) {
        match self.registered.get() {
            Some(_) if self.made_in.is_parents() => return,
            Some(place) => {
                // A child that is forked between the next two lines has the file, and must not have the lock.
                // If this fails, nothing can be done, and nothing else depends on it.
                drop(self.unlock(0, 0));
                fork::unregister(*place);
            }
            None => {}
        }
        // SAFETY: dropped once, here.
        unsafe { ManuallyDrop::drop(&mut self.file) };
    }
}

impl RealFile {
    /// `opened_at`: a moment before it was opened.
    pub(super) fn new(file: File, opened_at: fork::Moment) -> RealFile {
        RealFile {
            file: ManuallyDrop::new(file),
            registered: OnceLock::new(),
            registering: Mutex::default(),
            made_in: fork::Generation::default(),
            opened_at,
        }
    }

    /// Called before the first lock: registers the descriptor to be closed in forked children. A child that
    /// was forked since the file was opened shares the descriptor, and would share the lock: then the
    /// descriptor is made to refer to another opening of the same file.
    fn register(&self) -> io::Result<u32> {
        let place = fork::register(self.file.as_raw_fd());
        let mut opened_at = self.opened_at;
        for _ in 0..MOST_REOPENINGS {
            if opened_at.saw_no_fork() {
                return Ok(place);
            }
            opened_at = fork::Moment::now();
            let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let again = File::options().read(true).write(true).open(path);
            let done = again.and_then(|again| {
                let fd = self.file.as_raw_fd();
                // SAFETY: two open descriptors; the second is this file's own, and stays open throughout.
                match unsafe { libc::dup3(again.as_raw_fd(), fd, libc::O_CLOEXEC) } {
                    -1 => Err(io::Error::last_os_error()),
                    _ => Ok(()),
                }
            });
            if let Err(error) = done {
                fork::unregister(place);
                return Err(error);
            }
        }
        // The process forks all the time: the lock may outlive it in a child.
        Ok(place)
    }

    fn fcntl(&self, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
        loop {
            // SAFETY: an open descriptor and a live flock structure.
            if unsafe { libc::fcntl(self.file.as_raw_fd(), command, lock as *mut libc::flock) } == 0
            {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

pub(super) fn range(kind: libc::c_int, start: u64, len: u64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start as libc::off_t,
        l_len: len as libc::off_t,
        l_pid: 0,
    }
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        // Not stat: after a stat, the next store into a page takes a new time stamp and journals it. The file
        // position is not used.
        (&*self.file).seek(SeekFrom::End(0))
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        let metadata = self.file.metadata()?;
        Ok(FileIdentity { dev: metadata.dev(), ino: metadata.ino() })
    }

    fn has_other_names(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.nlink() > 1)
    }

    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.file.read_at(&mut buf[filled..], position + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_some_at(&self, pieces: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        let (start, count) = (pieces.as_ptr().cast(), pieces.len() as libc::c_int);
        without_size_signal(|| {
            // SAFETY: an open descriptor, and live pieces, which have the layout of `iovec`.
            let written = unsafe {
                libc::pwritev(self.file.as_raw_fd(), start, count, position as libc::off_t)
            };
            usize::try_from(written).map_err(|_| io::Error::last_os_error())
        })
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if self.len()? >= len {
            return Ok(());
        }
        check_file_size_limit(len)?;
        loop {
            // SAFETY: an open descriptor and plain integers.
            let allocate = || unsafe {
                match libc::posix_fallocate(self.file.as_raw_fd(), 0, len as libc::off_t) {
                    0 => Ok(()),
                    error => Err(io::Error::from_raw_os_error(error)),
                }
            };
            match without_size_signal(allocate) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn redirty(&self, start: u64, end: u64) -> io::Result<()> {
        let len = end.min(self.len()?).saturating_sub(start) as usize;
        if len == 0 {
            return Ok(());
        }
        let raw = memmap2::MmapOptions::new().offset(start).len(len).map_raw(&*self.file)?;
        // A fault for writing marks a page whether or not a store follows. In a new mapping each page takes
        // that fault; in an old one a page may already be mapped writable, and would be left out. A store
        // would be no better: the compiler drops one that changes nothing, and one that reads a word and
        // writes it back undoes a concurrent store by another process.
        raw.advise_range(memmap2::Advice::PopulateWrite, 0, len).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EFAULT) => why_no_page(self, start as usize, start as usize + len),
                _ => error,
            }
        })
    }

    fn fill_holes(&self, len: u64) -> io::Result<bool> {
        loop {
            // Not posix_fallocate: where the file system cannot allocate, it writes zeros itself, over bytes
            // that other processes are storing.
            let mode = libc::FALLOC_FL_KEEP_SIZE;
            // SAFETY: an open descriptor and plain integers.
            let done =
                unsafe { libc::fallocate(self.file.as_raw_fd(), mode, 0, len as libc::off_t) };
            if done == 0 {
                return Ok(true);
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EOPNOTSUPP | libc::ENOSYS) => return Ok(false),
                _ => return Err(error),
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn has_unwritten_blocks(&self, start: u64, end: u64) -> io::Result<bool> {
        extents::any_unwritten(&self.file, start, end)
    }

    fn shares_blocks(&self) -> io::Result<bool> {
        extents::any_shared(&self.file)
    }

    fn map(&self, len: usize, writable: bool) -> io::Result<Map> {
        if self.len()? < len as u64 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the file is shorter than the {len} bytes to map"),
            ));
        }
        let mut options = memmap2::MmapOptions::new();
        options.len(len);
        let raw = if writable {
            options.map_raw(&*self.file)?
        } else {
            options.map_raw_read_only(&*self.file)?
        };
        Map::of_file(raw, writable)
    }

    fn try_lock(&self, start: u64, len: u64) -> io::Result<bool> {
        if self.registered.get().is_none() {
            let _registering = self.registering.lock();
            if self.registered.get().is_none() {
                let place = self.register()?;
                self.registered.get_or_init(|| place);
            }
        }
        match self.fcntl(libc::F_OFD_SETLK, &mut range(libc::F_WRLCK, start, len)) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn unlock(&self, start: u64, len: u64) -> io::Result<()> {
        self.fcntl(libc::F_OFD_SETLK, &mut range(libc::F_UNLCK, start, len))
    }

    fn locked_by_other(&self, start: u64, len: u64) -> io::Result<bool> {
        let mut probe = range(libc::F_WRLCK, start, len);
        self.fcntl(libc::F_OFD_GETLK, &mut probe)?;
        Ok(probe.l_type != libc::F_UNLCK as libc::c_short)
    }
}

/// Makes a call that may write or grow a file. Beyond RLIMIT_FSIZE, which can be lowered at any time, the
/// kernel sends the calling thread a signal that ends the process: here it becomes an error of the call.
fn without_size_signal<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    // SAFETY: all-zero signal sets are plain data, and made empty or written by the calls below.
    let (mut size, mut before): (libc::sigset_t, libc::sigset_t) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    // SAFETY: the sets are live for the calls; only the calling thread's mask changes.
    unsafe {
        libc::sigemptyset(&mut size);
        libc::sigaddset(&mut size, libc::SIGXFSZ);
        libc::pthread_sigmask(libc::SIG_BLOCK, &size, &mut before);
    }
    let result = call();
    let is_over = |error: &io::Error| error.raw_os_error() == Some(libc::EFBIG);
    // SAFETY: as above; the call does not wait. A signal that the thread itself has blocked is left pending.
    unsafe {
        if result.as_ref().is_err_and(is_over) && libc::sigismember(&before, libc::SIGXFSZ) == 0 {
            let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            libc::sigtimedwait(&size, std::ptr::null_mut(), &now);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
    }
    result
}

/// Returns an error that names the limit, before anything is created.
fn check_file_size_limit(len: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is live for the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if len > limit.rlim_cur {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("{len} bytes are over this process's file size limit of {}", limit.rlim_cur),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how many bytes of pages this thread has made dirty, as the kernel counts them.
    fn dirtied() -> u64 {
        let text = std::fs::read_to_string("/proc/thread-self/io").expect("is there");
        let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        line.expect("is counted").parse().expect("a number")
    }

    #[test]
    fn a_page_that_is_marked_is_written_by_the_next_sync_though_it_is_clean_and_mapped_writable() {
        const LEN: u64 = 64 << 10;
        // In the directory of this binary, which is on a disk.
        let binary = std::env::current_exe().expect("is known");
        let file = tempfile::tempfile_in(binary.parent().expect("a directory")).expect("creates");
        let file = RealFile::new(file, fork::Moment::now());
        file.write_all_at(&[7; LEN as usize], 0).expect("writes");
        let map = file.map(LEN as usize, true).expect("maps");
        map.populate(0, LEN as usize).expect("populates");
        file.sync_data().expect("syncs");
        let before = dirtied();
        map.populate_to_read(0, LEN as usize).expect("reads");
        assert_eq!(dirtied() - before, 0, "the pages are clean");
        file.redirty(4096, LEN - 4096).expect("marks");
        let marked = dirtied() - before;
        assert!((LEN - 8192..=LEN).contains(&marked), "{marked} bytes are dirty");
        file.sync_data().expect("syncs");
        // Each call marks the pages again.
        file.redirty(0, u64::MAX).expect("marks");
        assert!(dirtied() - before >= marked + LEN - 8192);
        file.redirty(LEN, u64::MAX).expect("there is nothing to mark");
        let mut bytes = [0; LEN as usize];
        map.read(0, &mut bytes);
        assert_eq!(bytes, [7; LEN as usize]);
    }

    /// Forks a child that does nothing until the returned pipe is closed.
    fn fork_child() -> (libc::pid_t, libc::c_int) {
        let mut ends = [0; 2];
        // SAFETY: room for two descriptors.
        assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
        // SAFETY: the child makes only async-signal-safe calls.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            let mut byte = 0_u8;
            // SAFETY: as above; the buffer is live.
            unsafe {
                libc::close(ends[1]);
                libc::read(ends[0], std::ptr::addr_of_mut!(byte).cast(), 1);
                libc::_exit(0);
            }
        }
        // SAFETY: an own descriptor.
        unsafe { libc::close(ends[0]) };
        (child, ends[1])
    }

    #[test]
    fn a_child_forked_between_the_opening_of_a_lock_file_and_its_first_lock_does_not_keep_the_lock()
    {
        let binary = std::env::current_exe().expect("is known");
        let dir = tempfile::tempdir_in(binary.parent().expect("a directory")).expect("creates");
        let path = dir.path().join("lock");
        let open = || {
            let opened_at = fork::Moment::now();
            let mut options = File::options();
            let file = options.read(true).write(true).create(true).truncate(false).open(&path);
            RealFile::new(file.expect("opens"), opened_at)
        };
        let is_free_after = |lock: &dyn Fn(&RealFile) -> bool| {
            let (file, other) = (open(), open());
            let (child, pipe) = fork_child();
            assert!(lock(&file));
            assert!(!other.try_lock(0, 1).expect("probes"), "it is the lock of that file");
            // As when the process dies: its descriptor is closed without an unlock.
            if let Some(place) = file.registered.get() {
                fork::unregister(*place);
            }
            // SAFETY: an own descriptor, which is not used or closed again.
            unsafe { libc::close(file.file.as_raw_fd()) };
            std::mem::forget(file);
            let is_free = other.try_lock(0, 1).expect("probes");
            // SAFETY: an own descriptor and an own child.
            unsafe {
                libc::close(pipe);
                libc::waitpid(child, std::ptr::null_mut(), 0);
            }
            is_free
        };
        let bare = |file: &RealFile| {
            file.fcntl(libc::F_OFD_SETLK, &mut range(libc::F_WRLCK, 0, 1)).is_ok()
        };
        assert!(!is_free_after(&bare), "the kernel gives the child the lock");
        assert!(is_free_after(&|file| file.try_lock(0, 1).expect("locks")));
    }
}
