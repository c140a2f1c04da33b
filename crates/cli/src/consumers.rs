//! `consumers`: shows positions and lag; resets and deletes them on request.

use std::io::Write;

use deaddrop::{ConsumerInfo, Start, Topic};
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::consumers::Consumers;
use crate::args::range::Point;
use crate::failure::{Exit, Failure};
use crate::missing::say_recovery;
use crate::output::{Colour, Out};
use crate::{hint, units, Global};

/// A consumer.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Row {
    /// Its name.
    consumer: String,
    /// Its position.
    committed: Option<u64>,
    /// Its position after power loss.
    durable: u64,
    /// Records that it has to read.
    lag: u64,
    /// Of these, records that retention has dropped: they can no longer be read.
    missed: u64,
    /// Process id of its owner.
    owner: Option<u32>,
    /// Why its position cannot be read.
    error: Option<String>,
}

impl Row {
    /// `first`: the first offset that is retained.
    pub(crate) fn of(info: &ConsumerInfo, first: u64) -> Row {
        Row {
            consumer: info.name.clone(),
            committed: info.committed.as_ref().ok().copied(),
            durable: info.durable.unwrap_or(0),
            lag: info.lag,
            missed: missed(info, first),
            owner: info.owner,
            error: info.committed.as_ref().err().map(hint::error),
        }
    }
}

/// How many records before `first`, which retention has dropped, a consumer has not read.
fn missed(info: &ConsumerInfo, first: u64) -> u64 {
    info.committed.as_ref().map_or(0, |&committed| first.saturating_sub(committed))
}

/// With --reset or --delete, the change.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Change<'a> {
    /// Its name.
    consumer: &'a str,
    /// Its position before.
    from: Option<u64>,
    /// Its position after; null if it is deleted.
    to: Option<u64>,
    /// Whether it was done, which takes --execute.
    executed: bool,
}

impl Consumers {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let topic = global.open_read_only()?.open_topic(&self.topic)?;
        let all = topic.consumers()?;
        if let (Some(name), Some(to)) = (&self.reset, self.to) {
            return self.reset(global, out, &topic, find(&all, &topic, name)?, to);
        }
        if let Some(name) = &self.delete {
            return self.delete(global, out, find(&all, &topic, name)?);
        }
        let first = topic.first_offset()?;
        if out.is_json() {
            for info in &all {
                out.object(&Row::of(info, first))?;
            }
        } else if all.is_empty() {
            writeln!(out, "topic {} has no consumers", self.topic)?;
        } else {
            print(out, &all, first)?;
        }
        let damaged = all.iter().any(|info| info.committed.is_err());
        Ok(if damaged { Exit::Corruption } else { Exit::Ok })
    }

    fn reset(
        &self,
        global: &Global,
        out: &mut Out,
        topic: &Topic,
        info: &ConsumerInfo,
        to: Point,
    ) -> Result<Exit, Failure> {
        let to = to.resolve_past(topic, &self.future)?;
        let from = match &info.committed {
            Ok(from) => *from,
            Err(error) => return Err(Failure::new(Exit::Corruption, error)),
        };
        let (first, end) = (topic.first_offset()?, topic.high_watermark()?);
        if !(first..=end).contains(&to) {
            return Err(Failure::no(format_args!(
                "offset {to} is not in topic {}: choose one of {first} to {end}",
                topic.name()
            )));
        }
        refuse_owned(info)?;
        if self.execute {
            let writable = global.open_existing()?.open_topic(&self.topic)?;
            say_recovery(&writable);
            let mut consumer = writable.consumer(&info.name, Start::Offset(to))?;
            consumer.seek(Start::Offset(to))?;
            consumer.sync()?;
        }
        self.say(
            out,
            &Change {
                consumer: &info.name,
                from: Some(from),
                to: Some(to),
                executed: self.execute,
            },
        )
    }

    fn delete(&self, global: &Global, out: &mut Out, info: &ConsumerInfo) -> Result<Exit, Failure> {
        refuse_owned(info)?;
        if self.execute {
            let writable = global.open_existing()?.open_topic(&self.topic)?;
            say_recovery(&writable);
            writable.delete_consumer(&info.name)?;
        }
        let from = info.committed.as_ref().ok().copied();
        self.say(out, &Change { consumer: &info.name, from, to: None, executed: self.execute })
    }

    fn say(&self, out: &mut Out, change: &Change<'_>) -> Result<Exit, Failure> {
        if out.is_json() {
            out.object(change)?;
            return Ok(Exit::Ok);
        }
        let done = if change.executed { "" } else { "would be " };
        let from = change.from.map_or("unreadable".to_owned(), |from| from.to_string());
        match change.to {
            Some(to) => {
                let time = self.to.map_or(String::new(), Point::shown);
                writeln!(out, "{} {done}set from {from} to {to}{time}", change.consumer)?
            }
            None => writeln!(out, "{} {done}deleted (its position is {from})", change.consumer)?,
        }
        if !change.executed {
            writeln!(out, "nothing was changed: add --execute to do it")?;
        }
        Ok(Exit::Ok)
    }
}

fn find<'a>(
    all: &'a [ConsumerInfo],
    topic: &Topic,
    name: &str,
) -> Result<&'a ConsumerInfo, Failure> {
    all.iter().find(|info| info.name == name).ok_or_else(|| {
        let known: Vec<&str> = all.iter().map(|info| info.name.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Failure::no(format_args!("topic {} has no consumer {name}: it has {known}", topic.name()))
    })
}

fn refuse_owned(info: &ConsumerInfo) -> Result<(), Failure> {
    match info.owner {
        None => Ok(()),
        Some(pid) => Err(Failure::new(
            Exit::Locked,
            format_args!("consumer {} is in use by process {pid}: stop it first", info.name),
        )),
    }
}

/// Prints consumers as a table.
pub(crate) fn print(out: &mut Out, all: &[ConsumerInfo], first: u64) -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|info| {
            let (committed, error) = match &info.committed {
                Ok(committed) => {
                    let missed = match missed(info, first) {
                        0 => String::new(),
                        some => format!(
                            "before the first offset ({first}): {} dropped unread",
                            units::count(some, "record")
                        ),
                    };
                    (committed.to_string(), out.paint(Colour::Bad, missed))
                }
                Err(error) => ("-".to_owned(), out.paint(Colour::Bad, hint::error(error))),
            };
            let owner = info.owner.map_or("-".to_owned(), |pid| format!("process {pid}"));
            let name = info.name.clone();
            let durable = info.durable.unwrap_or(0).to_string();
            vec![name, committed, durable, info.lag.to_string(), owner, error]
        })
        .collect();
    let heading = ["CONSUMER", "COMMITTED", "DURABLE", "LAG", "OWNER", ""];
    out.table(&heading, &[1, 2, 3], &rows)
}
