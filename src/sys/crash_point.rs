//! Named places at which a test can kill, stop or interrupt the process. Free in other builds.
//!
//! The names are those of `docs/failure-model.md`.

/// Marks a crash point; does nothing unless the feature `sim` is on and a test has armed it.
#[cfg_attr(loom, allow(unused_macros))]
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "sim")]
        $crate::sys::crash_point::reached($name);
    };
}
pub(crate) use crash_point;

/// Whether a test has armed the crash points.
#[inline]
pub(crate) fn is_armed() -> bool {
    #[cfg(feature = "sim")]
    return armed::ANY.load(std::sync::atomic::Ordering::Acquire);
    #[cfg(not(feature = "sim"))]
    false
}

#[cfg(feature = "sim")]
mod armed {
    use std::sync::atomic::{AtomicBool, Ordering};

    /// The action when a crash point is reached.
    type Action = Box<dyn FnMut(&'static str) + Send>;

    pub(super) static ANY: AtomicBool = AtomicBool::new(false);
    static ACTION: parking_lot::Mutex<Option<Action>> = parking_lot::Mutex::new(None);

    /// Calls `action` with the name of every crash point that this process reaches. The action may
    /// kill the process, or do nothing. One action at a time; `None` disarms.
    pub fn arm(action: Option<Action>) {
        ANY.store(action.is_some(), Ordering::Release);
        *ACTION.lock() = action;
    }

    #[inline]
    pub(crate) fn reached(name: &'static str) {
        if ANY.load(Ordering::Acquire) {
            act(name);
        }
    }

    #[cold]
    fn act(name: &'static str) {
        // A crash point inside the action itself is skipped.
        if let Some(mut action) = ACTION.try_lock() {
            if let Some(action) = action.as_mut() {
                action(name);
            }
        }
    }
}

#[cfg(feature = "sim")]
pub use armed::arm;
#[cfg(feature = "sim")]
pub(crate) use armed::reached;
