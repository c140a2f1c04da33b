//! Repairs a topic: damaged ranges are durably marked lost; every other record keeps its place and its
//! offset.
//!
//! Damaged bytes are copied into a side file first, `quarantine/SEGMENT.POSITION.LEN` in the topic's
//! directory. Then a void frame is written over their start. It covers them, and names the offset of the
//! record after them: the offsets between are lost. Every reader gets [`Error::Lost`] once for them, and
//! continues. Nothing is deleted except an index, which is built again.
//!
//! Each step is durable before the next one that needs it, so a crash at any instant leaves each damaged
//! range either damaged or repaired.

mod header;
pub(crate) mod plan;
mod quarantine;
mod segments;
pub(crate) mod survey;

use std::cell::OnceCell;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::consumer;
use crate::error::{Error, IoResultExt, Result};
use crate::format::group;
use crate::log::Log;
use crate::recovery::{Cut, RecoveryReport};
use crate::segment::{list_bases, Frames, Seen};
use crate::store::{names_in, Frontier, Store, GROUPS};
use crate::sys::{self, Access};
use header::Headers;
use quarantine::Quarantine;
use segments::{End, Repair};

/// Follows the description of damage after the end of a log, where nothing was promised.
const DOUBT: &str =
    "; whole records follow: damage, or a write that was torn, or a copy that was taken while it was written";

/// What a repair may do besides marking damaged ranges lost.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Options {
    /// Moves unreadable files of consumers and groups into the quarantine. Such a consumer no longer exists:
    /// the next call that opens it says where it starts.
    pub consumers: bool,
}

setters! { Options:
    with_consumers consumers: bool,
}

/// The remedy for one kind of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// The bytes are kept in the quarantine; a void frame over them marks their offsets lost.
    MarkLost,
    /// One of the two header sectors is written again from the other one.
    RestoreHeader,
    /// Both header sectors are written again, from the frames.
    RebuildHeader,
    /// No frame can be checked: the file is kept in the quarantine, and its offsets are marked lost.
    MarkSegmentLost,
    /// A segment is created that marks the offsets of the missing one lost.
    MakeSegment,
    /// The file is extended to its former length.
    Extend,
    /// The index is removed. It is built again when it is needed.
    RemoveIndex,
    /// The file belongs to another topic: it is moved into the quarantine.
    SetAside,
    /// The file of a consumer or a group is moved into the quarantine, if that is
    /// [requested](Options::consumers).
    SetConsumerAside,
    /// Opening the topic cuts a torn tail off. It stays in its file.
    Open,
    /// A sync has failed: every process closes the topic, and one opens it again.
    Reopen,
    /// None: the former bytes cannot be known. Restore the file from a backup.
    None,
}

/// A damaged place.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// The position in the file, in bytes.
    pub position: u64,
    /// The length, in bytes.
    pub len: u64,
    /// The offsets whose records cannot be read.
    pub lost: Range<u64>,
    /// A description of the damage.
    pub what: String,
    /// The remedy.
    pub remedy: Remedy,
    /// Whether the remedy was applied.
    pub done: bool,
    /// The file that now holds the bytes, if they were not all zeros.
    pub kept: Option<PathBuf>,
}

/// A consumer whose next record is lost.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Stranded {
    /// Its name.
    pub consumer: String,
    /// Its position.
    pub committed: u64,
    /// The position at which it continues.
    pub continues_at: u64,
}

/// The contents of a topic's segments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contents {
    /// Segment files.
    pub segments: usize,
    /// Records that readers get.
    pub records: u64,
    /// Offsets that an earlier repair marked lost.
    pub lost: u64,
    /// Bytes of frames.
    pub frames_len: u64,
}

/// A fact about a file that is not damage, and that an operator may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Note {
    /// The file.
    pub path: PathBuf,
    /// The fact.
    pub what: String,
}

/// The damage in a topic, and the remedies applied.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Report {
    /// All damage, in the order in which it is repaired.
    pub findings: Vec<Finding>,
    /// Consumers whose next record is lost: each gets the error once and continues after the lost records.
    pub stranded: Vec<Stranded>,
    /// The findings of the recovery, if opening the topic needed one.
    pub recovery: Option<RecoveryReport>,
    /// The contents of the segments, besides the damage.
    pub contents: Contents,
    /// Whole records that recoveries cut off and that are still in the files.
    pub cuts: Vec<Cut>,
    /// Facts that are not damage.
    pub notes: Vec<Note>,
}

/// Looks for everything that [`execute`] would do. Writes and locks nothing, and may run beside processes
/// that use the topic.
///
/// # Errors
///
/// [`Error::NotFound`], [`Error::Corrupt`] if the settings are damaged, [`Error::Version`],
/// [`Error::Io`].
pub fn plan(log: &Log, topic: &str) -> Result<Report> {
    let inner = log.inner();
    Error::check_name(topic)?;
    plan_of(&*Store::open_read_only(inner, topic)?, &mut |_| {})
}

/// As [`plan`], for a topic that is open read-only. `progress` gets the number of bytes that were read since its
/// last call.
pub(crate) fn plan_of(topic: &Store, progress: &mut dyn FnMut(u64)) -> Result<Report> {
    let mut headers = Headers::of(&*topic.files, &topic.dir, &topic.settings, false);
    headers.look()?;
    let mut repair = headers.repair();
    let frontier = topic.frontier()?;
    if topic.words().is_some() {
        repair.segments(End::Known(frontier), progress)?;
    } else {
        let published = match topic.published() {
            0 => 0,
            // On a topic that survives power loss, whole frames can follow those that readers saw.
            published => published.max(frontier.end),
        };
        let (found, visible) = (frontier.end, frontier.high_watermark);
        let end = repair.segments(End::Unknown { published, found, visible }, progress)?;
        tail(topic, &frontier, end, &mut repair)?;
        for finding in &mut repair.report.findings {
            if !finding.lost.is_empty() && finding.lost.start >= found.max(published) {
                finding.what.push_str(DOUBT);
            }
        }
    }
    first_segment(topic, &mut repair.report)?;
    repair.set_aside()?;
    repair.epochs()?;
    let mut report = repair.report;
    consumers(topic, None, &repair.marked_lost, &mut report)?;
    groups(topic, None, &mut report)?;
    Ok(report)
}

/// Reports that the segment with the first record is missing. Only the words of a living process name that.
fn first_segment(topic: &Store, report: &mut Report) -> Result<()> {
    let bases = list_bases(&*topic.files, &topic.dir)?;
    // After the list: retention may drop segments meanwhile.
    let first = topic.first_offset()?;
    if let Some(&base) = bases.first().filter(|&&base| base > first) {
        let what = "the first segment file is missing".to_owned();
        let finding = Finding { lost: first..base, ..finding(&topic.dir, 0, 0, what) };
        report.findings.push(finding);
    }
    Ok(())
}

/// Reports what opening the topic will find after `end`: a torn tail to cut off, or that promised records are
/// missing, which a repair marks lost afterwards.
fn tail(topic: &Store, frontier: &Frontier, end: u64, repair: &mut Repair<'_>) -> Result<()> {
    let segment = match topic.segment(frontier.active) {
        Ok(segment) => segment,
        Err(Error::Corrupt { path, what, .. }) => {
            let lost = frontier.active..frontier.end;
            let findings = &mut repair.report.findings;
            if !findings.iter().any(|finding| finding.path == path) && !lost.is_empty() {
                let mut finding = finding(&path, 0, 0, what);
                (finding.remedy, finding.lost) = (Remedy::MarkSegmentLost, lost);
                repair.marked_lost.push(finding.lost.clone());
                findings.push(finding);
            }
            return Ok(());
        }
        Err(other) => return Err(other),
    };
    let findings = &mut repair.report.findings;
    let is_damaged = findings.iter().any(|finding| finding.path == segment.path);
    if frontier.end > end {
        let what = "the frames end here, before the promised boundary".to_owned();
        let mut finding = finding(&segment.path, frontier.position, 0, what);
        (finding.remedy, finding.lost) = (Remedy::MarkLost, end..frontier.end);
        repair.marked_lost.push(finding.lost.clone());
        findings.push(finding);
    } else if !is_damaged && !segment.is_zero_from(frontier.position)? {
        let len = segment.len().saturating_sub(frontier.position);
        let what = "a torn tail: opening the topic continues in a new segment".to_owned();
        let mut finding = finding(&segment.path, frontier.position, len, what);
        finding.remedy = Remedy::Open;
        // Whole frames may begin it: those of a batch that is not whole.
        let mut frames = Frames::from(&segment, frontier.position, frontier.end);
        while !matches!(frames.step()?, Seen::Bad(_) | Seen::End) {}
        let passed = frames.pass()?;
        if let Some(next) = passed.found {
            (finding.position, finding.lost) = (passed.positions.start, passed.expected..next);
        }
        findings.push(finding);
    }
    Ok(())
}

/// Checks the files of the groups.
fn groups(topic: &Store, options: Option<Options>, report: &mut Report) -> Result<()> {
    let dir = topic.dir.join(GROUPS);
    let files = &*topic.files;
    for name in names_in(files, &dir)? {
        let path = dir.join(&name);
        let bytes = files
            .open(&path, Access::Read)
            .and_then(|file| sys::read_start(&*file, group::file_len(group::MAX_LANES)))
            .at("reading", &path)?;
        let of = group::decode_header(&bytes, bytes.len() as u64).map(|(topic_id, _)| topic_id);
        let (position, what) = match group::check(&bytes) {
            Err((position, what)) => (position, what.to_string()),
            Ok(()) if of == Ok(topic.settings.topic_id) => continue,
            Ok(()) => (0, "it belongs to another topic".to_owned()),
        };
        let finding = finding(&path, position as u64, 0, what);
        report.findings.push(unreadable(topic, options, finding, &format!("group.{name}"))?);
    }
    Ok(())
}

/// Completes the finding about the file of a consumer or a group: moves the file into the quarantine, under
/// `name`, if that is requested.
fn unreadable(
    topic: &Store,
    options: Option<Options>,
    mut finding: Finding,
    name: &str,
) -> Result<Finding> {
    finding.remedy = Remedy::SetConsumerAside;
    if options.is_some_and(|options| options.consumers) {
        let quarantine = Quarantine::of(&*topic.files, &topic.dir);
        finding.kept = Some(quarantine.set_aside(&finding.path, name)?);
        finding.done = true;
    }
    Ok(finding)
}

/// Checks the files of the consumers, and whether their next records are lost.
fn consumers(
    topic: &Store,
    options: Option<Options>,
    marked_lost: &[Range<u64>],
    report: &mut Report,
) -> Result<()> {
    for info in consumer::list(topic)? {
        let committed = match info.committed {
            Ok(committed) => committed,
            Err(Error::Corrupt { path, position, what, .. }) => {
                let (finding, name) =
                    (finding(&path, position, 0, what), format!("consumer.{}", info.name));
                report.findings.push(unreadable(topic, options, finding, &name)?);
                continue;
            }
            Err(other) => return Err(other),
        };
        let mut continues_at = committed;
        for lost in marked_lost {
            if lost.contains(&continues_at) {
                continues_at = lost.end;
            }
        }
        if continues_at > committed {
            report.stranded.push(Stranded { consumer: info.name, committed, continues_at });
        }
    }
    Ok(())
}

/// Repairs a topic that no process has open for writing, and keeps all other processes out meanwhile. This
/// includes opening it: a torn tail is cut off as always.
///
/// ```
/// # fn main() -> deaddrop::Result<()> {
/// # let dir = deaddrop::doc_dir();
/// # let log = deaddrop::Log::open_or_create(&dir)?;
/// use deaddrop::{repair, Record};
/// log.topic("orders")?.append(&Record::new("3 of item 7"))?;
/// let report = repair::execute(&log, "orders", repair::Options::default())?;
/// assert!(report.findings.is_empty());
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// [`Error::Locked`] if any process, including this one, has the topic open for writing. As [`plan`], and
/// [`Error::ReadOnly`], [`Error::NoSpace`], [`Error::SyncFailed`]: damage that is not yet repaired is then
/// unchanged, and the call can be repeated.
pub fn execute(log: &Log, topic: &str, options: Options) -> Result<Report> {
    log.writable()?;
    let inner = log.inner();
    Error::check_name(topic)?;
    let opened = OnceCell::new();
    let mut before = None;
    // Before the topic is opened, because opening marks a segment lost if its header is unreadable, and sets
    // aside the segments after the first damage in which no record was promised.
    let topic = Store::open_alone(inner, topic, |files, settings, published| {
        let files = opened.get_or_init(|| Arc::clone(files));
        let mut headers = Headers::of(&**files, files.path(), settings, true);
        headers.look()?;
        let mut repair = headers.repair();
        repair.segments(End::Unknown { published, found: 0, visible: 0 }, &mut |_| {})?;
        before = Some(repair);
        Ok(())
    })?;
    let mut repair = before.expect("looked at before the topic was opened");
    repair.segments(End::Known(topic.frontier()?), &mut |_| {})?;
    repair.set_aside()?;
    repair.epochs()?;
    let mut report = repair.report;
    report.recovery = topic.recovery.get().cloned();
    consumers(&topic, Some(options), &repair.marked_lost, &mut report)?;
    groups(&topic, Some(options), &mut report)?;
    Ok(report)
}

/// A finding of which no more is known yet.
fn finding(path: &std::path::Path, position: u64, len: u64, what: String) -> Finding {
    Finding {
        path: PathBuf::from(path),
        position,
        len,
        lost: 0..0,
        what,
        remedy: Remedy::None,
        done: false,
        kept: None,
    }
}
