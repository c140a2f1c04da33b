//! The operating system's file system.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::OnceLock;
use std::{ffi, fs, io};

use super::{fork, inherited, InheritableLock};
use super::{Access, Disk, DiskFile, FileIdentity, Map, Medium};

/// See the module. New files get `mode`, directories the same with search bits.
#[derive(Debug)]
pub(crate) struct RealDisk {
    mode: u32,
    /// Whatever the umask says.
    is_exact: bool,
}

impl RealDisk {
    /// New files get `mode`, less the umask.
    pub(crate) fn with_mode(mode: u32) -> RealDisk {
        RealDisk { mode: mode & 0o666, is_exact: false }
    }

    /// New files get the very mode of the file at `model`; if there is none, `mode`, less the umask.
    pub(crate) fn like(model: &Path, mode: u32) -> RealDisk {
        match fs::symlink_metadata(model) {
            Ok(found) if found.is_file() => RealDisk { mode: found.mode() & 0o666, is_exact: true },
            // What stands there instead is met by whoever opens it.
            _ => RealDisk::with_mode(mode),
        }
    }

    fn search_mode(&self) -> u32 {
        self.mode | (self.mode & 0o444) >> 2
    }

    /// Gives back what the umask took from something that this process has made.
    fn make_exact(&self, made: &File, mode: u32) -> io::Result<()> {
        let found = made.metadata()?.mode();
        if !self.is_exact || found & 0o777 == mode {
            return Ok(());
        }
        // The bit that hands the group on stays.
        match made.set_permissions(fs::Permissions::from_mode(mode | found & 0o7000)) {
            // It was there, and is another user's; or the file system knows no modes.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP)) => {
                Ok(())
            }
            other => other,
        }
    }
}

impl Disk for RealDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.create_dir_all(parent)?;
        }
        match fs::DirBuilder::new().mode(self.search_mode()).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            other => {
                other?;
                self.make_exact(&File::open(dir)?, self.search_mode())?;
            }
        }
        if self.medium(dir)? == Medium::CopyOnWrite {
            store_in_place(&File::open(dir)?)?;
        }
        self.sync_dir(parent.unwrap_or(Path::new(".")))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(access != Access::Read)
            .create(access == Access::OpenOrCreate)
            .create_new(access == Access::CreateNew)
            .mode(self.mode)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        if matches!(access, Access::CreateNew | Access::OpenOrCreate) {
            self.make_exact(&file, self.mode)?;
        }
        let file = above_standard_streams(file)?;
        Ok(Box::new(RealFile {
            file: ManuallyDrop::new(file),
            registered: OnceLock::new(),
            made_in: fork::Generation::default(),
        }))
    }

    fn rename_no_replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_c, to_c) = (c_path(from)?, c_path(to)?);
        // SAFETY: both are NUL-terminated strings that live through the call.
        let result = unsafe {
            libc::renameat2(
                libc::AT_FDCWD,
                from_c.as_ptr(),
                libc::AT_FDCWD,
                to_c.as_ptr(),
                libc::RENAME_NOREPLACE,
            )
        };
        if result == 0 {
            return Ok(());
        }
        Err(io::Error::last_os_error())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        File::open(dir)?.sync_all()
    }

    fn inheritable_lock(&self, path: &Path, byte: u64) -> io::Result<InheritableLock> {
        inherited::lock(path, byte)
    }

    fn boot_id(&self) -> io::Result<[u64; 2]> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        let id = u128::from_str_radix(&digits, 16)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "boot_id is not a UUID"))?;
        Ok([(id >> 64) as u64, id as u64])
    }

    fn medium(&self, dir: &Path) -> io::Result<Medium> {
        let path = c_path(dir)?;
        // SAFETY: an all-zero statfs is a valid value of the plain struct.
        let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: the path is NUL-terminated and `stat` is live for the call.
        if unsafe { libc::statfs(path.as_ptr(), &mut stat) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(medium_of(stat.f_type as u32))
    }
}

/// Has new files of a directory, which is still empty, written in place (`chattr +C`): where a store
/// copies the block first, a page that was allocated can still find the disk full, and that is a signal.
fn store_in_place(dir: &File) -> io::Result<()> {
    const NO_COPY_ON_WRITE: libc::c_long = 0x0080_0000;
    let mut flags: libc::c_long = 0;
    // SAFETY: an open descriptor; the request reads one long into `flags`.
    if unsafe { libc::ioctl(dir.as_raw_fd(), libc::FS_IOC_GETFLAGS, &mut flags) } != 0 {
        return Err(io::Error::last_os_error());
    }
    flags |= NO_COPY_ON_WRITE;
    // SAFETY: an open descriptor; the request reads one long from `flags`.
    if unsafe { libc::ioctl(dir.as_raw_fd(), libc::FS_IOC_SETFLAGS, &flags) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// By the magic numbers of statfs(2).
fn medium_of(kind: u32) -> Medium {
    match kind {
        0x0102_1994 | 0x8584_58f6 => Medium::Memory,
        0x9123_683e => Medium::CopyOnWrite,
        0x6969 => Medium::Network("NFS"),
        0xff53_4d42 | 0xfe53_4d42 => Medium::Network("SMB"),
        0x0102_1997 => Medium::Network("9p"),
        0x6573_5546 => Medium::Network("FUSE"),
        0x6a65_6a63 => Medium::Network("virtiofs"),
        0x00c3_6400 => Medium::Network("Ceph"),
        0x0bd0_0bd0 => Medium::Network("Lustre"),
        0x0116_1970 => Medium::Network("GFS2"),
        0x5346_414f => Medium::Network("AFS"),
        _ => Medium::Disk,
    }
}

fn c_path(path: &Path) -> io::Result<ffi::CString> {
    ffi::CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a path with a NUL byte"))
}

/// A data file must never get the descriptor of a closed standard stream: somebody's message would
/// be written into it.
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

#[derive(Debug)]
struct RealFile {
    file: ManuallyDrop<File>,
    /// Set with the first lock: forked children close the descriptor.
    registered: OnceLock<Option<usize>>,
    made_in: fork::Generation,
}

impl Drop for RealFile {
    fn drop(&mut self) {
        match self.registered.get() {
            Some(Some(_)) if self.made_in.is_parents() => return,
            Some(Some(slot)) => fork::unregister(*slot),
            _ => {}
        }
        // SAFETY: dropped once, here.
        unsafe { ManuallyDrop::drop(&mut self.file) };
    }
}

impl RealFile {
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
        // Not stat: after it, the next store into a page takes a new time stamp and journals it. Nobody
        // uses the position.
        (&*self.file).seek(SeekFrom::End(0))
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        let metadata = self.file.metadata()?;
        Ok(FileIdentity { dev: metadata.dev(), ino: metadata.ino() })
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

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, position)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if self.len()? >= len {
            return Ok(());
        }
        check_file_size_limit(len)?;
        loop {
            // SAFETY: an open descriptor and plain integers.
            let error =
                unsafe { libc::posix_fallocate(self.file.as_raw_fd(), 0, len as libc::off_t) };
            match error {
                0 => return Ok(()),
                libc::EINTR => {}
                error => return Err(io::Error::from_raw_os_error(error)),
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
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
        self.registered.get_or_init(|| fork::register(self.file.as_raw_fd()));
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

/// Growing a file beyond RLIMIT_FSIZE would raise a signal that ends the process.
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
