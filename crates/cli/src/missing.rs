//! Records that are in a topic's files and not in the topic: what a recovery cut off, and what would be cut
//! off by one.

use std::path::PathBuf;

use deaddrop::{Durability, Log, Topic};
use serde::Serialize;

use crate::args::time;
use crate::exchange::topic_if_there;
use crate::failure::{note, Exit, Failure};
use crate::frames::{Found, Frames};
use crate::ls::segment_files;
use crate::units;

/// Clocks of records tick every few milliseconds, and those of two processors differ a little.
const CLOCK_TICK: std::time::Duration = std::time::Duration::from_secs(1);

/// Whole frames after bytes that are none, where a topic without writers was found to end.
#[derive(Debug, Serialize)]
pub(crate) struct Beyond {
    /// The file, and where in it the bytes are that are no frame.
    pub(crate) file: PathBuf,
    pub(crate) position: u64,
    /// Where the topic was found to end.
    pub(crate) end: u64,
    /// Whole frames of records after that.
    pub(crate) frames: u64,
    pub(crate) what: String,
}

impl Beyond {
    /// Looks at the files of a topic from its end on. Beside a writer there is nothing to be said: it knows
    /// the end. Nor is there of a topic that survives a power loss: what stands after its end was never
    /// acknowledged, and an ordinary power cut leaves it.
    pub(crate) fn of(topic: &Topic) -> Result<Option<Beyond>, Failure> {
        if topic.is_live() || topic.options().durability == Durability::PowerLoss {
            return Ok(None);
        }
        let end = topic.high_watermark()?;
        let files = segment_files(topic.dir())
            .map_err(|error| Failure::io("listing", topic.dir(), &error))?;
        let mut found = None;
        let holds_end = files.partition_point(|file| file.base <= end).saturating_sub(1);
        for file in files.iter().skip(holds_end) {
            let path = topic.dir().join(&file.file);
            let Some(frames) = Frames::open_listed(Some(topic), &path, file.base)? else {
                continue;
            };
            found = count(frames, end, found)?;
        }
        Ok(found.filter(|beyond: &Beyond| beyond.frames > 0))
    }

    /// Says it on standard error, and how the command ends for it.
    pub(crate) fn say(&self, topic: &str) -> Exit {
        note(format_args!(
            "topic {topic} ends at offset {} because of the bytes in {} at position {}: {}; {} after it: \
             damage, or a write that was torn; nothing was deleted: look with `deaddrop verify {topic}`, \
             and see `deaddrop repair {topic}` before anything is appended",
            self.end,
            self.file.display(),
            self.position,
            self.what,
            match self.frames {
                1 => "a whole record stands".to_owned(),
                some => format!("{} whole records stand", units::grouped(some)),
            },
        ));
        Exit::Corruption
    }
}

/// Adds the whole records of a file behind its first bytes at `end` that are no frame.
fn count(
    mut frames: Frames,
    end: u64,
    mut found: Option<Beyond>,
) -> Result<Option<Beyond>, Failure> {
    let path = frames.path.clone();
    while let Some(next) = frames.next()? {
        match (next, &mut found) {
            (Found::Invalid(invalid), None) => {
                let (position, what) = (invalid.range.start, invalid.what.to_string());
                found = Some(Beyond { file: path.clone(), position, end, frames: 0, what });
            }
            (Found::Frame(frame), Some(beyond)) if frame.is_record() => {
                if frame.fixed.offset >= end {
                    beyond.frames += 1;
                } else {
                    // The bytes before it are not where the topic ends.
                    found = None;
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

/// What is said of a topic whose newest record is stamped with a time to come.
pub(crate) fn clock(topic: &Topic) -> Result<Option<String>, Failure> {
    let clocks = topic.clocks()?;
    let Some(newest) = clocks.newest.filter(|_| clocks.ahead > CLOCK_TICK) else { return Ok(None) };
    let ahead = std::time::Duration::from_secs(clocks.ahead.as_secs());
    Ok(Some(format!(
        "the newest record's time is {}, {} in the future: a clock was ahead when it was appended, or \
         this one is behind",
        time::show(newest),
        humantime::format_duration(ahead)
    )))
}

/// Says what is missing of a topic that is looked at: how many whole records stand after its end, and how
/// the command ends for it.
pub(crate) fn say_missing(topic: &Topic) -> Result<(u64, Exit), Failure> {
    let beyond = Beyond::of(topic)?;
    let exit = say_damage(topic);
    Ok(match beyond {
        Some(beyond) => (beyond.frames, beyond.say(topic.name())),
        None => (0, exit),
    })
}

/// Says what the opening of a topic found damaged.
fn say_damage(topic: &Topic) -> Exit {
    let name = topic.name();
    let mut exit = Exit::Ok;
    let Some(report) = topic.recovery() else { return exit };
    for damage in &report.damage {
        note(format_args!(
            "topic {name}: offsets {}..{} are damaged: {} at position {}: {}; look with `deaddrop verify \
             {name}`, and see `deaddrop repair {name}`",
            damage.offsets.start,
            damage.offsets.end,
            damage.path.display(),
            damage.position,
            damage.what
        ));
        exit = Exit::Corruption;
    }
    exit
}

/// The part of a recovery report that goes into JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Recovered {
    /// The end of the topic after the recovery.
    end: u64,
    cuts: Vec<CutOff>,
}

/// A file with records that were cut off, or that was set aside as a whole.
#[derive(Debug, Serialize)]
struct CutOff {
    file: String,
    position: u64,
    /// Whole records.
    records: u64,
}

impl Recovered {
    /// `None` if the recovery cut nothing off.
    pub(crate) fn of(topic: &Topic) -> Option<Recovered> {
        let report = topic.recovery()?;
        let cuts = report.cuts.iter().map(|cut| CutOff {
            file: cut.path.display().to_string(),
            position: cut.position,
            records: cut.frames,
        });
        let mut cuts: Vec<CutOff> = cuts.collect();
        for name in &report.set_aside {
            let file = topic.dir().join(name).display().to_string();
            if cuts.iter().all(|cut| cut.file != file) {
                cuts.push(CutOff { file, position: 0, records: 0 });
            }
        }
        (!cuts.is_empty()).then_some(Recovered { end: report.end, cuts })
    }
}

/// Says what opening a topic for writing found missing, and how the command ends for it: damage is code 4;
/// what was cut off is said, and may be what an ordinary power cut has left.
pub(crate) fn say_recovery(topic: &Topic) -> Exit {
    let Some(report) = topic.recovery() else { return Exit::Ok };
    let name = topic.name();
    let exit = say_damage(topic);
    for cut in &report.cuts {
        let (file, position) = (cut.path.display(), cut.position);
        match cut.frames {
            0 => note(format_args!(
                "topic {name} was cut at offset {}: in {file}, what is at position {position} and after it \
                 is no record: a write that was torn; it stays in the file",
                report.end
            )),
            frames => note(format_args!(
                "topic {name} was cut at offset {}: in {file}, {} at position {position} or after it: damage, \
                 or a write that was torn; they stay in the file, and `deaddrop verify {name}` names it",
                report.end,
                match frames {
                    1 => "a whole record stood".to_owned(),
                    some => format!("{} whole records stood", units::grouped(some)),
                },
            )),
        }
    }
    if !report.set_aside.is_empty() {
        note(format_args!(
            "topic {name}: set aside, because nothing in it was promised: {}",
            report.set_aside.join(", ")
        ));
    }
    exit
}

/// Reports the same for the topics of a service, which a client or a server has opened.
pub(crate) fn say_recovery_of_service(log: &Log, service: &str) -> Result<(), Failure> {
    for end in ["requests", "replies"] {
        if let Some(topic) = topic_if_there(log, &format!("{service}.{end}"))? {
            say_recovery(&topic);
        }
    }
    Ok(())
}
