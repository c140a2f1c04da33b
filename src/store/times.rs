//! The times of records: where they are found, and what they mean when a clock was ahead.

use std::sync::Arc;

use super::locate::segment_if_kept;
use super::Store;
use crate::error::{Error, IoResultExt, Result};
use crate::format::frame::{self, Fixed};
use crate::format::segment as layout;
use crate::segment::{Frames, Seen, Segment};
use crate::sys::clock;

/// Returns the newest time, not after `now`, of the records before a segment: their own, or else when the
/// segment was begun. `None` if the clocks of both were ahead.
pub(super) fn newest_before(segment: &Segment, now: u64) -> Option<u64> {
    let own = Some(segment.header.max_timestamp).filter(|&time| time <= now);
    own.or(segment.begun_at.filter(|&time| time <= now))
}

/// Returns the newest time, up to `now`, of the records of a sealed segment; or `left`, when it was sealed,
/// if the times of the last records are after `now`.
fn newest_in(
    segment: &Arc<Segment>,
    stop: u64,
    now: u64,
    left: Option<u64>,
) -> Result<Option<u64>> {
    let mut frames = Frames::of(segment).before(Some(stop));
    let mut newest = None;
    let mut ends_ahead = true;
    loop {
        match frames.step()? {
            Seen::Record(fixed) => {
                ends_ahead = fixed.timestamp > now;
                newest = newest.max(Some(fixed.timestamp).filter(|_| !ends_ahead));
            }
            Seen::Covers | Seen::Lost(..) => {}
            Seen::Bad(_) | Seen::End => break,
        }
    }
    Ok(if ends_ahead { left } else { newest })
}

/// Returns the time of the first record, which must exist, or else when the segment was begun; `None` if both
/// are after `now`.
pub(super) fn oldest_of(segment: &Segment, now: u64) -> Result<Option<u64>> {
    let mut fixed = [0; frame::FIXED_LEN];
    let read = segment.file().read_at(&mut fixed, layout::FIRST_FRAME_AT);
    read.at("reading", &segment.path)?;
    let room = (segment.len() - layout::FIRST_FRAME_AT) as usize;
    let first = Fixed::decode(&fixed, room).ok().map(|fixed| fixed.timestamp);
    Ok(first.filter(|&time| time <= now).or(segment.begun_at.filter(|&time| time <= now)))
}

/// Returns the newest time of the records of the segment at `base`, which ends where `next` begins;
/// `None` if all that is known about it is after `now`, or it was dropped.
pub(super) fn newest_of(topic: &Store, base: u64, next: &Segment, now: u64) -> Result<Option<u64>> {
    let most = next.header.max_timestamp;
    if most <= now {
        return Ok(Some(most));
    }
    let left = newest_before(next, now);
    let segment = segment_if_kept(topic, base)?;
    segment.map_or(Ok(None), |segment| newest_in(&segment, next.base(), now, left))
}

impl Store {
    /// Returns the offset of the first record with a timestamp of at least `timestamp`; the high watermark if
    /// there is none. A timestamp after now comes from a clock that was ahead: its record counts as appended
    /// together with the records after it, unless the caller asks for such a time.
    pub(crate) fn offset_at_time(&self, timestamp: u64) -> Result<u64> {
        loop {
            let first = self.first_offset()?;
            match search_time(self, timestamp, first) {
                // Dropped during the search.
                Err(Error::Trimmed { .. }) if self.first_offset()? > first => {}
                found => return Ok(found?.max(self.first_offset()?)),
            }
        }
    }

    /// Returns the newest time of all records, in nanoseconds since the Unix epoch; 0 if there are none.
    pub(crate) fn newest_time(&self) -> Result<u64> {
        let frontier = self.frontier()?;
        let segment = self.segment_reaching(frontier.active, frontier.position)?;
        self.indexes.with(self, &segment, None, &frontier, |index| index.reached.max_timestamp)
    }
}

fn search_time(topic: &Store, timestamp: u64, first: u64) -> Result<u64> {
    let frontier = topic.frontier()?;
    let mut bases = topic.segments.bases();
    if bases.last() != Some(&frontier.active) {
        bases = topic.segments.refresh(topic.words())?;
    }
    // Another process may have trimmed or rolled since the directory was read.
    bases.retain(|base| (first..=frontier.active).contains(base));
    let now = clock::wall();
    let sane_until = if timestamp <= now { now } else { u64::MAX };
    // A header states the largest timestamp before its segment. They rise: a binary search.
    let (mut low, mut high) = (0, bases.len());
    while low < high {
        let middle = (low + high) / 2;
        if newest_before_first(topic, &bases[middle..], sane_until)? < timestamp {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let Some(&base) = bases.get(low.saturating_sub(1)) else { return Ok(first) };
    let next = bases.get(low.max(1)).copied();
    let segment = topic.segment(base)?;
    let entry = topic
        .indexes
        .with(topic, &segment, next, &frontier, |index| index.before_time(timestamp))?;
    let limit = if next.is_some() { u64::MAX } else { frontier.position };
    let frames = Frames::from(&segment, entry.position, entry.offset);
    let mut frames = frames.before(next).up_to(limit);
    // The first of the records, directly before this one, whose times are ahead.
    let mut ahead = None;
    loop {
        let fixed = match frames.step()? {
            Seen::Record(fixed) => fixed,
            Seen::Covers | Seen::Lost(..) => continue,
            Seen::Bad(_) | Seen::End => break,
        };
        if fixed.timestamp > sane_until {
            ahead = ahead.or(Some(fixed.offset));
        } else if fixed.timestamp < timestamp {
            ahead = None;
        } else {
            return Ok(ahead.unwrap_or(fixed.offset).min(frontier.high_watermark));
        }
    }
    let expected = frames.next;
    if expected < next.unwrap_or(frontier.end) {
        // Damage: a reader that reads there gets the error.
        return Ok(ahead.unwrap_or(expected).min(frontier.high_watermark));
    }
    Ok(ahead.or(next).unwrap_or(frontier.high_watermark).min(frontier.high_watermark))
}

/// Returns the newest time, up to `now`, of the records before the first of these segments; if that is
/// unknown, before the first one for which it is known.
fn newest_before_first(topic: &Store, bases: &[u64], now: u64) -> Result<u64> {
    for &base in bases {
        if let Some(time) = newest_before(&*topic.segment(base)?, now) {
            return Ok(time);
        }
    }
    Ok(now)
}
