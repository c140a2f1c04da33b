//! The append lock: a word of shared memory. The kernel decides whether its owner is alive.
//!
//! The word holds the owner's member slot and generation, and a bit that says that a waiter sleeps. A waiter
//! spins, then asks whether the owner is alive, then sleeps for a bounded time. It waits until its deadline,
//! and takes the lock only from a dead owner: it waits for a stopped one.

use std::time::{Duration, Instant};

use crate::sys::atomic::{AtomicU32, Ordering};
use crate::sys::futex;

/// A member slot with its generation, as a lock word holds it. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner(u32);

const WAITERS: u32 = 1 << 31;
const SLOT_BITS: u32 = 10;
const GENERATION_MASK: u32 = (1 << 21) - 1;

impl Owner {
    /// Slots count from 0; generations wrap at 2^21, which is harmless, because a slot is taken only when no
    /// word names it.
    pub(crate) fn new(slot: usize, generation: u32) -> Owner {
        debug_assert!(slot < super::MAX_MEMBERS);
        Owner((generation & GENERATION_MASK) << SLOT_BITS | (slot as u32 + 1))
    }

    /// Returns the owner that a lock word names.
    pub(crate) fn of_word(word: u32) -> Option<Owner> {
        let owner = word & !WAITERS;
        (owner & ((1 << SLOT_BITS) - 1) != 0).then_some(Owner(owner))
    }

    pub(crate) fn slot(self) -> usize {
        ((self.0 & ((1 << SLOT_BITS) - 1)) - 1) as usize
    }

    pub(crate) fn generation(self) -> u32 {
        self.0 >> SLOT_BITS & GENERATION_MASK
    }

    pub(crate) fn word(self) -> u32 {
        self.0
    }

    /// Returns whether this is the value of the slot's generation counter for this owner.
    pub(crate) fn is_generation(self, generation: u32) -> bool {
        generation & GENERATION_MASK == self.generation()
    }
}

/// Decides which members are alive.
pub(crate) trait Liveness {
    /// Returns whether `owner` can still store. An error of the probe counts as alive: the lock is taken from
    /// an owner only if the kernel says that the owner is gone.
    fn is_alive(&self, owner: Owner) -> bool;
}

/// How the lock was acquired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acquired {
    /// It had no owner.
    Free,
    /// From a dead owner: its intent must be settled first.
    Inherited,
}

/// How often a waiter checks the word before it asks the kernel. A model has no time to save.
const LOOKS: u32 = if cfg!(loom) { 1 } else { 8 };
/// Pauses before the first check; they double with each. A waiter that checked all the time would keep taking
/// the owner's cache line away: the longer it waits, the more the owner gets done before it hands over.
const FIRST_PAUSES: u32 = if cfg!(loom) { 1 } else { 4 };
/// The first sleep; later ones double, up to [`futex::MAX_WAIT`].
const FIRST_SLEEP: Duration = Duration::from_millis(1);

/// Takes the lock for `me`. Returns `None` if `deadline` passes first.
#[inline]
pub(crate) fn acquire(
    word: &AtomicU32,
    me: Owner,
    liveness: &dyn Liveness,
    deadline: Option<Instant>,
) -> Option<Acquired> {
    // Acquire: pairs with the Release of `release`, so that all stores of the last owner are seen.
    if word.compare_exchange(0, me.word(), Ordering::Acquire, Ordering::Relaxed).is_ok() {
        return Some(Acquired::Free);
    }
    acquire_slowly(word, me, liveness, deadline)
}

#[cold]
fn acquire_slowly(
    word: &AtomicU32,
    me: Owner,
    liveness: &dyn Liveness,
    deadline: Option<Instant>,
) -> Option<Acquired> {
    for look in 0..LOOKS {
        for _ in 0..FIRST_PAUSES << look {
            std::hint::spin_loop();
        }
        if word.load(Ordering::Relaxed) == 0
            && word.compare_exchange(0, me.word(), Ordering::Acquire, Ordering::Relaxed).is_ok()
        {
            return Some(Acquired::Free);
        }
    }
    let mut sleep = FIRST_SLEEP;
    loop {
        let seen = word.load(Ordering::Relaxed);
        let Some(owner) = Owner::of_word(seen) else {
            // Others may sleep: the bit is kept so that the release wakes one of them.
            let mine = me.word() | WAITERS;
            if word.compare_exchange(seen, mine, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Some(Acquired::Free);
            }
            continue;
        };
        if !liveness.is_alive(owner) {
            let mine = me.word() | WAITERS;
            if word.compare_exchange(seen, mine, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Some(Acquired::Inherited);
            }
            continue;
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return None;
        }
        let waiting = seen | WAITERS;
        if seen != waiting
            && word.compare_exchange(seen, waiting, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            continue;
        }
        futex::wait(word, waiting, sleep);
        sleep = (sleep * 2).min(futex::MAX_WAIT);
    }
}

/// Releases the lock and wakes a sleeper, if there is one. Acts as a full barrier between the stores made
/// under the lock and the loads after it.
#[inline]
pub(crate) fn release(word: &AtomicU32) {
    if word.swap(0, Ordering::AcqRel) & WAITERS != 0 {
        futex::wake(word, 1);
    }
    barrier_after_rmw();
}

/// Orders a store before a locked instruction against a load after it. On x86-64 the instruction itself does
/// that; other processors need a fence.
#[inline]
pub(crate) fn barrier_after_rmw() {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    crate::sys::atomic::fence(Ordering::SeqCst);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Dead;
    impl Liveness for Dead {
        fn is_alive(&self, _: Owner) -> bool {
            false
        }
    }
    struct Alive;
    impl Liveness for Alive {
        fn is_alive(&self, _: Owner) -> bool {
            true
        }
    }

    #[test]
    fn every_slot_and_generation_makes_a_word_that_names_it() {
        for slot in [0, 1, 511, super::super::MAX_MEMBERS - 1] {
            for generation in [0, 1, GENERATION_MASK, GENERATION_MASK + 1] {
                let owner = Owner::new(slot, generation);
                assert_ne!(owner.word(), 0);
                let found = Owner::of_word(owner.word() | WAITERS).unwrap();
                assert_eq!((found.slot(), found), (slot, owner));
                assert!(found.is_generation(generation));
                assert!(!found.is_generation(generation + 1));
            }
        }
    }

    #[test]
    fn a_dead_owner_is_followed_and_a_living_one_never() {
        let word = AtomicU32::new(Owner::new(3, 1).word());
        let me = Owner::new(4, 9);
        let deadline = Some(Instant::now());
        assert_eq!(acquire(&word, me, &Alive, deadline), None);
        assert_eq!(acquire(&word, me, &Dead, deadline), Some(Acquired::Inherited));
        assert_eq!(Owner::of_word(word.load(Ordering::Relaxed)), Some(me));
        release(&word);
        assert_eq!(acquire(&word, me, &Alive, deadline), Some(Acquired::Free));
    }

    #[test]
    fn a_hundred_thousand_increments_under_the_lock_are_all_counted() {
        let word = AtomicU32::new(0);
        let count = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for slot in 0..4 {
                let (word, count) = (&word, &count);
                scope.spawn(move || {
                    for _ in 0..25_000 {
                        acquire(word, Owner::new(slot, 1), &Alive, None).unwrap();
                        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                        release(word);
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 100_000);
    }
}
