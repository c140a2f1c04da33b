//! `ls`: the topics of a log.

use std::io::Write;
use std::path::Path;

use deaddrop::{Log, Topic};
use serde::Serialize;

use crate::args::ls::Ls;
use crate::exchange::worse;
use crate::failure::{note, Exit, Failure};
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
            match row(&log, &name) {
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
                Err(deaddrop::Error::NotFound { .. }) => {}
                Err(error) => {
                    let failure = Failure::from(error);
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

fn row(log: &Log, name: &str) -> deaddrop::Result<Row> {
    let topic = log.existing_topic(name)?;
    let (first, end) = (topic.first_offset()?, topic.high_watermark()?);
    let segments = segments(&topic);
    Ok(Row {
        topic: name.to_owned(),
        records: end.saturating_sub(first),
        bytes: segments.iter().map(|segment| segment.bytes).sum(),
        segments: segments.len(),
        first,
        end,
        durability: units::durability(topic.options().durability),
        consumers: topic.consumers()?.len(),
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
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(file) = name.to_str() else { continue };
        let Some(base) = deaddrop::format::segment::parse_file_name(file) else { continue };
        if let Ok(metadata) = entry.metadata() {
            found.push(SegmentFile { file: file.to_owned(), base, bytes: metadata.len() });
        }
    }
    found.sort_by_key(|segment| segment.base);
    Ok(found)
}
