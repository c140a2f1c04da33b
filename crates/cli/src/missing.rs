//! Records that are in a topic's files but not in the topic: those that a recovery cut off, and those
//! that one would cut off.

use deaddrop::{Cut, Durability, Log, Topic};
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::time;
use crate::exchange::topic_if_there;
use crate::failure::{note, Exit, Failure};
use crate::units;

/// Clocks of records tick every few milliseconds, and those of two processors differ a little.
const CLOCK_TICK: std::time::Duration = std::time::Duration::from_secs(1);

/// Whole records after the end of a topic without writers.
#[derive(Debug)]
pub(crate) struct Beyond {
    /// The offset at which the topic ends.
    end: u64,
    /// How many there are.
    pub(crate) records: u64,
    /// The first bytes that an opening for writing would cut off.
    cut: Cut,
}

impl Beyond {
    /// Returns what opening a topic for reading found after its end. Beside a writer there is nothing to report: the
    /// writer knows the end. The same holds for a topic that survives a power loss: the records after its end were
    /// never acknowledged, and an ordinary power cut leaves them.
    pub(crate) fn of(topic: &Topic) -> Option<Beyond> {
        if topic.is_live() || topic.options().durability == Durability::PowerLoss {
            return None;
        }
        let report = topic.recovery().filter(|report| report.frames_cut > 0)?;
        let cut = report.cuts.first()?.clone();
        Some(Beyond { end: report.end, records: report.frames_cut, cut })
    }

    /// Reports it on standard error, and returns the exit code for it.
    pub(crate) fn say(&self, topic: &str) -> Exit {
        note(format_args!(
            "topic {topic} ends at offset {} because of the bytes in {} at position {}; {}: damage or a \
             torn write; nothing was deleted: check with `deaddrop verify {topic}` and run \
             `deaddrop repair {topic}`, which shows the remedy, before anything is appended",
            self.end,
            self.cut.path.display(),
            self.cut.position,
            match self.records {
                1 => "a whole record follows".to_owned(),
                some => format!("{} whole records follow", units::grouped(some)),
            },
        ));
        Exit::Corruption
    }
}

/// The message for a topic whose newest record has a time in the future.
pub(crate) fn clock(topic: &Topic) -> Result<Option<String>, Failure> {
    let clocks = topic.clocks()?;
    let Some(newest) = clocks.newest.filter(|_| clocks.ahead > CLOCK_TICK) else { return Ok(None) };
    let ahead = std::time::Duration::from_secs(clocks.ahead.as_secs());
    Ok(Some(format!(
        "the newest record's time is {}, {} in the future: a clock was ahead when it was appended, or \
         this computer's clock is behind",
        time::show(newest),
        humantime::format_duration(ahead)
    )))
}

/// Reports the missing records of a topic that a command reads: returns the number of whole records after
/// its end, and the exit code.
pub(crate) fn say_missing(topic: &Topic) -> Result<(u64, Exit), Failure> {
    // Looks for the end, if that was not done yet.
    topic.high_watermark()?;
    let exit = say_damage(topic);
    Ok(match Beyond::of(topic) {
        Some(beyond) => (beyond.records, beyond.say(topic.name())),
        None => (0, exit),
    })
}

/// Reports damage that opening the topic found.
fn say_damage(topic: &Topic) -> Exit {
    let name = topic.name();
    let mut exit = Exit::Ok;
    let Some(report) = topic.recovery() else { return exit };
    for damage in &report.damage {
        note(format_args!(
            "topic {name}: offsets {}..{} are damaged: {} at position {}: {}; check with \
             `deaddrop verify {name}`; `deaddrop repair {name}` shows the remedy",
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
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Recovered {
    /// Offset at which the topic ends since then.
    end: u64,
    cuts: Vec<CutOff>,
}

/// A file with records that were cut off, or that was set aside as a whole.
#[derive(Debug, JsonSchema, Serialize)]
struct CutOff {
    /// A file in which something was cut off, or that was set aside; it still exists.
    file: String,
    /// Where it begins.
    position: u64,
    /// Whole records in it.
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

/// Reports damage and cuts that opening a topic for writing found, and returns the exit code: for damage
/// it is 4; a cut is only reported, because an ordinary power cut can cause it.
pub(crate) fn say_recovery(topic: &Topic) -> Exit {
    let Some(report) = topic.recovery() else { return Exit::Ok };
    let name = topic.name();
    let exit = say_damage(topic);
    for cut in &report.cuts {
        let (file, position) = (cut.path.display(), cut.position);
        match cut.frames {
            0 => note(format_args!(
                "topic {name} was cut at offset {}: in {file}, the bytes from position {position} \
                 on are not a record: a torn write; they stay in the file",
                report.end
            )),
            frames => note(format_args!(
                "topic {name} was cut at offset {}: in {file}, {} at position {position} or after: \
                 damage or a torn write; they stay there; `deaddrop verify {name}` names the file",
                report.end,
                match frames {
                    1 => "a whole record was".to_owned(),
                    some => format!("{} whole records were", units::grouped(some)),
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

/// Reports the same for the topics that are opened as a client, or to retire it, and keeps them open: an
/// opening after this one finds nothing to report.
pub(crate) fn say_recovery_of_client(
    log: &Log,
    client: &str,
    is_retired: bool,
) -> Result<Vec<Topic>, Failure> {
    let mut held = Vec::new();
    for name in log.topics()? {
        let position = format!("topics/{name}/consumers/client.{client}");
        if log.dir().join(position).exists()
            || name == format!("{client}.parked")
            || is_retired && name.ends_with(".requests")
        {
            let topic = log.open_topic(&name)?;
            say_recovery(&topic);
            held.push(topic);
        }
    }
    Ok(held)
}
