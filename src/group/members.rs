//! The workers of a group, counted by locks: a bit in the group file says that a worker may be alive, and the
//! lock on its byte says that it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::file::GroupFile;
use crate::error::{Error, IoResultExt, Result};
use crate::format::group::{CHANGES_AT, JOIN_LOCK, MAX_MEMBERS, MEMBERS_AT, MEMBER_LOCKS};
use crate::sys::atomic::{AtomicU64, Ordering};

/// Held while a worker joins: one at a time.
struct Joining<'a>(&'a GroupFile);

impl Joining<'_> {
    fn wait(group: &GroupFile, timeout: Option<Duration>) -> Result<Joining<'_>> {
        let begun = Instant::now();
        while !group.file.try_lock(JOIN_LOCK, 1).at("locking", &group.path)? {
            if timeout.is_some_and(|timeout| begun.elapsed() >= timeout) {
                let what = format!("a worker that is just joining {}", group.path.display());
                return Err(Error::TimedOut { what });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Joining(group))
    }
}

impl Drop for Joining<'_> {
    fn drop(&mut self) {
        // If this fails, the kernel releases the lock when the file is closed; until then no worker joins.
        drop(self.0.file.unlock(JOIN_LOCK, 1));
    }
}

/// A worker's place among the members; the kernel releases it when the file is closed.
#[derive(Debug)]
pub(super) struct Member {
    group: Arc<GroupFile>,
    number: u64,
    changes_seen: u64,
}

impl Member {
    /// Takes a free place. If no worker is alive, calls `first` before any other worker can join.
    pub(super) fn join(
        group: &Arc<GroupFile>,
        timeout: Option<Duration>,
        first: impl FnOnce(),
    ) -> Result<Member> {
        let joining = Joining::wait(group, timeout)?;
        for number in 0..MAX_MEMBERS {
            if group.file.try_lock(MEMBER_LOCKS + number, 1).at("locking", &group.path)? {
                if !group
                    .file
                    .locked_by_other(MEMBER_LOCKS, MAX_MEMBERS)
                    .at("locking", &group.path)?
                {
                    first();
                }
                let member = Member { group: Arc::clone(group), number, changes_seen: 0 };
                member.announce();
                drop(joining);
                return Ok(member);
            }
        }
        Err(Error::Invalid { what: format!("a group has at most {MAX_MEMBERS} workers") })
    }

    fn bits(&self, number: u64) -> (&AtomicU64, u64) {
        (self.group.map.word(MEMBERS_AT + (number / 64) as usize * 8), 1 << (number % 64))
    }

    fn changes(&self) -> &AtomicU64 {
        self.group.map.word(CHANGES_AT)
    }

    /// Marks this worker as present, and makes the others count again.
    fn announce(&self) {
        let (word, bit) = self.bits(self.number);
        if word.fetch_or(bit, Ordering::AcqRel) & bit == 0 {
            self.changes().fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Returns whether a worker joined, left, or asked for lanes since the last count.
    pub(super) fn is_outdated(&self) -> bool {
        self.changes().load(Ordering::Acquire) != self.changes_seen
    }

    /// Returns the number of changes at the last count: if it is still the same, no worker has joined, left,
    /// released lanes or asked for lanes since.
    pub(super) fn changes_seen(&self) -> u64 {
        self.changes_seen
    }

    /// Announces that this worker has released lanes, so that the others look for free ones.
    pub(super) fn offer(&self) {
        self.changes().fetch_add(1, Ordering::AcqRel);
    }

    /// Announces that this worker has less than its share, and that no lane is free.
    pub(super) fn want(&mut self) {
        // Its own request is not news to it.
        self.changes_seen = self.changes().fetch_add(1, Ordering::AcqRel) + 1;
    }

    /// Returns the number of living workers, including this one, and the number of those before it.
    pub(super) fn count(&mut self) -> Result<(u64, u64)> {
        // Before the count, so that the next one sees a change that happens meanwhile.
        self.changes_seen = self.changes().load(Ordering::Acquire);
        // A worker that found the lock free before it was taken may have cleared the bit.
        self.announce();
        let (mut count, mut rank) = (0, 0);
        for number in 0..MAX_MEMBERS {
            let (word, bit) = self.bits(number);
            if word.load(Ordering::Acquire) & bit == 0 {
                continue;
            }
            let is_alive = number == self.number || {
                self.group
                    .file
                    .locked_by_other(MEMBER_LOCKS + number, 1)
                    .at("asking for locks of", &self.group.path)?
            };
            if is_alive {
                count += 1;
                rank += u64::from(number < self.number);
            } else if word.fetch_and(!bit, Ordering::AcqRel) & bit != 0 {
                self.changes().fetch_add(1, Ordering::AcqRel);
            }
        }
        Ok((count, rank))
    }

    /// Leaves the group.
    pub(super) fn leave(&self) {
        let (word, bit) = self.bits(self.number);
        word.fetch_and(!bit, Ordering::AcqRel);
        self.offer();
    }
}
