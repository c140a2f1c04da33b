//! Durable appends: one thread beside one bare fdatasync each, many beside the simplest group commit.
#![allow(clippy::unwrap_used)]
mod support;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use deaddrop::{Durability, Record};
use parking_lot::Mutex;
use support::limit::Prewritten;
use support::{frame_len, payload, timed, Fresh, Pair, Run};

const SIZE: usize = 256;

fn main() {
    let mut run = Run::new();
    run.table_of_pairs("Durable appends of 256 B, beside the barest that the disk allows");
    let segment_len = run.choose(64 << 20, 1 << 20);
    let mut fresh = Fresh::new(run.path("log"), Durability::PowerLoss, segment_len);
    let record = Record::new(payload(SIZE));
    let frame = payload(frame_len(SIZE) as usize);
    let mut bare = Prewritten::new(&run.path("bare"), segment_len);
    run.pair(
        "durable",
        Pair { name: "1 thread".into(), bytes: 0, round: 200, figure: Some(0.8) },
        &mut |count| {
            fresh.run(count, frame_len(SIZE), |topic| {
                topic.append(&record).unwrap();
            })
        },
        &mut |count| bare.synced_writes(count, &frame),
    );
    let prototype = Prototype::new(bare);
    for threads in [16, 64] {
        // One iteration is one append of one thread.
        let pair = Pair {
            name: format!("{threads} threads"),
            bytes: 0,
            round: threads * 50,
            figure: Some(0.8),
        };
        run.pair(
            "durable",
            pair,
            &mut |count| {
                let each = count.div_ceil(threads);
                let len = frame_len(SIZE) * each * threads;
                let (topic, _) = fresh.topic(len);
                let elapsed = on_threads(threads, || {
                    (0..each).for_each(|_| {
                        topic.append(&record).unwrap();
                    });
                });
                fresh.used(len);
                scaled(elapsed, count, each * threads)
            },
            &mut |count| {
                let each = count.div_ceil(threads);
                let elapsed =
                    on_threads(threads, || (0..each).for_each(|_| prototype.append(&frame)));
                scaled(elapsed, count, each * threads)
            },
        );
    }
    run.finish();
}

fn scaled(elapsed: Duration, wanted: u64, done: u64) -> Duration {
    elapsed.mul_f64(wanted as f64 / done as f64)
}

/// Runs `work` on this many threads, which begin together.
fn on_threads(threads: u64, work: impl Fn() + Sync) -> Duration {
    let begin = std::sync::Barrier::new(threads as usize + 1);
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    begin.wait();
                    work();
                })
            })
            .collect();
        begin.wait();
        timed(|| all.into_iter().for_each(|thread| thread.join().unwrap()))
    })
}

/// Group commit without anything else: a store, one fdatasync for all waiting threads, a wake-up.
struct Prototype {
    file: Mutex<Prewritten>,
    sync: std::fs::File,
    appended: AtomicU64,
    durable: AtomicU64,
    syncing: AtomicU32,
    rounds: AtomicU32,
}

impl Prototype {
    fn new(file: Prewritten) -> Prototype {
        Prototype {
            sync: file.file.try_clone().unwrap(),
            file: Mutex::new(file),
            appended: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            syncing: AtomicU32::new(0),
            rounds: AtomicU32::new(0),
        }
    }

    fn append(&self, frame: &[u8]) {
        use std::os::unix::fs::FileExt;
        let mine = {
            let mut file = self.file.lock();
            let at = file.advance(frame.len() as u64);
            file.file.write_all_at(frame, at).unwrap();
            self.appended.fetch_add(1, Ordering::SeqCst) + 1
        };
        loop {
            let round = self.rounds.load(Ordering::SeqCst);
            if self.durable.load(Ordering::SeqCst) >= mine {
                return;
            }
            if self.syncing.swap(1, Ordering::SeqCst) == 0 {
                let end = self.appended.load(Ordering::SeqCst);
                self.sync.sync_data().unwrap();
                self.durable.fetch_max(end, Ordering::SeqCst);
                self.syncing.store(0, Ordering::SeqCst);
                self.rounds.fetch_add(1, Ordering::SeqCst);
                futex(&self.rounds, libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, i32::MAX as u32);
            } else {
                futex(&self.rounds, libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, round);
            }
        }
    }
}

fn futex(word: &AtomicU32, operation: i32, value: u32) {
    // SAFETY: a live, aligned word; without a timeout. Every result leads to another check.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            operation,
            value,
            std::ptr::null::<libc::timespec>(),
        );
    }
}
