//! `cat`: prints the records of a range.

use std::io::Write;

use deaddrop::{Error, Reader, RecordRef, Start, Topic};

use crate::failure::{note, Exit, Failure};
use crate::output::Out;
use crate::range::{Point, Range};
use crate::record::{Format, JsonRecord};
use crate::Global;

/// Print the records of a topic, payloads one a line
#[derive(Debug, clap::Args)]
#[command(after_help = RANGES)]
pub(crate) struct Cat {
    /// The topic
    topic: String,
    /// Which records: 10:20, -5, -1h:, @2026-01-01T00:00:00Z:end [default: all]
    #[arg(allow_hyphen_values = true, conflicts_with_all = ["from", "to"])]
    range: Option<Range>,
    /// The first record: an offset, -5, -1h, @TIME, start
    #[arg(long, allow_hyphen_values = true, value_name = "POINT")]
    from: Option<Point>,
    /// The record behind the last one: an offset, +5, -1h, @TIME, end
    #[arg(long, allow_hyphen_values = true, value_name = "POINT")]
    to: Option<Point>,
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
seconds); start:end.
Formats: %o offset, %t time, %u Unix nanoseconds, %n topic, %k key, %K its length, %p payload,
%s its length, %h headers, %%; \\n \\t \\r \\0 \\\\ \\xHH.";

/// How records are printed.
#[derive(Debug, clap::Args)]
pub(crate) struct Style {
    /// End records with a NUL byte instead of a newline
    #[arg(short = '0', long)]
    null: bool,
    /// Print each record like this, e.g. '%o %t %k %p\n'
    #[arg(long, value_name = "FORMAT", conflicts_with = "null")]
    format: Option<Format>,
}

impl Style {
    /// Prints one record.
    pub(crate) fn print(
        &self,
        out: &mut Out,
        topic: &str,
        record: &RecordRef<'_>,
    ) -> std::io::Result<()> {
        if out.is_json() {
            return out.object(&JsonRecord::new(topic, record));
        }
        if let Some(format) = &self.format {
            return format.write(out, topic, record);
        }
        out.write_all(record.payload())?;
        out.write_all(if self.null { b"\0" } else { b"\n" })
    }
}

impl Cat {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let topic = global.open_read_only()?.existing_topic(&self.topic)?;
        let mut range = self.range.unwrap_or(Range::ALL);
        range.from = self.from.unwrap_or(range.from);
        range.to = self.to.unwrap_or(range.to);
        let offsets = range.resolve(&topic)?;
        let left = self.count.unwrap_or(u64::MAX);
        let mut reader = reader_at(&topic, offsets.start)?;
        let exit = self.print(out, &mut reader, offsets.end, left);
        // What was read before the damage is the answer as far as it goes.
        out.flush()?;
        exit
    }

    fn print(
        &self,
        out: &mut Out,
        reader: &mut Reader,
        end: u64,
        mut left: u64,
    ) -> Result<Exit, Failure> {
        let mut exit = Exit::Ok;
        while left > 0 && reader.offset() < end {
            match reader.next() {
                Ok(Some(record)) => self.style.print(out, &self.topic, &record)?,
                Ok(None) => break,
                // It stands behind them already.
                Err(error @ Error::Lost { .. }) => {
                    note(&error);
                    continue;
                }
                Err(error @ Error::Corrupt { .. }) if self.skip_damage => {
                    note(&error);
                    let skipped = reader.skip_damage()?;
                    note(format_args!("skipped offsets {}..{}", skipped.start, skipped.end));
                    exit = Exit::Corruption;
                    continue;
                }
                Err(error @ Error::Corrupt { .. }) => {
                    return Err(Failure::from(error).and("`cat --skip-damage` reads on behind it"))
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
