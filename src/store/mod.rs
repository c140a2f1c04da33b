//! The store of one topic: its segments, its shared words, and the operations on them. Readers, consumers
//! and groups use it; it knows none of them.
//!
//! # Interface
//!
//! The layers above use these methods of `Store` and of its parts, and no others; a test compares the table
//! with the code.
//!
//! | about | methods |
//! |---|---|
//! | opening | `open`, `open_read_only`, `open_alone` |
//! | this process | `member`, `not_forked`, `words`, `closable` |
//! | the files, still in place | `location.check`, `location.check_when_idle`, `location.displaced`, `location.sync_names_in` |
//! | how far the topic goes | `frontier`, `current_frontier`, `first_offset`, `settled_end`, `published` |
//! | reading | `walk_at`, `segment`, `segments.is_current`, `around`, `has_moved`, `next_base`, `offset_at_time`, `newest_time` |
//! | stored positions | `epochs.current`, `epochs.clamp` |
//! | waiting | `wait_beyond`, `wait_durable` |
//! | appending | `append`, `acknowledge`, `populate_ahead` |
//! | retention | `trim_before`, `trim_by_retention`, `is_age_paused` |
//! | tools | `members` |

mod access;
mod ages;
mod ahead;
mod append;
mod background;
mod book;
mod close;
mod delete;
mod directory;
mod draft;
mod dropped;
mod epochs;
mod frontier;
mod handles;
mod home;
mod indexes;
mod locate;
mod members;
mod open;
mod options;
mod positions;
mod prepared;
mod recover;
mod roll;
mod sealed;
mod segments;
mod sync;
mod times;
mod trim;
mod wait;

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};

use crate::format::settings::Settings;
use crate::index::Index;
use crate::recovery::RecoveryReport;
use crate::segment::Segment;
use crate::sys::fork::Generation;
use crate::sys::Directory;

use access::Access;
pub use ages::Clocks;
use ahead::Ahead;
use background::Background;
pub(crate) use background::Closable;
pub(crate) use book::{Book, Books, Page};
pub(crate) use delete::{delete_topic, remove_deleted};
pub(crate) use directory::exists;
use directory::{remove_if_there, Location};
use epochs::Epochs;
pub(crate) use frontier::Frontier;
pub(crate) use handles::{Handle, Handles};
pub use home::LogOptions;
pub(crate) use home::{medium_of, names_in, LogInner, MARKER, TOPICS};
use indexes::Indexes;
pub use members::MemberInfo;
pub use options::{Durability, Retention, TopicOptions};
pub(crate) use positions::{durable_slots, is_live_trusted, CONSUMERS, GROUPS};
pub(crate) use recover::check_settings;
use segments::Segments;
use trim::Retaining;

#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) log: Arc<LogInner>,
    pub(crate) name: String,
    /// For messages: the directory's path when it was opened.
    pub(crate) dir: PathBuf,
    pub(crate) files: Arc<dyn Directory>,
    /// See [`writes_by_call`](Self::writes_by_call).
    by_call: bool,
    pub(crate) settings: Settings,
    pub(crate) options: TopicOptions,
    access: Access,
    pub(crate) location: Location,
    pub(crate) segments: Segments,
    indexes: Indexes,
    pub(crate) recovery: OnceLock<RecoveryReport>,
    pub(crate) epochs: Epochs,
    ahead: Ahead,
    /// Opened as a member, with trusted words: closing the topic syncs it.
    is_open: AtomicBool,
    retaining: Retaining,
    files_made: AtomicU64,
    background: Background,
    sealed: Arc<sealed::Sealed>,
    /// The positions that the background makes durable.
    pub(crate) books: Books,
    made_in: Generation,
    /// The offset after the record that this process appended last: a guess at the next offset that costs
    /// other writers nothing.
    last_end: AtomicU64,
}

impl Store {
    /// Whether records are written to a segment by system calls, and not by stores into a mapping. Where a store
    /// can need a new block, a full disk is an error of a call, but a signal to a store. On a topic that syncs each
    /// append, each sync write-protects the pages that were stored into, in every process that maps them, and
    /// the next store into one is a fault; a system call also changes only its own blocks of a large page.
    #[inline]
    fn writes_by_call(&self, segment: &Segment) -> bool {
        self.by_call || segment.shares_blocks()
    }
}

/// This process's state of the append path; the append lock guards it.
#[derive(Debug, Default)]
pub(crate) struct Local {
    /// The segment that this process last appended to.
    active: Option<Arc<Segment>>,
    /// The position in it from which on the next append looks at the work ahead.
    look_at: Cell<u64>,
    /// Its index, as far as this process has appended to it.
    index: RefCell<Option<Index>>,
}

impl Local {
    /// Appends to `segment` from now on; returns the segment of before.
    fn enter(&mut self, segment: Arc<Segment>) -> Option<Arc<Segment>> {
        self.look_at.set(0);
        *self.index.get_mut() = Some(Index::new(&segment));
        self.active.replace(segment)
    }
}
