//! `ls`: lists the topics of a log.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use deaddrop::format::segment as layout;
use deaddrop::{inspect, Topic};
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::ls::Ls;
use crate::exchange::{one_of_all, worse};
use crate::failure::{note, Exit, Failure};
use crate::missing::say_missing;
use crate::output::{Colour, Out};
use crate::owner::Owner;
use crate::{units, Global};

/// A topic.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Row {
    /// Its name.
    topic: String,
    /// Records that can be read.
    records: u64,
    /// Bytes of its segment files.
    bytes: u64,
    /// Segment files.
    segments: usize,
    /// First offset that is retained.
    first: u64,
    /// Offset after the newest record that readers see.
    end: u64,
    /// What acknowledged records survive: power-loss, process-crash, within:500ms.
    durability: String,
    /// Consumers.
    consumers: usize,
    /// The service or the client that created it.
    #[serde(skip)]
    owner: Option<Owner>,
    /// The service that it belongs to, if any.
    service: Option<String>,
    /// The client whose parked outcomes it holds, if any.
    client: Option<String>,
    /// Whole records after damage at the end: they are in the files, but cannot be read.
    beyond: u64,
}

/// A topic, with --names.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Name<'a> {
    /// Its name.
    topic: &'a str,
}

impl Ls {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let log = global.open_read_only()?;
        let names = log.topics()?;
        if self.names {
            return print_names(out, &names);
        }
        let mut rows = Vec::new();
        let mut exit = Exit::Ok;
        for name in &names {
            let Some(topic) = one_of_all(&log, name, &mut exit) else { continue };
            let looked = say_missing(&topic).and_then(|(beyond, missing)| {
                exit = worse(exit, missing);
                Ok(row(&topic, Owner::of(name, &names), beyond)?)
            });
            match looked {
                Ok(row) if out.is_json() => out.object(&row)?,
                Ok(row) => rows.push(row),
                // Deleted meanwhile.
                Err(failure) if failure.exit() == Exit::No => {}
                Err(failure) => {
                    exit = worse(exit, failure.exit());
                    note(failure);
                }
            }
        }
        if out.is_json() {
            return Ok(exit);
        }
        if rows.is_empty() && exit == Exit::Ok {
            writeln!(out, "no topics yet")?;
            return Ok(exit);
        }
        let (own, owned): (Vec<Row>, Vec<Row>) =
            rows.into_iter().partition(|row| self.all || row.owner.is_none());
        if owned.is_empty() || !own.is_empty() {
            print_topics(out, &own)?;
        }
        if !owned.is_empty() {
            print_owners(out, !own.is_empty(), &owned)?;
        }
        Ok(exit)
    }
}

fn print_names(out: &mut Out, names: &[String]) -> Result<Exit, Failure> {
    for name in names {
        if out.is_json() {
            out.object(&Name { topic: name })?;
        } else {
            writeln!(out, "{name}")?;
        }
    }
    Ok(Exit::Ok)
}

fn print_topics(out: &mut Out, rows: &[Row]) -> std::io::Result<()> {
    let cells = rows.iter().map(|row| {
        vec![
            row.topic.clone(),
            row.records.to_string(),
            units::size(row.bytes),
            row.segments.to_string(),
            row.first.to_string(),
            row.end.to_string(),
            row.durability.clone(),
            row.consumers.to_string(),
        ]
    });
    let heading =
        ["TOPIC", "RECORDS", "BYTES", "SEGMENTS", "FIRST", "END", "DURABILITY", "CONSUMERS"];
    out.table(&heading, &[1, 2, 3, 4, 5, 7], &cells.collect::<Vec<_>>())
}

/// The topics of services and clients, one line for each owner. `is_next`: another table is above.
fn print_owners(out: &mut Out, is_next: bool, rows: &[Row]) -> std::io::Result<()> {
    let owners: BTreeSet<&Owner> = rows.iter().filter_map(|row| row.owner.as_ref()).collect();
    let (mut services, mut clients) = (Vec::new(), Vec::new());
    for owner in &owners {
        let of = || rows.iter().filter(|row| row.owner.as_ref() == Some(owner));
        let records = |end: &str| {
            let name = format!("{}.{end}", owner.name());
            of().find(|row| row.topic == name).map_or(0, |row| row.records).to_string()
        };
        let (topics, bytes) = (of().count().to_string(), of().map(|row| row.bytes).sum());
        let (name, bytes) = (owner.name().to_owned(), units::size(bytes));
        match owner {
            Owner::Service(_) => {
                let counts = ["requests", "replies", "dead"].map(records);
                let all = [name].into_iter().chain(counts).chain([topics, bytes]);
                services.push(all.collect());
            }
            Owner::Client(_) => clients.push(vec![name, records("parked"), topics, bytes]),
        }
    }
    if !services.is_empty() {
        if is_next {
            writeln!(out)?;
        }
        let heading = ["SERVICE", "REQUESTS", "REPLIES", "DEAD", "TOPICS", "BYTES"];
        out.table(&heading, &[1, 2, 3, 4, 5], &services)?;
    }
    if !clients.is_empty() {
        if is_next || !services.is_empty() {
            writeln!(out)?;
        }
        out.table(&["CLIENT", "PARKED", "TOPICS", "BYTES"], &[1, 2, 3], &clients)?;
    }
    let text =
        out.paint(Colour::Faint, "--all lists the topics of services and clients one by one");
    writeln!(out, "\n{text}")
}

fn row(topic: &Topic, owner: Option<Owner>, beyond: u64) -> deaddrop::Result<Row> {
    let (first, end) = (topic.first_offset()?, topic.high_watermark()?);
    let segments = segments(topic);
    Ok(Row {
        topic: topic.name().to_owned(),
        records: end.saturating_sub(first),
        bytes: segments.iter().map(|segment| segment.bytes).sum(),
        segments: segments.len(),
        first,
        end,
        durability: units::durability(topic.options().durability),
        consumers: topic.consumers()?.len(),
        service: owner.as_ref().and_then(Owner::service).map(str::to_owned),
        client: owner.as_ref().and_then(Owner::client).map(str::to_owned),
        owner,
        beyond,
    })
}

/// A segment file, as the directory shows it.
#[derive(Debug, Clone, JsonSchema, Serialize)]
pub(crate) struct SegmentFile {
    /// Name of a segment file.
    pub(crate) file: String,
    /// Offset of its first record.
    pub(crate) base: u64,
    /// Its length.
    pub(crate) bytes: u64,
}

/// The segment files of a topic, in order. A file that is deleted meanwhile is left out.
pub(crate) fn segments(topic: &Topic) -> Vec<SegmentFile> {
    segment_files(topic.dir()).unwrap_or_default()
}

/// The segment files in a topic's directory, in order, without those that were named only just now: a
/// large directory is read in steps, and of two files that are created between two steps, the later one
/// may be seen and the earlier one not.
pub(crate) fn segment_files(dir: &Path) -> std::io::Result<Vec<SegmentFile>> {
    let named = list(dir)?.last().map(|newest| newest.base);
    let mut found = list(dir)?;
    found.retain(|file| Some(file.base) <= named);
    Ok(found)
}

/// Opens a segment file that was listed; `None` if the topic has trimmed it since then.
pub(crate) fn open_listed(
    topic: &Topic,
    file: &SegmentFile,
) -> Result<Option<inspect::SegmentFile>, Failure> {
    let path = topic.dir().join(&file.file);
    match inspect::SegmentFile::open(&path) {
        Ok(file) => Ok(Some(file)),
        Err(_) if topic.first_offset()? > file.base && !path.exists() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn list(dir: &Path) -> std::io::Result<Vec<SegmentFile>> {
    let entries = std::fs::read_dir(dir)?.collect::<std::io::Result<Vec<_>>>()?;
    let names: Vec<_> = entries.iter().map(std::fs::DirEntry::file_name).collect();
    // Segments that were dropped may have come back after a power cut: they are not part of the topic.
    let first = layout::first_among(names.iter().filter_map(|name| name.to_str()));
    let mut found = Vec::new();
    for (entry, name) in entries.iter().zip(&names) {
        let Some(file) = name.to_str() else { continue };
        let Some(base) = layout::parse_file_name(file) else { continue };
        if first.is_some_and(|first| base < first) {
            continue;
        }
        if let Ok(metadata) = entry.metadata() {
            found.push(SegmentFile { file: file.to_owned(), base, bytes: metadata.len() });
        }
    }
    found.sort_by_key(|segment| segment.base);
    Ok(found)
}
