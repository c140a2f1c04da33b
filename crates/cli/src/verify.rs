//! `verify`: every frame of every segment by its checksum, and everything beside them.

mod files;
mod segment;

use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::path::Path;

use deaddrop::format::settings::Settings;
use deaddrop::{Error, Log};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::args::verify::Verify;
use crate::exchange::worse;
use crate::failure::{note, Exit, Failure};
use crate::ls::segment_files;
use crate::missing::clock;
use crate::output::{Colour, Out};
use crate::{hint, units, Global};

/// Something wrong.
#[derive(Debug, Serialize)]
struct Damage {
    kind: &'static str,
    topic: String,
    file: String,
    position: u64,
    /// The offsets of the records that cannot be read.
    first_lost: u64,
    lost_end: u64,
    what: String,
}

/// What a topic came to.
#[derive(Debug, Serialize)]
struct Verdict {
    kind: &'static str,
    topic: String,
    segments: usize,
    records: u64,
    /// Offsets without a record, which a repair gave up.
    given_up: u64,
    /// Whole records that recoveries have cut off, and that are still in the files.
    cut: u64,
    bytes: u64,
    damages: usize,
}

/// Something that is no damage and may puzzle whoever sees it.
#[derive(Debug, Serialize)]
struct Note {
    kind: &'static str,
    topic: String,
    file: String,
    what: String,
}

/// The state of checking one topic.
struct Check {
    topic: String,
    damages: Vec<Damage>,
    notes: Vec<Note>,
    records: u64,
    given_up: u64,
    cut: u64,
    bytes: u64,
    /// Everything below it was promised, by the segments' headers.
    promised: u64,
    settings: Option<Settings>,
    progress: ProgressBar,
}

impl Check {
    fn damage(&mut self, path: &Path, position: u64, lost: Range<u64>, what: impl Into<String>) {
        self.damages.push(Damage {
            kind: "damage",
            topic: self.topic.clone(),
            file: path.display().to_string(),
            position,
            first_lost: lost.start,
            lost_end: lost.end,
            what: what.into(),
        });
    }

    fn note(&mut self, path: &Path, what: impl Into<String>) {
        let (topic, file) = (self.topic.clone(), path.display().to_string());
        self.notes.push(Note { kind: "note", topic, file, what: what.into() });
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
            let mut check = Check {
                topic: name.clone(),
                damages: Vec::new(),
                notes: Vec::new(),
                records: 0,
                given_up: 0,
                cut: 0,
                bytes: 0,
                promised: 0,
                settings: None,
                progress: progress.clone(),
            };
            progress.set_message(name.clone());
            let segments = match check.topic(&log) {
                // The other topics are checked all the same.
                Err(failure) if topics.len() > 1 => {
                    exit = worse(exit, failure.exit());
                    progress.suspend(|| note(format_args!("{name}: {failure}")));
                    continue;
                }
                checked => checked?,
            };
            if !check.damages.is_empty() {
                damaged.push(name.as_str());
            }
            progress.suspend(|| report(out, &check, segments))?;
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
    let files = topics.iter().filter_map(|name| segment_files(&topic_dir(log, name)).ok());
    let bytes = files.flatten().map(|file| file.bytes).sum();
    let bar = ProgressBar::new(bytes);
    let style = "{msg:20!} {bar:30} {bytes} of {total_bytes} {binary_bytes_per_sec} {eta} left";
    bar.set_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar
}

fn topic_dir(log: &Log, name: &str) -> std::path::PathBuf {
    log.dir().join("topics").join(name)
}

impl Check {
    /// Checks a topic; returns the number of its segments.
    fn topic(&mut self, log: &Log) -> Result<usize, Failure> {
        // With a damaged newest segment the topic does not open: its files are checked all the same.
        let topic = match log.existing_topic(&self.topic) {
            Ok(topic) => Some(topic),
            Err(error @ Error::Corrupt { .. }) => {
                if let Error::Corrupt { path, position, what, .. } = &error {
                    if path.extension().is_none_or(|extension| extension != "seg") {
                        self.damage(path, *position, 0..0, what);
                    }
                }
                None
            }
            Err(error) => return Err(error.into()),
        };
        let dir = topic_dir(log, &self.topic);
        self.settings = files::settings(self, &dir)?;
        let live = topic.as_ref().is_some_and(deaddrop::Topic::is_live);
        // The high watermark first: everything below it is in the files from now on.
        let end = match &topic {
            Some(topic) => Some(topic.high_watermark()?),
            None => None,
        };
        let files = segment_files(&dir).map_err(|error| Failure::io("listing", &dir, &error))?;
        // Those before it may have been trimmed while they were listed.
        let first = match &topic {
            Some(topic) => Some(topic.first_offset()?),
            None => None,
        };
        // Beside a writer, a segment that begins at the end or behind it is newer than the look at the
        // end.
        let newer = |base: u64| live && end.is_some_and(|end| base >= end);
        let files: Vec<_> = files
            .into_iter()
            .enumerate()
            .filter(|(index, file)| *index == 0 || !newer(file.base))
            .map(|(_, file)| file)
            .collect();
        self.bases(&dir, &files, first, end);
        // Without a writer the end was found by reading up to the first damage: all files count.
        let newest = files.last().map_or(0, |file| file.base);
        let end = end.filter(|&end| live || end > newest);
        let mut end_found = None;
        for (index, file) in files.iter().enumerate() {
            let bounds =
                segment::Bounds { next: files.get(index + 1).map(|next| next.base), end, live };
            end_found = self.segment(topic.as_ref(), &dir, file, &bounds)?;
        }
        if let Some((path, position, end)) = end_found {
            if end < self.promised {
                let what = format!("records up to {} were promised", self.promised);
                self.damage(&path, position, end..self.promised, what);
            }
        }
        if let Some(Ok(Some(what))) = topic.as_ref().map(clock) {
            self.note(&dir, what);
        }
        files::cut(self, &dir)?;
        files::epochs(self, &dir)?;
        files::consumers(self, &dir, topic.as_ref())?;
        files::groups(self, &dir)?;
        Ok(files.len())
    }

    /// The segments at both ends must be there.
    fn bases(
        &mut self,
        dir: &Path,
        files: &[crate::ls::SegmentFile],
        first: Option<u64>,
        end: Option<u64>,
    ) {
        match (files.first(), first, end) {
            (None, first, end) => {
                let lost = first.unwrap_or(0)..end.unwrap_or(0);
                self.damage(dir, 0, lost, "there is no segment file");
            }
            (Some(file), Some(first), _) if file.base > first => {
                self.damage(dir, 0, first..file.base, "the first segment file is missing");
            }
            _ => {}
        }
    }
}

fn given_up(count: u64) -> String {
    match count {
        0 => String::new(),
        some => format!(" ({} more lost and given up by a repair)", units::grouped(some)),
    }
}

fn cut(count: u64) -> String {
    match count {
        0 => String::new(),
        some => format!(" ({} more cut off by recoveries)", units::grouped(some)),
    }
}

fn report(out: &mut Out, check: &Check, segments: usize) -> Result<(), Failure> {
    let verdict = Verdict {
        kind: "topic",
        topic: check.topic.clone(),
        segments,
        records: check.records,
        given_up: check.given_up,
        cut: check.cut,
        bytes: check.bytes,
        damages: check.damages.len(),
    };
    if out.is_json() {
        for damage in &check.damages {
            out.object(damage)?;
        }
        for note in &check.notes {
            out.object(note)?;
        }
        out.object(&verdict)?;
        return Ok(out.flush()?);
    }
    for damage in &check.damages {
        let lost = damage.lost_end.saturating_sub(damage.first_lost);
        let lost = match lost {
            0 => String::new(),
            1 => format!(", offset {}", damage.first_lost),
            _ => format!(", offsets {}..{}", damage.first_lost, damage.lost_end),
        };
        let text = format!("{} position {}{lost}: {}", damage.file, damage.position, damage.what);
        let text = out.paint(Colour::Bad, text);
        writeln!(out, "{text}")?;
    }
    for note in &check.notes {
        writeln!(out, "{}: {}", note.file, note.what)?;
    }
    let word = match check.damages.len() {
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
        given_up(verdict.given_up),
        cut(verdict.cut),
        units::size(verdict.bytes)
    )?;
    Ok(out.flush()?)
}
