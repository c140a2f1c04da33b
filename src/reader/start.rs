//! Where reading begins, and the offset that this means.

use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::store::Store;
use crate::sys::clock::nanos;

/// Where to begin reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The first record that is retained.
    First,
    /// After the newest record: only records appended from now on.
    End,
    /// The newest record.
    Last,
    /// The newest N records.
    LastN(u64),
    /// The record at this offset.
    Offset(u64),
    /// The first record that was appended at this time or later.
    Time(SystemTime),
}

/// Returns the offset to which `start` resolves now.
pub(crate) fn resolve(topic: &Store, start: Start) -> Result<u64> {
    let first = topic.first_offset()?;
    let high_watermark = topic.current_frontier()?.high_watermark;
    match start {
        Start::First => Ok(first),
        Start::End => Ok(high_watermark),
        Start::Last => Ok(high_watermark.saturating_sub(1).max(first)),
        Start::LastN(count) => Ok(high_watermark.saturating_sub(count).max(first)),
        Start::Offset(offset) if offset < first => Err(Error::Trimmed { wanted: offset, first }),
        Start::Offset(offset) if offset > high_watermark => Err(Error::Invalid {
            what: format!("offset {offset} is past the high watermark ({high_watermark})"),
        }),
        Start::Offset(offset) => Ok(offset),
        Start::Time(time) => {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            topic.offset_at_time(nanos(since))
        }
    }
}
