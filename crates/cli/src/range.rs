//! What the ranges of the command line are in a topic.

use std::time::SystemTime;

use deaddrop::{Start, Topic};

use crate::args::range::{Point, Range};
use crate::failure::Failure;

impl Range {
    /// The offsets of the range in `topic` now, and whether it ends at the end.
    pub(crate) fn resolve(&self, topic: &Topic) -> Result<std::ops::Range<u64>, Failure> {
        let from = self.from.resolve(topic, 0)?;
        let to = self.to.resolve(topic, from)?;
        Ok(from..to.max(from))
    }
}

impl Point {
    fn resolve(self, topic: &Topic, from: u64) -> Result<u64, Failure> {
        let end = topic.high_watermark()?;
        let first = topic.first_offset()?;
        Ok(match self {
            Point::First => first,
            Point::End => end,
            Point::Offset(offset) => offset,
            Point::FromEnd(count) => end.saturating_sub(count).max(first),
            Point::Plus(count) => from.saturating_add(count),
            Point::Ago(age) => {
                let time = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
                topic.reader(Start::Time(time))?.offset()
            }
            Point::At(time) => topic.reader(Start::Time(time))?.offset(),
        })
    }
}
