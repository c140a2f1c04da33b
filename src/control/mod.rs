//! One topic's control page: the words that all processes share, and the protocols over them.
//!
//! The words are ephemeral: after a reboot they are hints, and recovery rebuilds them in place. The processes
//! that may write each word:
//!
//! | words | written by |
//! |---|---|
//! | identity, `ready`, `epoch` | the holder of the gate, alone |
//! | `lock` | any process, by the lock's protocol ([`lock`]) |
//! | intent, roll, tail, active segment | the owner of the append lock |
//! | `durable_end` | any process that has synced, by fetch_max |
//! | `sync` | any process, by the lock's protocol; overtaken, but never taken from a living owner |
//! | waiter words | any process ([`waiters`]) |
//! | `prepared` | its owner; the owner of the append lock when it takes the file |
//! | a member's generation | the process that holds that slot's byte of the lock file |

pub(crate) mod lock;
#[cfg(not(loom))]
pub(crate) mod member;
#[cfg(all(test, loom))]
mod models;
pub(crate) mod waiters;

use crate::sys::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
use crate::sys::{FileIdentity, Map};

/// The most processes that can have one topic open for writing at once.
pub(crate) const MAX_MEMBERS: usize = 1023;

/// Bytes of the control file.
pub(crate) const LEN: usize = 16 << 10;

/// First word of the control file: it changes when the layout below changes.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"ddCTL\0\0\x02");

/// The words, in the layout of the mapping. Words written by different sides are 128 bytes apart: two cache
/// lines, which are fetched in pairs.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Words {
    pub(crate) identity: Identity,
    pub(crate) lock: LockLine,
    pub(crate) intent: Intent,
    pub(crate) tail: Tail,
    pub(crate) durable: Durable,
    pub(crate) sync: Sync,
    pub(crate) appended: Waiter,
    pub(crate) synced: Waiter,
    pub(crate) prepared: Prepared,
    members_at: [PadLine; 23],
    pub(crate) members: [Member; MAX_MEMBERS],
}

#[cfg(not(loom))]
impl Words {
    /// Sets every word to its first value, except the identity, the epoch and the generations. It also leaves
    /// the ends and the first offset, which read-only handles see: the caller stores those when they are
    /// known.
    pub(crate) fn reset(&self) {
        self.lock.word.store(0, Ordering::Relaxed);
        for word in [
            &self.intent.start,
            &self.intent.offset,
            &self.intent.end,
            &self.intent.roll,
            &self.intent.max_timestamp,
            &self.sync.slot_sequence,
            &self.sync.begun_at,
            &self.sync.recent,
            &self.sync.suspect_end,
            &self.sync.names_durable,
            &self.prepared.words[0],
            &self.prepared.words[1],
            &self.identity.latched,
        ] {
            word.store(0, Ordering::Relaxed);
        }
        self.sync.owner.store(0, Ordering::Relaxed);
    }
}

/// The boot and the file to which the words belong. Written under the gate by a process that is alone.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) magic: AtomicU64,
    pub(crate) boot: [AtomicU64; 2],
    pub(crate) dev: AtomicU64,
    pub(crate) ino: AtomicU64,
    /// Cleared first and set last by a recovery.
    pub(crate) ready: AtomicU64,
    /// The topic's epoch.
    pub(crate) epoch: AtomicU64,
    /// Non-zero after a failed sync: nothing is appended until a recovery clears it.
    pub(crate) latched: AtomicU64,
    /// The mount through which the process that recovered the topic opened it; 0 if unknown.
    pub(crate) mount: AtomicU64,
}

#[cfg(not(loom))]
impl Identity {
    /// Returns whether the words are complete, of this layout and boot, and of this very file.
    pub(crate) fn is_of(&self, boot: [u64; 2], file: FileIdentity) -> bool {
        are_of(&self.ready, [&self.boot[0], &self.boot[1], &self.dev, &self.ino], boot, file)
            && self.magic.load(Ordering::Relaxed) == MAGIC
    }

    /// Marks the words as those of this boot and file; they count once `ready` is set.
    pub(crate) fn stamp(&self, boot: [u64; 2], file: FileIdentity, mount: Option<u64>) {
        self.magic.store(MAGIC, Ordering::Relaxed);
        self.boot[0].store(boot[0], Ordering::Relaxed);
        self.boot[1].store(boot[1], Ordering::Relaxed);
        self.dev.store(file.dev, Ordering::Relaxed);
        self.ino.store(file.ino, Ordering::Relaxed);
        self.mount.store(mount.unwrap_or(0), Ordering::Relaxed);
    }

    /// Returns whether the file system has been mounted all the time since the words were made.
    pub(crate) fn is_on(&self, mount: Option<u64>) -> bool {
        mount.is_some_and(|mount| mount == self.mount.load(Ordering::Relaxed))
    }
}

/// Returns whether words can be trusted: whether they are complete, and name this boot and this very file.
/// `words`: the boot, the device and the inode that they name.
#[cfg(not(loom))]
pub(crate) fn are_of(
    ready: &AtomicU64,
    words: [&AtomicU64; 4],
    boot: [u64; 2],
    file: FileIdentity,
) -> bool {
    // Acquire: pairs with the Release that sets `ready` after all other words.
    ready.load(Ordering::Acquire) == 1
        && words.map(|word| word.load(Ordering::Relaxed)) == [boot[0], boot[1], file.dev, file.ino]
}

#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct LockLine {
    pub(crate) word: AtomicU32,
}

/// The next action of the owner of the append lock, announced before it begins, so that a process that takes
/// the lock over from a dead owner can finish it or cover it.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Intent {
    /// The position at which the frames being written start.
    pub(crate) start: AtomicU64,
    /// The offset of the first of them.
    pub(crate) offset: AtomicU64,
    /// The position at which they end; 0 if nothing is being written. Set after the two above, cleared last.
    pub(crate) end: AtomicU64,
    /// 1 + the base offset of the segment being rolled to; 0 if there is no roll.
    pub(crate) roll: AtomicU64,
    /// The largest timestamp appended so far.
    pub(crate) max_timestamp: AtomicU64,
}

/// The end of the appended records, and where the next one goes. `end` is stored last, with Release: a reader
/// that loads it with Acquire sees every frame below it, and a place at least as new.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Tail {
    /// The offset of the next record.
    pub(crate) end: AtomicU64,
    /// The low 48 bits hold the position of the next frame in the active segment; the bits above count how
    /// often a segment was entered. They are one word, so that no process can die between changing the
    /// segment and the position.
    place: AtomicU64,
    /// The low bit of that count selects the base of the active segment.
    bases: [AtomicU64; 2],
    /// The first offset that is retained.
    pub(crate) first: AtomicU64,
}

const POSITION_BITS: u32 = 48;

/// The active segment and the position in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The base of the active segment.
    pub(crate) active: u64,
    /// The position of the next frame in it.
    pub(crate) position: u64,
}

impl Tail {
    #[cfg(loom)]
    fn new() -> Tail {
        let zero = || AtomicU64::new(0);
        Tail { end: zero(), place: zero(), bases: [zero(), zero()], first: zero() }
    }

    /// Returns the place as of one instant, at least as new as an `end` loaded before.
    #[inline]
    pub(crate) fn place(&self) -> Place {
        loop {
            // Acquire: pairs with the Release stores of `advance` and `enter`.
            let word = self.place.load(Ordering::Acquire);
            let entered = word >> POSITION_BITS;
            let active = self.bases[(entered & 1) as usize].load(Ordering::Acquire);
            // The roll after the next one is the first to overwrite the base that was read.
            if self.place.load(Ordering::Acquire) >> POSITION_BITS == entered {
                return Place { active, position: word & ((1 << POSITION_BITS) - 1) };
            }
        }
    }

    /// Moves the position within the active segment. Called only by the owner of the append lock.
    #[inline]
    pub(crate) fn advance(&self, position: u64) {
        let entered = self.place.load(Ordering::Relaxed) >> POSITION_BITS;
        self.place.store(entered << POSITION_BITS | position, Ordering::Release);
    }

    /// Enters a segment. Called only by the owner of the append lock, or alone under the gate.
    pub(crate) fn enter(&self, base: u64, position: u64) {
        let entered = ((self.place.load(Ordering::Relaxed) >> POSITION_BITS) + 1) & 0xffff;
        self.bases[(entered & 1) as usize].store(base, Ordering::Release);
        self.place.store(entered << POSITION_BITS | position, Ordering::Release);
    }
}

#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Durable {
    /// Every record below it survives a power loss. On a `PowerLoss` topic, the high watermark.
    pub(crate) end: AtomicU64,
}

/// The running sync.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Sync {
    /// Its owner, or 0.
    pub(crate) owner: AtomicU32,
    /// Counts checkpoint slots: the sequence number of the next one is one higher.
    pub(crate) slot_sequence: AtomicU64,
    /// When the sync was begun (boot clock, nanoseconds).
    pub(crate) begun_at: AtomicU64,
    /// How long the last sync took, in nanoseconds.
    pub(crate) recent: AtomicU64,
    /// Pages of offsets below this must be marked changed before they are synced: a process died, or was
    /// overtaken, between a failed sync and its latch.
    pub(crate) suspect_end: AtomicU64,
    /// 1 + the base of the last segment whose name is durable.
    pub(crate) names_durable: AtomicU64,
}

/// See [`waiters`].
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) word: AtomicU32,
}

/// The segment files that are prepared ahead of the next rolls.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Prepared {
    /// For each file: its owner in the low half; in the high half a number that distinguishes the owner's
    /// files, and `PREPARING` or `READY`; 0 if there is none.
    pub(crate) words: [AtomicU64; 2],
}

#[repr(C, align(128))]
#[derive(Debug)]
struct PadLine([u8; 128]);

/// One process that has the topic open for writing.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Member {
    /// Increased whenever the slot is taken.
    pub(crate) generation: AtomicU32,
    /// For messages only.
    pub(crate) pid: AtomicU32,
}

#[cfg(not(loom))]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(offset_of!(Words, lock) == 128);
    assert!(offset_of!(Words, intent) == 256);
    assert!(offset_of!(Words, tail) == 384);
    assert!(offset_of!(Words, durable) == 512);
    assert!(offset_of!(Words, sync) == 640);
    assert!(offset_of!(Words, appended) == 768);
    assert!(offset_of!(Words, synced) == 896);
    assert!(offset_of!(Words, prepared) == 1024);
    assert!(offset_of!(Words, members) == 4096);
    assert!(size_of::<Words>() <= LEN);
};

/// The first bytes of every control page of this layout.
#[doc(hidden)]
pub const CONTROL_MAGIC: [u8; 8] = MAGIC.to_le_bytes();

/// Name, position and size in bytes of every control word except the members'. For tools that display a
/// control page.
#[cfg(not(loom))]
#[doc(hidden)]
pub fn control_words() -> Vec<(&'static str, usize, usize)> {
    use std::mem::offset_of;
    let mut words = Vec::new();
    macro_rules! group {
        ($group:ident: $($field:ident $len:literal),+) => {
            $(words.push((
                concat!(stringify!($group), ".", stringify!($field)),
                offset_of!(Words, $group.$field),
                $len,
            ));)+
        };
    }
    group!(identity: magic 8, boot 16, dev 8, ino 8, ready 8, epoch 8, latched 8, mount 8);
    group!(lock: word 4);
    group!(intent: start 8, offset 8, end 8, roll 8, max_timestamp 8);
    group!(tail: end 8, place 8, bases 16, first 8);
    group!(durable: end 8);
    group!(sync: owner 4, slot_sequence 8, begun_at 8, recent 8, suspect_end 8, names_durable 8);
    group!(appended: word 4);
    group!(synced: word 4);
    group!(prepared: words 16);
    words
}

/// The position of the members' words: for each member a generation and a process id, four bytes each.
#[cfg(not(loom))]
#[doc(hidden)]
pub const CONTROL_MEMBERS_AT: usize = std::mem::offset_of!(Words, members);

/// A mapped control file.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct Control {
    map: Map,
}

#[cfg(not(loom))]
impl Control {
    /// Lays the words over a mapping of [`LEN`] bytes.
    pub(crate) fn new(map: Map) -> Control {
        assert!(map.len() >= LEN);
        Control { map }
    }
}

#[cfg(not(loom))]
impl std::ops::Deref for Control {
    type Target = Words;

    fn deref(&self) -> &Words {
        // SAFETY: the mapping is at least `LEN` bytes (checked in `new`), page-aligned, lives as long as
        // `self`, and every field is an atomic or padding, for which any bytes are a valid value and
        // concurrent stores by other processes are not a data race.
        unsafe { &*self.map.as_ptr().cast::<Words>() }
    }
}
