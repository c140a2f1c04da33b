//! Orderly close: the last member makes everything durable and states that in the newest segment, so that
//! damage found later is recognised as damage and not taken for a torn tail.

use std::time::{Duration, Instant};

use super::sealed::Sealed;
use super::sync::{latch, write_slot};
use super::{Access, Durability, Handle, Local, Store};
use crate::control::member::{self, Membership};
use crate::control::Words;
use crate::error::Result;
use crate::sys::atomic::Ordering;
use crate::sys::crash_point::crash_point;

/// How long a close waits for the gate. Another process that holds it is about to be a member, so this
/// process is not the last.
const GATE_WAIT: Duration = Duration::from_millis(100);

impl Drop for Handle {
    fn drop(&mut self) {
        // A forked child has no thread that could end the jobs.
        if !self.inner.made_in.is_parents() {
            self.inner.background.close();
            // If this fails, the next process to open the topic removes the file.
            drop(self.inner.ahead.abandon(&self.inner));
            Sealed::sync_rest(&self.inner);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.made_in.is_parents() {
            return;
        }
        if let Access::Member(member) = &self.access {
            // After a failed opening the words may be those of another boot.
            let is_open = self.is_open.load(Ordering::Relaxed);
            if is_open && member.control.identity.latched.load(Ordering::Acquire) == 0 {
                // A failure here latches the topic, or concerns records that were not promised.
                drop(close(self, member));
            }
        }
    }
}

fn close(topic: &Store, member: &Membership<Local>) -> Result<()> {
    let words = &member.control;
    let end = words.tail.end.load(Ordering::Acquire);
    if let Durability::PowerLossWithin(_) = topic.options.durability {
        topic.wait_durable(end)?;
    }
    // Held until the lock file is closed: if two members close at once, one of them is the last.
    if is_last(member) {
        topic.wait_durable(end)?;
        promise(topic, words)?;
    }
    Ok(())
}

/// Whether no other process has the topic open for writing, or will before this one has closed it.
fn is_last(member: &Membership<Local>) -> bool {
    let lock_file = &*member.lock_file;
    let until = Instant::now() + GATE_WAIT;
    loop {
        match member::try_gate(lock_file) {
            Ok(true) => break,
            Ok(false) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(1));
            }
            _ => return false,
        }
    }
    if member::is_alone(lock_file).unwrap_or(false) {
        return true;
    }
    // The next member to close must not count this one.
    let left = member::leave_slot(lock_file, member.me.slot());
    drop(left.and_then(|()| member::leave_gate(lock_file)));
    false
}

/// Writes the durable end into the newest segment. Each sync states the durable end of the one before, so
/// after the last sync the stated end is too low.
fn promise(topic: &Store, words: &Words) -> Result<()> {
    let durable = words.durable.end.load(Ordering::Acquire);
    let segment = topic.segment(words.tail.place().active)?;
    let slot = segment.newest_slot()?;
    let said = slot.map_or(0, |slot| slot.durable_end).max(segment.header.durable_end);
    if said >= durable {
        return Ok(());
    }
    write_slot(words, &segment, durable)?;
    crash_point!("close.promised");
    if segment.sync().is_err() {
        return Err(latch(topic, words, &segment));
    }
    Ok(())
}
