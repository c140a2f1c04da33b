//! The segments of a topic: which exist, and which of them this process has open.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::error::{IoResultExt, Result};
use crate::format::{segment as layout, Malformed};
use crate::index::Index;
use crate::segment::{list_bases, Segment};
use crate::sys::{Access, Directory};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Segments {
    files: Arc<dyn Directory>,
    access: Access,
    topic_id: u64,
    open: Mutex<HashMap<u64, Weak<Segment>>>,
    /// The bases that are known to exist, in order.
    bases: Mutex<Vec<u64>>,
    /// The index of the active segment, as far as it has been built, with its base.
    active_index: Mutex<Option<(u64, Index)>>,
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
            active_index: Mutex::default(),
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
    pub(super) fn is_current(&self, segment: &Segment) -> Result<bool> {
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

    /// Reads from the directory which bases exist.
    pub(super) fn list(&self) -> Result<Vec<u64>> {
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

    /// Calls `look` with the index of the active segment, as far as it has been built.
    pub(super) fn with_active_index<T>(
        &self,
        segment: &Segment,
        look: impl FnOnce(&mut Index) -> Result<T>,
    ) -> Result<T> {
        let mut active = self.active_index.lock();
        let index = match &mut *active {
            Some((base, index)) if *base == segment.base() => index,
            other => &mut other.insert((segment.base(), Index::new(segment))).1,
        };
        look(index)
    }
}

/// Returns, among these bases, that of the segment that holds `offset` and the next one.
pub(super) fn around(bases: &[u64], offset: u64) -> Option<(u64, u64)> {
    let after = bases.partition_point(|&base| base <= offset);
    let base = after.checked_sub(1).map(|index| bases[index]);
    Some((base?, *bases.get(after)?))
}
