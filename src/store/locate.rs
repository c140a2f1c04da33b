//! From an offset to a position, and how far readers may go.

use std::sync::Arc;

use super::access::living_control;
use super::recover::find_end;
use super::segments::around;
use super::{Access, Frontier, Store};
use crate::error::{Error, Result};
use crate::format::{segment as layout, Malformed};
use crate::segment::{Segment, Walk};
use crate::sys::atomic::Ordering;

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
        self.segments.get(base).map_err(|error| missing_file(self, base, error))
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

    /// Returns the first retained offset.
    pub(crate) fn first_offset(&self) -> Result<u64> {
        self.not_forked()?;
        match self.words() {
            Some(words) => Ok(words.tail.first.load(Ordering::Acquire)),
            None => Ok(self.segments.refresh(self.words())?.first().copied().unwrap_or(0)),
        }
    }

    /// Reads the directory again. Whether `offset` is now in another segment, or its segment has another end,
    /// than `seen`.
    pub(crate) fn has_moved(
        &self,
        offset: u64,
        active: u64,
        seen: (u64, Option<u64>),
    ) -> Result<bool> {
        self.segments.refresh(self.words())?;
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
                let bases = self.segments.refresh(self.words())?;
                around(&bases[..bases.partition_point(|&base| base <= active)], offset)
            }
        };
        match found {
            Some((base, next)) => Ok((base, Some(next))),
            None => Err(why_missing(self, offset, || Error::Corrupt {
                path: self.dir.clone(),
                position: 0,
                offset: Some(offset),
                what: "the segment file that holds this offset is missing".into(),
            })),
        }
    }

    /// Returns the base of the first segment file that starts after `offset`, up to the one that was active
    /// when `active` was read.
    pub(crate) fn next_base(&self, offset: u64, active: u64) -> Result<Option<u64>> {
        let mut bases = self.segments.refresh(self.words())?.into_iter();
        Ok(bases.find(|&base| base > offset).filter(|&base| base <= active))
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
            Err(Error::Corrupt { .. }) if self.has_moved(offset, frontier.active, seen)? => {
                return self.walk_at(offset, frontier)
            }
            segment => segment?,
        };
        let hot = next.is_none() && matches!(self.access, Access::Member(_));
        if hot {
            self.ahead.map(self, &segment)?;
            if self.writes_by_call(&segment) {
                segment.map_to_read()?;
            }
        }
        let entry = self.indexes.entry_before(self, &segment, next, frontier, offset)?;
        Ok((Walk::new(segment, entry.position, hot).holding_all(), next))
    }
}

/// Opens the segment that starts at `base` for this caller alone, to sync it beside other threads: the kernel
/// reports an error once to each open file description.
pub(super) fn segment_apart(topic: &Store, base: u64) -> Result<Arc<Segment>> {
    topic.segments.open_apart(base).map_err(|error| missing_file(topic, base, error))
}

/// Explains an error from opening the segment at `base`.
fn missing_file(topic: &Store, base: u64, error: Error) -> Error {
    if !error.is_file_not_found() {
        return error;
    }
    why_missing(topic, base, || match topic.segments.is_known(base) {
        true => Error::Corrupt {
            path: topic.dir.join(layout::file_name(base)),
            position: 0,
            offset: Some(base),
            what: "the segment file is missing".into(),
        },
        false => error,
    })
}

/// Returns why the segment of an offset is missing: the topic is gone, or the segment was dropped, or else
/// `damage`.
fn why_missing(topic: &Store, wanted: u64, damage: impl FnOnce() -> Error) -> Error {
    if let Some(displaced) = topic.location.displaced() {
        return displaced;
    }
    match topic.first_offset() {
        Ok(first) if first > wanted => Error::Trimmed { wanted, first },
        _ => damage(),
    }
}

/// Returns the segment at `base`; `None` if another thread or process has dropped it since the directory was
/// read: every roll trims in the background.
pub(super) fn segment_if_kept(topic: &Store, base: u64) -> Result<Option<Arc<Segment>>> {
    match topic.segment(base) {
        Err(Error::Trimmed { .. }) => Ok(None),
        other => other.map(Some),
    }
}
