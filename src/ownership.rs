//! Names that one process at a time owns: a locked file in a directory of the log.

use std::path::PathBuf;

use crate::error::{Error, IoResultExt, Result};
use crate::store::LogInner;
use crate::sys::fork::Generation;
use crate::sys::{Access, DiskFile};

/// Owns a name as long as it lives; the kernel releases it when the process is gone.
#[derive(Debug)]
pub(crate) struct Ownership {
    file: Box<dyn DiskFile>,
    made_in: Generation,
}

impl Ownership {
    /// Makes this process the owner of `name` among the names of `kind`.
    pub(crate) fn take(log: &LogInner, kind: &'static str, name: &str) -> Result<Ownership> {
        Error::check_name(name)?;
        let dir = log.dir.join(kind);
        log.check_not_replaced()?;
        log.files.make_dir(&dir).at("creating", &dir)?;
        let path: PathBuf = dir.join(name);
        let file = log.files.open(&path, Access::OpenOrCreate).at("locking", &path)?;
        if !file.try_lock(0, 1).at("locking", &path)? {
            let mut pid = [0; 4];
            let read = file.read_at(&mut pid, 0).at("locking", &path)?;
            let pid = (read == pid.len()).then(|| u32::from_le_bytes(pid));
            let kind = kind.trim_end_matches('s');
            return Err(Error::Locked { what: format!("{kind} {name}"), pid });
        }
        // The file may have been replaced before the lock was taken: then the lock says nothing about the
        // name.
        if log.files.identity_of(&path).at("locking", &path)?
            != file.identity().at("locking", &path)?
        {
            return Err(Error::Replaced { path: log.dir.clone() });
        }
        file.write_all_at(&std::process::id().to_le_bytes(), 0).at("locking", &path)?;
        Ok(Ownership { file, made_in: log.made_in })
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        // A command that another thread is starting has the descriptor until its program runs, so closing
        // ours would leave the lock to it: unlock first. A forked child must not release its parent's lock.
        if !self.made_in.is_parents() {
            // If this fails, the kernel releases the lock when the file is closed.
            drop(self.file.unlock(0, 1));
        }
    }
}
