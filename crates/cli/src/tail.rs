//! `tail`: prints the newest records, and what comes.

use std::io::Write;

use deaddrop::{Error, RecordRef, Start, Stop};

use crate::args::tail::Tail;
use crate::cat::reader_at;
use crate::failure::{note, Exit, Failure};
use crate::output::Out;
use crate::Global;

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
