//! `cat`: prints the records of a range.

use std::io::Write;

use deaddrop::{Error, Reader, RecordRef, Start, Topic};

use crate::failure::{note, Exit, Failure};
use crate::format::Style;
use crate::output::Out;
use crate::range::{Range, Selection};
use crate::Global;

/// Print the records of a topic, payloads one a line
#[derive(Debug, clap::Args)]
pub(crate) struct Cat {
    /// The topic
    topic: String,
    #[command(flatten)]
    selection: Selection,
    /// At most so many records
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u64>,
    /// Pass over damaged records and report them; the exit code is 4 all the same
    #[arg(long)]
    skip_damage: bool,
    #[command(flatten)]
    style: Style,
}

/// How ranges are written, for the help of the commands that take one.
pub(crate) const RANGES: &str = "\
Ranges are half-open. 10:20 offsets; 10 one record; 10:+5 five records; -5 the newest five;
-1h: or -1h the last hour; -1h:-30m; @2026-01-01T00:00:00Z:end; @2026-01-01; @1767225600 (Unix
seconds); start:end.";

impl Cat {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let topic = global.open_read_only()?.existing_topic(&self.topic)?;
        let offsets = self.selection.range().unwrap_or(Range::ALL).resolve(&topic)?;
        let reader = reader_at(&topic, offsets.start)?;
        let stretch =
            Stretch { reader, end: offsets.end, most: self.count, skip_damage: self.skip_damage };
        let format = global.format();
        let exit = stretch.each(|record| self.style.print(out, format, &self.topic, record));
        // What was read before the damage is the answer as far as it goes.
        out.flush()?;
        exit
    }
}

/// Records to go through.
pub(crate) struct Stretch {
    pub(crate) reader: Reader,
    pub(crate) end: u64,
    /// At most so many.
    pub(crate) most: Option<u64>,
    /// Pass over damage, and say so.
    pub(crate) skip_damage: bool,
}

impl Stretch {
    /// Does something with each record.
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
                // It stands behind them already.
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
                    return Err(Failure::from(error).and("--skip-damage reads on behind it"))
                }
                Err(error) => return Err(error.into()),
            }
            left -= 1;
        }
        Ok(exit)
    }
}

/// A reader at an offset that was named; one behind the end is a negative answer.
pub(crate) fn reader_at(topic: &Topic, offset: u64) -> Result<Reader, Failure> {
    let end = topic.high_watermark()?;
    if offset > end {
        return Err(Failure::no(format_args!(
            "offset {offset} is not there yet: topic {} ends at {end}; `deaddrop info {}` shows \
             its ends",
            topic.name(),
            topic.name()
        )));
    }
    Ok(topic.reader(Start::Offset(offset))?)
}
