//! Locks that outlive their process in its child.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::real::range;

/// A lock on a byte, held until the last process that has it ends or closes it.
#[derive(Debug)]
pub(crate) struct InheritableLock(OwnedFd);

/// Takes the shared lock on a byte. The file is open for this lock alone; its descriptor is closed on exec
/// and, unlike those of other lock files, not on fork.
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
    /// Lets the command's child keep the lock. Close-on-exec is cleared in the child alone: if it were
    /// cleared in this process, a child of another thread would inherit the lock as well.
    pub(crate) fn pass_to(self, command: &mut Command) {
        let keep = move || {
            // SAFETY: a descriptor that the closure owns, open in the child as well.
            match unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_SETFD, 0) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec it makes one async-signal-safe call and allocates nothing, because an
        // error of the system is a number.
        unsafe { command.pre_exec(keep) };
    }
}
