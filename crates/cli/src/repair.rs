//! `repair`: marks damaged records lost, so that everything else can be used.

use std::io::Write;

use deaddrop::repair::{self, Finding, Options, Remedy, Report};
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::repair::Repair;
use crate::exchange::worse;
use crate::failure::{note, Exit, Failure};
use crate::output::{Colour, Out};
use crate::{units, Global};

impl Repair {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let log = match self.execute {
            true => global.open_existing()?,
            false => global.open_read_only()?,
        };
        let topics = if self.all { log.topics()? } else { self.topics.clone() };
        let mut exit = Exit::Ok;
        for topic in &topics {
            let done = match self.execute {
                true => {
                    repair::execute(&log, topic, Options::default().with_consumers(self.consumers))
                }
                false => repair::plan(&log, topic),
            };
            match done {
                Ok(report) => {
                    // A torn tail is not damage.
                    let is_left = report
                        .findings
                        .iter()
                        .any(|finding| !finding.done && finding.remedy != Remedy::Open);
                    self.print(out, topic, &report)?;
                    if is_left {
                        exit = worse(exit, Exit::Corruption);
                    }
                }
                // The other topics can still be repaired.
                Err(error) if topics.len() > 1 => {
                    let failure = Failure::from(error);
                    exit = worse(exit, failure.exit());
                    note(format_args!("{topic}: {failure}"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(exit)
    }

    fn print(&self, out: &mut Out, topic: &str, report: &Report) -> Result<(), Failure> {
        let left = report.findings.iter().filter(|finding| !finding.done).count();
        if out.is_json() {
            for finding in &report.findings {
                out.object(&JsonFinding::of(topic, finding))?;
            }
            for stranded in &report.stranded {
                out.object(&JsonConsumer {
                    kind: "consumer",
                    topic,
                    consumer: &stranded.consumer,
                    committed: stranded.committed,
                    continues_at: stranded.continues_at,
                })?;
            }
            out.object(&JsonTopic {
                kind: "topic",
                topic,
                found: report.findings.len(),
                left,
                executed: self.execute,
                cut: report.recovery.as_ref().is_some_and(|recovery| recovery.cut),
            })?;
            return Ok(out.flush()?);
        }
        for finding in &report.findings {
            self.line(out, finding)?;
        }
        for stranded in &report.stranded {
            writeln!(
                out,
                "consumer {} is at {}, which is lost: it gets an error once, and continues at {}",
                stranded.consumer, stranded.committed, stranded.continues_at
            )?;
        }
        if report.recovery.as_ref().is_some_and(|recovery| recovery.cut) {
            writeln!(out, "a torn tail was cut off; it stays in its file")?;
        }
        let word = match (report.findings.len(), left) {
            (0, _) => out.paint(Colour::Good, "nothing to repair"),
            (found, 0) => {
                let places = units::count(found as u64, "place");
                out.paint(Colour::Good, format!("damaged in {places}: repaired"))
            }
            (found, left) => {
                let what = match self.execute {
                    true => format!("{left} not repaired"),
                    false => "nothing was changed: add --execute to repair it".to_owned(),
                };
                let places = units::count(found as u64, "place");
                out.paint(Colour::Bad, format!("damaged in {places}: {what}"))
            }
        };
        writeln!(out, "{topic}: {word}")?;
        Ok(out.flush()?)
    }

    fn line(&self, out: &mut Out, finding: &Finding) -> Result<(), Failure> {
        let lost = match finding.lost.end.saturating_sub(finding.lost.start) {
            0 => String::new(),
            1 => format!(", offset {}", finding.lost.start),
            _ => format!(", offsets {}..{}", finding.lost.start, finding.lost.end),
        };
        let place = format!(
            "{} position {} ({} bytes){lost}: {}",
            finding.path.display(),
            finding.position,
            finding.len,
            finding.what
        );
        let place = out.paint(if finding.done { Colour::Strong } else { Colour::Bad }, place);
        let done = if finding.done { "done" } else { "to do" };
        writeln!(out, "{place}")?;
        writeln!(out, "    {done}: {}", remedy(finding.remedy))?;
        if let Some(kept) = &finding.kept {
            writeln!(out, "    kept in {}", kept.display())?;
        }
        Ok(())
    }
}

/// Something damaged, and the remedy.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct JsonFinding<'a> {
    /// finding.
    kind: &'static str,
    /// The topic.
    topic: &'a str,
    /// The file.
    file: String,
    /// The first damaged byte in it.
    position: u64,
    /// The number of damaged bytes.
    len: u64,
    /// First offset that cannot be read.
    first_lost: u64,
    /// The offset after the last one.
    lost_end: u64,
    /// A description of the damage.
    what: &'a str,
    /// give-up, restore-header, rebuild-header, give-up-segment, make-segment, extend, remove-index,
    /// set-aside, set-consumer-aside, open, reopen, none.
    remedy: &'static str,
    /// Whether it was done, which needs --execute.
    done: bool,
    /// Where the damaged bytes are kept.
    kept: Option<String>,
}

/// A consumer whose next record is lost.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct JsonConsumer<'a> {
    /// consumer.
    kind: &'static str,
    /// The topic.
    topic: &'a str,
    /// Its name.
    consumer: &'a str,
    /// Its position.
    committed: u64,
    /// Where it continues, after an error that names the lost records.
    continues_at: u64,
}

/// The result for a topic, after its findings and consumers.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct JsonTopic<'a> {
    /// topic.
    kind: &'static str,
    /// Its name.
    topic: &'a str,
    /// Findings.
    found: usize,
    /// Of these, those that were not repaired.
    left: usize,
    /// Whether --execute was given.
    executed: bool,
    /// A torn tail was cut off.
    cut: bool,
}

impl JsonFinding<'_> {
    fn of<'a>(topic: &'a str, finding: &'a Finding) -> JsonFinding<'a> {
        JsonFinding {
            kind: "finding",
            topic,
            file: finding.path.display().to_string(),
            position: finding.position,
            len: finding.len,
            first_lost: finding.lost.start,
            lost_end: finding.lost.end,
            what: &finding.what,
            remedy: name(finding.remedy),
            done: finding.done,
            kept: finding.kept.as_ref().map(|kept| kept.display().to_string()),
        }
    }
}

fn name(remedy: Remedy) -> &'static str {
    match remedy {
        Remedy::MarkLost => "give-up",
        Remedy::RestoreHeader => "restore-header",
        Remedy::RebuildHeader => "rebuild-header",
        Remedy::MarkSegmentLost => "give-up-segment",
        Remedy::MakeSegment => "make-segment",
        Remedy::Extend => "extend",
        Remedy::RemoveIndex => "remove-index",
        Remedy::SetAside => "set-aside",
        Remedy::SetConsumerAside => "set-consumer-aside",
        Remedy::Open => "open",
        Remedy::Reopen => "reopen",
        _ => "none",
    }
}

fn remedy(remedy: Remedy) -> &'static str {
    match remedy {
        Remedy::MarkLost => "keep the bytes in the quarantine, mark the offsets lost",
        Remedy::RestoreHeader => "write the header sector again from its copy",
        Remedy::RebuildHeader => "write the header again from the frames",
        Remedy::MarkSegmentLost => "keep the file in the quarantine, mark its offsets lost",
        Remedy::MakeSegment => "create a segment that marks the offsets lost",
        Remedy::Extend => "extend the file to its former length with zeros",
        Remedy::RemoveIndex => "remove the index: it is rebuilt when it is needed",
        Remedy::SetAside => "move the file into the quarantine",
        Remedy::SetConsumerAside => {
            "with --consumers, move the file into the quarantine; its positions are then gone"
        }
        Remedy::Open => "open the topic, which cuts the tail off and keeps it in its file",
        Remedy::Reopen => "close the topic in every process, and open it again",
        _ => "nothing: restore the file from a backup",
    }
}
