//! Which processes have a topic open for writing, as any process can see it.

use super::directory::LOCK;
use super::{Access, Store};
use crate::control::lock::Owner;
use crate::control::member;
use crate::error::{IoResultExt, Result};
use crate::sys;
use crate::sys::atomic::Ordering;

/// A process that has a topic open for writing, or a dead one whose words are not settled yet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberInfo {
    /// The number of its slot, from 0.
    pub slot: usize,
    /// Its process id, as it saw itself: it may have another one in another container. For people only.
    pub pid: u32,
    /// Whether the kernel says it is alive. If not, the next process that needs what it held takes it over.
    pub is_alive: bool,
    /// Whether it holds the append lock at this moment.
    pub is_appending: bool,
    /// Whether it syncs at this moment.
    pub is_syncing: bool,
}

impl Store {
    /// Returns the members, by slot; empty if no process has the topic open for writing.
    pub(crate) fn members(&self) -> Result<Vec<MemberInfo>> {
        self.not_forked()?;
        // Looks for members that came after a read-only log was opened.
        self.frontier()?;
        let Some(words) = self.words() else { return Ok(Vec::new()) };
        let path = self.dir.join(LOCK);
        let mut alive = match &self.access {
            // The kernel reports only the locks of other open files.
            Access::Member(me) => member::living_slots(&*me.lock_file).map(|mut slots| {
                slots.push(me.me.slot());
                slots
            }),
            _ => self
                .files
                .open(&path, sys::Access::Read)
                .and_then(|file| member::living_slots(&*file)),
        }
        .at("asking for the locks of", &path)?;
        alive.sort_unstable();
        // Relaxed, as everything here: a picture of one moment, on which nothing depends.
        let appending = Owner::of_word(words.lock.word.load(Ordering::Relaxed));
        let syncing = Owner::of_word(words.sync.owner.load(Ordering::Relaxed));
        let describe = |slot: usize, is_alive: bool| {
            let member = &words.members[slot];
            let generation = member.generation.load(Ordering::Relaxed);
            let is = |owner: Option<Owner>| {
                owner.is_some_and(|owner| owner.slot() == slot && owner.is_generation(generation))
            };
            MemberInfo {
                slot,
                pid: member.pid.load(Ordering::Relaxed),
                is_alive,
                is_appending: is(appending),
                is_syncing: is(syncing),
            }
        };
        let mut all: Vec<MemberInfo> = alive.iter().map(|&slot| describe(slot, true)).collect();
        let mut dead: Vec<usize> =
            [appending, syncing].iter().flatten().map(|owner| owner.slot()).collect();
        dead.dedup();
        // The words are shared memory: a slot number that cannot exist is ignored.
        dead.retain(|slot| !alive.contains(slot) && *slot < words.members.len());
        all.extend(dead.iter().map(|&slot| describe(slot, false)));
        all.sort_by_key(|member| member.slot);
        Ok(all)
    }
}
