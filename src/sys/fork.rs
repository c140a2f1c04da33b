//! Detecting a forked child, and keeping the parent's locks out of it.
//!
//! A child inherits open files, and with them the kernel's locks: as long as it lives, its dead parent
//! would look alive. So a child closes the lock files as its first act, and whatever it has of its
//! parent's logs returns `Forked`. What remembers the generation in which it was made knows whose it is:
//! a child begins one of its own when it opens a log.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;

use parking_lot::Mutex;

use super::lock_files;

/// The generation of this process, on a page that the kernel wipes in a child: 0 until it has its own.
static SENTINEL: OnceLock<&'static AtomicU64> = OnceLock::new();

/// The newest generation that this process, or one that it descends from, has had.
static NEWEST: Mutex<u64> = Mutex::new(1);

fn sentinel() -> &'static AtomicU64 {
    SENTINEL.get_or_init(|| {
        // SAFETY: a fresh anonymous private page, never unmapped.
        let page = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let page = libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            );
            let wiped =
                page != libc::MAP_FAILED && libc::madvise(page, 4096, libc::MADV_WIPEONFORK) == 0;
            // Without the page (no memory) a fork would go unnoticed: better to stop here.
            assert!(wiped, "no page of memory that is wiped on fork");
            page
        };
        // SAFETY: mapped, aligned, used only as this word.
        let word: &'static AtomicU64 = unsafe { AtomicU64::from_ptr(page.cast()) };
        word.store(1, Ordering::Relaxed);
        // SAFETY: the handler is async-signal-safe: it loads atomics and closes descriptors.
        unsafe { libc::pthread_atfork(None, None, Some(close_lock_files)) };
        word
    })
}

extern "C" fn close_lock_files() {
    lock_files::close_all();
}

/// Says in which process a value was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u64);

impl Generation {
    /// Whether this process was forked since.
    #[inline]
    pub(crate) fn is_parents(self) -> bool {
        sentinel().load(Ordering::Relaxed) != self.0
    }
}

impl Default for Generation {
    /// This process's.
    fn default() -> Generation {
        Generation(sentinel().load(Ordering::Relaxed))
    }
}

/// Gives a forked child a generation of its own: to be called before it makes anything.
pub(crate) fn begin_generation() {
    let mut newest = NEWEST.lock();
    if sentinel().load(Ordering::Relaxed) == 0 {
        // Closed already, unless the child was made by a system call that passes over the C library.
        close_lock_files();
        *newest += 1;
        sentinel().store(*newest, Ordering::Relaxed);
    }
}

/// Has the descriptor closed in forked children; returns its place in the table of all of them.
pub(crate) fn register(fd: i32) -> u32 {
    sentinel();
    lock_files::add(fd)
}

/// Ends a registration, before the descriptor is closed.
pub(crate) fn unregister(place: u32) {
    lock_files::remove(place);
}
