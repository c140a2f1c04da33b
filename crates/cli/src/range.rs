//! The offsets that ranges of the command line mean in a topic.

use std::time::SystemTime;

use deaddrop::{Start, Topic};

use crate::args::range::{Future, Point, Range};
use crate::args::time;
use crate::failure::{note, Failure};

impl Range {
    /// The offsets of the range in `topic` now.
    ///
    /// # Errors
    /// The range ends before it begins.
    pub(crate) fn resolve(&self, topic: &Topic) -> Result<std::ops::Range<u64>, Failure> {
        if self.is_reversed() {
            return Err(Failure::usage("the range ends before it begins"));
        }
        let from = self.from.resolve(topic, 0)?;
        let to = self.to.resolve(topic, from)?;
        if let Point::At(time) = self.from {
            if time > SystemTime::now() && from >= topic.high_watermark()? {
                note(format_args!(
                    "{} is in the future: topic {} has no record from then on",
                    time::show(time),
                    topic.name()
                ));
            }
        }
        if to < from && self.to != Point::End {
            return Err(Failure::no(format_args!(
                "the range begins at offset {from} of topic {} and ends before it, at {to}",
                topic.name()
            )));
        }
        Ok(from..to.max(from))
    }
}

impl Point {
    /// The offset that this is in `topic` now, for a command that destroys or skips earlier records.
    ///
    /// # Errors
    /// It is a time in the future, which was not allowed: all records are before it.
    pub(crate) fn resolve_past(self, topic: &Topic, future: &Future) -> Result<u64, Failure> {
        match self {
            Point::At(time) if time > SystemTime::now() && !future.allow_future => {
                Err(Failure::no(format_args!(
                    "{} is in the future, so all records of topic {} would be before it: check the \
                     time, or add --allow-future",
                    time::show(time),
                    topic.name()
                )))
            }
            point => point.resolve(topic, 0),
        }
    }

    /// The instant that a time was understood as, in parentheses.
    pub(crate) fn shown(self) -> String {
        let time = match self {
            Point::At(time) => Some(time),
            Point::Ago(age) => SystemTime::now().checked_sub(age),
            _ => None,
        };
        time.map_or(String::new(), |time| format!(" ({})", time::show(time)))
    }

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
