//! `info`: shows everything about one topic.

use std::io::Write;

use deaddrop::format::segment::{self as layout, Header};
use deaddrop::group::{GroupInfo, LaneInfo};
use deaddrop::{ConsumerInfo, Topic};
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::info::Info;
use crate::failure::{Exit, Failure};
use crate::ls::{open_listed, segments, SegmentFile};
use crate::missing::{clock, say_missing};
use crate::output::{Colour, Out};
use crate::{hint, units, Global};

/// The topic.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct JsonInfo {
    /// Its name.
    topic: String,
    /// Its directory.
    dir: String,
    /// What acknowledged records survive: power-loss, process-crash, within:500ms.
    durability: String,
    /// Bytes of a segment file.
    segment_size: u64,
    /// Which records are kept.
    retention: String,
    /// First offset that is retained.
    first: u64,
    /// Offset after the newest record that readers see.
    high_watermark: u64,
    /// Offset after the newest record.
    end: u64,
    /// Records below it are known to survive power loss; if not live, by the newest checkpoint: more records may.
    durable_end: u64,
    /// A process has the topic open for writing.
    live: bool,
    /// Whole records after damage at the end: they are in the files, but cannot be read.
    beyond: u64,
    /// A sync failed: appends are refused until all processes have closed the topic.
    sync_failed: bool,
    /// Why the newest record's time is in the future, if it is.
    clock: Option<String>,
    /// If the topic keeps records until they are consumed: the consumer or group that keeps the most.
    held_by: Option<String>,
    segments: Vec<Segment>,
    consumers: Vec<crate::consumers::Row>,
    groups: Vec<Group>,
    epochs: Vec<Epoch>,
}

/// A segment file and the fields of its header.
#[derive(Debug, JsonSchema, Serialize)]
struct Segment {
    #[serde(flatten)]
    file: SegmentFile,
    /// Records in it.
    records: u64,
    /// The epoch in which it was written.
    epoch: Option<u32>,
    /// The durable end in its header.
    durable_end: Option<u64>,
    /// Why its header cannot be read.
    damage: Option<String>,
}

/// A worker group.
#[derive(Debug, JsonSchema, Serialize)]
struct Group {
    /// Name of a worker group.
    group: String,
    /// All records below it are handled, in all lanes.
    committed: Option<u64>,
    /// High watermark minus committed.
    lag: Option<u64>,
    /// Lanes that it has.
    lanes: usize,
    /// Of these, lanes that a record has stopped.
    stopped: usize,
    /// Why its file cannot be read.
    error: Option<String>,
}

impl Group {
    fn of((group, info): (String, deaddrop::Result<GroupInfo>)) -> Group {
        let (info, error) = match info {
            Ok(info) => (Some(info), None),
            Err(error) => (None, Some(hint::error(&error))),
        };
        Group {
            group,
            committed: info.as_ref().map(|info| info.committed),
            lag: info.as_ref().map(|info| info.lag),
            stopped: info
                .as_ref()
                .map_or(0, |info| info.lanes.iter().filter_map(LaneInfo::stopped_at).count()),
            lanes: info.map_or(0, |info| info.lanes.len()),
            error,
        }
    }

    fn cells(&self, out: &Out) -> Vec<String> {
        let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
        let stopped = (self.stopped > 0).then(|| format!("{} stopped", self.stopped));
        let error = self.error.clone().or(stopped).unwrap_or_default();
        vec![
            self.group.clone(),
            number(self.committed),
            number(self.lag),
            self.lanes.to_string(),
            out.paint(Colour::Bad, error),
        ]
    }
}

/// A recovery that may have lost records.
#[derive(Debug, JsonSchema, Serialize)]
struct Epoch {
    /// A recovery that may have lost records.
    epoch: u32,
    /// Offset at which it began.
    start: u64,
}

impl Info {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let topic = global.open_read_only()?.open_topic(&self.topic)?;
        let (segments, sync_failed) = describe_segments(&topic)?;
        let consumers = topic.consumers()?;
        let first = topic.first_offset()?;
        let groups: Vec<Group> = topic.groups()?.into_iter().map(Group::of).collect();
        let damaged = groups.iter().any(|group| group.error.is_some())
            || segments.iter().any(|segment| segment.damage.is_some())
            || consumers.iter().any(|consumer| consumer.committed.is_err());
        let (beyond, missing) = say_missing(&topic)?;
        let damaged = damaged || missing != Exit::Ok;
        let info = JsonInfo {
            topic: self.topic.clone(),
            dir: topic.dir().display().to_string(),
            durability: units::durability(topic.options().durability),
            segment_size: topic.options().segment_len,
            retention: units::retention(topic.options().retention),
            first,
            high_watermark: topic.high_watermark()?,
            end: topic.end_offset()?,
            durable_end: known_durable(&topic, &segments)?,
            live: topic.is_live(),
            beyond,
            sync_failed,
            clock: clock(&topic)?,
            held_by: held_by(&topic, &consumers)?,
            segments,
            consumers: consumers
                .iter()
                .map(|info| crate::consumers::Row::of(info, first))
                .collect(),
            groups,
            epochs: epochs(&topic)?,
        };
        if out.is_json() {
            out.object(&info)?;
        } else {
            print(out, &info, &consumers)?;
        }
        Ok(if damaged { Exit::Corruption } else { Exit::Ok })
    }
}

/// Returns the consumer or group with the lowest durable position, if the topic keeps records until they are
/// consumed.
fn held_by(topic: &Topic, consumers: &[ConsumerInfo]) -> Result<Option<String>, Failure> {
    if !topic.options().retention.consumed {
        return Ok(None);
    }
    let groups = topic.groups()?.into_iter();
    let groups = groups.map(|(name, info)| (info.map_or(0, |info| info.durable), "group", name));
    let consumers =
        consumers.iter().map(|info| (info.durable.unwrap_or(0), "consumer", info.name.clone()));
    let least = groups.chain(consumers).min();
    Ok(least.map(|(at, kind, name)| format!("{kind} {name}, from offset {at} on")))
}

/// Records below it are known to survive power loss.
pub(crate) fn durable_end(topic: &Topic) -> Result<u64, Failure> {
    known_durable(topic, &describe_segments(topic)?.0)
}

/// A durable end as text. Without a writer it is that of the newest checkpoint, and there may have been a
/// later sync.
pub(crate) fn durable(end: u64, live: bool) -> String {
    match live {
        true => end.to_string(),
        false => format!("at least {end} (the newest checkpoint; exact when opened for writing)"),
    }
}

/// Without a writer's shared words, the headers say which records are known to be durable.
fn known_durable(topic: &Topic, segments: &[Segment]) -> Result<u64, Failure> {
    let stored = segments.iter().filter_map(|segment| segment.durable_end).max();
    Ok(topic.durable_end()?.max(stored.unwrap_or(0)))
}

/// The segments, and whether the newest one says that a sync failed.
fn describe_segments(topic: &Topic) -> Result<(Vec<Segment>, bool), Failure> {
    let files = segments(topic);
    let end = topic.high_watermark()?;
    let ends: Vec<u64> = files.iter().skip(1).map(|next| next.base).chain([end]).collect();
    let mut described = Vec::new();
    let mut sync_failed = false;
    for (file, end) in files.into_iter().zip(ends) {
        let Some(opened) = open_listed(topic, &file)? else { continue };
        sync_failed = layout::is_latched(&opened.page);
        let header: Option<Header> = opened.header.as_ref().ok().copied();
        let slot = header.and_then(|header| layout::newest_slot(&opened.page, header.salt));
        let durable = header.map(|h| h.durable_end.max(slot.map_or(0, |slot| slot.durable_end)));
        described.push(Segment {
            records: end.saturating_sub(file.base),
            file,
            epoch: header.map(|header| header.epoch),
            durable_end: durable,
            damage: match &opened.header {
                Ok(_) => opened.damaged_sector().map(|(_, what)| what.to_owned()),
                Err(what) => Some(what.to_string()),
            },
        });
    }
    Ok((described, sync_failed))
}

fn epochs(topic: &Topic) -> Result<Vec<Epoch>, Failure> {
    let path = topic.dir().join("epochs");
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Failure::io("reading", &path, &error)),
    };
    let entries = deaddrop::format::epochs::decode(&bytes);
    Ok(entries.iter().map(|entry| Epoch { epoch: entry.epoch, start: entry.start }).collect())
}

fn print(out: &mut Out, info: &JsonInfo, consumers: &[ConsumerInfo]) -> std::io::Result<()> {
    let ends = if info.live {
        "shared by the processes that have it open"
    } else {
        "found by reading: no process has it open"
    };
    let lines = [
        ("topic", info.topic.clone()),
        ("directory", info.dir.clone()),
        ("durability", info.durability.clone()),
        ("segment size", units::size(info.segment_size)),
        ("retention", info.retention.clone()),
        ("first offset", info.first.to_string()),
        ("high watermark", format!("{} ({ends})", info.high_watermark)),
        ("end offset", info.end.to_string()),
        ("durable end", durable(info.durable_end, info.live)),
    ];
    for (name, value) in lines {
        let name = out.paint(Colour::Faint, format!("{name:<16}"));
        writeln!(out, "{name}{value}")?;
    }
    if info.sync_failed {
        let what = "a sync failed: appends are refused until every process has closed the topic";
        out.line(Colour::Bad, what)?;
    }
    if let Some(clock) = &info.clock {
        let clock = out.paint(Colour::Bad, clock.as_str());
        writeln!(out, "{:<16}{clock}", "clock")?;
    }
    if let Some(held_by) = &info.held_by {
        writeln!(out, "{:<16}{held_by}", "held by")?;
    }
    for epoch in &info.epochs {
        writeln!(
            out,
            "recovery        epoch {} began at offset {}: unacknowledged records from there on may \
             have been cut off",
            epoch.epoch, epoch.start
        )?;
    }
    let rows: Vec<Vec<String>> = info.segments.iter().map(|segment| row(out, segment)).collect();
    writeln!(out)?;
    let heading = ["SEGMENT", "RECORDS", "BYTES", "EPOCH", "CHECKPOINT", ""];
    out.table(&heading, &[1, 2, 3, 4], &rows)?;
    if !consumers.is_empty() {
        writeln!(out)?;
        crate::consumers::print(out, consumers, info.first)?;
    }
    if !info.groups.is_empty() {
        writeln!(out)?;
        let rows: Vec<Vec<String>> = info.groups.iter().map(|group| group.cells(out)).collect();
        out.table(&["GROUP", "COMMITTED", "LAG", "LANES", ""], &[1, 2, 3], &rows)?;
    }
    Ok(())
}

fn row(out: &Out, segment: &Segment) -> Vec<String> {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    vec![
        segment.file.file.clone(),
        segment.records.to_string(),
        units::size(segment.file.bytes),
        or_dash(segment.epoch.map(|epoch| epoch.to_string())),
        or_dash(segment.durable_end.map(|end| end.to_string())),
        segment.damage.as_ref().map_or(String::new(), |what| {
            out.paint(Colour::Bad, format!("header damaged: {what}"))
        }),
    ]
}
