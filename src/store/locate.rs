//! From an offset to a position, and how far readers may go.

use std::sync::Arc;

use super::open::living_control;
use super::recover::find_end;
use super::segments::around;
use super::{Access, Durability, Store};
use crate::control::{Place, Words};
use crate::error::{Error, Result};
use crate::format::index::Entry;
use crate::format::{segment as layout, Malformed};
use crate::index::Index;
use crate::segment::{Segment, Walk};
use crate::sys::atomic::Ordering;

/// How far the topic goes, at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frontier {
    /// The end of the records that readers may see.
    pub(crate) high_watermark: u64,
    /// The offset of the next record.
    pub(crate) end: u64,
    /// Records below this are known to survive a power loss.
    pub(crate) durable_end: u64,
    /// The base of the active segment.
    pub(crate) active: u64,
    /// In the active segment, bytes below this position no longer change.
    pub(crate) position: u64,
}

impl Frontier {
    /// Returns how far a topic with these words goes.
    pub(super) fn of(words: &Words, durability: Durability) -> Frontier {
        // Acquire: pairs with the Release stores that publish records; the place that is read after them is
        // at least as new.
        let durable_end = words.durable.end.load(Ordering::Acquire);
        let end = words.tail.end.load(Ordering::Acquire);
        let Place { active, position } = words.tail.place();
        let synced = durability == Durability::PowerLoss;
        let high_watermark = if synced { durable_end } else { end };
        Frontier { high_watermark, end, durable_end, active, position }
    }
}

impl Store {
    /// Returns how far the topic goes now.
    pub(crate) fn frontier(&self) -> Result<Frontier> {
        self.not_forked()?;
        let durability = self.options.durability;
        match &self.access {
            Access::Member(member) => Ok(Frontier::of(&member.control, durability)),
            Access::Live(control) => Ok(Frontier::of(control, durability)),
            Access::Still { left, found, live } => {
                if live.get().is_none() {
                    if let Some(control) = living_control(&self.log, &*self.files) {
                        // Another thread may have been faster: then its mapping is kept.
                        live.get_or_init(|| control);
                    }
                }
                match live.get() {
                    Some(control) => Ok(Frontier::of(control, durability)),
                    None => find_end(self, left.as_deref(), &mut found.lock()),
                }
            }
        }
    }

    /// The same, for a caller that does not read next: fails if the topic's files are gone.
    pub(crate) fn current_frontier(&self) -> Result<Frontier> {
        let frontier = self.frontier()?;
        self.location.check_when_idle()?;
        Ok(frontier)
    }

    /// Returns the open segment that starts at `base`.
    pub(crate) fn segment(&self, base: u64) -> Result<Arc<Segment>> {
        self.segments.get(base).map_err(|error| self.gone(error, base))
    }

    /// Whether an open segment covers the whole file that has its name now.
    pub(crate) fn is_current(&self, segment: &Segment) -> Result<bool> {
        self.segments.is_current(segment)
    }

    /// Opens the segment that starts at `base` for this caller alone, to sync it beside other threads: the
    /// kernel reports an error once to each open file description.
    pub(super) fn segment_of_its_own(&self, base: u64) -> Result<Arc<Segment>> {
        self.segments.open_apart(base).map_err(|error| self.gone(error, base))
    }

    /// Returns the open segment that starts at `base`, with at least `position` bytes. A segment that was
    /// empty may have been extended after it was opened, also by another process.
    pub(super) fn segment_reaching(&self, base: u64, position: u64) -> Result<Arc<Segment>> {
        let segment = self.segment(base)?;
        if segment.len() >= position {
            return Ok(segment);
        }
        self.segments.forget(base);
        let segment = self.segment(base)?;
        if segment.len() < position {
            let needed = usize::try_from(position).unwrap_or(usize::MAX);
            let what = Malformed::Short { needed, found: segment.len() as usize };
            return Err(segment.corrupt(segment.len(), None, &what));
        }
        Ok(segment)
    }

    /// Turns a missing segment file below the first retained offset into `Trimmed`, else into damage.
    fn gone(&self, error: Error, base: u64) -> Error {
        let missing = error.is_file_not_found();
        if let Some(displaced) = self.location.displaced().filter(|_| missing) {
            return displaced;
        }
        match self.first_offset() {
            Ok(first) if missing && first > base => Error::Trimmed { wanted: base, first },
            _ if missing && self.segments.is_known(base) => Error::Corrupt {
                path: self.dir.join(layout::file_name(base)),
                position: 0,
                offset: Some(base),
                what: "the segment file is missing".into(),
            },
            _ => error,
        }
    }

    /// Returns the first retained offset.
    pub(crate) fn first_offset(&self) -> Result<u64> {
        self.not_forked()?;
        match self.words() {
            Some(words) => Ok(words.tail.first.load(Ordering::Acquire)),
            None => Ok(self.refresh_bases()?.first().copied().unwrap_or(0)),
        }
    }

    /// Reads the directory, and returns the bases up to the segment that was active before. A large directory
    /// is read in steps. Of segments that get their names between two steps, the read can show a later one
    /// and miss an earlier one, so a list that goes further could have holes.
    pub(super) fn refresh_bases(&self) -> Result<Vec<u64>> {
        // This segment has its name, and so do all before it.
        let named = match self.words() {
            Some(words) => words.tail.place().active,
            None => self.segments.list()?.last().copied().unwrap_or(0),
        };
        let mut bases = self.segments.list()?;
        bases.retain(|&base| base <= named);
        self.segments.set_bases(&bases);
        Ok(bases)
    }

    /// The same for a process that is alone under the gate, so that no segment gets its name meanwhile:
    /// returns all bases, whatever the words say.
    pub(super) fn refresh_bases_alone(&self) -> Result<Vec<u64>> {
        let bases = self.segments.list()?;
        self.segments.set_bases(&bases);
        Ok(bases)
    }

    /// Reads the directory again. Whether `offset` is now in another segment, or its segment has another end,
    /// than `seen`.
    pub(crate) fn is_elsewhere(
        &self,
        offset: u64,
        active: u64,
        seen: (u64, Option<u64>),
    ) -> Result<bool> {
        self.refresh_bases()?;
        Ok(self.around(offset, active).is_ok_and(|around| around != seen))
    }

    /// Returns the base of the segment that holds `offset`, and the next base if there is one.
    pub(crate) fn around(&self, offset: u64, active: u64) -> Result<(u64, Option<u64>)> {
        if offset >= active {
            return Ok((active, None));
        }
        let found = match self.segments.around(offset) {
            Some(found) => Some(found),
            None => {
                let bases = self.refresh_bases()?;
                around(&bases[..bases.partition_point(|&base| base <= active)], offset)
            }
        };
        match found {
            Some((base, next)) => Ok((base, Some(next))),
            None => Err(self.no_segment(offset)),
        }
    }

    /// Returns the base of the first segment file that starts after `offset`, up to the one that was active
    /// when `active` was read.
    pub(crate) fn base_behind(&self, offset: u64, active: u64) -> Result<Option<u64>> {
        let mut bases = self.refresh_bases()?.into_iter();
        Ok(bases.find(|&base| base > offset).filter(|&base| base <= active))
    }

    fn no_segment(&self, offset: u64) -> Error {
        if let Some(displaced) = self.location.displaced() {
            return displaced;
        }
        match self.first_offset() {
            Ok(first) if first > offset => Error::Trimmed { wanted: offset, first },
            _ => Error::Corrupt {
                path: self.dir.clone(),
                position: 0,
                offset: Some(offset),
                what: "the segment file that holds this offset is missing".into(),
            },
        }
    }

    /// Returns a walk at the frame of `offset`, or at void frames before it, for a reader, and the base of the
    /// next segment if there is one. `offset` may be the end.
    pub(crate) fn walk_at(&self, offset: u64, frontier: &Frontier) -> Result<(Walk, Option<u64>)> {
        let first = self.first_offset()?;
        if offset < first {
            return Err(Error::Trimmed { wanted: offset, first });
        }
        let seen = self.around(offset, frontier.active)?;
        let (base, next) = seen;
        let needed = if next.is_none() { frontier.position } else { 0 };
        let segment = match self.segment_reaching(base, needed) {
            Err(Error::Corrupt { .. }) if self.is_elsewhere(offset, frontier.active, seen)? => {
                return self.walk_at(offset, frontier)
            }
            segment => segment?,
        };
        let hot = next.is_none() && matches!(self.access, Access::Member(_));
        if hot {
            segment.map()?;
        }
        let entry = self.entry_before(&segment, next, frontier, offset)?;
        Ok((Walk::new(segment, entry.position, hot).holding_all(), next))
    }

    /// Returns the place of a frame in a segment before which all frames have offsets below `offset`.
    pub(super) fn entry_before(
        &self,
        segment: &Arc<Segment>,
        next: Option<u64>,
        frontier: &Frontier,
        offset: u64,
    ) -> Result<Entry> {
        if offset <= segment.base() {
            return Ok(Index::start(segment));
        }
        self.with_index(segment, next, frontier, |index| index.before_offset(offset))
    }

    /// Calls `look` with the index of a segment: the stored one, or one that is built and stored now.
    pub(super) fn with_index<T>(
        &self,
        segment: &Arc<Segment>,
        next: Option<u64>,
        frontier: &Frontier,
        look: impl FnOnce(&Index) -> T,
    ) -> Result<T> {
        let Some(end) = next else {
            let is_member = matches!(self.access, Access::Member(_));
            return self.segments.with_active_index(segment, |index| {
                index.extend(segment, None, frontier.position, is_member)?;
                Ok(look(index))
            });
        };
        if let Some(index) = Index::load(&*self.files, &self.dir, segment, end) {
            return Ok(look(&index));
        }
        let index = self.build_index(segment, end)?;
        Ok(look(&index))
    }

    /// Builds the index of a sealed segment, and stores it if this process may write.
    pub(super) fn build_index(&self, segment: &Arc<Segment>, end: u64) -> Result<Index> {
        let mut index = Index::new(segment);
        index.extend(segment, Some(end), segment.len(), false)?;
        if matches!(self.access, Access::Member(_)) {
            self.location.check()?;
            index.store(&*self.files, &self.dir, segment, end)?;
        }
        Ok(index)
    }
}
