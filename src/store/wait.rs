//! Waiting for records: a spin, then a bounded sleep, and help for a sync that no writer finishes.

use std::time::{Duration, Instant};

use super::{Access, Durability, Frontier, Store};
use crate::control::waiters;
use crate::error::{Error, Result};
use crate::stop::Stop;
use crate::sys::atomic::Ordering;

/// A reader that has slept this long completes a sync that no other thread completes.
const STALLED: Duration = Duration::from_millis(50);

impl Store {
    /// Waits until the high watermark is past `seen`: spins for at most `spin`, then sleeps. Returns false if
    /// `stop` was signalled, or after `timeout`.
    pub(crate) fn wait_beyond(
        &self,
        seen: u64,
        spin: Duration,
        timeout: Duration,
        stop: &Stop,
    ) -> Result<bool> {
        self.not_forked()?;
        let started = Instant::now();
        // A caller that does not wait does not spin either.
        let spin = spin.min(timeout);
        let synced = self.options.durability == Durability::PowerLoss;
        if let (Some(words), true) = (self.words(), spin > Duration::ZERO) {
            let word = if synced { &words.durable.end } else { &words.tail.end };
            while started.elapsed() < spin {
                for _ in 0..32 {
                    if word.load(Ordering::Acquire) > seen {
                        return Ok(true);
                    }
                    std::hint::spin_loop();
                }
            }
        }
        loop {
            if self.frontier()?.high_watermark > seen {
                return Ok(true);
            }
            self.location.check_when_idle()?;
            let left = timeout.saturating_sub(started.elapsed());
            if stop.is_stopped() || left.is_zero() {
                return Ok(false);
            }
            match &self.access {
                Access::Member(member) => {
                    let words = &member.control;
                    let word = if synced { &words.synced.word } else { &words.appended.word };
                    let slept = Instant::now();
                    waiters::sleep(word, left, || {
                        Frontier::of(words, self.options.durability).high_watermark > seen
                            || stop.is_stopped()
                    });
                    if synced && slept.elapsed() >= STALLED {
                        help_publish(self, seen)?;
                    }
                }
                // This process may not write, not even the waiter's bit, so it polls.
                _ => std::thread::sleep(left.min(Duration::from_millis(10))),
            }
        }
    }
}

/// On a `PowerLoss` topic a record whose writer died before its sync is invisible until a process syncs: a
/// reader that has waited long enough does.
fn help_publish(topic: &Store, seen: u64) -> Result<()> {
    let frontier = topic.frontier()?;
    if frontier.high_watermark <= seen && frontier.end > seen {
        // Waits for a living syncer, takes over from a dead one, overtakes a stopped one.
        return match topic.wait_durable(frontier.end) {
            // The latch stops writers; durable records stay readable.
            Err(Error::SyncFailed { .. }) => Ok(()),
            other => other,
        };
    }
    Ok(())
}
