//! Sleeping on a word of shared memory until another process changes it.

use std::time::Duration;

use super::atomic::AtomicU32;

/// No wait in this library is longer: every waiter re-checks its condition, and the life of those it
/// depends on, at least this often.
pub(crate) const MAX_WAIT: Duration = Duration::from_millis(100);

/// Sleeps while `word` holds `expected`, until woken, for at most `timeout` or [`MAX_WAIT`]. May
/// return for no reason.
#[cfg(not(loom))]
pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Duration) {
    let timeout = timeout.min(MAX_WAIT);
    let relative = libc::timespec { tv_sec: 0, tv_nsec: timeout.subsec_nanos().into() };
    let relative = if timeout >= Duration::from_secs(1) {
        libc::timespec { tv_sec: 1, tv_nsec: 0 }
    } else {
        relative
    };
    // SAFETY: the word is live for the call, aligned, and shared between processes (no PRIVATE
    // flag); the kernel only compares it. Every result (woken, changed, timed out, interrupted)
    // leads to the caller's re-check.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            &relative as *const libc::timespec,
        );
    }
}

/// Wakes up to `count` sleepers.
#[cfg(not(loom))]
pub(crate) fn wake(word: &AtomicU32, count: i32) {
    // SAFETY: the address of a live word; waking has no other effect on memory.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count);
    }
}

/// The model checker explores the re-check instead of the sleep.
#[cfg(loom)]
pub(crate) fn wait(word: &AtomicU32, expected: u32, _timeout: Duration) {
    while word.load(loom::sync::atomic::Ordering::SeqCst) == expected {
        loom::thread::yield_now();
    }
}

/// A loom sleeper polls the word.
#[cfg(loom)]
pub(crate) fn wake(_word: &AtomicU32, _count: i32) {}
