//! An open directory of the operating system: every name is looked up from its descriptor.

use std::ffi::{CStr, CString};
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::{io, mem};

use super::real::{above_standard_streams, RealFile};
use super::{fork, inherited, InheritableLock};
use super::{Access, Directory, DiskFile, FileIdentity, Medium};

/// The user that may do everything.
const ROOT: u32 = 0;

/// See the module.
#[derive(Debug)]
pub(crate) struct RealDirectory {
    dir: File,
    path: PathBuf,
    making: Making,
}

/// The mode and the owner of new files and directories.
#[derive(Debug, Clone, Copy)]
struct Making {
    /// The mode of files; directories get the search bits as well.
    mode: u32,
    /// The mode is exact, regardless of the umask.
    is_exact: bool,
    /// The user and group, if root creates files for another user.
    owner: Option<(u32, u32)>,
}

impl RealDirectory {
    /// Opens the directory at `path`, whose new files get `mode`, less the umask. Symbolic links are
    /// followed here, and nowhere else.
    pub(crate) fn open(path: &Path, mode: u32) -> io::Result<RealDirectory> {
        RealDirectory::of(open_path(path)?, path, mode)
    }

    /// Opens the directory at `path` as [`open`](Self::open) does; creates it and its missing parents first.
    /// Each new name is synced in its parent.
    pub(crate) fn make(path: &Path, mode: u32) -> io::Result<RealDirectory> {
        let making = Making { mode: mode & 0o666, is_exact: false, owner: None };
        RealDirectory::of(making.open_or_make(path)?, path, mode)
    }

    fn of(dir: File, path: &Path, mode: u32) -> io::Result<RealDirectory> {
        let making = Making { mode: mode & 0o666, is_exact: false, owner: None };
        Ok(RealDirectory { dir, path: std::path::absolute(path)?, making })
    }

    /// From now on new files get exactly the mode of the file at `model`, if there is one, and its owner and
    /// group if this process runs as root: a command run by root must not lock the owner out.
    pub(crate) fn make_like(&mut self, model: &Path) -> io::Result<()> {
        let found = match self.at(model, stat_at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        // If it is not a regular file, opening it reports that.
        if found.st_mode & libc::S_IFMT == libc::S_IFREG {
            // SAFETY: takes nothing and cannot fail.
            let is_root = unsafe { libc::geteuid() } == ROOT;
            self.making = Making {
                mode: found.st_mode & 0o666,
                is_exact: true,
                owner: (is_root && found.st_uid != ROOT).then_some((found.st_uid, found.st_gid)),
            };
        }
        Ok(())
    }

    /// Calls `call` with the descriptor of the directory that contains the last name of `path`, and with that
    /// name.
    fn at<T>(
        &self,
        path: &Path,
        call: impl FnOnce(RawFd, &CStr) -> io::Result<T>,
    ) -> io::Result<T> {
        let below = path.strip_prefix(&self.path).map_err(|_| invalid("a path elsewhere"))?;
        let mut names = below.components();
        let Some(last) = names.next_back() else { return call(self.dir.as_raw_fd(), c".") };
        let mut parent: Option<File> = None;
        for name in names {
            let fd = parent.as_ref().unwrap_or(&self.dir).as_raw_fd();
            parent = Some(open_dir_at(fd, &c_name(name)?, libc::O_PATH)?);
        }
        call(parent.as_ref().unwrap_or(&self.dir).as_raw_fd(), &c_name(last)?)
    }

    fn handle(&self, dir: File, path: &Path) -> io::Result<Arc<dyn Directory>> {
        let dir = above_standard_streams(dir)?;
        Ok(Arc::new(RealDirectory { dir, path: path.to_owned(), making: self.making }))
    }

    fn rename(&self, from: &Path, to: &Path, flags: libc::c_uint) -> io::Result<()> {
        self.at(from, |from_fd, from| {
            self.at(to, |to_fd, to| {
                let (from, to) = (from.as_ptr(), to.as_ptr());
                // SAFETY: open descriptors, and NUL-terminated strings that live through the call.
                check(unsafe { libc::renameat2(from_fd, from, to_fd, to, flags) })
            })
        })
    }

    fn unlink(&self, path: &Path, flags: libc::c_int) -> io::Result<()> {
        // SAFETY: an open descriptor and a NUL-terminated string that lives through the call.
        self.at(path, |fd, name| check(unsafe { libc::unlinkat(fd, name.as_ptr(), flags) }))
    }

    fn open_file(&self, path: &Path, flags: libc::c_int) -> io::Result<File> {
        let flags = flags | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = self.at(path, |fd, name| open_at(fd, name, flags, self.making.mode))?;
        if !file.metadata()?.is_file() {
            return Err(invalid("not a regular file"));
        }
        above_standard_streams(file)
    }
}

impl Making {
    fn search_mode(&self) -> u32 {
        self.mode | (self.mode & 0o444) >> 2
    }

    fn open_or_make(&self, path: &Path) -> io::Result<File> {
        match open_path(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let Some(Component::Normal(name)) = path.components().next_back() else {
                    return Err(error);
                };
                let parent = match path.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => self.open_or_make(parent)?,
                    _ => open_path(Path::new("."))?,
                };
                let name = c_string(name.as_bytes())?;
                self.make_at(parent.as_raw_fd(), &name)?;
                let made = open_at(parent.as_raw_fd(), &name, libc::O_DIRECTORY, 0)?;
                above_standard_streams(self.finish(made, &parent)?)
            }
            other => other,
        }
    }

    /// Makes a directory, unless the name exists.
    fn make_at(&self, parent: RawFd, name: &CStr) -> io::Result<()> {
        // SAFETY: an open descriptor and a NUL-terminated string that lives through the call.
        let made = unsafe { libc::mkdirat(parent, name.as_ptr(), self.search_mode()) };
        match check(made) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    /// Gives a new directory its owner and mode, and syncs its name.
    fn finish(&self, made: File, parent: &File) -> io::Result<File> {
        self.give_owner(&made)?;
        self.make_exact(&made, self.search_mode())?;
        if medium_of(&made)? == Medium::CopyOnWrite {
            store_in_place(&made)?;
        }
        parent.sync_all()?;
        Ok(made)
    }

    /// Gives a file or directory that root has created to the owner of the log.
    fn give_owner(&self, made: &File) -> io::Result<()> {
        let Some((user, group)) = self.owner else { return Ok(()) };
        if made.metadata()?.uid() != ROOT {
            // It existed already, and belongs to another user with access to the log.
            return Ok(());
        }
        match std::os::unix::fs::fchown(made, Some(user), Some(group)) {
            // Root without that right (in a container, for example), or a file system without owners.
            Err(error) if is_refused(&error) => Ok(()),
            other => other,
        }
    }

    /// Restores the mode bits that the umask removed from something that this process has created.
    fn make_exact(&self, made: &File, mode: u32) -> io::Result<()> {
        let found = made.metadata()?.mode();
        if !self.is_exact || found & 0o777 == mode {
            return Ok(());
        }
        // Keep the bit that passes the group on.
        match made.set_permissions(fs::Permissions::from_mode(mode | found & 0o7000)) {
            // It existed already and belongs to another user, or the file system has no modes.
            Err(error) if is_refused(&error) => Ok(()),
            other => other,
        }
    }
}

impl Directory for RealDirectory {
    fn path(&self) -> &Path {
        &self.path
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        let found = self.dir.metadata()?;
        Ok(FileIdentity { dev: found.dev(), ino: found.ino() })
    }

    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Directory>> {
        let dir = self.at(path, |fd, name| open_dir_at(fd, name, libc::O_RDONLY))?;
        self.handle(dir, path)
    }

    fn make_dir(&self, path: &Path) -> io::Result<Arc<dyn Directory>> {
        match self.open_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let parent = path.parent().unwrap_or(path);
        let parent = self.at(parent, |fd, name| open_dir_at(fd, name, libc::O_RDONLY))?;
        let name = c_string(path.file_name().unwrap_or_default().as_bytes())?;
        self.making.make_at(parent.as_raw_fd(), &name)?;
        let made = open_dir_at(parent.as_raw_fd(), &name, libc::O_RDONLY)?;
        self.handle(self.making.finish(made, &parent)?, path)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let opened_at = fork::Moment::now();
        let file = self.open_file(
            path,
            match access {
                Access::Read => libc::O_RDONLY,
                Access::ReadWrite => libc::O_RDWR,
                Access::CreateNew => libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
                Access::OpenOrCreate => libc::O_RDWR | libc::O_CREAT,
            },
        )?;
        if matches!(access, Access::CreateNew | Access::OpenOrCreate) {
            self.making.give_owner(&file)?;
            self.making.make_exact(&file, self.making.mode)?;
        }
        Ok(Box::new(RealFile::new(file, opened_at)))
    }

    fn identity_of(&self, path: &Path) -> io::Result<FileIdentity> {
        let found = self.at(path, stat_at)?;
        Ok(FileIdentity { dev: found.st_dev, ino: found.st_ino })
    }

    fn rename_no_replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename(from, to, libc::RENAME_NOREPLACE)
    }

    fn replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename(from, to, 0)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.unlink(path, 0)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.unlink(path, libc::AT_REMOVEDIR)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        // A separate descriptor: the position in the list belongs to the open file.
        list(self.at(path, |fd, name| open_dir_at(fd, name, libc::O_RDONLY))?)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.at(path, |fd, name| open_dir_at(fd, name, libc::O_RDONLY))?.sync_all()
    }

    fn sync_own_names(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    fn inheritable_lock(&self, path: &Path, byte: u64) -> io::Result<InheritableLock> {
        inherited::lock(self.open_file(path, libc::O_RDONLY)?, byte)
    }

    fn boot_id(&self) -> io::Result<[u64; 2]> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        let id = u128::from_str_radix(&digits, 16)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "boot_id is not a UUID"))?;
        Ok([(id >> 64) as u64, id as u64])
    }

    fn mount(&self) -> Option<u64> {
        const MOUNT_ID_UNIQUE: u32 = 0x4000;
        // SAFETY: an all-zero statx is a valid value of the plain struct.
        let mut found: libc::statx = unsafe { mem::zeroed() };
        let fd = self.dir.as_raw_fd();
        // SAFETY: an open descriptor, an empty path that ends with NUL, and `found` live for the call.
        let result = unsafe {
            libc::statx(fd, c"".as_ptr(), libc::AT_EMPTY_PATH, MOUNT_ID_UNIQUE, &mut found)
        };
        (result == 0 && found.stx_mask & MOUNT_ID_UNIQUE != 0).then_some(found.stx_mnt_id)
    }

    fn medium(&self) -> io::Result<Medium> {
        medium_of(&self.dir)
    }
}

fn is_refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EINVAL | libc::EOPNOTSUPP))
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| invalid("a path with a NUL byte"))
}

/// Returns a name, which never leads out of the directory.
fn c_name(component: Component<'_>) -> io::Result<CString> {
    match component {
        Component::Normal(name) => c_string(name.as_bytes()),
        _ => Err(invalid("a path that leaves its directory")),
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn open_path(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path)?;
    above_standard_streams(opened)
}

fn open_at(dir: RawFd, name: &CStr, flags: libc::c_int, mode: u32) -> io::Result<File> {
    loop {
        // SAFETY: an open descriptor and a NUL-terminated string that lives through the call.
        let fd = unsafe { libc::openat(dir, name.as_ptr(), flags | libc::O_CLOEXEC, mode) };
        if fd >= 0 {
            // SAFETY: a fresh descriptor that nothing else owns.
            return Ok(unsafe { File::from_raw_fd(fd) });
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Opens a directory; for a symbolic link, the error says that it is one.
fn open_dir_at(dir: RawFd, name: &CStr, flags: libc::c_int) -> io::Result<File> {
    match open_at(dir, name, flags | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => {
            let is_link = stat_at(dir, name)?.st_mode & libc::S_IFMT == libc::S_IFLNK;
            Err(if is_link { io::Error::from_raw_os_error(libc::ELOOP) } else { error })
        }
        other => other,
    }
}

/// For a symbolic link: the link itself.
fn stat_at(dir: RawFd, name: &CStr) -> io::Result<libc::stat> {
    // SAFETY: an all-zero stat is a valid value of the plain struct.
    let mut found: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: an open descriptor, a NUL-terminated string, and a structure that live through the call.
    check(unsafe { libc::fstatat(dir, name.as_ptr(), &mut found, libc::AT_SYMLINK_NOFOLLOW) })?;
    Ok(found)
}

fn list(dir: File) -> io::Result<Vec<String>> {
    use std::os::fd::IntoRawFd;
    let fd = dir.into_raw_fd();
    // SAFETY: an open descriptor of a directory; the stream owns it if there is one.
    let stream = unsafe { libc::fdopendir(fd) };
    if stream.is_null() {
        let error = io::Error::last_os_error();
        // SAFETY: no stream has taken it over.
        drop(unsafe { File::from_raw_fd(fd) });
        return Err(error);
    }
    let mut names = Vec::new();
    let listed = loop {
        // SAFETY: the calling thread's own word; only it distinguishes an error from the end.
        unsafe { *libc::__errno_location() = 0 };
        // SAFETY: the stream is open, and no other thread has it.
        let entry = unsafe { libc::readdir64(stream) };
        if entry.is_null() {
            let error = io::Error::last_os_error();
            break if error.raw_os_error() == Some(0) { Ok(()) } else { Err(error) };
        }
        // SAFETY: an entry is valid, and its name ends with a NUL, until the next call on its stream.
        let name = unsafe { CStr::from_ptr((&raw const (*entry).d_name).cast()) };
        match name.to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => names.push(name.to_owned()),
        }
    };
    // SAFETY: opened above, and not used after this.
    unsafe { libc::closedir(stream) };
    listed.map(|()| names)
}

/// Sets new files of a directory, which is still empty, to be written in place (`chattr +C`): where a store
/// copies the block first, the disk can be full even for an allocated page, and that is a signal.
fn store_in_place(dir: &File) -> io::Result<()> {
    const NO_COPY_ON_WRITE: libc::c_long = 0x0080_0000;
    let mut flags: libc::c_long = 0;
    // SAFETY: an open descriptor; the request reads one long into `flags`.
    check(unsafe { libc::ioctl(dir.as_raw_fd(), libc::FS_IOC_GETFLAGS, &mut flags) })?;
    flags |= NO_COPY_ON_WRITE;
    // SAFETY: an open descriptor; the request reads one long from `flags`.
    check(unsafe { libc::ioctl(dir.as_raw_fd(), libc::FS_IOC_SETFLAGS, &flags) })
}

/// Determines the medium by the magic numbers of statfs(2).
fn medium_of(dir: &File) -> io::Result<Medium> {
    // SAFETY: an all-zero statfs is a valid value of the plain struct.
    let mut stat: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: the descriptor is open and `stat` is live for the call.
    check(unsafe { libc::fstatfs(dir.as_raw_fd(), &mut stat) })?;
    Ok(match stat.f_type as u32 {
        0x0102_1994 | 0x8584_58f6 => Medium::Memory,
        // btrfs, bcachefs, ZFS.
        0x9123_683e | 0xca45_1a4e | 0x2fc1_2fc1 => Medium::CopyOnWrite,
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
    })
}
