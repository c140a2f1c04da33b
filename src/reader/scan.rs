//! Reads a range of a topic to its end, past whatever cannot be read.

use std::ops::{ControlFlow, Range};

use super::Start;
use crate::error::{Error, Result};
use crate::record::RecordRef;
use crate::topic::Topic;

/// Calls `each` for the records of a range, until it breaks. Returns the parts of the range before that point
/// that were trimmed, damaged or marked lost.
pub(crate) fn scan(
    topic: &Topic,
    range: Range<u64>,
    mut each: impl FnMut(&RecordRef<'_>) -> ControlFlow<()>,
) -> Result<Vec<Range<u64>>> {
    let from = range.start.max(topic.first_offset()?).min(range.end);
    let mut missing = Vec::new();
    if from > range.start {
        missing.push(range.start..from);
    }
    if from == range.end {
        return Ok(missing);
    }
    let mut reader = topic.reader(Start::Offset(from))?;
    while reader.offset() < range.end {
        let at = reader.offset();
        match reader.next() {
            Ok(Some(record)) => {
                if each(&record).is_break() {
                    break;
                }
            }
            Ok(None) => break,
            Err(Error::Corrupt { .. }) => missing.push(reader.skip_damage()?),
            Err(Error::Lost { offsets, .. }) => missing.push(offsets),
            Err(Error::Trimmed { first, .. }) => {
                reader.seek_to(first);
                missing.push(at..first);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(missing)
}
