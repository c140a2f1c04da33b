//! Waking the threads that wait for a word to move, at no cost when there are none.
//!
//! Bit 0 of the waiter word says that a waiter sleeps, or is about to; the rest counts wakes. A waiter sets
//! the bit, checks its condition once more, and sleeps on the value with the bit. A waker moves its word,
//! passes a full barrier, and checks the bit: one of the two sees the other. It is a bit and not a count
//! because a killed waiter would leave a count that stays too high forever.

use std::time::Duration;

use crate::sys::atomic::{fence, AtomicU32, Ordering};
use crate::sys::futex;

/// Sleeps until woken, for at most `timeout` or 100 ms; does not sleep if `is_true` already holds. The caller
/// checks its condition again in any case.
pub(crate) fn sleep(word: &AtomicU32, timeout: Duration, is_true: impl FnOnce() -> bool) {
    // SeqCst, with the fence: pairs with the barrier in `wake`.
    let expected = word.fetch_or(1, Ordering::SeqCst) | 1;
    fence(Ordering::SeqCst);
    if !is_true() {
        futex::wait(word, expected, timeout);
    }
}

/// Wakes all sleepers. The caller has moved its word and passed a full barrier.
#[inline]
pub(crate) fn wake(word: &AtomicU32) {
    let seen = word.load(Ordering::SeqCst);
    if seen & 1 != 0 {
        wake_slowly(word, seen);
    }
}

/// Wakes all sleepers, whether or not the caller passed a barrier.
pub(crate) fn wake_after_fence(word: &AtomicU32) {
    fence(Ordering::SeqCst);
    wake(word);
}

#[cold]
fn wake_slowly(word: &AtomicU32, seen: u32) {
    // Adding 1 clears the bit and counts. If the exchange fails, another process was first: a waker whose
    // wake comes later than our store, or a waiter whose second check does.
    if word
        .compare_exchange(seen, seen.wrapping_add(1), Ordering::SeqCst, Ordering::Relaxed)
        .is_ok()
    {
        futex::wake(word, i32::MAX);
    }
}
