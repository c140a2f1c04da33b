//! `cat`: prints the records of a range.

use std::io::Write;

use deaddrop::{Error, Reader, RecordRef, Start, Topic};

use crate::args::cat::Cat;
use crate::args::range::Range;
use crate::exchange::worse;
use crate::failure::{note, Exit, Failure};
use crate::missing::Beyond;
use crate::output::Out;
use crate::Global;

impl Cat {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let topic = global.open_read_only()?.open_topic(&self.topic)?;
        let offsets = self.selection.range().unwrap_or(Range::ALL).resolve(&topic)?;
        let reader = reader_at(&topic, offsets.start)?;
        let stretch =
            Stretch { reader, end: offsets.end, most: self.count, skip_damage: self.skip_damage };
        let format = global.format();
        let exit = stretch.each(|record| self.style.print(out, format, &self.topic, record));
        // The records before the damage are a valid answer, as far as it goes.
        out.flush()?;
        if self.count.is_some() {
            return exit;
        }
        say_beyond(&topic, offsets.end, exit?)
    }
}

/// Records to read.
pub(crate) struct Stretch {
    pub(crate) reader: Reader,
    pub(crate) end: u64,
    /// At most this many.
    pub(crate) most: Option<u64>,
    /// Skip damage, and report it.
    pub(crate) skip_damage: bool,
}

impl Stretch {
    /// Calls `each` for each record.
    pub(crate) fn each(
        mut self,
        mut print: impl FnMut(&RecordRef<'_>) -> std::io::Result<()>,
    ) -> Result<Exit, Failure> {
        let mut exit = Exit::Ok;
        let mut left = self.most.unwrap_or(u64::MAX);
        while left > 0 && self.reader.offset() < self.end {
            match self.reader.next() {
                Ok(Some(record)) => print(&record)?,
                Ok(None) => break,
                // The reader has moved past them already.
                Err(error @ Error::Lost { .. }) => {
                    note(&error);
                    continue;
                }
                Err(error @ Error::Corrupt { .. }) if self.skip_damage => {
                    note(&error);
                    let skipped = self.reader.skip_damage()?;
                    note(format_args!("skipped offsets {}..{}", skipped.start, skipped.end));
                    exit = Exit::Corruption;
                    continue;
                }
                Err(error @ Error::Corrupt { .. }) => {
                    return Err(Failure::from(error).and("add --skip-damage to continue after it"))
                }
                Err(error) => return Err(error.into()),
            }
            left -= 1;
        }
        Ok(exit)
    }
}

/// Reports whole records in the files after the end of a topic, if the end was reached without an error.
pub(crate) fn say_beyond(topic: &Topic, end: u64, exit: Exit) -> Result<Exit, Failure> {
    if end < topic.high_watermark()? {
        return Ok(exit);
    }
    Ok(Beyond::of(topic).map_or(exit, |beyond| worse(exit, beyond.say(topic.name()))))
}

/// A reader at an offset that the user named; an offset past the end is a negative answer.
pub(crate) fn reader_at(topic: &Topic, offset: u64) -> Result<Reader, Failure> {
    let end = topic.high_watermark()?;
    if offset > end {
        return Err(Failure::no(format_args!(
            "offset {offset} is past the end of topic {} ({end}): it has not been appended yet; \
             `deaddrop info {}` shows the ends",
            topic.name(),
            topic.name()
        )));
    }
    Ok(topic.reader(Start::Offset(offset))?)
}
