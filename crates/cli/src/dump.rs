//! `dump`: prints the contents of files: every frame with its position and checksum, and bytes that are not
//! frames.

mod object;
mod segment;
mod small;

use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use deaddrop::format::frame::{self, Fixed};
use deaddrop::format::headers;
use deaddrop::inspect::{SegmentFile, Stretch};
use deaddrop::service::Envelope;
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::dump::Dump;
use crate::args::range::Point;
use crate::failure::{At, Exit, Failure};
use crate::ls::{open_listed, segment_files};
use crate::output::{escape, Colour, Out};
use crate::record::{json_header, json_key, json_payload, JsonHeader, Key, Payload};
use crate::{units, Global};
pub(crate) use object::Object;
use segment::Bounds;
pub(crate) use segment::{JsonDamaged, JsonSegment, JsonStretch};

/// The header that describes a request or an outcome.
const ENVELOPE: &str = "deaddrop.service";
/// The most bytes of a payload that are printed.
const PREVIEW_LEN: usize = 160;
/// The same with `--full`.
const FULL_LEN: usize = 1 << 20;

/// The counts, after all frames.
#[derive(Debug, Default, JsonSchema, Serialize)]
pub(crate) struct Counts {
    /// summary.
    kind: &'static str,
    /// Records.
    frames: u64,
    /// Void frames.
    void_frames: u64,
    /// Records that a repair has marked lost.
    given_up: u64,
    /// Bytes of payload.
    payload_bytes: u64,
    /// Stretches of bytes before the last frame of a file that are not frames.
    damaged: u64,
    /// Bytes in them.
    damaged_bytes: u64,
    /// Bytes after the last frame of a file that are neither a frame nor zeros.
    torn_bytes: u64,
    /// Headers that cannot be read.
    damaged_headers: u64,
}

impl Counts {
    fn count(&mut self, frame: &Frame<'_>) {
        match frame.is_record() {
            true => {
                self.frames += 1;
                self.payload_bytes += frame.payload_len() as u64;
            }
            false => self.void_frames += 1,
        }
        self.given_up += frame.lost.end - frame.lost.start;
    }
}

/// A frame.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct JsonFrame<'a> {
    /// The segment file.
    file: &'a str,
    /// The frame's first byte in it.
    position: u64,
    /// record, or void: covers bytes that a killed writer left.
    kind: &'static str,
    /// Offset of the record.
    offset: u64,
    /// When it was appended: RFC 3339, UTC.
    timestamp: String,
    /// Bytes of the frame.
    len: usize,
    /// key: it has one; continues: the batch has more records.
    flags: Vec<&'static str>,
    /// As stored, in hexadecimal.
    checksum: String,
    /// As computed.
    computed: String,
    /// Why readers do not see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    /// Of a void frame: the first lost offset, and the one after the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    gives_up: Option<[u64; 2]>,
    #[serde(flatten)]
    key: Key<'a>,
    /// Headers, in the order of the record; absent if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<JsonHeader<'a>>,
    /// The fields of a request or an outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    about: Option<String>,
    /// Bytes of the payload.
    payload_len: usize,
    #[serde(flatten)]
    payload: Payload<'a>,
    /// The same, with --hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_hex: Option<String>,
    /// The same, with --payload-json, if it is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_json: Option<serde_json::Value>,
}

/// A frame, and as many of its bytes as are held in memory.
#[derive(Debug, Clone)]
struct Frame<'a> {
    position: u64,
    fixed: Fixed,
    held: &'a [u8],
    /// The offsets that a void frame marks lost.
    lost: Range<u64>,
}

impl<'a> Frame<'a> {
    fn key(&self) -> Option<&'a [u8]> {
        self.fixed.key_range().map(|range| self.part(range))
    }

    fn headers(&self) -> &'a [u8] {
        self.part(self.fixed.headers_range())
    }

    /// The payload, or its first bytes.
    fn payload(&self) -> &'a [u8] {
        self.part(self.fixed.payload_range())
    }

    fn payload_len(&self) -> usize {
        self.fixed.payload_range().len()
    }

    fn is_record(&self) -> bool {
        self.fixed.kind == frame::KIND_RECORD
    }

    fn part(&self, range: Range<usize>) -> &'a [u8] {
        let end = range.end.min(self.held.len());
        &self.held[range.start.min(end)..end]
    }
}

impl Dump {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let mut counts = Counts { kind: "summary", ..Counts::default() };
        let path = PathBuf::from(&self.what);
        if self.what.contains('/') || path.is_file() {
            self.file(out, &path, &mut counts)?;
        } else {
            self.topic(global, out, &mut counts)?;
        }
        let damaged = counts.damaged > 0 || counts.damaged_headers > 0;
        Ok(if damaged { Exit::Corruption } else { Exit::Ok })
    }

    /// Prints a file of the kind that its first bytes or its name say.
    fn file(&self, out: &mut Out, path: &Path, counts: &mut Counts) -> Result<(), Failure> {
        let is_segment = path.extension().is_some_and(|extension| extension == "seg");
        if is_segment || !small::dump(out, path)? {
            let bounds = Bounds { only: self.offsets_of_a_file()?, ..Bounds::default() };
            self.segment(out, SegmentFile::open(path)?, bounds, counts)?;
            self.summary(out, counts)?;
        }
        Ok(())
    }

    /// The range of a file without its topic: it has offsets only, because nothing says where the topic ends, or
    /// when.
    fn offsets_of_a_file(&self) -> Result<Option<Range<u64>>, Failure> {
        let Some(range) = self.range else { return Ok(None) };
        let no_topic = || Failure::usage("of a file alone, name a range of offsets: 10:20, 10:+5");
        let from = match range.from {
            Point::First => 0,
            Point::Offset(offset) => offset,
            _ => return Err(no_topic()),
        };
        let to = match range.to {
            Point::End => u64::MAX,
            Point::Offset(offset) => offset,
            Point::Plus(count) => from.saturating_add(count),
            _ => return Err(no_topic()),
        };
        Ok(Some(from..to))
    }

    fn topic(&self, global: &Global, out: &mut Out, counts: &mut Counts) -> Result<(), Failure> {
        let topic = global.open_read_only()?.open_topic(&self.what)?;
        let only = self.range.map(|range| range.resolve(&topic)).transpose()?;
        let files = segment_files(topic.dir()).at("listing", topic.dir())?;
        for (index, file) in files.iter().enumerate() {
            let next = files.get(index + 1).map(|next| next.base);
            let is_after = only.as_ref().is_some_and(|only| file.base >= only.end);
            if is_after || only.as_ref().zip(next).is_some_and(|(only, next)| next <= only.start) {
                continue;
            }
            let published = match next {
                Some(_) => None,
                // Frames after the high watermark are being written, or were not finished.
                None => Some((&topic, topic.high_watermark()?)),
            };
            let bounds = Bounds { cut: next, published, only: only.clone() };
            if let Some(file) = open_listed(&topic, file)? {
                self.segment(out, file, bounds, counts)?;
            }
        }
        self.summary(out, counts)
    }

    fn summary(&self, out: &mut Out, counts: &Counts) -> Result<(), Failure> {
        if out.is_json() {
            return Ok(out.object(counts)?);
        }
        write!(
            out,
            "{}, {}, {} of payload",
            units::count(counts.frames, "frame"),
            units::count(counts.void_frames, "void frame"),
            units::size(counts.payload_bytes)
        )?;
        if counts.damaged > 0 {
            let what = format!(
                "; damaged in {} ({} bytes)",
                units::count(counts.damaged, "place"),
                counts.damaged_bytes
            );
            let what = out.paint(Colour::Bad, what);
            write!(out, "{what}")?;
        }
        if counts.damaged_headers > 0 {
            let what = out.paint(Colour::Bad, "; damaged header");
            write!(out, "{what}")?;
        }
        if counts.torn_bytes > 0 {
            write!(out, "; torn tail of {} bytes", counts.torn_bytes)?;
        }
        Ok(writeln!(out)?)
    }

    fn print_frame(
        &self,
        out: &mut Out,
        file: &str,
        frame: &Frame<'_>,
        state: Option<&'static str>,
    ) -> io::Result<()> {
        if out.is_json() {
            return out.object(&self.json_frame(file, frame, state));
        }
        let fixed = &frame.fixed;
        let position = out.paint(Colour::Faint, format!("{file} @{}", frame.position));
        let offset = out.paint(Colour::Strong, fixed.offset.to_string());
        let state = state.map_or(String::new(), |state| format!(" [{state}]"));
        if !frame.is_record() {
            let lost = match frame.lost.end - frame.lost.start {
                0 => String::new(),
                some => format!(", gives up {}", units::count(some, "lost record")),
            };
            return writeln!(
                out,
                "{position} void{state} covers {} bytes, next offset {offset}{lost}, crc {:08x} ok",
                fixed.len, fixed.crc
            );
        }
        let flags = flags(fixed.flags).join(",");
        let flags = if flags.is_empty() { "-".to_owned() } else { flags };
        write!(
            out,
            "{position} offset {offset}{state} {} len {} flags {flags} crc {:08x} ok",
            units::time(fixed.timestamp),
            fixed.len,
            fixed.crc
        )?;
        if let Some(key) = frame.key() {
            write!(out, " key \"{}\"", escape(key))?;
        }
        writeln!(out)?;
        for (name, value) in headers::iter(frame.headers()) {
            match envelope(name, value) {
                Some(about) => writeln!(out, "    header {name}: {about}")?,
                None => writeln!(out, "    header {name}: {}", escape(value))?,
            }
        }
        self.print_payload(out, frame)
    }

    fn print_payload(&self, out: &mut Out, frame: &Frame<'_>) -> io::Result<()> {
        let shown = self.shown(frame);
        if self.hex {
            for (index, line) in shown.chunks(16).enumerate() {
                writeln!(out, "    {:08x}  {}", index * 16, hex_line(line))?;
            }
        } else if !shown.is_empty() {
            writeln!(out, "    {}", escape(shown))?;
        }
        let hidden = frame.payload_len() - shown.len();
        if hidden > 0 {
            let more = if self.full { "" } else { ": --full shows them" };
            out.line(Colour::Faint, format!("    and {hidden} more bytes{more}"))?;
        }
        Ok(())
    }

    fn shown<'a>(&self, frame: &Frame<'a>) -> &'a [u8] {
        let most = if self.full { FULL_LEN } else { PREVIEW_LEN };
        let payload = frame.payload();
        &payload[..payload.len().min(most)]
    }

    fn json_frame<'a>(
        &self,
        file: &'a str,
        frame: &Frame<'a>,
        state: Option<&'static str>,
    ) -> JsonFrame<'a> {
        let payload = frame.payload();
        let payload = &payload[..payload.len().min(FULL_LEN)];
        let all = || headers::iter(frame.headers());
        let crc = format!("{:08x}", frame.fixed.crc);
        let record = frame.is_record();
        let json =
            (record && self.payload_json).then(|| serde_json::from_slice(payload).ok()).flatten();
        JsonFrame {
            file,
            position: frame.position,
            kind: if record { "record" } else { "void" },
            offset: frame.fixed.offset,
            timestamp: units::time(frame.fixed.timestamp),
            len: frame.fixed.len,
            flags: if record { flags(frame.fixed.flags) } else { Vec::new() },
            computed: crc.clone(),
            checksum: crc,
            state,
            gives_up: (!frame.lost.is_empty()).then_some([frame.lost.start, frame.lost.end]),
            key: frame.key().map(json_key).unwrap_or_default(),
            headers: if record {
                all().map(|(name, value)| json_header(name, value)).collect()
            } else {
                Vec::new()
            },
            about: record.then(|| all().find_map(|(name, value)| envelope(name, value))).flatten(),
            payload_len: if record { frame.payload_len() } else { 0 },
            payload: match record && !self.hex && json.is_none() {
                true => json_payload(payload),
                false => Payload::default(),
            },
            payload_json: json,
            payload_hex: (record && self.hex).then(|| hex(payload)),
        }
    }
}

fn flags(flags: u8) -> Vec<&'static str> {
    let mut names = Vec::new();
    if flags & frame::FLAG_KEY != 0 {
        names.push("key");
    }
    if flags & frame::FLAG_CONTINUES != 0 {
        names.push("continues");
    }
    names
}

/// The contents of a header of the request/reply layer.
fn envelope(name: &str, value: &[u8]) -> Option<String> {
    if !name.starts_with(headers::RESERVED) {
        return None;
    }
    let decoded = (name == ENVELOPE).then(|| Envelope::decode(value));
    Some(decoded.and_then(Result::ok).map_or_else(|| hex(value), |envelope| envelope.to_string()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sixteen bytes as `hexdump -C` shows them.
fn hex_line(bytes: &[u8]) -> String {
    let mut line = String::new();
    for index in 0..16 {
        match bytes.get(index) {
            Some(byte) => line += &format!("{byte:02x} "),
            None => line += "   ",
        }
        if index == 7 {
            line.push(' ');
        }
    }
    let text = bytes.iter().map(|&b| if (0x20..0x7f).contains(&b) { b as char } else { '.' });
    format!("{line} |{}|", text.collect::<String>())
}

/// Describes bytes that are not frames. `before_frames`: whole frames follow them.
fn describe(bytes: &Stretch, what: &str, before_frames: bool) -> String {
    let (len, is_zeros) = (bytes.len(), bytes.is_zeros());
    let zeros = bytes.positions.end - bytes.zeros_from;
    let what = match (is_zeros, before_frames) {
        (true, true) => "zeros where a frame should be".to_owned(),
        (true, false) => "zeros: not used yet".to_owned(),
        (false, true) => format!("damaged: {what}"),
        (false, false) => format!("torn tail or damage: {what}"),
    };
    if zeros > 0 && !is_zeros {
        format!("{len} bytes {what}; the last {zeros} are zeros")
    } else {
        format!("{len} bytes {what}")
    }
}

/// Base64 of bytes as they are.
fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
