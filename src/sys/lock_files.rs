//! The descriptors of this process's lock files, for a forked child to close.
//!
//! The child's handler interrupts the parent's threads at any instant, and may neither allocate nor wait. So
//! the table grows by chunks that never move, and a place is taken and freed by one compare-and-swap.

use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::{iter, ptr};

/// Places of the first chunk; each later one has twice as many as the one before.
const FIRST_LEN: u32 = 1 << 10;
/// With this many chunks there are more places than a process can have descriptors.
const CHUNK_COUNT: usize = 21;
const NO_FILE: i32 = -1;
const NO_PLACE: u32 = u32::MAX;

struct Place {
    fd: AtomicI32,
    /// While the place is free: the next free place.
    next: AtomicU32,
}

static CHUNKS: [AtomicPtr<Place>; CHUNK_COUNT] =
    [const { AtomicPtr::new(ptr::null_mut()) }; CHUNK_COUNT];

/// Places that were ever taken. Each of them has its chunk.
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// The first free place; the upper half counts its changes, so that a compare-and-swap fails if the same
/// place was taken and freed meanwhile.
static FREE: AtomicU64 = AtomicU64::new(NO_PLACE as u64);

/// Returns the chunk of a place, and its index there.
fn chunk_of(number: u32) -> (usize, usize) {
    let chunk = (number / FIRST_LEN + 1).ilog2();
    (chunk as usize, (number - FIRST_LEN * ((1 << chunk) - 1)) as usize)
}

/// Returns a place that was taken.
fn place(number: u32) -> &'static Place {
    let (chunk, index) = chunk_of(number);
    let first = CHUNKS[chunk].load(Ordering::Acquire);
    assert!(!first.is_null(), "place {number} was never taken");
    // SAFETY: a chunk that is there has `FIRST_LEN << chunk` places, more than any index of `chunk_of`, and
    // is never freed.
    unsafe { &*first.add(index) }
}

fn make_chunk(chunk: usize) {
    if !CHUNKS[chunk].load(Ordering::Acquire).is_null() {
        return;
    }
    let empty = || Place { fd: AtomicI32::new(NO_FILE), next: AtomicU32::new(NO_PLACE) };
    let made: Box<[Place]> = iter::repeat_with(empty).take((FIRST_LEN as usize) << chunk).collect();
    let len = made.len();
    let made = Box::into_raw(made).cast::<Place>();
    // Release: pairs with the Acquire in `place`.
    let stored =
        CHUNKS[chunk].compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire);
    if stored.is_err() {
        // SAFETY: made above with this length; another thread's was stored, so nothing else has it.
        drop(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(made, len)) });
    }
}

fn take_free() -> Option<u32> {
    let mut head = FREE.load(Ordering::Acquire);
    while head as u32 != NO_PLACE {
        let next = place(head as u32).next.load(Ordering::Acquire);
        match FREE.compare_exchange(head, changed(head, next), Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => return Some(head as u32),
            Err(now) => head = now,
        }
    }
    None
}

fn changed(head: u64, first: u32) -> u64 {
    (head >> 32).wrapping_add(1) << 32 | u64::from(first)
}

fn take_new() -> u32 {
    let mut number = TAKEN.load(Ordering::Acquire);
    loop {
        make_chunk(chunk_of(number).0);
        match TAKEN.compare_exchange(number, number + 1, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return number,
            Err(now) => number = now,
        }
    }
}

/// Registers a descriptor to be closed in forked children; returns its place.
pub(super) fn add(fd: i32) -> u32 {
    let number = take_free().unwrap_or_else(take_new);
    place(number).fd.store(fd, Ordering::Release);
    number
}

/// Frees a place, before its descriptor is closed.
pub(super) fn remove(number: u32) {
    let place = place(number);
    place.fd.store(NO_FILE, Ordering::Release);
    let mut head = FREE.load(Ordering::Acquire);
    loop {
        place.next.store(head as u32, Ordering::Release);
        let new = changed(head, number);
        match FREE.compare_exchange(head, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return,
            Err(now) => head = now,
        }
    }
}

/// In a child, whose only thread this is: closes all of them, and starts with an empty table.
/// Async-signal-safe.
pub(super) fn close_all() {
    for number in 0..TAKEN.load(Ordering::Acquire) {
        let fd = place(number).fd.swap(NO_FILE, Ordering::AcqRel);
        if fd != NO_FILE {
            // SAFETY: the descriptor is open: its owner gives the place back before it closes it, and does
            // not close it again in a child.
            unsafe { libc::close(fd) };
        }
    }
    // The parent's handles never free their places in a child.
    TAKEN.store(0, Ordering::Release);
    FREE.store(u64::from(NO_PLACE), Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_an_index_of_its_own_in_a_chunk_that_is_long_enough() {
        let mut expected = (0, 0);
        for number in 0..FIRST_LEN * 70 {
            assert_eq!(chunk_of(number), expected, "place {number}");
            expected.1 += 1;
            if expected.1 == (FIRST_LEN as usize) << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
        let (chunk, index) = chunk_of(i32::MAX as u32 - FIRST_LEN);
        assert!(chunk < CHUNK_COUNT && index < (FIRST_LEN as usize) << chunk);
    }
}
