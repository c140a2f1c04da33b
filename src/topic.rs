//! The public handle of one topic.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::record::{BorrowedRecord, Record};
use crate::recovery::RecoveryReport;
use crate::store::Handle;

pub use crate::store::{Clocks, Durability, MemberInfo, Retention, TopicOptions};

/// A named log of records. Clones share it.
///
/// The topic's [`Durability`] decides what an append promises on return.
#[derive(Debug, Clone)]
pub struct Topic {
    inner: Arc<Handle>,
}

/// A record that a topic can append: a [`Record`], or a [`BorrowedRecord`].
pub trait Append: sealed::Append {}

impl Append for Record {}
impl Append for BorrowedRecord<'_> {}

mod sealed {
    use std::ops::Range;

    use super::{BorrowedRecord, Record, Result, Topic};

    /// The append path is compiled here, once for each kind of record, and not in each program.
    #[allow(unreachable_pub)]
    pub trait Append: Sized {
        fn publish(records: &[Self], topic: &Topic, end: Option<u64>) -> Result<Range<u64>>;
    }

    impl Append for Record {
        fn publish(records: &[Self], topic: &Topic, end: Option<u64>) -> Result<Range<u64>> {
            topic.inner.append(records, end)
        }
    }

    impl Append for BorrowedRecord<'_> {
        fn publish(records: &[Self], topic: &Topic, end: Option<u64>) -> Result<Range<u64>> {
            topic.inner.append(records, end)
        }
    }
}

impl Topic {
    pub(crate) fn new(inner: Arc<Handle>) -> Topic {
        Topic { inner }
    }

    /// Appends one record, a [`Record`] or a [`BorrowedRecord`], and returns its offset. On return the record survives the failures that the topic's
    /// [`Durability`] names, and readers of all processes can see it.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`], [`Error::Invalid`], [`Error::NoSpace`], [`Error::SyncFailed`],
    /// [`Error::ReadOnly`], [`Error::Forked`], [`Error::TimedOut`], [`Error::Io`]: the record was not
    /// appended. The same holds if the topic's files were removed ([`Error::NotFound`]) or replaced by others
    /// ([`Error::Replaced`]). [`Error::Unknown`]: it was appended, and may not be durable.
    ///
    /// ```
    /// # fn main() -> deaddrop::Result<()> {
    /// # let dir = deaddrop::doc_dir();
    /// # let log = deaddrop::Log::open_or_create(&dir)?;
    /// use deaddrop::Record;
    /// let orders = log.topic("orders")?;
    /// let first = orders.append(&Record::new("a").with_key("customer-1"))?;
    /// let second = orders.append(&Record::new("b").with_key("customer-2"))?;
    /// assert_eq!(second, first + 1);
    /// # Ok(()) }
    /// ```
    #[doc(alias("publish", "produce", "send", "write"))]
    pub fn append(&self, record: &impl Append) -> Result<u64> {
        Ok(self.append_batch(std::slice::from_ref(record))?.start)
    }

    /// Appends all of `records`, one after another without others between them, or none; returns their
    /// offsets. A batch stays whole in every case, a power loss included. At least one record; together at
    /// most 1 GiB.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append).
    #[doc(alias("publish", "produce"))]
    pub fn append_batch(&self, records: &[impl Append]) -> Result<Range<u64>> {
        let appended = sealed::Append::publish(records, self, None)?;
        self.inner.acknowledge(&appended)?;
        Ok(appended)
    }

    /// Appends a record if the end of the topic is `expected`: optimistic concurrency between writers. The
    /// end counts records that are appended but not yet durable.
    ///
    /// # Errors
    ///
    /// [`Error::EndMoved`] with the actual end, and as [`append`](Self::append).
    pub fn append_if_end(&self, expected: u64, record: &impl Append) -> Result<u64> {
        let appended = sealed::Append::publish(std::slice::from_ref(record), self, Some(expected))?;
        self.inner.acknowledge(&appended)?;
        Ok(appended.start)
    }

    /// Appends a record without waiting for the disk, and returns its offset. For a pipeline that waits once
    /// for many records, with [`wait_durable`](Self::wait_durable). On a `PowerLoss` topic readers do not see
    /// the record before it is durable.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append), never [`Error::Unknown`].
    pub fn append_unsynced(&self, record: &impl Append) -> Result<u64> {
        Ok(sealed::Append::publish(std::slice::from_ref(record), self, None)?.start)
    }

    /// Returns when the record at `offset` survives a power loss, on every [`Durability`]; syncs if no other
    /// thread or process does.
    ///
    /// # Errors
    ///
    /// [`Error::SyncFailed`], [`Error::Invalid`] if nothing was appended at `offset`, [`Error::Io`].
    #[doc(alias("flush", "fsync", "sync"))]
    pub fn wait_durable(&self, offset: u64) -> Result<()> {
        let end = self.end_offset()?;
        if offset >= end {
            return Err(Error::Invalid {
                what: format!("offset {offset} is past the end ({end}): it is not appended yet"),
            });
        }
        self.inner.wait_durable(offset + 1)
    }

    /// Returns when all records below `end` survive a power loss.
    pub(crate) fn wait_durable_to(&self, end: u64) -> Result<()> {
        end.checked_sub(1).map_or(Ok(()), |last| self.wait_durable(last))
    }

    /// Returns the end of the topic after settling the unfinished appends of dead processes, each of which is
    /// published or covered. Records below it are as durable as the topic promises, and readers see them.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`], [`Error::SyncFailed`], [`Error::Io`].
    pub fn settled_end(&self) -> Result<u64> {
        self.inner.settled_end()
    }

    /// Returns the processes that have the topic open for writing, as of this moment. For display only: a
    /// member can come or go before this returns. Takes no lock.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Forked`].
    pub fn members(&self) -> Result<Vec<MemberInfo>> {
        self.inner.location.check()?;
        self.inner.members()
    }

    /// Returns the offset after the last record that readers may see.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the topic was deleted while it was open for reading, [`Error::Replaced`],
    /// [`Error::Io`], [`Error::Forked`].
    #[doc(alias("latest", "newest"))]
    pub fn high_watermark(&self) -> Result<u64> {
        Ok(self.inner.current_frontier()?.high_watermark)
    }

    /// Returns the offset that the next record gets.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Forked`].
    #[doc(alias = "len")]
    pub fn end_offset(&self) -> Result<u64> {
        Ok(self.inner.current_frontier()?.end)
    }

    /// Returns the offset below which every record survives a power loss, as far as is known.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Forked`].
    pub fn durable_end(&self) -> Result<u64> {
        Ok(self.inner.current_frontier()?.durable_end)
    }

    /// Returns the first offset that is retained.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn first_offset(&self) -> Result<u64> {
        self.inner.location.check_when_idle()?;
        self.inner.first_offset()
    }

    /// Drops whole segments whose records are all below `offset`, never the newest segment. Returns the first
    /// offset retained. Consumers that have not reached it get [`Error::Trimmed`].
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`], [`Error::Io`].
    pub fn trim_before(&self, offset: u64) -> Result<u64> {
        self.inner.trim_before(offset)
    }

    /// Drops the segments that the topic's [`Retention`] no longer keeps; returns the first offset retained.
    /// This also happens after every roll and periodically in the background. Rolls to a new segment once the
    /// oldest record of the active one has half the age at which records are dropped.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`], [`Error::Io`].
    pub fn trim(&self) -> Result<u64> {
        self.inner.trim_by_retention(&[])
    }

    /// Returns information about the clocks that stamped the records. Reads the newest segment.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Corrupt`], [`Error::Forked`].
    pub fn clocks(&self) -> Result<Clocks> {
        let newest = self.inner.newest_time()?;
        Ok(Clocks::of(newest, self.inner.is_age_paused()))
    }

    /// Makes the pages of the next `len` bytes of the active segment resident now, so that appends to them
    /// take no page fault. The background does this too, in small steps.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if memory is short.
    pub fn populate(&self, len: u64) -> Result<()> {
        self.inner.populate_ahead(len)
    }

    /// Returns the topic's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Returns the topic's directory as an absolute path: its path when the topic was opened.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Returns the topic's settings.
    pub fn options(&self) -> &TopicOptions {
        &self.inner.options
    }

    /// Returns whether the ends come from the words shared by the processes that have the topic open for
    /// writing. Otherwise the log is open read-only, and they were found by reading.
    pub fn is_live(&self) -> bool {
        self.inner.words().is_some()
    }

    /// Returns what opening the topic found after a crash, if this process recovered it. For a read-only
    /// handle that was opened while no process had the topic open for writing: what an opening for writing
    /// would find and do.
    pub fn recovery(&self) -> Option<&RecoveryReport> {
        self.inner.recovery.get()
    }

    pub(crate) fn inner(&self) -> &Arc<Handle> {
        &self.inner
    }

    pub(crate) fn check_options(&self, wanted: &TopicOptions) -> Result<()> {
        match wanted.difference(&self.inner.options) {
            None => Ok(()),
            Some(what) => Err(Error::Conflict { topic: self.inner.name.clone(), what }),
        }
    }
}
