//! The frames of one segment file.

use std::io::Write;

use deaddrop::format::segment as layout;
use serde_json::json;

use super::{describe, Counts, Dump};
use crate::failure::Failure;
use crate::frames::{Found, Frames, Invalid};
use crate::output::{Colour, Out};
use crate::{hint, units};

/// What the rest of the topic says about a segment.
#[derive(Debug, Clone, Default)]
pub(super) struct Bounds {
    /// Frames at this offset and above do not count: the next segment starts here.
    pub(super) cut: Option<u64>,
    /// Frames at this offset and above are not visible to readers.
    pub(super) published: Option<u64>,
    /// Only frames of these offsets were asked for.
    pub(super) only: Option<std::ops::Range<u64>>,
}

impl Bounds {
    fn state(&self, offset: u64) -> Option<&'static str> {
        match (self.cut, self.published) {
            (Some(cut), _) if offset >= cut => Some("cut by a recovery"),
            (_, Some(end)) if offset >= end => Some("not published"),
            _ => None,
        }
    }
}

impl Dump {
    pub(super) fn segment(
        &self,
        out: &mut Out,
        mut frames: Frames,
        bounds: Bounds,
        counts: &mut Counts,
    ) -> Result<(), Failure> {
        let path = &frames.path;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        print_header(out, &name, &frames)?;
        counts.damaged_headers +=
            u64::from(frames.header.is_err() || frames.damaged_sector().is_some());
        // Whether bytes are damage or a torn tail is known when the next frame is found, or not.
        let mut pending: Option<Invalid> = None;
        let mut stands_at = frames.header.as_ref().map_or(0, |header| header.base);
        while let Some(found) = frames.next()? {
            let frame = match found {
                Found::Invalid(invalid) => {
                    pending = Some(invalid);
                    continue;
                }
                Found::Frame(frame) => frame,
            };
            let offset = frame.fixed.offset;
            if let Some(only) = bounds.only.as_ref().filter(|only| offset <= only.start) {
                // Damage before the first frame wanted has taken earlier ones.
                if stands_at < only.start {
                    pending = None;
                }
                if offset < only.start {
                    stands_at = offset + u64::from(frame.is_record());
                    continue;
                }
            }
            let is_behind = bounds.only.as_ref().is_some_and(|only| offset >= only.end);
            if let Some(invalid) = pending.take() {
                // Behind the published end a writer may be at work, so nothing there is damage.
                let state = bounds.state(stands_at);
                if state.is_none() {
                    counts.damaged += 1;
                    counts.damaged_bytes += invalid.range.end - invalid.range.start;
                }
                print_invalid(out, &name, &invalid, true, state)?;
            }
            if is_behind {
                return Ok(());
            }
            if frame.is_record() {
                counts.frames += 1;
                counts.payload_bytes += frame.payload_len() as u64;
                stands_at = offset + 1;
            } else {
                counts.void_frames += 1;
            }
            let lost = if frame.is_record() { 0 } else { offset.saturating_sub(stands_at) };
            stands_at = stands_at.max(offset);
            counts.given_up += lost;
            if !self.quiet {
                self.print_frame(out, &name, &frame, bounds.state(offset), lost)?;
            }
        }
        if let Some(invalid) = pending {
            counts.torn_bytes += invalid.zeros_from - invalid.range.start;
            if !(self.quiet && invalid.is_zeros()) {
                print_invalid(out, &name, &invalid, false, None)?;
            }
        }
        Ok(())
    }
}

fn print_header(out: &mut Out, name: &str, frames: &Frames) -> Result<(), Failure> {
    let header = match &frames.header {
        Ok(header) => header,
        Err(what) => {
            let how = if frames.is_unreadable() {
                "no frame can be checked without it"
            } else {
                "frames are checked with a seed that two of them agree on"
            };
            if out.is_json() {
                out.object(&json!({
                    "file": name, "kind": "segment", "damaged": true, "bytes": frames.len,
                    "what": what.to_string(), "recovered": !frames.is_unreadable(),
                }))?;
            } else {
                let text = format!("{name} segment header damaged: {what}; {how}");
                let text = out.paint(Colour::Bad, text);
                writeln!(out, "{text}")?;
            }
            return Ok(());
        }
    };
    let slot = layout::newest_slot(&frames.page, header.salt);
    let latched = layout::is_latched(&frames.page);
    let misnamed = layout::parse_file_name(name).is_some_and(|base| base != header.base);
    if out.is_json() {
        out.object(&json!({
            "file": name, "kind": "segment", "damaged": false, "bytes": frames.len,
            "base": header.base, "epoch": header.epoch,
            "salt": format!("{:016x}", header.salt),
            "topic_id": format!("{:016x}", header.topic_id),
            "durable_end": header.durable_end,
            "checkpoint": slot.map(|slot| slot.durable_end),
            "max_timestamp": units::newest(header.max_timestamp),
            "file_len": header.file_len, "sync_failed": latched, "misnamed": misnamed,
            "copy_damaged": frames.damaged_sector().is_some_and(|(at, _)| at > 0),
            "first_sector_damaged": frames.damaged_sector().is_some_and(|(at, _)| at == 0),
        }))?;
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
        frames.len,
    );
    let text = out.paint(Colour::Strong, text);
    writeln!(out, "{text}")?;
    if let Some((_, what)) = frames.damaged_sector() {
        let repair = hint::command("repair TOPIC");
        let text = format!("    {what}: `{repair}` restores it");
        let text = out.paint(Colour::Bad, text);
        writeln!(out, "{text}")?;
    }
    if latched {
        let text = out.paint(Colour::Bad, "    a sync of this topic failed");
        writeln!(out, "{text}")?;
    }
    if misnamed {
        let text = out.paint(Colour::Bad, "    the file's name says another base");
        writeln!(out, "{text}")?;
    }
    Ok(())
}

fn print_invalid(
    out: &mut Out,
    name: &str,
    invalid: &Invalid,
    before_frames: bool,
    state: Option<&'static str>,
) -> Result<(), Failure> {
    let damaged = before_frames && state.is_none();
    if out.is_json() {
        let kind = match (damaged, invalid.is_zeros()) {
            (true, _) => "damaged",
            (false, true) => "zeros",
            (false, false) => "torn",
        };
        out.object(&json!({
            "file": name, "position": invalid.range.start, "end": invalid.range.end, "kind": kind,
            "zeros_from": invalid.zeros_from, "what": invalid.what.to_string(), "state": state,
        }))?;
        return Ok(());
    }
    let text = format!("{name} @{} {}", invalid.range.start, describe(invalid, before_frames));
    let text = state.map_or(text.clone(), |state| format!("{text} [{state}]"));
    let text = out.paint(if damaged { Colour::Bad } else { Colour::Faint }, text);
    Ok(writeln!(out, "{text}")?)
}
