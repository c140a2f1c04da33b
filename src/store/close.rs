//! Closing a topic in good order: the last member makes everything durable and says so in the newest
//! segment, so that damage found later is known for damage and not taken for a torn tail.

use std::time::{Duration, Instant};

use super::sync::write_slot;
use super::{Access, Durability, Local, Store};
use crate::control::member::{self, Membership};
use crate::control::Words;
use crate::error::Result;
use crate::format::segment as layout;
use crate::sys::atomic::Ordering;
use crate::sys::crash_point::crash_point;

/// How long a close waits for the gate. Another process that has it will be a member, so this one is not
/// the last.
const GATE_WAIT: Duration = Duration::from_millis(100);

impl Drop for Store {
    fn drop(&mut self) {
        if self.made_in.is_parents() {
            return;
        }
        if let Access::Member(member) = &self.access {
            // After an opening that failed the words may be another boot's.
            let is_open = self.is_open.load(Ordering::Relaxed);
            if is_open && member.control.identity.latched.load(Ordering::Acquire) == 0 {
                // What fails here latches the topic, or is promised to nobody.
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
    // Held until the lock file is closed: of two that close at once, one is the last.
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
    // The next to close must not count this one.
    let left = member::leave_slot(lock_file, member.me.slot());
    drop(left.and_then(|()| member::leave_gate(lock_file)));
    false
}

/// Has the newest segment say the durable end: every sync says the one before it, so after the last
/// one it is behind.
fn promise(topic: &Store, words: &Words) -> Result<()> {
    let durable = words.durable.end.load(Ordering::Acquire);
    let segment = topic.segment(words.tail.place().active)?;
    let slot = layout::newest_slot(&segment.header_page()?, segment.header.salt);
    let said = slot.map_or(0, |slot| slot.durable_end).max(segment.header.durable_end);
    if said >= durable {
        return Ok(());
    }
    write_slot(words, &segment, durable)?;
    crash_point!("close.promised");
    if segment.sync().is_err() {
        return Err(topic.latch(words, &segment));
    }
    Ok(())
}
