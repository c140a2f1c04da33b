//! Membership: a byte of the lock file for every process that writes to the topic.
//!
//! Byte 0 is the gate, held while a process opens. Byte 1 + slot is held by a member as long as it lives; the
//! kernel releases it the moment the process is gone. A process that takes a slot raises the slot's
//! generation first, so that it counts as alive, and an earlier holder as dead, before it owns anything; then
//! it settles every word that names an earlier holder.

use std::cell::UnsafeCell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Instant;

use super::lock::{self, Liveness, Owner};
use super::{Control, MAX_MEMBERS};
use crate::sys::atomic::Ordering;
use crate::sys::DiskFile;

const GATE: u64 = 0;
const FIRST_SLOT: u64 = 1;

/// Takes the gate, if it is free.
pub(crate) fn try_gate(lock_file: &dyn DiskFile) -> io::Result<bool> {
    lock_file.try_lock(GATE, 1)
}

/// Releases the gate.
pub(crate) fn leave_gate(lock_file: &dyn DiskFile) -> io::Result<()> {
    lock_file.unlock(GATE, 1)
}

/// Returns whether no other open file holds a slot.
pub(crate) fn is_alone(lock_file: &dyn DiskFile) -> io::Result<bool> {
    Ok(!lock_file.locked_by_other(FIRST_SLOT, MAX_MEMBERS as u64)?)
}

/// Returns the slots that other open files hold. Takes a few calls for each: a range of bytes without a lock
/// takes one call.
pub(crate) fn living_slots(lock_file: &dyn DiskFile) -> io::Result<Vec<usize>> {
    let mut living = Vec::new();
    let mut ranges = vec![(0, MAX_MEMBERS)];
    while let Some((start, len)) = ranges.pop() {
        if !lock_file.locked_by_other(FIRST_SLOT + start as u64, len as u64)? {
            continue;
        }
        if len == 1 {
            living.push(start);
            continue;
        }
        let half = len / 2;
        ranges.extend([(start + half, len - half), (start, half)]);
    }
    Ok(living)
}

/// Locks the first free slot. Returns `None` if all are taken.
pub(crate) fn take_slot(lock_file: &dyn DiskFile) -> io::Result<Option<usize>> {
    for slot in 0..MAX_MEMBERS {
        if lock_file.try_lock(FIRST_SLOT + slot as u64, 1)? {
            return Ok(Some(slot));
        }
    }
    Ok(None)
}

/// Releases a slot.
pub(crate) fn leave_slot(lock_file: &dyn DiskFile, slot: usize) -> io::Result<()> {
    lock_file.unlock(FIRST_SLOT + slot as u64, 1)
}

/// This process's membership in a topic: its slot, the shared words, and the process-local state that the
/// append lock guards.
pub(crate) struct Membership<T> {
    pub(crate) control: Control,
    pub(crate) lock_file: Box<dyn DiskFile>,
    /// This process's slot and generation.
    pub(crate) me: Owner,
    local: UnsafeCell<T>,
}

// SAFETY: `local` is only reached through `Held`, which exists once at a time: the lock word excludes the
// other threads of this process as it excludes other processes.
unsafe impl<T: Send> Sync for Membership<T> {}

impl<T> Membership<T> {
    pub(crate) fn new(
        control: Control,
        lock_file: Box<dyn DiskFile>,
        me: Owner,
        local: T,
    ) -> Membership<T> {
        Membership { control, lock_file, me, local: UnsafeCell::new(local) }
    }

    /// Takes the append lock; returns `None` if `deadline` passes first. The caller settles the unfinished
    /// work of a dead owner, which the intent words name.
    #[inline]
    pub(crate) fn lock(&self, deadline: Option<Instant>) -> Option<Held<'_, T>> {
        lock::acquire(&self.control.lock.word, self.me, self, deadline)?;
        Some(Held { membership: self, was_panicking: std::thread::panicking() })
    }
}

impl<T> Liveness for Membership<T> {
    fn is_alive(&self, owner: Owner) -> bool {
        is_alive(&self.control, &*self.lock_file, self.me, owner)
    }
}

/// Returns whether `owner` can still store. `me` is the caller's own slot.
pub(crate) fn is_alive(
    control: &Control,
    lock_file: &dyn DiskFile,
    me: Owner,
    owner: Owner,
) -> bool {
    if owner.slot() == me.slot() {
        // A thread of this process, or an earlier holder of the slot. The kernel would report the byte as
        // free: it reports only locks held through other open file descriptions.
        return owner == me;
    }
    let Some(member) = control.members.get(owner.slot()) else { return false };
    if !owner.is_generation(member.generation.load(Ordering::Acquire)) {
        return false;
    }
    // A probe that fails counts as alive: no lock is taken over unless the kernel says that its owner is
    // gone.
    lock_file.locked_by_other(FIRST_SLOT + owner.slot() as u64, 1).unwrap_or(true)
}

/// The append lock, held. Gives access to the state that it guards; released when dropped.
pub(crate) struct Held<'a, T> {
    membership: &'a Membership<T>,
    /// The lock was taken by a destructor that runs because of a panic elsewhere.
    was_panicking: bool,
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the lock is held, so no other `Held` exists.
        unsafe { &*self.membership.local.get() }
    }
}

impl<T> DerefMut for Held<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, so no other `Held` exists, and this one is borrowed mutably.
        unsafe { &mut *self.membership.local.get() }
    }
}

impl<T> Drop for Held<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if std::thread::panicking() && !self.was_panicking {
            // A panic under the lock is a defect: the state that this thread left half-done cannot be
            // trusted. (A second panic, of a thread that is already unwinding, ends the process by itself
            // when it leaves the destructor.)
            std::process::abort();
        }
        lock::release(&self.membership.control.lock.word);
    }
}
