//! `ls`: the topics of a log.

use std::io::Write;
use std::path::Path;

use deaddrop::format::segment as layout;
use deaddrop::Topic;
use serde::Serialize;

use crate::args::ls::Ls;
use crate::exchange::worse;
use crate::failure::{note, Exit, Failure};
use crate::missing::say_missing;
use crate::output::Out;
use crate::{units, Global};

#[derive(Debug, Serialize)]
struct Row {
    topic: String,
    records: u64,
    bytes: u64,
    segments: usize,
    first: u64,
    end: u64,
    durability: String,
    consumers: usize,
    /// Whole records after damage at the end.
    beyond: u64,
}

impl Ls {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let log = global.open_read_only()?;
        let mut rows = Vec::new();
        let mut exit = Exit::Ok;
        for name in log.topics()? {
            if self.names {
                rows.push(vec![name]);
                continue;
            }
            let looked = log.existing_topic(&name).map_err(Failure::from).and_then(|topic| {
                let (beyond, missing) = say_missing(&topic)?;
                exit = worse(exit, missing);
                Ok(row(&topic, beyond)?)
            });
            match looked {
                Ok(row) if out.is_json() => out.object(&row)?,
                Ok(row) => rows.push(vec![
                    row.topic,
                    row.records.to_string(),
                    units::size(row.bytes),
                    row.segments.to_string(),
                    row.first.to_string(),
                    row.end.to_string(),
                    row.durability,
                    row.consumers.to_string(),
                ]),
                // Deleted between the listing and the look.
                Err(failure) if failure.exit() == Exit::No => {}
                Err(failure) => {
                    exit = worse(exit, failure.exit());
                    note(failure);
                }
            }
        }
        if self.names {
            for row in rows {
                if out.is_json() {
                    out.object(&serde_json::json!({ "topic": row[0] }))?;
                } else {
                    writeln!(out, "{}", row[0])?;
                }
            }
        } else if !out.is_json() && rows.is_empty() && exit == Exit::Ok {
            writeln!(out, "no topics yet")?;
        } else if !out.is_json() {
            let heading = [
                "TOPIC",
                "RECORDS",
                "BYTES",
                "SEGMENTS",
                "FIRST",
                "END",
                "DURABILITY",
                "CONSUMERS",
            ];
            out.table(&heading, &[1, 2, 3, 4, 5, 7], &rows)?;
        }
        Ok(exit)
    }
}

fn row(topic: &Topic, beyond: u64) -> deaddrop::Result<Row> {
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
        beyond,
    })
}

/// A segment file, as the directory shows it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SegmentFile {
    pub(crate) file: String,
    pub(crate) base: u64,
    /// Bytes allocated for it.
    pub(crate) bytes: u64,
}

/// The segment files of a topic, in order. One that goes away meanwhile is left out.
pub(crate) fn segments(topic: &Topic) -> Vec<SegmentFile> {
    segment_files(topic.dir()).unwrap_or_default()
}

/// The segment files in a topic's directory, in order, without those that were named only just now: a
/// large directory is read in steps, and of files that are made between two of them a later one may be
/// seen and an earlier one not.
pub(crate) fn segment_files(dir: &Path) -> std::io::Result<Vec<SegmentFile>> {
    let named = list(dir)?.last().map(|newest| newest.base);
    let mut found = list(dir)?;
    found.retain(|file| Some(file.base) <= named);
    Ok(found)
}

fn list(dir: &Path) -> std::io::Result<Vec<SegmentFile>> {
    let entries = std::fs::read_dir(dir)?.collect::<std::io::Result<Vec<_>>>()?;
    let names: Vec<_> = entries.iter().map(std::fs::DirEntry::file_name).collect();
    // What was dropped may have come back with a power cut: it is no part of the topic.
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
