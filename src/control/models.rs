//! The protocols over the shared words, in every interleaving that loom finds. Run with `RUSTFLAGS="--cfg
//! loom" cargo test --release --lib models`.
//!
//! A sleeper of these models wakes only if it is woken, so a lost wake-up is a deadlock here; in the library
//! it costs 100 ms. Two orders that loom cannot see are left to other tests: that of a dead process's stores
//! (a processor's memory keeps them all), and that between compiled instructions.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use std::time::Duration;

use super::lock::{acquire, release, Acquired, Liveness, Owner};
use super::waiters::{sleep, wake};
use super::{Place, Tail};
use crate::sys::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sys::futex;

/// Runs a model with at most `preemptions` forced switches between threads.
fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

fn owner(slot: usize) -> Owner {
    Owner::new(slot, 1)
}

/// The slot of the process that dies.
const MORTAL: usize = 9;

/// Reports one slot as dead, once it is.
struct Death(AtomicU32);

impl Liveness for Death {
    fn is_alive(&self, owner: Owner) -> bool {
        // Acquire: the kernel frees a dead process's lock after the last of its stores.
        owner.slot() != MORTAL || self.0.load(Ordering::Acquire) == 0
    }
}

/// A lock and the count that it guards: loom reports two threads in it at once.
struct Guarded {
    word: AtomicU32,
    count: UnsafeCell<u32>,
    death: Death,
}

// SAFETY: `count` is only reached under the lock; loom's cell panics if that is not so.
unsafe impl Sync for Guarded {}

impl Guarded {
    fn new(word: u32, dead: bool) -> Arc<Guarded> {
        let death = Death(AtomicU32::new(dead.into()));
        Arc::new(Guarded { word: AtomicU32::new(word), count: UnsafeCell::new(0), death })
    }

    fn acquire(&self, slot: usize) -> Acquired {
        acquire(&self.word, owner(slot), &self.death, None).expect("no deadline")
    }

    fn increment(&self) {
        // SAFETY: as above.
        self.count.with_mut(|count| unsafe { *count += 1 });
    }

    fn count(&self) -> u32 {
        // SAFETY: as above.
        self.count.with(|count| unsafe { *count })
    }
}

#[test]
fn two_takers_are_never_in_the_lock_at_once_and_nobody_sleeps_for_ever() {
    model(3, || {
        let lock = Guarded::new(0, false);
        let threads = [1, 2].map(|slot| {
            let lock = Arc::clone(&lock);
            thread::spawn(move || {
                assert_eq!(lock.acquire(slot), Acquired::Free);
                lock.increment();
                release(&lock.word);
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(lock.acquire(3), Acquired::Free);
        assert_eq!(lock.count(), 2);
    });
}

#[test]
fn three_takers_all_get_the_lock_though_a_release_wakes_one() {
    model(2, || {
        let lock = Guarded::new(0, false);
        let threads = [1, 2].map(|slot| {
            let lock = Arc::clone(&lock);
            thread::spawn(move || {
                lock.acquire(slot);
                lock.increment();
                release(&lock.word);
            })
        });
        lock.acquire(3);
        lock.increment();
        release(&lock.word);
        for thread in threads {
            thread.join().unwrap();
        }
        lock.acquire(3);
        assert_eq!(lock.count(), 3);
    });
}

#[test]
fn a_dead_owner_is_inherited_from_by_exactly_one_of_two_takers() {
    model(3, || {
        let lock = Guarded::new(owner(MORTAL).word(), true);
        let inherited = Arc::new(AtomicU32::new(0));
        let threads = [1, 2].map(|slot| {
            let (lock, inherited) = (Arc::clone(&lock), Arc::clone(&inherited));
            thread::spawn(move || {
                if lock.acquire(slot) == Acquired::Inherited {
                    inherited.fetch_add(1, Ordering::Relaxed);
                }
                lock.increment();
                release(&lock.word);
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(inherited.load(Ordering::Relaxed), 1);
        lock.acquire(3);
        assert_eq!(lock.count(), 2);
    });
}

#[test]
fn an_owner_that_dies_in_the_lock_is_followed_and_its_stores_are_seen() {
    model(2, || {
        let lock = Guarded::new(0, false);
        let mortal = {
            let lock = Arc::clone(&lock);
            thread::spawn(move || {
                lock.acquire(MORTAL);
                lock.increment();
                lock.death.0.store(1, Ordering::Release);
                futex::time_out();
            })
        };
        let taker = {
            let lock = Arc::clone(&lock);
            thread::spawn(move || {
                let acquired = lock.acquire(1);
                assert_eq!(acquired == Acquired::Inherited, lock.count() == 1);
                lock.increment();
                release(&lock.word);
            })
        };
        mortal.join().unwrap();
        taker.join().unwrap();
        // Whichever thread came second, one of them has to take the lock over from the dead owner.
        lock.acquire(2);
        assert_eq!(lock.count(), 2);
    });
}

#[test]
fn who_slept_on_a_dead_owner_is_woken_by_the_one_who_followed_it() {
    model(3, || {
        let lock = Guarded::new(owner(MORTAL).word(), false);
        let sleeper = {
            let lock = Arc::clone(&lock);
            thread::spawn(move || {
                lock.acquire(1);
                lock.increment();
                release(&lock.word);
            })
        };
        lock.death.0.store(1, Ordering::Release);
        lock.acquire(2);
        lock.increment();
        release(&lock.word);
        sleeper.join().unwrap();
        lock.acquire(3);
        assert_eq!(lock.count(), 2);
    });
}

/// A word that readers wait for, as `wait_beyond` and the append path use it.
struct Published {
    lock: AtomicU32,
    end: AtomicU64,
    waiters: AtomicU32,
}

impl Published {
    fn new() -> Arc<Published> {
        Arc::new(Published {
            lock: AtomicU32::new(0),
            end: AtomicU64::new(0),
            waiters: AtomicU32::new(0),
        })
    }

    fn publish(&self, slot: usize) {
        let death = Death(AtomicU32::new(0));
        acquire(&self.lock, owner(slot), &death, None).expect("no deadline");
        let end = self.end.load(Ordering::Relaxed);
        self.end.store(end + 1, Ordering::Release);
        release(&self.lock);
        // As in the append path: the release acted as the barrier.
        wake(&self.waiters);
    }

    fn wait_beyond(&self, seen: u64) {
        while self.end.load(Ordering::Acquire) <= seen {
            sleep(&self.waiters, Duration::MAX, || self.end.load(Ordering::Acquire) > seen);
        }
    }
}

#[test]
fn a_sleeper_is_woken_by_the_append_that_it_waits_for() {
    model(3, || {
        let published = Published::new();
        let reader = {
            let published = Arc::clone(&published);
            thread::spawn(move || published.wait_beyond(0))
        };
        published.publish(1);
        reader.join().unwrap();
    });
}

#[test]
fn two_sleepers_are_woken_by_one_append() {
    model(2, || {
        let published = Published::new();
        let readers = [(); 2].map(|()| {
            let published = Arc::clone(&published);
            thread::spawn(move || published.wait_beyond(0))
        });
        published.publish(1);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

#[test]
fn a_sleeper_is_woken_though_two_appends_race_to_wake_it() {
    model(2, || {
        let published = Published::new();
        let reader = {
            let published = Arc::clone(&published);
            thread::spawn(move || {
                published.wait_beyond(0);
                published.wait_beyond(1);
            })
        };
        let writer = {
            let published = Arc::clone(&published);
            thread::spawn(move || published.publish(1))
        };
        published.publish(2);
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn a_killed_sleepers_bit_costs_one_wake_and_hides_no_other_sleeper() {
    model(3, || {
        let published = Published::new();
        // The state left by a sleeper that is killed while it sleeps.
        published.waiters.store(1, Ordering::Relaxed);
        let reader = {
            let published = Arc::clone(&published);
            thread::spawn(move || published.wait_beyond(0))
        };
        published.publish(1);
        reader.join().unwrap();
        // The reader may have set the bit and found that it need not sleep: the next append clears it.
        published.publish(2);
        assert_eq!(published.waiters.load(Ordering::Relaxed) & 1, 0);
    });
}

/// The stores of the writer in the next two models, in order: base, position, end.
const APPENDS: [(u64, u64, u64); 4] = [(0, 100, 1), (1, 50, 2), (1, 80, 3), (3, 60, 4)];

fn write_appends(tail: &Tail) {
    let mut base = 0;
    for (active, position, end) in APPENDS {
        if active != base {
            tail.enter(active, 10);
            base = active;
        }
        tail.advance(position);
        // Release: as in the append path.
        tail.end.store(end, Ordering::Release);
    }
}

#[test]
fn a_reader_never_sees_a_base_with_the_position_of_another_segment() {
    model(3, || {
        let tail = Arc::new(Tail::new());
        let writer = {
            let tail = Arc::clone(&tail);
            thread::spawn(move || write_appends(&tail))
        };
        let mut last = 0;
        for _ in 0..2 {
            // Acquire: as in `frontier`.
            let end = tail.end.load(Ordering::Acquire);
            let Place { active, position } = tail.place();
            let fits = |&(base, at, _): &(u64, u64, u64)| (base, at) == (active, position);
            let entered = position == 10 && [1, 3].contains(&active);
            let empty = (active, position) == (0, 0);
            assert!(APPENDS.iter().any(fits) || entered || empty, "{active} with {position}");
            // At least as new as the end: every record below it lies before the place.
            if let Some(&(base, at, _)) = APPENDS.iter().find(|append| append.2 == end) {
                assert!((active, position) >= (base, at), "end {end}, place {active} {position}");
            }
            assert!(end >= last);
            last = end;
        }
        writer.join().unwrap();
        assert_eq!(tail.place(), Place { active: 3, position: 60 });
    });
}

#[test]
fn what_lies_below_the_end_is_seen_whole() {
    model(3, || {
        let frames: Arc<[AtomicU64; 4]> = Arc::new([(); 4].map(|()| AtomicU64::new(0)));
        let tail = Arc::new(Tail::new());
        let writer = {
            let (tail, frames) = (Arc::clone(&tail), Arc::clone(&frames));
            thread::spawn(move || {
                for end in 1..=2u64 {
                    let at = 2 * (end as usize - 1);
                    frames[at].store(end, Ordering::Relaxed);
                    frames[at + 1].store(10 * end, Ordering::Relaxed);
                    tail.advance(16 * end);
                    tail.end.store(end, Ordering::Release);
                }
            })
        };
        let end = tail.end.load(Ordering::Acquire);
        assert!(tail.place().position >= 16 * end);
        for offset in 0..end as usize {
            let frame = [0, 1].map(|word| frames[2 * offset + word].load(Ordering::Relaxed));
            assert_eq!(frame, [offset as u64 + 1, 10 * (offset as u64 + 1)]);
        }
        writer.join().unwrap();
    });
}
