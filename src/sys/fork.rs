//! Detecting a forked child, and keeping the parent's locks out of it.
//!
//! A child inherits open files, and with them the kernel's locks: as long as it lives, its dead parent would
//! seem alive. So a child closes the lock files first of all, and every handle inherited from the parent
//! returns `Forked`. A handle records the generation in which it was created: a child begins its own
//! generation when it opens a log.
//!
//! A file that is being opened while another thread forks is not in the table yet, and the child keeps it. So
//! forks are counted: a file during whose opening a fork began is opened again before its first lock.

use std::sync::atomic::{fence, AtomicU64, Ordering};
use std::sync::OnceLock;

use parking_lot::Mutex;

use super::lock_files;

/// The generation of this process, on a page that the kernel wipes in a child: 0 until the child has its own.
static SENTINEL: OnceLock<&'static AtomicU64> = OnceLock::new();

/// The newest generation of this process and its ancestors.
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
            // Without the page (out of memory) a fork would go unnoticed: it is better to stop here.
            assert!(wiped, "a page of memory that is wiped on fork is available");
            page
        };
        // SAFETY: mapped, aligned, used only as this word.
        let word: &'static AtomicU64 = unsafe { AtomicU64::from_ptr(page.cast()) };
        word.store(1, Ordering::Relaxed);
        // SAFETY: the handlers are async-signal-safe: they use atomics and close descriptors.
        unsafe { libc::pthread_atfork(Some(fork_begins), Some(fork_has_ended), Some(in_child)) };
        word
    })
}

/// Counts the forks that this process has begun, and those that have ended.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);

extern "C" fn fork_begins() {
    BEGUN.fetch_add(1, Ordering::SeqCst);
}

extern "C" fn fork_has_ended() {
    ENDED.fetch_add(1, Ordering::SeqCst);
}

extern "C" fn in_child() {
    // This is the child's only thread: no fork of its own is in progress.
    ENDED.store(BEGUN.load(Ordering::SeqCst), Ordering::SeqCst);
    lock_files::close_all();
}

/// A moment, from which to check later whether the process has forked since.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    begun: u64,
    ended: u64,
}

impl Moment {
    pub(crate) fn now() -> Moment {
        sentinel();
        // The ended ones first: a fork in progress at any time between the two loads counts as in progress.
        let ended = ENDED.load(Ordering::SeqCst);
        Moment { begun: BEGUN.load(Ordering::SeqCst), ended }
    }

    /// Returns whether no fork was in progress then, and none has begun since: no child has a file that was
    /// opened after that moment.
    pub(crate) fn saw_no_fork(self) -> bool {
        fence(Ordering::SeqCst);
        self.begun == self.ended && BEGUN.load(Ordering::SeqCst) == self.begun
    }
}

/// The process in which a value was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u64);

impl Generation {
    /// Returns whether this process was forked since.
    #[inline]
    pub(crate) fn is_parents(self) -> bool {
        sentinel().load(Ordering::Relaxed) != self.0
    }
}

impl Default for Generation {
    /// Returns the generation of this process.
    fn default() -> Generation {
        Generation(sentinel().load(Ordering::Relaxed))
    }
}

/// Gives a forked child its own generation. Called before the child makes anything.
pub(crate) fn begin_generation() {
    let mut newest = NEWEST.lock();
    if sentinel().load(Ordering::Relaxed) == 0 {
        // They are closed already, unless the child was created by a system call that bypasses the C library.
        in_child();
        *newest += 1;
        sentinel().store(*newest, Ordering::Relaxed);
    }
}

/// Registers a descriptor to be closed in forked children; returns its place in the table of all of them.
pub(crate) fn register(fd: i32) -> u32 {
    sentinel();
    lock_files::add(fd)
}

/// Ends a registration, before the descriptor is closed.
pub(crate) fn unregister(place: u32) {
    lock_files::remove(place);
}
