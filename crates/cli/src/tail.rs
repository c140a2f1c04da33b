//! `tail`: prints the newest records, and records that are appended later.

use std::io::Write;
use std::time::Duration;

use deaddrop::{Error, Reader, RecordRef, Start};

use crate::args::tail::Tail;
use crate::cat::{reader_at, say_beyond};
use crate::failure::{note, Exit, Failure};
use crate::output::Out;
use crate::Global;

/// The number of newest records that are printed by default.
const DEFAULT_COUNT: u64 = 10;
/// How often the command checks whether a missing topic exists.
const LOOK: Duration = Duration::from_millis(100);

impl Tail {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let log = match self.retry {
            true => until_there(
                || match global.dir().join("deaddrop").exists() {
                    true => global.open_read_only().map_err(Gone::Failed),
                    false => Err(Gone::Deleted),
                },
                "the log",
            )?,
            false => global.open_read_only()?,
        };
        let open = || log.open_topic(&self.topic).map_err(Gone::from);
        let mut topic = match self.retry {
            true => until_there(open, &self.topic)?,
            false => log.open_topic(&self.topic)?,
        };
        let (mut reader, end, mut left) = match self.selection.range() {
            Some(range) => {
                let offsets = range.resolve(&topic)?;
                let reader = reader_at(&topic, offsets.start)?;
                (reader, offsets.end, self.count.unwrap_or(u64::MAX))
            }
            None => {
                let count = self.count.unwrap_or(DEFAULT_COUNT);
                (topic.reader(Start::LastN(count))?, u64::MAX, u64::MAX)
            }
        };
        loop {
            let ended = self.print(global, out, &mut reader, end, &mut left);
            out.flush()?;
            match ended {
                Ok(()) if left == 0 => return Ok(Exit::Ok),
                Ok(()) => return say_beyond(&topic, end, Exit::Ok),
                Err(Gone::Deleted) if self.retry => {
                    note(format_args!("topic {} was deleted: waiting for a new one", self.topic));
                    topic = until_there(open, &self.topic)?;
                    reader = topic.reader(Start::First)?;
                    note(format_args!("following the new topic {}", self.topic));
                }
                Err(Gone::Deleted) => {
                    return Err(Failure::no(format_args!(
                        "topic {} was deleted; -F follows a new one with this name",
                        self.topic
                    )))
                }
                Err(Gone::Failed(failure)) => return Err(failure),
            }
        }
    }

    /// Prints to the end, or follows until the topic is deleted.
    fn print(
        &self,
        global: &Global,
        out: &mut Out,
        reader: &mut Reader,
        end: u64,
        left: &mut u64,
    ) -> Result<(), Gone> {
        let format = global.format();
        let follow = self.follow || self.retry;
        loop {
            while *left > 0 && (follow || reader.offset() < end) {
                let Some(record) = behind_lost(reader.next())? else { break };
                if let Some(record) = record {
                    self.style.print(out, format, &self.topic, &record)?;
                    *left -= 1;
                }
            }
            out.flush()?;
            if !follow || *left == 0 {
                return Ok(());
            }
            let read = reader.wait_timeout(LOOK);
            if let Some(Some(record)) = behind_lost(read)? {
                self.style.print(out, format, &self.topic, &record)?;
                *left -= 1;
            }
        }
    }
}

/// The reason why a topic is not read any further.
enum Gone {
    /// It does not exist, or another topic has taken its place.
    Deleted,
    Failed(Failure),
}

impl From<Error> for Gone {
    fn from(error: Error) -> Gone {
        match error {
            Error::NotFound { .. } | Error::Replaced { .. } => Gone::Deleted,
            other => Gone::Failed(other.into()),
        }
    }
}

impl From<std::io::Error> for Gone {
    fn from(error: std::io::Error) -> Gone {
        Gone::Failed(error.into())
    }
}

/// Calls `open` until the thing to be opened exists.
fn until_there<T>(mut open: impl FnMut() -> Result<T, Gone>, what: &str) -> Result<T, Failure> {
    let mut is_said = false;
    loop {
        match open() {
            Ok(opened) => return Ok(opened),
            Err(Gone::Failed(failure)) => return Err(failure),
            Err(Gone::Deleted) if is_said => {}
            Err(Gone::Deleted) => note(format_args!("waiting for {what}")),
        }
        is_said = true;
        std::thread::sleep(LOOK);
    }
}

/// Reports offsets that a repair marked lost: there is no record, and reading continues.
fn behind_lost<'a>(
    read: deaddrop::Result<Option<RecordRef<'a>>>,
) -> Result<Option<Option<RecordRef<'a>>>, Gone> {
    match read {
        Ok(record) => Ok(record.map(Some)),
        Err(error @ Error::Lost { .. }) => {
            note(error);
            Ok(Some(None))
        }
        Err(error) => Err(error.into()),
    }
}
