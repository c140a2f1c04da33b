//! Sleeping on a word of shared memory until another process changes it.

use std::time::Duration;

use super::atomic::AtomicU32;

/// No wait in this library is longer: every waiter checks its condition again, and whether the processes it
/// depends on are alive, at least this often.
pub(crate) const MAX_WAIT: Duration = Duration::from_millis(100);

/// Sleeps while `word` holds `expected`, until woken, for at most `timeout` or [`MAX_WAIT`]. May return
/// without a reason.
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

/// The kernel's part, for the model checker: the comparison and falling asleep are one step, and no sleeper
/// wakes by itself, so that a lost wake-up is a deadlock that loom reports.
#[cfg(loom)]
mod model {
    use loom::sync::{Condvar, Mutex};

    loom::lazy_static! {
        /// Whether the longest sleep has ended.
        static ref BUCKET: Mutex<bool> = Mutex::new(false);
        static ref SLEEPERS: Condvar = Condvar::new();
    }

    pub(crate) fn wait(
        word: &loom::sync::atomic::AtomicU32,
        expected: u32,
        _timeout: std::time::Duration,
    ) {
        let bucket = BUCKET.lock().expect("no panic under it");
        if !*bucket && word.load(loom::sync::atomic::Ordering::SeqCst) == expected {
            drop(SLEEPERS.wait(bucket).expect("no panic under it"));
        }
    }

    pub(crate) fn wake(_word: &loom::sync::atomic::AtomicU32, count: i32) {
        let _bucket = BUCKET.lock().expect("no panic under it");
        match count {
            1 => SLEEPERS.notify_one(),
            _ => SLEEPERS.notify_all(),
        }
    }

    /// From now on no sleep lasts: as if the longest sleep had ended for every sleeper, including those that
    /// a dead process would have woken.
    pub(crate) fn time_out() {
        *BUCKET.lock().expect("no panic under it") = true;
        SLEEPERS.notify_all();
    }
}
#[cfg(loom)]
pub(crate) use model::{time_out, wait, wake};
