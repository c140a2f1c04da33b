//! How a process reaches a topic: as a member, or reading only, beside members or without them.

use std::sync::OnceLock;

use parking_lot::Mutex;

use super::directory::{CONTROL, LOCK};
use super::frontier::FoundEnd;
use super::{Frontier, Local, LogInner, Store};
use crate::control::member::{self, Membership};
use crate::control::{self, Control, Words};
use crate::error::{Error, Result};
use crate::sys::{self, Directory};

/// How this process reaches the topic.
pub(crate) enum Access {
    /// As a member: it may append.
    Member(Membership<Local>),
    /// Read-only, beside members: their words, mapped read-only.
    Live(Control),
    /// Read-only, without living members: the end is found by walking the frames. `left`: the words of dead
    /// members, if they are of this boot and file. `live`: the words of members that came later.
    Still { left: Option<Control>, found: Box<Mutex<Option<FoundEnd>>>, live: OnceLock<Control> },
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Access::Member(_) => "Member",
            Access::Live(_) => "Live",
            Access::Still { .. } => "Still",
        })
    }
}

impl Store {
    /// Returns the shared words, if there are words to trust.
    pub(crate) fn words(&self) -> Option<&Words> {
        match &self.access {
            Access::Member(member) => Some(&member.control),
            Access::Live(control) => Some(control),
            Access::Still { live, .. } => live.get().map(|control| &**control),
        }
    }

    /// Returns the end of what readers could see on this boot, as far as dead members' words can be trusted.
    pub(crate) fn published(&self) -> u64 {
        match &self.access {
            Access::Still { left: Some(words), .. } => {
                Frontier::of(words, self.options.durability).high_watermark
            }
            _ => 0,
        }
    }

    /// Refuses a forked child, which has none of its parent's mappings. Callers ask before they touch a
    /// mapping.
    #[inline]
    pub(crate) fn not_forked(&self) -> Result<()> {
        match self.made_in.is_parents() {
            true => Err(Error::Forked),
            false => Ok(()),
        }
    }

    /// Returns the membership, for operations that only a member may do.
    pub(crate) fn member(&self) -> Result<&Membership<Local>> {
        self.not_forked()?;
        match &self.access {
            Access::Member(member) => Ok(member),
            _ => Err(Error::ReadOnly { path: self.log.dir.clone() }),
        }
    }
}

/// Whether a process has the topic open for writing. True if that is unknown.
fn has_members(files: &dyn Directory) -> bool {
    match files.open(&files.path().join(LOCK), sys::Access::Read) {
        Ok(lock_file) => !member::is_alone(&*lock_file).unwrap_or(false),
        Err(_) => false,
    }
}

/// Returns the control words, mapped read-only, if living members keep them up to date.
pub(super) fn living_control(log: &LogInner, files: &dyn Directory) -> Option<Control> {
    trusted_control(log, files).filter(|_| has_members(files))
}

/// Returns the control words, mapped read-only, if they can be trusted.
pub(super) fn trusted_control(log: &LogInner, files: &dyn Directory) -> Option<Control> {
    let file = files.open(&files.path().join(CONTROL), sys::Access::Read).ok()?;
    let identity = file.identity().ok()?;
    let control = Control::new(file.map(control::LEN, false).ok()?);
    control.identity.is_of(log.boot, identity).then_some(control)
}
