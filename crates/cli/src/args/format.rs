//! `--format`: how records are printed.

use std::str::{Chars, FromStr};

/// How printed records are separated.
#[derive(Debug, clap::Args)]
pub(crate) struct Style {
    /// End records with a NUL byte instead of a newline
    #[arg(short = '0', long, conflicts_with_all = ["format", "json"])]
    pub(crate) null: bool,
}

/// The argument of `--format`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Format {
    /// One object per line.
    Json,
    /// Payloads, one per line; tables.
    Text,
    /// Payloads, with nothing between them.
    Raw,
    /// No records, but the fields of the JSON objects, and the escapes.
    Help,
    /// As the line says.
    Line(Line),
}

/// The escapes of a line, for help texts.
pub(crate) const ESCAPES: &str = "\
%t topic, %o offset, %d time (RFC 3339), %T time in Unix milliseconds (%T{s|ms|us|ns}), %k key,
%K its length, %h headers, %s %v %p payload, %S %V its length, %n newline, %% percent sign;
%k %h %s %v %p take {base64}, {hex} or {json}; \\n \\t \\r \\0 \\\\ \\xHH.";

/// A parsed line such as `%o %d %k %v\n`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(Vec<u8>),
    Topic,
    Offset,
    Date,
    /// Since the Unix epoch, in units of this many nanoseconds.
    Unix(u64),
    Key(Coding),
    KeyLen,
    Payload(Coding),
    PayloadLen,
    Headers(Coding),
}

/// How bytes become text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
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

    /// Parses the escape after a percent sign.
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
                return Err(format!("%{what} is not a known escape: {ESCAPES}"));
            }
        };
        match piece {
            Piece::Text(text) => self.push_text(&text),
            other => self.pieces.push(other),
        }
        Ok(())
    }
}

/// The word in braces after an escape, if there is one.
fn modifier<'a>(chars: &mut Chars<'a>) -> Result<Option<&'a str>, String> {
    let Some(behind) = chars.as_str().strip_prefix('{') else { return Ok(None) };
    let Some((word, rest)) = behind.split_once('}') else {
        return Err(format!("{{{behind} has no closing brace; write a literal brace as \\x7b"));
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
        Some(other) => Err(format!("{{{other}}} is not a unit of time: use s, ms, us or ns")),
    }
}

fn coding(modifier: Option<&str>) -> Result<Coding, String> {
    match modifier {
        None => Ok(Coding::Plain),
        Some("base64") => Ok(Coding::Base64),
        Some("hex") => Ok(Coding::Hex),
        Some("json") => Ok(Coding::Json),
        Some(other) => Err(format!("{{{other}}} is not a known encoding: use base64, hex or json")),
    }
}

/// The byte after a backslash.
fn backslash(chars: &mut Chars<'_>) -> Result<u8, String> {
    match chars.next() {
        Some('n') => Ok(b'\n'),
        Some('t') => Ok(b'\t'),
        Some('r') => Ok(b'\r'),
        Some('0') => Ok(0),
        Some('\\') => Ok(b'\\'),
        Some('x') => {
            let digits: String = chars.take(2).collect();
            u8::from_str_radix(&digits, 16).map_err(|_| format!("\\x{digits} needs two hex digits"))
        }
        other => {
            let what = other.map(String::from).unwrap_or_default();
            Err(format!("\\{what} is not a known escape: use \\n \\t \\r \\0 \\\\ \\xHH"))
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
