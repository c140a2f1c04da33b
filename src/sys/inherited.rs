//! Locks that outlive their process in a child of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::real::range;

/// A lock on a byte, held until the last process that has it ends or closes it.
#[derive(Debug)]
pub(crate) struct InheritableLock(OwnedFd);

/// Takes the shared lock on a byte. The file is open for this alone; its descriptor is closed on exec, and
/// unlike that of other lock files not in a fork.
pub(super) fn lock(file: File, byte: u64) -> io::Result<InheritableLock> {
    let mut lock = range(libc::F_RDLCK, byte, 1);
    loop {
        // SAFETY: an open descriptor and a live flock structure.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &mut lock) };
        if result == 0 {
            return Ok(InheritableLock(file.into()));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

impl InheritableLock {
    /// Has the command's children keep it. It is cleared of close-on-exec in the child alone: in this
    /// process another thread's child would get it as well.
    pub(crate) fn pass_to(self, command: &mut Command) {
        let keep = move || {
            // SAFETY: a descriptor that the closure owns, open in the child as well.
            match unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_SETFD, 0) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec it makes one async-signal-safe call and allocates nothing: an
        // error of the system is a number.
        unsafe { command.pre_exec(keep) };
    }
}
