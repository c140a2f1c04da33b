//! `tail`: prints the newest records, and what comes.

use std::io::Write;

use deaddrop::{Error, RecordRef, Start, Stop};

use crate::cat::reader_at;
use crate::failure::{note, Exit, Failure};
use crate::format::Style;
use crate::output::Out;
use crate::range::Selection;
use crate::Global;

/// Print the newest records of a topic, and with -f what is appended from now on
#[derive(Debug, clap::Args)]
pub(crate) struct Tail {
    /// The topic
    topic: String,
    #[command(flatten)]
    selection: Selection,
    /// So many of the newest records, if no range is given
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 10)]
    #[arg(conflicts_with_all = ["range", "from", "to"])]
    count: u64,
    /// Go on with what is appended, until interrupted; a range has no end then
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    style: Style,
}

impl Tail {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let topic = global.open_read_only()?.existing_topic(&self.topic)?;
        let format = global.format();
        let (mut reader, end) = match self.selection.range() {
            Some(range) => {
                let offsets = range.resolve(&topic)?;
                (reader_at(&topic, offsets.start)?, offsets.end)
            }
            None => (topic.reader(Start::LastN(self.count))?, u64::MAX),
        };
        let stop = Stop::new();
        loop {
            while self.follow || reader.offset() < end {
                let Some(record) = behind_lost(reader.next())? else { break };
                if let Some(record) = record {
                    self.style.print(out, format, &self.topic, &record)?;
                }
            }
            out.flush()?;
            if !self.follow {
                return Ok(Exit::Ok);
            }
            if let Some(Some(record)) = behind_lost(reader.wait(&stop))? {
                self.style.print(out, format, &self.topic, &record)?;
            }
        }
    }
}

/// Reports offsets that a repair gave up: there is no record then, and reading goes on.
fn behind_lost<'a>(
    read: deaddrop::Result<Option<RecordRef<'a>>>,
) -> Result<Option<Option<RecordRef<'a>>>, Failure> {
    match read {
        Ok(record) => Ok(record.map(Some)),
        Err(error @ Error::Lost { .. }) => {
            note(error);
            Ok(Some(None))
        }
        Err(error) => Err(error.into()),
    }
}
