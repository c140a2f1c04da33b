//! The segments of a topic: which exist, and which of them this process has open.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::control::Words;
use crate::error::{IoResultExt, Result};
use crate::format::{segment as layout, Malformed};
use crate::segment::{list_bases, Segment};
use crate::sys::{Access, Directory};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Segments {
    files: Arc<dyn Directory>,
    access: Access,
    topic_id: u64,
    open: Mutex<HashMap<u64, Weak<Segment>>>,
    /// The bases that are known to exist, in order.
    bases: Mutex<Vec<u64>>,
}

impl Segments {
    /// Creates the segments of the topic in `files`, which are opened with `access`.
    pub(super) fn new(files: &Arc<dyn Directory>, access: Access, topic_id: u64) -> Segments {
        Segments {
            files: Arc::clone(files),
            access,
            topic_id,
            open: Mutex::default(),
            bases: Mutex::default(),
        }
    }

    /// Returns the open segment that starts at `base`.
    pub(super) fn get(&self, base: u64) -> Result<Arc<Segment>> {
        let known = self.open.lock().get(&base).and_then(Weak::upgrade);
        if let Some(segment) = known {
            if self.is_current(&segment)? {
                return Ok(segment);
            }
        }
        let segment = Segment::open(&*self.files, self.files.path(), base, self.access)?;
        let segment = Arc::new(segment);
        if segment.header.topic_id != self.topic_id {
            let value = segment.header.topic_id;
            let what = Malformed::Field { name: "topic_id", value };
            return Err(segment.corrupt(layout::TOPIC_ID_AT as u64, Some(base), &what));
        }
        let mut open = self.open.lock();
        open.retain(|_, segment| segment.strong_count() > 0);
        let other = open.get(&base).and_then(Weak::upgrade);
        if let Some(other) = other.filter(|other| other.len() >= segment.len()) {
            // Another thread was faster; or it is the segment from before, whose file was replaced.
            if self.is_current(&other)? {
                return Ok(other);
            }
        }
        open.insert(base, Arc::downgrade(&segment));
        Ok(segment)
    }

    /// Whether an open segment covers the whole file that has its name. Another process may have extended the
    /// file for a large record. A recovery may have put a copy in its place, beside processes that only read.
    pub(crate) fn is_current(&self, segment: &Segment) -> Result<bool> {
        if segment.is_outgrown()? {
            return Ok(false);
        }
        if self.access == Access::ReadWrite {
            return Ok(true);
        }
        let path = &segment.path;
        let named = self.files.identity_of(path).not_found_is_none().at("looking for", path)?;
        // A file that a trim removed can still be read.
        let Some(named) = named else { return Ok(true) };
        Ok(named == segment.file().identity().at("identifying", path)?)
    }

    /// Opens a segment beside the one that this process may have open.
    pub(super) fn open_apart(&self, base: u64) -> Result<Arc<Segment>> {
        Segment::open(&*self.files, self.files.path(), base, Access::ReadWrite).map(Arc::new)
    }

    /// Registers an open segment under its base.
    pub(super) fn keep(&self, segment: &Arc<Segment>) {
        let mut open = self.open.lock();
        if open.len() == open.capacity() {
            // Before the map grows: most of the segments in it are closed.
            open.retain(|_, segment| segment.strong_count() > 0);
        }
        open.insert(segment.base(), Arc::downgrade(segment));
    }

    /// Makes the next use of a segment open it again.
    pub(super) fn forget(&self, base: u64) {
        self.open.lock().remove(&base);
    }

    /// Forgets the segments below `first`, which were dropped.
    pub(super) fn forget_below(&self, first: u64) {
        self.bases.lock().retain(|&base| base >= first);
        self.open.lock().retain(|&base, _| base >= first);
    }

    /// Whether a segment file starts at `base`.
    pub(super) fn has_file(&self, base: u64) -> bool {
        let path = self.files.path().join(layout::file_name(base));
        self.files.open(&path, Access::Read).is_ok()
    }

    /// Reads the directory, and returns the bases up to the segment that was active before. A large directory
    /// is read in steps. Of segments that get their names between two steps, the read can show a later one
    /// and miss an earlier one, so a list that goes further could have holes.
    pub(super) fn refresh(&self, words: Option<&Words>) -> Result<Vec<u64>> {
        // This segment has its name, and so do all before it.
        let named = match words {
            Some(words) => words.tail.place().active,
            None => self.list()?.last().copied().unwrap_or(0),
        };
        let mut bases = self.list()?;
        bases.retain(|&base| base <= named);
        self.set_bases(&bases);
        Ok(bases)
    }

    /// The same for a process that is alone under the gate, so that no segment gets its name meanwhile:
    /// returns all bases, whatever the words say.
    pub(super) fn refresh_alone(&self) -> Result<Vec<u64>> {
        let bases = self.list()?;
        self.set_bases(&bases);
        Ok(bases)
    }

    fn list(&self) -> Result<Vec<u64>> {
        list_bases(&*self.files, self.files.path())
    }

    /// Returns the bases that are known to exist.
    pub(super) fn bases(&self) -> Vec<u64> {
        self.bases.lock().clone()
    }

    /// Sets the bases that are known to exist.
    pub(super) fn set_bases(&self, bases: &[u64]) {
        bases.clone_into(&mut self.bases.lock());
    }

    /// Whether a segment is known to start at `base`.
    pub(super) fn is_known(&self, base: u64) -> bool {
        self.bases.lock().contains(&base)
    }

    /// Returns the base of the segment that holds `offset` and that of the next one, if both are known.
    pub(super) fn around(&self, offset: u64) -> Option<(u64, u64)> {
        around(&self.bases.lock(), offset)
    }
}

/// Returns, among these bases, that of the segment that holds `offset` and the next one.
pub(super) fn around(bases: &[u64], offset: u64) -> Option<(u64, u64)> {
    let after = bases.partition_point(|&base| base <= offset);
    let base = after.checked_sub(1).map(|index| bases[index]);
    Some((base?, *bases.get(after)?))
}
