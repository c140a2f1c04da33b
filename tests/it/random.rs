//! A small generator, so that a printed seed repeats a test's choices.

use std::sync::atomic::{AtomicU64, Ordering};

/// SplitMix64.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        bytes
    }

    /// Returns true once in `times` calls on average.
    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// Returns `DEADDROP_SEED`, or a seed from the clock; prints it.
pub(crate) fn seed(test: &str) -> u64 {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let seed = std::env::var("DEADDROP_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = seed.unwrap_or_else(|| {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        now ^ CALLS.fetch_add(1, Ordering::Relaxed) << 56
    });
    println!("{test}: DEADDROP_SEED={seed}");
    seed
}

/// The number in the environment variable `name`, or `default`.
pub(crate) fn number_from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}
