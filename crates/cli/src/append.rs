//! `append`: appends records from lines, files or JSON.

mod input;

use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use deaddrop::{Durability, Record, Topic};
use indicatif::ProgressBar;
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::append::Append;
use crate::failure::{note, Exit, Failure};
use crate::missing::{say_recovery, Recovered};
use crate::output::Out;
use crate::progress;
use crate::record::{Reserved, Taking};
use crate::{units, Global};
use input::Piece;
pub(crate) use input::{Input, Kind};

/// A batch holds at most this many bytes, and at most a quarter of a segment.
const BATCH_LEN: u64 = 1 << 20;
/// At most this many records wait for one sync before they are acknowledged.
const ACKS_PER_SYNC: usize = 256;

/// The summary at the end.
#[derive(Debug, Default, JsonSchema, Serialize)]
pub(crate) struct Summary {
    /// The topic.
    topic: String,
    /// Records appended.
    records: u64,
    /// Bytes of their payloads.
    payload_bytes: u64,
    /// Offset of the first one.
    first: Option<u64>,
    /// Offset of the last one.
    last: Option<u64>,
    /// Time from the start to the last acknowledgement.
    seconds: f64,
    /// What opening the topic cut off or set aside, if it did.
    recovery: Option<Recovered>,
}

/// With --ack, instead of the summary, as soon as a record is acknowledged.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Acknowledged {
    /// Its offset.
    offset: u64,
}

impl Summary {
    /// Prints it as one line on stderr.
    pub(crate) fn say(&self, done: &str) {
        let at = match (self.first, self.last) {
            (Some(first), Some(last)) if first == last => format!(" at offset {first}"),
            (Some(first), Some(last)) => format!(", offsets {first} to {last},"),
            _ => String::new(),
        };
        note(format_args!(
            "{done} {} ({}){at} to {} in {:.2} s",
            units::count(self.records, "record"),
            units::size(self.payload_bytes),
            self.topic,
            self.seconds
        ));
    }
}

impl Append {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let kind = match (self.whole || !self.file.is_empty(), self.ndjson) {
            (true, _) => Kind::Whole,
            (_, true) => Kind::Json,
            _ => Kind::Lines(if self.null { 0 } else { b'\n' }),
        };
        let input = Input {
            kind,
            files: if self.file.is_empty() { self.files.clone() } else { self.file.clone() },
            headers: self.headers.clone(),
            taking: Taking {
                key: self.key.clone().map(String::into_bytes),
                reserved: Reserved::Refuse,
                origin: false,
            },
        };
        let topic = self.new.open(&global.open_saying(self.quiet)?, &self.topic, false)?;
        let exit = say_recovery(&topic);
        let summary = Appending::new(topic, self.ack).run(input, out)?;
        if out.is_json() && !self.ack {
            out.object(&summary)?;
        } else if !self.quiet {
            summary.say("appended");
        }
        Ok(exit)
    }
}

/// The records that are read from an input and appended to a topic.
pub(crate) struct Appending {
    topic: Topic,
    ack: bool,
    summary: Summary,
    bar: ProgressBar,
    /// The error that stopped the printing of acknowledgements.
    unsaid: Option<io::Error>,
}

impl Appending {
    /// `ack`: print each offset as soon as its record is acknowledged.
    pub(crate) fn new(topic: Topic, ack: bool) -> Appending {
        let summary = Summary {
            topic: topic.name().to_owned(),
            recovery: Recovered::of(&topic),
            ..Summary::default()
        };
        let bar = progress::bar(None, ack).with_message(summary.topic.clone());
        Appending { topic, ack, summary, bar, unsaid: None }
    }

    /// Appends all of `input`. A failure's message says how many records were appended before it.
    pub(crate) fn run(mut self, input: Input, out: &mut Out) -> Result<Summary, Failure> {
        let started = Instant::now();
        // Reads while a sync is under way: the records that arrive meanwhile are the next batch.
        let outcome = self.append_all(&input.spawn(), out);
        self.bar.finish_and_clear();
        let mut summary = self.summary;
        summary.seconds = started.elapsed().as_secs_f64();
        let outcome = outcome.and(self.unsaid.map_or(Ok(()), |error| Err(error.into())));
        match outcome {
            Ok(()) => Ok(summary),
            Err(failure) if summary.records == 0 => Err(failure),
            Err(failure) => {
                let last = summary.last.unwrap_or_default();
                Err(failure.and(format_args!(
                    "{} before it {} appended, the last one at offset {last}",
                    units::count(summary.records, "record"),
                    if summary.records == 1 { "was" } else { "were" },
                )))
            }
        }
    }

    fn append_all(&mut self, pieces: &Receiver<Piece>, out: &mut Out) -> Result<(), Failure> {
        let options = self.topic.options();
        let limit = BATCH_LEN.min(options.segment_len / 4);
        let most = match (self.ack, options.durability) {
            (false, _) => usize::MAX,
            (true, Durability::PowerLoss) => ACKS_PER_SYNC,
            // Without a sync to share, each record is acknowledged on its own.
            (true, _) => 1,
        };
        while let Ok(piece) = pieces.recv() {
            let mut records = Vec::new();
            let mut bytes = 0;
            let mut failed = None;
            let mut next = Some(piece);
            while let Some(piece) = next.take() {
                match piece {
                    Ok(more) => {
                        bytes += more.iter().map(|record| record.frame_len() as u64).sum::<u64>();
                        records.extend(more);
                    }
                    Err(failure) => failed = Some(failure),
                }
                if bytes < limit && failed.is_none() {
                    next = pieces.try_recv().ok();
                }
            }
            for batch in batches(&records, limit, most) {
                self.append_batch(batch, out)?;
            }
            if let Some(failure) = failed {
                return Err(failure);
            }
        }
        Ok(())
    }

    fn append_batch(&mut self, batch: &[Record], out: &mut Out) -> Result<(), Failure> {
        let offsets = match batch {
            [one] => {
                let offset = self.topic.append(one)?;
                offset..offset + 1
            }
            many => self.topic.append_batch(many)?,
        };
        let summary = &mut self.summary;
        summary.records += batch.len() as u64;
        summary.payload_bytes += batch.iter().map(|r| r.payload().len() as u64).sum::<u64>();
        summary.first.get_or_insert(offsets.start);
        summary.last = Some(offsets.end - 1);
        self.bar.set_position(summary.records);
        if self.ack {
            match acknowledge(offsets, out) {
                // The reader of the offsets has gone. The records are still appended.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => self.ack = false,
                Err(error) => {
                    self.ack = false;
                    self.unsaid = Some(error);
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }
}

fn acknowledge(offsets: Range<u64>, out: &mut Out) -> io::Result<()> {
    for offset in offsets {
        if out.is_json() {
            out.object(&Acknowledged { offset })?;
        } else {
            writeln!(out, "{offset}")?;
        }
    }
    out.flush()
}

/// Splits records into batches of at most `limit` bytes, unless one record alone is larger, and at
/// most `most` records.
fn batches(records: &[Record], limit: u64, most: usize) -> impl Iterator<Item = &[Record]> {
    let mut rest = records;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take(most).take_while(|record| {
            bytes += record.frame_len() as u64 + 8;
            bytes <= limit
        });
        let len = fits.count().max(1).min(rest.len());
        let (batch, others) = rest.split_at(len);
        rest = others;
        (!batch.is_empty()).then_some(batch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_all_records_in_order_within_both_limits() {
        let records: Vec<Record> =
            (0..50).map(|len| Record::new(vec![len as u8; 10 * len])).collect();
        for (limit, most) in [(1, usize::MAX), (700, usize::MAX), (u64::MAX, 7), (u64::MAX, 1)] {
            let all: Vec<&[Record]> = batches(&records, limit, most).collect();
            assert_eq!(all.concat(), records);
            for batch in all {
                let bytes: usize = batch.iter().map(Record::frame_len).sum();
                assert!(batch.len() == 1 || (bytes as u64) <= limit && batch.len() <= most);
            }
        }
        assert_eq!(batches(&[], 10, 10).count(), 0);
    }
}
