//! Handlers that share a process, and the one that is suspected of ending it.
//!
//! A record whose handling ended with its process's death runs alone the next time: no other handler
//! runs in this process meanwhile. If the process dies again, it was this record and no bystander.

use std::cell::Cell;
use std::time::Duration;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Of the process: what a handler ends when it dies.
static HANDLERS: RwLock<()> = RwLock::new(());

/// A suspect looks so long for a moment without other handlers; they wait for it meanwhile.
const PATIENCE: Duration = Duration::from_millis(100);
/// A suspect has the process to itself so long at most: it may be waiting for one of the others.
const SOLITUDE: Duration = Duration::from_secs(1);

thread_local! {
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Held while a handler runs.
pub(super) struct Inside {
    _shared: Option<RwLockReadGuard<'static, ()>>,
    _alone: Option<RwLockWriteGuard<'static, ()>>,
    nested: bool,
}

/// Enters a handler; `None` if it is to run alone and others do not come to an end.
pub(super) fn enter(alone: bool) -> Option<Inside> {
    // A handler that serves others itself: waiting for its own end would be for ever.
    let nested = IS_INSIDE.replace(true);
    let inside = match (nested, alone) {
        (true, _) => Inside { _shared: None, _alone: None, nested },
        (false, false) => Inside { _shared: HANDLERS.try_read_for(SOLITUDE), _alone: None, nested },
        (false, true) => match HANDLERS.try_write_for(PATIENCE) {
            Some(guard) => Inside { _shared: None, _alone: Some(guard), nested },
            None => {
                IS_INSIDE.set(false);
                return None;
            }
        },
    };
    Some(inside)
}

impl Drop for Inside {
    fn drop(&mut self) {
        IS_INSIDE.set(self.nested);
    }
}
