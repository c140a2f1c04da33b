//! How records are printed: as JSON, as text, raw, or as a line with percent escapes.

use std::io::{self, Write};
use std::str::{Chars, FromStr};

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use deaddrop::RecordRef;

use crate::output::{escape, Out};
use crate::record::{json_header, JsonHeader, JsonRecord};
use crate::units;

/// The argument of `--format`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Format {
    /// One object a line.
    Json,
    /// Payloads, one a line; tables.
    Text,
    /// Payloads, and nothing between them.
    Raw,
    /// No records: what JSON objects hold, and the escapes.
    Help,
    /// As it says.
    Line(Line),
}

/// The escapes of a line, for help.
pub(crate) const ESCAPES: &str = "\
%t topic, %o offset, %d time (RFC 3339), %T time in Unix milliseconds (%T{s|ms|us|ns}), %k key,
%K its length, %h headers, %s %v %p payload, %S %V its length, %n newline, %% percent sign;
%k %h %s %v %p take {base64}, {hex} or {json}; \\n \\t \\r \\0 \\\\ \\xHH.";

/// A line like `%o %d %k %v\n`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Topic,
    Offset,
    Date,
    /// Since the Unix epoch, in units of so many nanoseconds.
    Unix(u64),
    Key(Coding),
    KeyLen,
    Payload(Coding),
    PayloadLen,
    Headers(Coding),
}

/// How bytes become text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Plain,
    Base64,
    Hex,
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        match text {
            "json" => Ok(Format::Json),
            "text" => Ok(Format::Text),
            "raw" => Ok(Format::Raw),
            "help" => Ok(Format::Help),
            _ if text.contains(['%', '\\']) => text.parse().map(Format::Line),
            _ => Err("write json, text, raw, help, or a line with escapes: '%o %v\\n'".to_owned()),
        }
    }
}

impl FromStr for Line {
    type Err = String;

    fn from_str(text: &str) -> Result<Line, String> {
        let mut line = Line { pieces: Vec::new() };
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            match char {
                '%' => line.push_escape(&mut chars)?,
                '\\' => {
                    let byte = backslash(&mut chars)?;
                    line.push_text(&[byte]);
                }
                other => line.push_text(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        Ok(line)
    }
}

impl Line {
    fn push_text(&mut self, bytes: &[u8]) {
        match self.pieces.last_mut() {
            Some(Piece::Text(text)) => text.extend_from_slice(bytes),
            _ => self.pieces.push(Piece::Text(bytes.to_owned())),
        }
    }

    /// What stands behind a percent sign.
    fn push_escape(&mut self, chars: &mut Chars<'_>) -> Result<(), String> {
        let piece = match chars.next() {
            Some('t') => Piece::Topic,
            Some('o') => Piece::Offset,
            Some('d') => Piece::Date,
            Some('T') => Piece::Unix(unit(modifier(chars)?)?),
            Some('k') => Piece::Key(coding(modifier(chars)?)?),
            Some('K') => Piece::KeyLen,
            Some('s' | 'v' | 'p') => Piece::Payload(coding(modifier(chars)?)?),
            Some('S' | 'V') => Piece::PayloadLen,
            Some('h') => Piece::Headers(coding(modifier(chars)?)?),
            Some('n') => Piece::Text(b"\n".to_vec()),
            Some('%') => Piece::Text(b"%".to_vec()),
            other => {
                let what = other.map(String::from).unwrap_or_default();
                return Err(format!("%{what} is not known: {ESCAPES}"));
            }
        };
        match piece {
            Piece::Text(text) => self.push_text(&text),
            other => self.pieces.push(other),
        }
        Ok(())
    }

    fn write(&self, out: &mut impl Write, topic: &str, record: &RecordRef<'_>) -> io::Result<()> {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.write_all(text)?,
                Piece::Topic => out.write_all(topic.as_bytes())?,
                Piece::Offset => write!(out, "{}", record.offset())?,
                Piece::Date => out.write_all(units::time(record.timestamp_nanos()).as_bytes())?,
                Piece::Unix(unit) => write!(out, "{}", record.timestamp_nanos() / unit)?,
                Piece::Key(coding) => coding.write_optional(out, record.key())?,
                Piece::KeyLen => write!(out, "{}", record.key().map_or(0, <[u8]>::len))?,
                Piece::Payload(coding) => coding.write(out, record.payload())?,
                Piece::PayloadLen => write!(out, "{}", record.payload().len())?,
                Piece::Headers(coding) => coding.write_headers(out, record)?,
            }
        }
        Ok(())
    }
}

/// The word in braces behind an escape, if there is one.
fn modifier<'a>(chars: &mut Chars<'a>) -> Result<Option<&'a str>, String> {
    let Some(behind) = chars.as_str().strip_prefix('{') else { return Ok(None) };
    let Some((word, rest)) = behind.split_once('}') else {
        return Err(format!("{{{behind} has no closing brace; a brace as such is \\x7b"));
    };
    *chars = rest.chars();
    Ok(Some(word))
}

fn unit(modifier: Option<&str>) -> Result<u64, String> {
    match modifier {
        Some("s") => Ok(1_000_000_000),
        None | Some("ms") => Ok(1_000_000),
        Some("us") => Ok(1_000),
        Some("ns") => Ok(1),
        Some(other) => Err(format!("{{{other}}} is no unit of time: s, ms, us, ns")),
    }
}

fn coding(modifier: Option<&str>) -> Result<Coding, String> {
    match modifier {
        None => Ok(Coding::Plain),
        Some("base64") => Ok(Coding::Base64),
        Some("hex") => Ok(Coding::Hex),
        Some("json") => Ok(Coding::Json),
        Some(other) => Err(format!("{{{other}}} is not known: base64, hex, json")),
    }
}

/// The byte behind a backslash.
fn backslash(chars: &mut Chars<'_>) -> Result<u8, String> {
    match chars.next() {
        Some('n') => Ok(b'\n'),
        Some('t') => Ok(b'\t'),
        Some('r') => Ok(b'\r'),
        Some('0') => Ok(0),
        Some('\\') => Ok(b'\\'),
        Some('x') => {
            let digits: String = chars.take(2).collect();
            u8::from_str_radix(&digits, 16).map_err(|_| format!("\\x{digits}: two hex digits"))
        }
        other => {
            let what = other.map(String::from).unwrap_or_default();
            Err(format!("\\{what}: known are \\n \\t \\r \\0 \\\\ \\xHH"))
        }
    }
}

impl Coding {
    fn write(self, out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
        match self {
            Coding::Plain => out.write_all(bytes),
            Coding::Base64 => out.write_all(STANDARD.encode(bytes).as_bytes()),
            Coding::Hex => bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}")),
            Coding::Json => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(serde_json::to_writer(out, text)?),
                // No JSON string holds them, and none is made up.
                Err(_) => write!(out, r#"{{"base64":"{}"}}"#, STANDARD.encode(bytes)),
            },
        }
    }

    fn write_optional(self, out: &mut impl Write, bytes: Option<&[u8]>) -> io::Result<()> {
        match (bytes, self) {
            (None, Coding::Json) => out.write_all(b"null"),
            (bytes, _) => self.write(out, bytes.unwrap_or_default()),
        }
    }

    fn write_headers(self, out: &mut impl Write, record: &RecordRef<'_>) -> io::Result<()> {
        if self == Coding::Json {
            let all: Vec<JsonHeader<'_>> =
                record.headers().map(|(name, value)| json_header(name, value)).collect();
            return Ok(serde_json::to_writer(out, &all)?);
        }
        for (index, (name, value)) in record.headers().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(out, "{comma}{name}=")?;
            match self {
                // A header must not break the line that it stands in.
                Coding::Plain => out.write_all(escape(value).as_bytes())?,
                other => other.write(out, value)?,
            }
        }
        Ok(())
    }
}

/// How records are told apart.
#[derive(Debug, clap::Args)]
pub(crate) struct Style {
    /// End records with a NUL byte instead of a newline
    #[arg(short = '0', long, conflicts_with_all = ["format", "json"])]
    null: bool,
}

impl Style {
    /// Prints one record.
    pub(crate) fn print(
        &self,
        out: &mut Out,
        format: &Format,
        topic: &str,
        record: &RecordRef<'_>,
    ) -> io::Result<()> {
        match format {
            Format::Json => out.object(&JsonRecord::new(topic, record)),
            Format::Line(line) => line.write(out, topic, record),
            Format::Raw => out.write_all(record.payload()),
            Format::Text | Format::Help => {
                out.write_all(record.payload())?;
                out.write_all(if self.null { b"\0" } else { b"\n" })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line: Line = r"%o\t%k{hex}=%v%%%n\x00%T{ns}{".parse().unwrap();
        let text = |bytes: &[u8]| Piece::Text(bytes.to_vec());
        let pieces = [
            Piece::Offset,
            text(b"\t"),
            Piece::Key(Coding::Hex),
            text(b"="),
            Piece::Payload(Coding::Plain),
            text(b"%\n\0"),
            Piece::Unix(1),
            text(b"{"),
        ];
        assert_eq!(line.pieces, pieces);
    }

    #[test]
    fn unknown_escapes_and_words_without_one_are_refused() {
        for bad in
            ["%", "%q", "\\", "\\q", "\\xz1", "jsn", "", "%v{x}", "%v{hex", "%T{hex}", "%k{s}"]
        {
            assert!(bad.parse::<Format>().is_err(), "{bad:?}");
        }
    }
}
