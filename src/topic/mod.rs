//! A topic: one named log of records, in one directory.
//!
//! | file here | what it does |
//! |---|---|
//! | `options` | settings |
//! | `open` | opening: gate, decide, recover, take a slot |
//! | `resume` | going on from the words of dead members |
//! | `scan` | reading after a crash: where the log ends |
//! | `draft` | the frames of an append, put together before the lock is taken |
//! | `append` | the append path, and settling what a dead writer left |
//! | `roll` | the next segment |
//! | `handles`, `jobs` | those that a log has open; background work, which ends when one is closed |
//! | `sync` | durability: group commit, takeover, latch |
//! | `trim`, `ages`, `times` | retention, and what clocks say |
//! | `members` | who has it open for writing |
//! | `close` | closing in good order |
//! | `copy` | a segment into new blocks, after a failed write |
//! | `delete` | removing a topic |
//! | `locate` | from offset or time to a position; where readers must stop |
//! | `wait` | waiting for records |

mod access;
mod ages;
mod append;
mod close;
mod copy;
mod delete;
mod directory;
mod draft;
mod handles;
mod jobs;
mod locate;
mod members;
mod open;
mod options;
mod resume;
mod roll;
mod scan;
mod sealed;
mod sync;
mod times;
mod trim;
mod wait;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use parking_lot::Mutex;

use crate::consumer::Consumer;
use crate::cursor::Books;
use crate::error::{Error, Result};
use crate::format::epochs;
use crate::format::settings::Settings;
use crate::group::{Group, GroupInfo, GroupOptions};
use crate::log::LogInner;
use crate::reader::{Reader, Start};
use crate::record::Record;
use crate::recovery::RecoveryReport;
use crate::segment::Segment;
use crate::sys::fork::Generation;
use crate::sys::{Directory, FileIdentity};

use access::Access;
pub use ages::Clocks;
pub(crate) use handles::Handles;
pub(crate) use jobs::{Closable, Open};
pub(crate) use locate::Frontier;
pub use members::MemberInfo;
pub use options::{Durability, Retention, TopicOptions};
pub(crate) use sealed::Backlog;

/// A named log of records. Clones share it.
///
/// What an append promises on return is the topic's [`Durability`].
#[derive(Debug, Clone)]
pub struct Topic {
    inner: Arc<Open>,
}

#[derive(Debug)]
pub(crate) struct TopicInner {
    pub(crate) log: Arc<LogInner>,
    pub(crate) name: String,
    /// For messages: where the directory was when it was opened.
    pub(crate) dir: PathBuf,
    pub(crate) files: Arc<dyn Directory>,
    pub(crate) settings: Settings,
    pub(crate) options: TopicOptions,
    access: Access,
    /// The file by which the topic is known: a member's lock file, in which it holds its slot, or the settings
    /// that any other has read.
    known_by: (&'static str, FileIdentity),
    segments: Segments,
    pub(crate) recovery: OnceLock<RecoveryReport>,
    epochs: Mutex<Vec<epochs::Entry>>,
    /// The index of the active segment, as far as it was looked at, with its base.
    active_index: Mutex<Option<(u64, crate::index::Index)>>,
    /// A background job of this kind is waiting, running, or has done all there is to do.
    preparing: Arc<AtomicBool>,
    populating: Arc<AtomicBool>,
    /// Opened as a member, with words that hold: closing it syncs.
    is_open: AtomicBool,
    retaining: trim::Retaining,
    files_made: AtomicU64,
    jobs: Arc<jobs::Jobs>,
    sealed: Arc<sealed::Sealed>,
    /// Positions that the background makes durable.
    pub(crate) books: Books,
    made_in: Generation,
    /// Behind the record that this process appended last: a guess of where the next goes, which costs
    /// other writers nothing.
    last_end: AtomicU64,
    /// When an append last made sure that the topic's files are in place.
    checked_at: AtomicU64,
    /// For the background jobs.
    this: Weak<TopicInner>,
}

/// This process's state of the append path, guarded by the append lock.
#[derive(Debug, Default)]
pub(crate) struct Local {
    /// The segment that this process last appended to.
    active: Option<Arc<Segment>>,
}

/// The open segments of this process, and the bases known to exist.
#[derive(Debug, Default)]
struct Segments {
    open: Mutex<HashMap<u64, Weak<Segment>>>,
    bases: Mutex<Vec<u64>>,
}

impl TopicInner {
    pub(crate) fn io(&self, doing: &'static str, path: &Path, error: std::io::Error) -> Error {
        Error::io(doing, path, error)
    }

    /// The deadline of a wait for another process's lock that starts now.
    pub(super) fn lock_deadline(&self) -> Option<Instant> {
        self.log.options.lock_timeout.and_then(|timeout| Instant::now().checked_add(timeout))
    }
}

impl Topic {
    pub(crate) fn new(inner: Arc<Open>) -> Topic {
        Topic { inner }
    }

    /// Appends one record and returns its offset. On return the record survives what the topic's
    /// [`Durability`] says; readers of all processes can see it.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`], [`Error::Invalid`], [`Error::NoSpace`], [`Error::SyncFailed`],
    /// [`Error::ReadOnly`], [`Error::Forked`], [`Error::TimedOut`], [`Error::Io`]: the record was not
    /// appended, nor if the topic's files were removed ([`Error::NotFound`]) or others were put in their
    /// place ([`Error::Replaced`]). [`Error::Unknown`]: it was, and may not be durable.
    ///
    /// ```
    /// # fn main() -> deaddrop::Result<()> {
    /// # let dir = deaddrop::doc_dir();
    /// # let log = deaddrop::Log::open(&dir)?;
    /// use deaddrop::Record;
    /// let orders = log.topic("orders")?;
    /// let first = orders.append(&Record::new("a").key("customer-1"))?;
    /// let second = orders.append(&Record::new("b").key("customer-2"))?;
    /// assert_eq!(second, first + 1);
    /// # Ok(()) }
    /// ```
    pub fn append(&self, record: &Record) -> Result<u64> {
        let appended = self.inner.append(std::slice::from_ref(record), None)?;
        self.inner.acknowledge(&appended)?;
        Ok(appended.start)
    }

    /// Appends all of `records`, next to each other, or none; returns their offsets. A batch stays
    /// whole whatever happens, also across a power loss. At least one record; together at most 1 GiB.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append).
    pub fn append_batch(&self, records: &[Record]) -> Result<std::ops::Range<u64>> {
        let appended = self.inner.append(records, None)?;
        self.inner.acknowledge(&appended)?;
        Ok(appended)
    }

    /// Appends a record if the end of the topic is `expected`: optimistic concurrency between
    /// writers. The end counts records that are appended but not yet durable.
    ///
    /// # Errors
    ///
    /// [`Error::EndMoved`] with the end as it is, and as [`append`](Self::append).
    pub fn append_if_end(&self, expected: u64, record: &Record) -> Result<u64> {
        let appended = self.inner.append(std::slice::from_ref(record), Some(expected))?;
        self.inner.acknowledge(&appended)?;
        Ok(appended.start)
    }

    /// Appends a record without waiting for the disk, and returns its offset: for a pipeline that
    /// waits once for many with [`wait_durable`](Self::wait_durable). On a `PowerLoss` topic readers
    /// do not see it before it is durable.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append), never [`Error::Unknown`].
    pub fn append_unsynced(&self, record: &Record) -> Result<u64> {
        Ok(self.inner.append(std::slice::from_ref(record), None)?.start)
    }

    /// Returns when the record at `offset` survives a power loss, whatever the topic's
    /// [`Durability`]; syncs if nobody else does.
    ///
    /// # Errors
    ///
    /// [`Error::SyncFailed`], [`Error::Invalid`] if nothing was appended at `offset`, [`Error::Io`].
    pub fn wait_durable(&self, offset: u64) -> Result<()> {
        let end = self.end_offset()?;
        if offset >= end {
            return Err(Error::Invalid {
                what: format!("offset {offset} is not appended yet: the end is {end}"),
            });
        }
        self.inner.wait_durable(offset + 1)
    }

    /// The end of the topic, after everything that a dead process had in hand is either published or
    /// given up; what is below it is as durable as the topic promises, and readers see it.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`], [`Error::SyncFailed`], [`Error::Io`].
    pub fn settled_end(&self) -> Result<u64> {
        self.inner.settled_end()
    }

    /// A reader of its own position, from `start`.
    ///
    /// # Errors
    ///
    /// [`Error::Trimmed`] if `start` is an offset that is gone, [`Error::Io`], [`Error::Corrupt`].
    pub fn reader(&self, start: Start) -> Result<Reader> {
        Reader::new(Arc::clone(&self.inner), start)
    }

    /// The consumer of this name: a position kept in a file, with one owner at a time. `start` is
    /// where it begins if it is new; an existing one goes on where it committed.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if it is owned by another process or another value in this one,
    /// [`Error::Corrupt`] if its file is unreadable (it is never reset), [`Error::InvalidName`],
    /// [`Error::Trimmed`], [`Error::Io`].
    pub fn consumer(&self, name: &str, start: Start) -> Result<Consumer> {
        Consumer::open(&self.inner, name, start)
    }

    /// What is known of all consumers, without owning them. Sorted by name.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]. An unreadable file is an error in its own entry.
    pub fn consumers(&self) -> Result<Vec<crate::consumer::ConsumerInfo>> {
        self.inner.check_in_place()?;
        crate::consumer::list(&self.inner)
    }

    /// The processes that have the topic open for writing, as of this moment. For people who look at
    /// it: a member can come or go before this returns. Takes no lock.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Forked`].
    pub fn members(&self) -> Result<Vec<MemberInfo>> {
        self.inner.check_in_place()?;
        self.inner.members()
    }

    /// Deletes a consumer.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if it has an owner, [`Error::NotFound`], [`Error::Io`].
    pub fn delete_consumer(&self, name: &str) -> Result<()> {
        crate::consumer::delete(&self.inner, name)
    }

    /// The worker group of this name; made with these options if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if it has another number of lanes, [`Error::Corrupt`] if its file is
    /// unreadable (it is never reset), [`Error::InvalidName`], [`Error::Trimmed`], [`Error::Io`].
    pub fn group(&self, name: &str, options: GroupOptions) -> Result<Group> {
        Group::open(self, &self.inner, name, options)
    }

    /// What is known of all groups, by name, or why a group's file is unreadable. Sorted by name.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn groups(&self) -> Result<Vec<(String, Result<GroupInfo>)>> {
        self.inner.check_in_place()?;
        crate::group::list(&self.inner)
    }

    /// Sets all lanes of a group to `start`, and returns its offset. Records from there on are handled
    /// again; but a server looks for the outcome of each that was there already, and answers none twice.
    ///
    /// Killed on the way, some lanes are set and others not: call it again.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if it has workers, [`Error::NotFound`], [`Error::Corrupt`] if a lane is
    /// unreadable, [`Error::Trimmed`], [`Error::Io`].
    pub fn reset_group(&self, name: &str, start: Start) -> Result<u64> {
        crate::group::reset(&self.inner, name, start)
    }

    /// Deletes a group.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if it has workers, [`Error::NotFound`], [`Error::Io`].
    pub fn delete_group(&self, name: &str) -> Result<()> {
        crate::group::delete(&self.inner, name)
    }

    /// The offset behind the last record that readers may see.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the topic was deleted while it was open for reading, [`Error::Replaced`],
    /// [`Error::Io`], [`Error::Forked`].
    pub fn high_watermark(&self) -> Result<u64> {
        Ok(self.inner.current_frontier()?.high_watermark)
    }

    /// The offset that the next record gets.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Forked`].
    pub fn end_offset(&self) -> Result<u64> {
        Ok(self.inner.current_frontier()?.end)
    }

    /// The offset below which everything survives a power loss, as far as is known.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Forked`].
    pub fn durable_end(&self) -> Result<u64> {
        Ok(self.inner.current_frontier()?.durable_end)
    }

    /// The first offset that is retained.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn first_offset(&self) -> Result<u64> {
        self.inner.check_when_idle()?;
        self.inner.first_offset()
    }

    /// Drops whole segments all of whose records are below `offset`, never the newest one. Returns
    /// the first offset retained. Consumers behind it get [`Error::Trimmed`].
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`], [`Error::Io`].
    pub fn trim_before(&self, offset: u64) -> Result<u64> {
        self.inner.trim_before(offset)
    }

    /// Drops what the topic's [`Retention`] lets go; returns the first offset retained. Done after
    /// every roll and now and then in the background as well. Leaves a segment whose oldest record has
    /// half the age at which they go.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`], [`Error::Io`].
    pub fn trim(&self) -> Result<u64> {
        self.inner.trim_by_retention()
    }

    /// What is known of the clocks by which records were stamped. Reads the newest segment.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Corrupt`], [`Error::Forked`].
    pub fn clocks(&self) -> Result<Clocks> {
        let newest = self.inner.newest_time()?;
        Ok(Clocks::of(newest, self.inner.retaining.ages.lock().is_paused()))
    }

    /// Makes the pages of the next `len` bytes of the active segment resident now, so that appends to
    /// them take no page fault. Done in the background in small steps as well.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if memory is short.
    pub fn populate(&self, len: u64) -> Result<()> {
        self.inner.populate_ahead(len)
    }

    /// The topic's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The topic's directory, as an absolute path: where it was when the topic was opened.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The topic's settings.
    pub fn options(&self) -> &TopicOptions {
        &self.inner.options
    }

    /// Whether the ends are the words that the processes share which have the topic open for writing.
    /// Otherwise the log is open read-only, and they were found by reading.
    pub fn is_live(&self) -> bool {
        self.inner.words().is_some()
    }

    /// What opening the topic found after a crash, if this process recovered it. Of a read-only handle that no
    /// process wrote beside when it was opened: what an opening for writing would find and do.
    pub fn recovery(&self) -> Option<&RecoveryReport> {
        self.inner.recovery.get()
    }

    /// The log that it is in.
    pub(crate) fn log(&self) -> crate::log::Log {
        crate::log::Log::of(&self.inner.log)
    }

    pub(crate) fn inner(&self) -> &Arc<Open> {
        &self.inner
    }

    pub(crate) fn check_options(&self, wanted: &TopicOptions) -> Result<()> {
        match wanted.difference(&self.inner.options) {
            None => Ok(()),
            Some(what) => Err(Error::Conflict { topic: self.inner.name.clone(), what }),
        }
    }
}
