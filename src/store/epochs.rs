//! The epochs of a topic: a durable list of the offsets at which recoveries may have cut records off.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{IoResultExt, Result};
use crate::format::epochs::{self, Entry};
use crate::sys::crash_point::crash_point;
use crate::sys::{self, Access, Directory};

/// The most bytes of the list that are read.
const MOST_BYTES: usize = 64 << 20;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Epochs {
    files: Arc<dyn Directory>,
    path: PathBuf,
    list: Mutex<Vec<Entry>>,
}

impl Epochs {
    /// Creates the list of the topic in `files`; it is empty before it is [loaded](Self::load).
    pub(super) fn new(files: &Arc<dyn Directory>) -> Epochs {
        let path = files.path().join("epochs");
        Epochs { files: Arc::clone(files), path, list: Mutex::default() }
    }

    /// Reads the list.
    pub(super) fn load(&self) -> Result<()> {
        let file = self.files.open(&self.path, Access::Read);
        let bytes = match file.not_found_is_none().at("opening", &self.path)? {
            Some(file) => sys::read_start(&*file, MOST_BYTES).at("reading", &self.path)?,
            None => Vec::new(),
        };
        *self.list.lock() = epochs::decode(&bytes);
        Ok(())
    }

    /// Returns the epoch in which positions are stored now.
    pub(crate) fn current(&self) -> u32 {
        self.list.lock().iter().map(|entry| entry.epoch).max().unwrap_or(0)
    }

    /// Returns a position stored in `epoch`, set back if a later recovery cut the log below it.
    pub(crate) fn clamp(&self, epoch: u32, position: u64) -> u64 {
        epochs::clamp(&self.list.lock(), epoch, position)
    }

    /// Appends an epoch that starts at `end` to the durable list.
    pub(super) fn begin(&self, end: u64) -> Result<u32> {
        self.load()?;
        let path: &Path = &self.path;
        let file = self.files.open(path, Access::OpenOrCreate).at("writing", path)?;
        let at = file.len().at("writing", path)?.next_multiple_of(epochs::ENTRY_LEN as u64);
        // There were at least as many epochs as entries: the number of a damaged entry is not used again.
        let entries = u32::try_from(at / epochs::ENTRY_LEN as u64).unwrap_or(u32::MAX);
        let epoch = self.current().max(entries).saturating_add(1);
        let entry = Entry { epoch, start: end };
        file.allocate(at + epochs::ENTRY_LEN as u64).at("writing", path)?;
        file.write_all_at(&entry.encode(), at).at("writing", path)?;
        file.sync_data().at("writing", path)?;
        self.files.sync_dir(self.files.path()).at("writing", path)?;
        crash_point!("recover.epoch");
        self.list.lock().push(entry);
        Ok(entry.epoch)
    }
}
