//! Clocks. Wall time only goes into records; waiting and timers use clocks that do not jump.

use std::time::Duration;

fn read(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a live timespec, and the clocks named below exist since Linux 2.6.39.
    unsafe { libc::clock_gettime(clock, &mut now) };
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

/// Wall clock, nanoseconds since the Unix epoch, as of the last timer tick (1 to 10 ms).
pub(crate) fn wall_coarse() -> u64 {
    read(libc::CLOCK_REALTIME_COARSE)
}

/// Wall clock, nanoseconds since the Unix epoch.
pub(crate) fn wall() -> u64 {
    read(libc::CLOCK_REALTIME)
}

/// Nanoseconds since the boot, as of the last timer tick; the same for all processes.
pub(crate) fn monotonic_coarse() -> u64 {
    read(libc::CLOCK_MONOTONIC_COARSE)
}

/// Nanoseconds since the boot, time asleep included; the same for all processes.
pub(crate) fn boottime() -> u64 {
    read(libc::CLOCK_BOOTTIME)
}

/// `duration` in nanoseconds, at most `u64::MAX`.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
