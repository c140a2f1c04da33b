//! A record that is one worker's to handle.

use std::sync::Arc;

use super::file::GroupFile;
use super::guard::LaneGuard;
use crate::error::Result;
use crate::record::{OwnedRecord, RecordRef};
use crate::store::Handle;

/// A record of a lane that this worker holds, as its handler sees it.
#[derive(Debug)]
pub struct Job {
    pub(super) topic: Arc<Handle>,
    pub(super) group: Arc<GroupFile>,
    pub(crate) record: OwnedRecord,
    pub(crate) lane: u32,
    /// The attempt that comes next.
    pub(crate) attempt: u32,
    /// Attempts that count against it.
    pub(crate) blamed: u32,
    pub(crate) is_suspect: bool,
    /// It is given up without another attempt.
    pub(crate) is_condemned: bool,
    /// An attempt whose end is not known was begun when the effects ended here.
    pub(crate) in_doubt: Option<u64>,
    /// It may have been handled before the last power loss; then its effects are from here on.
    pub(crate) doubtful: Option<u64>,
    /// It may be a dead letter already.
    pub(crate) may_be_kept: bool,
    /// A failure now is its last.
    pub(crate) is_last: bool,
}

impl Job {
    /// The record.
    pub fn record(&self) -> RecordRef<'_> {
        self.record.as_ref()
    }

    /// Where it is in its topic.
    pub fn offset(&self) -> u64 {
        self.record.offset()
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        self.record.payload()
    }

    /// The payload read as JSON. With `?` in the handler, a payload that is no `T` is poison at once.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`](crate::Error::Decode).
    #[cfg(feature = "json")]
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> crate::error::Result<T> {
        self.record.as_ref().json()
    }

    /// The key, if it has one: records with one key are handled in their order.
    pub fn key(&self) -> Option<&[u8]> {
        self.record.as_ref().key()
    }

    /// 1 the first time; more if the handler failed, or died, or was killed before.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether it is given up if the handler fails now.
    pub fn is_last_attempt(&self) -> bool {
        self.is_last
    }

    /// What keeps its lane from other workers, for a child process that does the work.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if no descriptor is left.
    pub fn lane_guard(&self) -> Result<LaneGuard> {
        LaneGuard::take(&*self.topic.files, &self.group, self.lane)
    }

    /// Its lane.
    pub fn lane(&self) -> u32 {
        self.lane
    }
}
