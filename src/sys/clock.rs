//! Clocks. Wall time only goes into records; waiting and timers use clocks that do not jump.

use std::time::Duration;

fn read(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a live timespec, and the clocks named below exist since Linux 2.6.39.
    unsafe { libc::clock_gettime(clock, &mut now) };
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

/// Returns the wall clock in nanoseconds since the Unix epoch, as of the last timer tick (1 to 10 ms).
pub(crate) fn wall_coarse() -> u64 {
    shifted(read(libc::CLOCK_REALTIME_COARSE))
}

/// Returns the wall clock in nanoseconds since the Unix epoch.
pub(crate) fn wall() -> u64 {
    shifted(read(libc::CLOCK_REALTIME))
}

#[cfg(not(feature = "sim"))]
fn shifted(wall: u64) -> u64 {
    wall
}

#[cfg(feature = "sim")]
mod shift {
    use std::sync::atomic::{AtomicI64, Ordering};

    static NANOS: AtomicI64 = AtomicI64::new(0);

    /// Sets this process's wall clock ahead by `nanos` nanoseconds, or back, as an operator with the right to
    /// set the machine's clock would. The shift is from the true time, not from the last shift.
    #[doc(hidden)]
    pub fn shift_wall_clock(nanos: i64) {
        // A clock that is set orders no memory access.
        NANOS.store(nanos, Ordering::Relaxed);
    }

    pub(super) fn shifted(wall: u64) -> u64 {
        wall.saturating_add_signed(NANOS.load(Ordering::Relaxed))
    }
}

#[cfg(feature = "sim")]
pub use shift::shift_wall_clock;
#[cfg(feature = "sim")]
use shift::shifted;

/// Returns the nanoseconds since the boot, as of the last timer tick; the same for all processes.
pub(crate) fn monotonic_coarse() -> u64 {
    read(libc::CLOCK_MONOTONIC_COARSE)
}

/// Returns the nanoseconds since the boot, including suspended time; the same for all processes.
pub(crate) fn boottime() -> u64 {
    read(libc::CLOCK_BOOTTIME)
}

/// Returns `duration` in nanoseconds, at most `u64::MAX`.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
