//! The indexes of a topic's segments: those stored beside full segments, and that of the active one.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{Access, Frontier, Store};
use crate::error::Result;
use crate::format::index::Entry;
use crate::index::Index;
use crate::segment::Segment;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Indexes {
    /// The index of the active segment, as far as it has been built, with its base.
    active: Mutex<Option<(u64, Index)>>,
}

impl Indexes {
    /// Calls `look` with the index of a segment: the stored one, or one that is built and stored now.
    pub(super) fn with<T>(
        &self,
        topic: &Store,
        segment: &Arc<Segment>,
        next: Option<u64>,
        frontier: &Frontier,
        look: impl FnOnce(&Index) -> T,
    ) -> Result<T> {
        if let Some(end) = next {
            let stored = Index::load(&*topic.files, &topic.dir, segment, end);
            return Ok(look(&stored.map_or_else(|| build(topic, segment, end), Ok)?));
        }
        let mut active = self.active.lock();
        let index = match &mut *active {
            Some((base, index)) if *base == segment.base() => index,
            other => &mut other.insert((segment.base(), Index::new(segment))).1,
        };
        let is_member = matches!(topic.access, Access::Member(_));
        index.extend(segment, None, frontier.position, is_member)?;
        Ok(look(index))
    }

    /// Returns the place of a frame in a segment before which all frames have offsets below `offset`.
    pub(super) fn entry_before(
        &self,
        topic: &Store,
        segment: &Arc<Segment>,
        next: Option<u64>,
        frontier: &Frontier,
        offset: u64,
    ) -> Result<Entry> {
        if offset <= segment.base() {
            return Ok(Index::start(segment));
        }
        self.with(topic, segment, next, frontier, |index| index.before_offset(offset))
    }
}

/// Builds the index of a full segment, and stores it if this process may write.
pub(super) fn build(topic: &Store, segment: &Arc<Segment>, end: u64) -> Result<Index> {
    let mut index = Index::new(segment);
    index.extend(segment, Some(end), segment.len(), false)?;
    if matches!(topic.access, Access::Member(_)) {
        store(topic, segment, end, &index)?;
    }
    Ok(index)
}

/// Stores the index of a full segment.
pub(super) fn store(topic: &Store, segment: &Segment, end: u64, index: &Index) -> Result<()> {
    topic.location.check()?;
    index.store(&*topic.files, &topic.dir, segment, end)
}
