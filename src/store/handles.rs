//! A topic's handle, which keeps it open, and the topics that a log has open, by name. Opening a topic can
//! take long, or wait for another process: only threads that open the same topic wait for it.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::Store;
use crate::error::{Error, Result};

/// A topic in use, shared by all its users. Dropping the last reference waits for the running jobs and
/// closes the topic.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(super) inner: Arc<Store>,
}

impl Handle {
    pub(crate) fn new(inner: Arc<Store>) -> Arc<Handle> {
        Arc::new(Handle { inner })
    }
}

impl Deref for Handle {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.inner
    }
}

#[derive(Debug)]
enum Known {
    Open(Weak<Handle>),
    /// A thread is opening it.
    Opening,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    known: Mutex<HashMap<String, Known>>,
    changed: Condvar,
}

/// Marks a topic as being opened by this thread, until dropped.
struct Claim<'a> {
    handles: &'a Handles,
    name: &'a str,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut known = self.handles.known.lock();
        if matches!(known.get(self.name), Some(Known::Opening)) {
            known.remove(self.name);
        }
        drop(known);
        self.handles.changed.notify_all();
    }
}

impl Handles {
    /// Returns the topic of this name if it is open and the name still leads to it, or else the result of
    /// `open`. Waits until `deadline` at most for another thread that is opening it.
    pub(crate) fn get_or_open(
        &self,
        name: &str,
        deadline: Option<Instant>,
        open: impl FnOnce() -> Result<Arc<Handle>>,
    ) -> Result<Arc<Handle>> {
        // A topic that was moved, deleted or replaced: its name leads elsewhere now.
        let mut stale = None;
        while let Some(topic) = self.known_or_claimed(name, deadline, stale.take())? {
            if topic.location.has_its_name()? {
                return Ok(topic);
            }
            stale = Some(topic);
        }
        let claim = Claim { handles: self, name };
        let opened = open()?;
        let mut known = self.known.lock();
        known.retain(|_, known| match known {
            Known::Open(topic) => topic.strong_count() > 0,
            Known::Opening => true,
        });
        known.insert(name.to_owned(), Known::Open(Arc::downgrade(&opened)));
        drop(known);
        drop(claim);
        Ok(opened)
    }

    /// Returns the topic if it is open and is not `stale`; `None` if this thread has to open it.
    fn known_or_claimed(
        &self,
        name: &str,
        deadline: Option<Instant>,
        stale: Option<Arc<Handle>>,
    ) -> Result<Option<Arc<Handle>>> {
        let mut known = self.known.lock();
        loop {
            match known.get(name) {
                Some(Known::Open(topic)) => {
                    let is_stale = |topic: &Arc<Handle>| {
                        stale.as_ref().is_some_and(|stale| Arc::ptr_eq(stale, topic))
                    };
                    match topic.upgrade() {
                        // Not dropped here, because closing it would wait under the lock.
                        Some(topic) if !is_stale(&topic) => return Ok(Some(topic)),
                        _ => break,
                    }
                }
                Some(Known::Opening) => {
                    let timed_out = match deadline {
                        Some(deadline) => self.changed.wait_until(&mut known, deadline).timed_out(),
                        None => {
                            self.changed.wait(&mut known);
                            false
                        }
                    };
                    if timed_out {
                        let what = format!("another thread that is opening topic {name}");
                        return Err(Error::TimedOut { what });
                    }
                }
                None => break,
            }
        }
        known.insert(name.to_owned(), Known::Opening);
        Ok(None)
    }
}
