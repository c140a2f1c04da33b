//! The age of segments, as far as it can be known while wall clocks are set or are wrong.

use std::time::{Duration, SystemTime};

use crate::sys::clock;

/// A wall clock counts as set if its difference from the boot clock changes by this or more, in nanoseconds.
const SET: u64 = 60_000_000_000;
/// A wall clock that was set is trusted again after this (nanoseconds), or after the age that it decides.
const TRIAL: u64 = 3_600_000_000_000;

/// Properties of the clocks that stamped a topic's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Clocks {
    /// The newest timestamp of all records, including dropped ones; `None` if there are none.
    pub newest: Option<SystemTime>,
    /// How far `newest` is after now. More than a tick of the clock means that a process appended while its
    /// clock was ahead, or that this process's clock is slow.
    pub ahead: Duration,
    /// This process drops nothing for its age at present, because the wall clock was set while the topic was
    /// open.
    pub is_age_paused: bool,
}

impl Clocks {
    pub(crate) fn of(newest: u64, is_age_paused: bool) -> Clocks {
        let ahead = Duration::from_nanos(newest.saturating_sub(clock::wall()));
        let newest = (newest != 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_nanos(newest));
        Clocks { newest, ahead, is_age_paused }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Ages {
    /// Wall clock minus boot clock.
    difference: u64,
    /// When the wall clock was found to be set, by the boot clock; `None` if it was not.
    set_at: Option<u64>,
    /// The active segment as it was seen, and when, by the boot clock.
    seen: Option<(u64, u64)>,
    /// Segments that end at or below this base were sealed longer ago than the age.
    known_old: u64,
}

impl Default for Ages {
    /// The state of a topic that is opened now.
    fn default() -> Ages {
        Ages { difference: clock_difference(), set_at: None, seen: None, known_old: 0 }
    }
}

impl Ages {
    /// Checks the clocks. Returns `None` if nothing may be dropped for its age, because the wall clock was
    /// set recently; else the base up to which segments are older than `age` by the boot clock, whatever
    /// their records say. `active` is the base of the active segment.
    pub(super) fn look(&mut self, age: Duration, active: u64) -> Option<u64> {
        let (now, age) = (clock::boottime(), clock::nanos(age));
        let difference = clock_difference();
        if difference.abs_diff(self.difference) >= SET {
            (self.difference, self.set_at) = (difference, Some(now));
        }
        match self.seen {
            Some((_, at)) if now.saturating_sub(at) <= age => {}
            seen => {
                self.known_old = seen.map_or(self.known_old, |(base, _)| base);
                self.seen = Some((active, now));
            }
        }
        if self.set_at.is_some_and(|at| now.saturating_sub(at) < TRIAL.min(age)) {
            return None;
        }
        self.set_at = None;
        Some(self.known_old)
    }

    /// Whether nothing is dropped for its age now, as of the last check.
    pub(super) fn is_paused(&self) -> bool {
        self.set_at.is_some()
    }
}

/// Returns wall clock minus boot clock, in nanoseconds.
fn clock_difference() -> u64 {
    clock::wall().wrapping_sub(clock::boottime())
}
