//! `verify`: prints what the library finds when it reads all of a topic.

use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::path::Path;

use deaddrop::format::cursor;
use deaddrop::repair::{Remedy, Report};
use deaddrop::{inspect, Error, Log, Topic};
use indicatif::{ProgressBar, ProgressStyle};
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::verify::Verify;
use crate::exchange::worse;
use crate::failure::{note, Exit, Failure};
use crate::ls::segment_files;
use crate::missing::clock;
use crate::output::{Colour, Out};
use crate::{hint, units, Global};

/// A damaged place.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Damage {
    /// damage.
    kind: &'static str,
    /// The topic.
    topic: String,
    /// The file.
    file: String,
    /// The byte in it.
    position: u64,
    /// First offset that cannot be read.
    first_lost: u64,
    /// The offset after the last one.
    lost_end: u64,
    /// A description of the damage.
    what: String,
}

/// The result for a topic, after its damages and notes.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Verdict {
    /// topic.
    kind: &'static str,
    /// Its name.
    topic: String,
    /// Segment files.
    segments: usize,
    /// Records that readers get.
    records: u64,
    /// Records that a repair has marked lost.
    given_up: u64,
    /// Whole records that recoveries have cut off, and that are still in its files.
    cut: u64,
    /// Bytes of frames.
    bytes: u64,
    /// Damages found.
    damages: usize,
}

/// A fact that is not damage.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Note {
    /// note.
    kind: &'static str,
    /// The topic.
    topic: String,
    /// The file.
    file: String,
    /// The fact.
    what: String,
}

/// The lines about one topic.
#[derive(Debug)]
struct Checked {
    topic: String,
    damages: Vec<Damage>,
    notes: Vec<Note>,
}

impl Checked {
    fn damage(&mut self, path: &Path, position: u64, lost: Range<u64>, what: String) {
        self.damages.push(Damage {
            kind: "damage",
            topic: self.topic.clone(),
            file: path.display().to_string(),
            position,
            first_lost: lost.start,
            lost_end: lost.end,
            what,
        });
    }

    fn note(&mut self, path: &Path, what: String) {
        let (topic, file) = (self.topic.clone(), path.display().to_string());
        self.notes.push(Note { kind: "note", topic, file, what });
    }
}

impl Verify {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let log = global.open_read_only()?;
        let topics = if self.topics.is_empty() { log.topics()? } else { self.topics.clone() };
        let progress = progress(&log, &topics, out);
        let mut damaged = Vec::new();
        let mut exit = Exit::Ok;
        for name in &topics {
            progress.set_message(name.clone());
            let mut checked =
                Checked { topic: name.clone(), damages: Vec::new(), notes: Vec::new() };
            let report = match log.open_topic(name) {
                Ok(topic) => checked.check(&topic, &progress),
                // Without its settings, nothing can be said of the rest.
                Err(Error::Corrupt { path, position, what, .. }) => {
                    checked.damage(&path, position, 0..0, what);
                    Ok(Report::default())
                }
                Err(error) => Err(error.into()),
            };
            let report = match report {
                // The other topics are checked all the same.
                Err(failure) if topics.len() > 1 => {
                    exit = worse(exit, failure.exit());
                    progress.suspend(|| note(format_args!("{name}: {failure}")));
                    continue;
                }
                report => report?,
            };
            if !checked.damages.is_empty() {
                damaged.push(name.as_str());
            }
            progress.suspend(|| print(out, &checked, &report))?;
        }
        progress.finish_and_clear();
        if damaged.is_empty() {
            return Ok(exit);
        }
        if !out.is_json() {
            let names = damaged.join(" ");
            let repair = hint::command(&format!("repair {names}"));
            writeln!(out, "to see what can be done about it: {repair}")?;
        }
        Ok(Exit::Corruption)
    }
}

/// A bar over all bytes, on a terminal only.
fn progress(log: &Log, topics: &[String], out: &Out) -> ProgressBar {
    if out.is_json() || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let dir = |name| log.dir().join("topics").join(name);
    let files = topics.iter().filter_map(|name| segment_files(&dir(name)).ok());
    let bytes = files.flatten().map(|file| file.bytes).sum();
    let bar = ProgressBar::new(bytes);
    let style = "{msg:20!} {bar:30} {bytes} of {total_bytes} {binary_bytes_per_sec} {eta} left";
    bar.set_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar
}

impl Checked {
    fn check(&mut self, topic: &Topic, progress: &ProgressBar) -> Result<Report, Failure> {
        let report = inspect::check(topic, &mut |bytes| progress.inc(bytes))?;
        for finding in &report.findings {
            // A torn tail is not damage, unless whole records follow it.
            if finding.remedy != Remedy::Open || !finding.lost.is_empty() {
                let mut what = hint::with_dir(&finding.what);
                if finding.remedy == Remedy::RestoreHeader {
                    let repair = hint::command(&format!("repair {}", self.topic));
                    what += &format!(": `{repair}` restores it");
                }
                self.damage(&finding.path, finding.position, finding.lost.clone(), what);
            }
        }
        self.consumers(topic)?;
        for note in &report.notes {
            self.note(&note.path, note.what.clone());
        }
        for cut in &report.cuts {
            let records = match cut.frames {
                1 => "a whole record was".to_owned(),
                some => format!("{} whole records were", units::grouped(some)),
            };
            let what = format!(
                "{records} cut off by a recovery, at position {}: `dump` shows them, nothing deletes them",
                cut.position
            );
            self.note(&cut.path, what);
        }
        if let Some(what) = clock(topic).ok().flatten() {
            self.note(topic.dir(), what);
        }
        Ok(report)
    }

    /// Beside a writer, no consumer is past the end of the topic.
    fn consumers(&mut self, topic: &Topic) -> Result<(), Failure> {
        for consumer in topic.consumers()? {
            let Ok(committed) = consumer.committed else { continue };
            // The consumer may have read more since the end was read.
            let end = topic.high_watermark()?;
            if committed > end && topic.is_live() {
                let path = topic.dir().join("consumers").join(&consumer.name);
                let what = format!("committed {committed}, but the topic ends at {end}");
                self.damage(&path, cursor::LIVE_OFFSET_AT as u64, 0..0, what);
            }
        }
        Ok(())
    }
}

fn more(count: u64, what: &str) -> String {
    match count {
        0 => String::new(),
        some => format!(" ({} more {what})", units::grouped(some)),
    }
}

fn print(out: &mut Out, checked: &Checked, report: &Report) -> Result<(), Failure> {
    let verdict = Verdict {
        kind: "topic",
        topic: checked.topic.clone(),
        segments: report.contents.segments,
        records: report.contents.records,
        given_up: report.contents.lost,
        cut: report.cuts.iter().map(|cut| cut.frames).sum(),
        bytes: report.contents.frames_len,
        damages: checked.damages.len(),
    };
    if out.is_json() {
        for damage in &checked.damages {
            out.object(damage)?;
        }
        for note in &checked.notes {
            out.object(note)?;
        }
        out.object(&verdict)?;
        return Ok(out.flush()?);
    }
    for damage in &checked.damages {
        let lost = match damage.lost_end.saturating_sub(damage.first_lost) {
            0 => String::new(),
            1 => format!(", offset {}", damage.first_lost),
            _ => format!(", offsets {}..{}", damage.first_lost, damage.lost_end),
        };
        let text = format!("{} position {}{lost}: {}", damage.file, damage.position, damage.what);
        out.line(Colour::Bad, text)?;
    }
    for note in &checked.notes {
        writeln!(out, "{}: {}", note.file, note.what)?;
    }
    let word = match checked.damages.len() {
        0 => out.paint(Colour::Good, "ok"),
        some => {
            let places = units::count(some as u64, "place");
            out.paint(Colour::Bad, format!("damaged in {places}"))
        }
    };
    writeln!(
        out,
        "{}: {}, {}{}{}, {} of frames: {word}",
        verdict.topic,
        units::count(verdict.segments as u64, "segment"),
        units::count(verdict.records, "record"),
        more(verdict.given_up, "lost and given up by a repair"),
        more(verdict.cut, "cut off by recoveries"),
        units::size(verdict.bytes)
    )?;
    Ok(out.flush()?)
}
