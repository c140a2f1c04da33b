//! One record for one worker.

use std::sync::Arc;

use super::file::GroupFile;
use super::guard::LaneGuard;
use crate::error::Result;
use crate::record::{OwnedRecord, RecordRef};
use crate::store::Handle;

/// A record of a lane that this worker owns, as its handler receives it.
#[derive(Debug)]
pub struct Job {
    pub(super) topic: Arc<Handle>,
    pub(super) group: Arc<GroupFile>,
    pub(crate) record: OwnedRecord,
    pub(crate) lane: u32,
    /// The number of the next attempt.
    pub(crate) attempt: u32,
    /// Attempts that count against the record.
    pub(crate) blamed: u32,
    pub(crate) is_suspect: bool,
    /// Whether it becomes a dead letter without another attempt.
    pub(crate) is_condemned: bool,
    /// If an attempt without a known end was begun: the end of the effects at that time.
    pub(crate) in_doubt: Option<u64>,
    /// If it may have been handled before the last power loss: the offset from which its effects are.
    pub(crate) doubtful: Option<u64>,
    /// Whether there may be a dead letter of it already.
    pub(crate) may_be_kept: bool,
    /// Whether it is no longer retried if it fails now.
    pub(crate) is_last: bool,
}

impl Job {
    /// Returns the record.
    pub fn record(&self) -> RecordRef<'_> {
        self.record.as_ref()
    }

    /// Returns the record's offset in its topic.
    pub fn offset(&self) -> u64 {
        self.record.offset()
    }

    /// Returns the payload.
    pub fn payload(&self) -> &[u8] {
        self.record.payload()
    }

    /// Decodes the payload as JSON. With `?` in the handler, a payload that is not a `T` is poison at once.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`](crate::Error::Decode).
    #[cfg(feature = "json")]
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> crate::error::Result<T> {
        self.record.as_ref().json()
    }

    /// Returns the key, if the record has one: records with the same key are handled in order.
    pub fn key(&self) -> Option<&[u8]> {
        self.record.as_ref().key()
    }

    /// Returns the number of this attempt: 1 the first time; more if an earlier one failed or its process died.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns whether the record is no longer retried if the handler fails now.
    pub fn is_last_attempt(&self) -> bool {
        self.is_last
    }

    /// Returns a guard that keeps the lane from other workers, for a child process that does the work.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if no descriptor is left.
    pub fn lane_guard(&self) -> Result<LaneGuard> {
        LaneGuard::take(&*self.topic.files, &self.group, self.lane)
    }

    /// Returns the number of the record's lane.
    pub fn lane(&self) -> u32 {
        self.lane
    }
}
