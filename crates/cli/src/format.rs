//! How records are printed: as JSON, as text, raw, or as a line with percent escapes.

use std::io::{self, Write};

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use deaddrop::RecordRef;

use crate::args::format::{Coding, Format, Line, Piece, Style};
use crate::output::{escape, Out};
use crate::record::{json_header, JsonHeader, JsonRecord};
use crate::units;

impl Line {
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

impl Coding {
    fn write(self, out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
        match self {
            Coding::Plain => out.write_all(bytes),
            Coding::Base64 => out.write_all(STANDARD.encode(bytes).as_bytes()),
            Coding::Hex => bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}")),
            Coding::Json => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(serde_json::to_writer(out, text)?),
                // No JSON string can hold these bytes, and none is invented.
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
            write!(out, "{comma}{}=", escape(name.as_bytes()))?;
            match self {
                // A header must not break its line.
                Coding::Plain => out.write_all(escape(value).as_bytes())?,
                other => other.write(out, value)?,
            }
        }
        Ok(())
    }
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
