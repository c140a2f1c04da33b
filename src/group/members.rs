//! Who works in a group, counted by locks: a bit in the group file says that a worker may live, the
//! lock on its byte that it does.

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
        // What fails here is done by the kernel when the file is closed; until then nobody joins.
        drop(self.0.file.unlock(JOIN_LOCK, 1));
    }
}

/// A worker's place among the members; given back by the kernel with its file.
#[derive(Debug)]
pub(super) struct Member {
    group: Arc<GroupFile>,
    number: u64,
    changes_seen: u64,
}

impl Member {
    /// Takes a free place. `first` is done before any other worker can join, if none lives.
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

    /// Says that this worker is there, and that the others have to count again.
    fn announce(&self) {
        let (word, bit) = self.bits(self.number);
        if word.fetch_or(bit, Ordering::AcqRel) & bit == 0 {
            self.changes().fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Whether somebody came, went, or wants lanes since the last count.
    pub(super) fn is_outdated(&self) -> bool {
        self.changes().load(Ordering::Acquire) != self.changes_seen
    }

    /// Says that this worker has less than its share, and that nothing is free.
    pub(super) fn want(&mut self) {
        // Its own wish tells it nothing.
        self.changes_seen = self.changes().fetch_add(1, Ordering::AcqRel) + 1;
    }

    /// The number of living workers, this one included, and of those before it.
    pub(super) fn count(&mut self) -> Result<(u64, u64)> {
        // Before the look: a change meanwhile is seen by the next one.
        self.changes_seen = self.changes().load(Ordering::Acquire);
        // Somebody who found the lock free before it was taken may have cleared the bit.
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

    /// Says goodbye: the others take over at once what this worker lets go.
    pub(super) fn leave(&self) {
        let (word, bit) = self.bits(self.number);
        word.fetch_and(!bit, Ordering::AcqRel);
        self.changes().fetch_add(1, Ordering::AcqRel);
    }
}
