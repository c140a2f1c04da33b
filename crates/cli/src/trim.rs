//! `trim`: drops the oldest segments of a topic.

use std::io::Write;

use deaddrop::Topic;
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::trim::Trim;
use crate::failure::{Exit, Failure};
use crate::ls::segments;
use crate::missing::{say_missing, say_recovery, Recovered};
use crate::output::Out;
use crate::{units, Global};

/// The records that are dropped.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Change<'a> {
    /// The topic.
    topic: &'a str,
    /// Its first offset before.
    from: u64,
    /// Its first offset after.
    to: u64,
    /// Segments that are dropped.
    segments: usize,
    /// Bytes on the disk that are freed.
    bytes: u64,
    /// Consumers and groups that have not committed past all of it.
    behind: Vec<Behind>,
    /// Whether it was done, which takes --execute.
    executed: bool,
    /// What opening the topic cut off or set aside, if it did.
    recovery: Option<Recovered>,
}

/// A consumer or a group that loses records.
#[derive(Debug, JsonSchema, Serialize)]
struct Behind {
    /// consumer or group: one that has not committed past all of it.
    kind: &'static str,
    /// Its name.
    name: String,
    /// Its position; null if its file cannot be read.
    committed: Option<u64>,
}

impl Trim {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let topic = match self.execute {
            true => global.open_existing()?.open_topic(&self.topic)?,
            false => global.open_read_only()?.open_topic(&self.topic)?,
        };
        let (exit, recovery) = match self.execute {
            true => (say_recovery(&topic), Recovered::of(&topic)),
            // Reading cuts nothing off.
            false => (say_missing(&topic)?.1, None),
        };
        let from = topic.first_offset()?;
        let end = topic.high_watermark()?;
        let before = self.before.resolve_past(&topic, &self.future)?;
        if before > end {
            return Err(Failure::no(format_args!(
                "offset {before} is past the end of topic {}: choose one of {from} to {end}",
                self.topic
            )));
        }
        let files = segments(&topic);
        let bases = files.iter().map(|file| file.base);
        let to = bases.filter(|&base| base <= before && base < end).max().unwrap_or(from).max(from);
        let behind = behind(&topic, to)?;
        let to = if self.execute { topic.trim_before(before)? } else { to };
        let dropped = files.iter().filter(|file| file.base < to);
        let change = Change {
            topic: &self.topic,
            from,
            to,
            segments: dropped.clone().count(),
            bytes: dropped.map(|file| file.bytes).sum(),
            behind,
            executed: self.execute,
            recovery,
        };
        if out.is_json() {
            out.object(&change)?;
        } else {
            print(out, &change, &self.before.shown())?;
        }
        Ok(exit)
    }
}

/// The consumers and groups whose next record is below `to`, or may be.
fn behind(topic: &Topic, to: u64) -> Result<Vec<Behind>, Failure> {
    let mut found = Vec::new();
    for consumer in topic.consumers()? {
        let committed = consumer.committed.ok();
        found.push(Behind { kind: "consumer", name: consumer.name, committed });
    }
    for (name, info) in topic.groups()? {
        let committed = info.ok().map(|info| info.committed);
        found.push(Behind { kind: "group", name, committed });
    }
    found.retain(|one| one.committed.is_none_or(|committed| committed < to));
    Ok(found)
}

fn print(out: &mut Out, change: &Change<'_>, before: &str) -> std::io::Result<()> {
    let Change { topic, from, to, segments, bytes, .. } = change;
    if to == from {
        return writeln!(
            out,
            "{topic}: no whole segment is before that{before}; the topic begins at offset {from}"
        );
    }
    let would = if change.executed { "" } else { "would be " };
    let (s, size) = (if *segments == 1 { "" } else { "s" }, units::size(*bytes));
    writeln!(
        out,
        "{topic}: offsets {from}..{to}, {segments} segment{s}, {size}: {would}dropped{before}"
    )?;
    for Behind { kind, name, committed } in &change.behind {
        let loses = if change.executed { "lost" } else { "would lose" };
        match committed {
            Some(at) => {
                writeln!(out, "{kind} {name} is at {at} and {loses} records it has not read")?
            }
            None => writeln!(out, "{kind} {name} cannot be read: its position is not known")?,
        }
    }
    if !change.executed {
        writeln!(out, "nothing was changed: add --execute to do it")?;
    }
    Ok(())
}
