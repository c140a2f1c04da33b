//! What can be said of the age of segments while wall clocks are set, and were wrong.

use std::time::{Duration, SystemTime};

use crate::sys::clock;

/// Wall clock and boot clock agree if they differ by less than this from what they did.
const SET: u64 = 60_000_000_000;
/// A wall clock that was set is believed after it was right for this long, or for the age that it decides.
const TRIAL: u64 = 3_600_000_000_000;

/// What is known of the clocks by which a topic's records were stamped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Clocks {
    /// The newest time of all records, those that were dropped included; `None`: there are none.
    pub newest: Option<SystemTime>,
    /// How far that is after this moment. More than a tick of the clock says that a process appended by
    /// a clock that was ahead, or that this process's clock is behind.
    pub ahead: Duration,
    /// Nothing goes for its age in this process at present, because the wall clock was set while the
    /// topic was open.
    pub is_age_paused: bool,
}

impl Clocks {
    pub(crate) fn of(newest: u64, is_age_paused: bool) -> Clocks {
        let ahead = Duration::from_nanos(newest.saturating_sub(clock::wall()));
        let newest = (newest != 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_nanos(newest));
        Clocks { newest, ahead, is_age_paused }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ages {
    /// Wall clock less boot clock.
    difference: u64,
    /// By the boot clock, when the wall clock was found set; `None`: it was not.
    set_at: Option<u64>,
    /// The active segment as it was seen, and when by the boot clock.
    seen: Option<(u64, u64)>,
    /// Segments that end at or below it were left longer ago than the age.
    known_old: u64,
}

impl Default for Ages {
    /// Of a topic that is opened now.
    fn default() -> Ages {
        Ages { difference: clock_difference(), set_at: None, seen: None, known_old: 0 }
    }
}

impl Ages {
    /// Looks at the clocks. `None`: nothing goes for its age, because somebody set the wall clock a
    /// while ago. Else the base up to which segments are older than `age` by the boot clock, whatever
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

    /// Whether nothing goes for its age now, as of the last look.
    pub(super) fn is_paused(&self) -> bool {
        self.set_at.is_some()
    }
}

/// Wall clock less boot clock, in nanoseconds.
fn clock_difference() -> u64 {
    clock::wall().wrapping_sub(clock::boottime())
}
