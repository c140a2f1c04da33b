//! The frames of one segment file.

use std::ops::Range;

use deaddrop::format::segment as layout;
use deaddrop::inspect::{Found, Frames, SegmentFile, Stretch};
use deaddrop::Topic;
use schemars::JsonSchema;
use serde::Serialize;

use super::{describe, Counts, Dump, Frame};
use crate::failure::Failure;
use crate::output::{Colour, Out};
use crate::{hint, units};

/// How far a segment goes, according to the rest of its topic.
#[derive(Debug, Clone, Default)]
pub(super) struct Bounds<'a> {
    /// The base of the next segment: frames at this offset and later do not count.
    pub(super) cut: Option<u64>,
    /// The topic and its high watermark: readers do not get records at this offset and later.
    pub(super) published: Option<(&'a Topic, u64)>,
    /// The offsets whose frames were asked for.
    pub(super) only: Option<Range<u64>>,
}

impl Bounds<'_> {
    fn state(&self, offset: u64) -> Option<&'static str> {
        match (self.cut, self.published) {
            (Some(cut), _) if offset >= cut => Some("cut by a recovery"),
            (_, Some((_, end))) if offset >= end => Some("not published"),
            _ => None,
        }
    }

    /// Returns whether a writer may be storing the record at `offset` now.
    fn is_being_written(&self, offset: u64) -> Result<bool, Failure> {
        let Some((topic, _)) = self.published.filter(|(_, end)| offset >= *end) else {
            return Ok(false);
        };
        // Looks for a writer that has come since the topic was opened.
        topic.high_watermark()?;
        Ok(topic.is_live())
    }
}

/// Bytes that are not frames, before the next frame is known.
struct Pending {
    bytes: Stretch,
    /// Why there is no frame at their start.
    what: String,
    /// The offset of the record that was expected there.
    expected: u64,
}

impl Dump {
    pub(super) fn segment(
        &self,
        out: &mut Out,
        mut file: SegmentFile,
        bounds: Bounds<'_>,
        counts: &mut Counts,
    ) -> Result<(), Failure> {
        let path = &file.path;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let frames = file.frames(bounds.cut)?;
        print_header(out, &name, &file, frames.as_ref().is_some_and(Frames::is_checked))?;
        let is_damaged = file.header.is_err() || file.damaged_sector().is_some();
        counts.damaged_headers += u64::from(is_damaged);
        let Some(mut frames) = frames else { return Ok(()) };
        let only = bounds.only.clone().unwrap_or(0..u64::MAX);
        // Whether bytes are damage or a torn tail is known at the next frame, or at the end.
        let mut pending: Option<Pending> = None;
        loop {
            let expected = frames.next_offset();
            let (fixed, position, lost) = match frames.next()? {
                Found::Frame { fixed, position, lost } => (fixed, position, lost),
                Found::Bad(what) => {
                    // A search could miss records that are written meanwhile, and find later ones.
                    let bytes = match bounds.is_being_written(expected)? {
                        true => frames.pass_all()?,
                        false => frames.pass()?,
                    };
                    pending = Some(Pending { bytes, what, expected });
                    continue;
                }
                Found::End => break,
            };
            let held = frames.frame(&fixed);
            let frame = Frame { position, fixed, held, lost };
            let offset = frame.fixed.offset;
            // Damage before the first frame that was asked for has destroyed earlier ones.
            pending =
                pending.filter(|pending| offset > only.start || pending.expected >= only.start);
            if offset < only.start {
                continue;
            }
            if let Some(pending) = pending.take() {
                let state = bounds.state(pending.expected);
                if state.is_none() {
                    counts.damaged += 1;
                    counts.damaged_bytes += pending.bytes.len();
                }
                print_stretch(out, &name, &pending, true, state)?;
            }
            if offset >= only.end {
                return Ok(());
            }
            counts.count(&frame);
            if !self.quiet {
                self.print_frame(out, &name, &frame, bounds.state(offset))?;
            }
        }
        if let Some(pending) = pending {
            counts.torn_bytes += pending.bytes.zeros_from - pending.bytes.positions.start;
            if !(self.quiet && pending.bytes.is_zeros()) {
                print_stretch(out, &name, &pending, false, None)?;
            }
        }
        Ok(())
    }
}

/// A segment file.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct JsonSegment<'a> {
    /// Its name.
    file: &'a str,
    /// segment.
    kind: &'static str,
    /// false.
    damaged: bool,
    /// Its length.
    bytes: u64,
    /// Offset of its first record.
    base: u64,
    /// The recovery that it was written after.
    epoch: u32,
    /// The seed of its checksums, in hexadecimal.
    salt: String,
    /// The topic's id, in hexadecimal.
    topic_id: String,
    /// The durable end in its header.
    durable_end: u64,
    /// The durable end in its newest checkpoint.
    checkpoint: Option<u64>,
    /// The newest time before it: RFC 3339, UTC; null if there is no record.
    max_timestamp: Option<String>,
    /// The length that it was created with.
    file_len: u64,
    /// A sync of the topic failed.
    sync_failed: bool,
    /// Its name has another base.
    misnamed: bool,
    /// The copy of its header is damaged, the header is not.
    copy_damaged: bool,
    /// Its header is damaged; the copy is not, and replaces it.
    first_sector_damaged: bool,
}

/// A segment file whose header cannot be read.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct JsonDamaged<'a> {
    /// Its name.
    file: &'a str,
    /// segment.
    kind: &'static str,
    /// true.
    damaged: bool,
    /// Its length.
    bytes: u64,
    /// A description of the damage.
    what: &'a str,
    /// Frames are read nevertheless.
    recovered: bool,
}

/// Bytes that are not frames.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct JsonStretch<'a> {
    /// The segment file.
    file: &'a str,
    /// The first of them.
    position: u64,
    /// The position after them.
    end: u64,
    /// damaged, torn (after the last frame) or zeros.
    kind: &'static str,
    /// From this position on they are zeros.
    zeros_from: u64,
    /// A description of the damage.
    what: &'a str,
    /// Why it is not damage.
    state: Option<&'static str>,
}

fn print_header(
    out: &mut Out,
    name: &str,
    file: &SegmentFile,
    is_checked: bool,
) -> Result<(), Failure> {
    let header = match &file.header {
        Ok(header) => header,
        Err(what) => return print_lost_header(out, name, file, &what.to_string(), is_checked),
    };
    let slot = layout::newest_slot(&file.page, header.salt);
    let latched = layout::is_latched(&file.page);
    let misnamed = layout::parse_file_name(name).is_some_and(|base| base != header.base);
    if out.is_json() {
        out.object(&JsonSegment {
            file: name,
            kind: "segment",
            damaged: false,
            bytes: file.len,
            base: header.base,
            epoch: header.epoch,
            salt: format!("{:016x}", header.salt),
            topic_id: format!("{:016x}", header.topic_id),
            durable_end: header.durable_end,
            checkpoint: slot.map(|slot| slot.durable_end),
            max_timestamp: units::newest(header.max_timestamp),
            file_len: header.file_len,
            sync_failed: latched,
            misnamed,
            copy_damaged: file.damaged_sector().is_some_and(|(at, _)| at > 0),
            first_sector_damaged: file.damaged_sector().is_some_and(|(at, _)| at == 0),
        })?;
        return Ok(());
    }
    let text = format!(
        "{name} segment base {} epoch {} salt {:016x} topic {:016x} durable end {}{} {} bytes",
        header.base,
        header.epoch,
        header.salt,
        header.topic_id,
        header.durable_end,
        slot.map_or(String::new(), |slot| format!(" (checkpoint {})", slot.durable_end)),
        file.len,
    );
    out.line(Colour::Strong, text)?;
    if let Some((_, what)) = file.damaged_sector() {
        let repair = hint::command("repair TOPIC");
        let text = format!("    {what}: `{repair}` restores it");
        out.line(Colour::Bad, text)?;
    }
    if latched {
        out.line(Colour::Bad, "    a sync of this topic failed")?;
    }
    if misnamed {
        out.line(Colour::Bad, "    the file's name says another base")?;
    }
    Ok(())
}

fn print_lost_header(
    out: &mut Out,
    name: &str,
    file: &SegmentFile,
    what: &str,
    is_checked: bool,
) -> Result<(), Failure> {
    if out.is_json() {
        return Ok(out.object(&JsonDamaged {
            file: name,
            kind: "segment",
            damaged: true,
            bytes: file.len,
            what,
            recovered: is_checked,
        })?);
    }
    let how = match is_checked {
        true => "frames are checked with a salt that two of them agree on",
        false => "no frame can be checked without it",
    };
    let text = format!("{name} segment header damaged: {what}; {how}");
    Ok(out.line(Colour::Bad, text)?)
}

fn print_stretch(
    out: &mut Out,
    name: &str,
    pending: &Pending,
    before_frames: bool,
    state: Option<&'static str>,
) -> Result<(), Failure> {
    let Pending { bytes, what, .. } = pending;
    let is_damaged = before_frames && state.is_none();
    if out.is_json() {
        let kind = match (is_damaged, bytes.is_zeros()) {
            (true, _) => "damaged",
            (false, true) => "zeros",
            (false, false) => "torn",
        };
        out.object(&JsonStretch {
            file: name,
            position: bytes.positions.start,
            end: bytes.positions.end,
            kind,
            zeros_from: bytes.zeros_from,
            what,
            state,
        })?;
        return Ok(());
    }
    let start = bytes.positions.start;
    let text = format!("{name} @{start} {}", describe(bytes, what, before_frames));
    let text = state.map_or(text.clone(), |state| format!("{text} [{state}]"));
    Ok(out.line(if is_damaged { Colour::Bad } else { Colour::Faint }, text)?)
}
