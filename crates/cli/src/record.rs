//! A record as JSON, and as a line of a format.

use std::io::{self, Write};

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use deaddrop::{Record, RecordRef};
use serde::{Deserialize, Serialize};

use crate::units;

/// A record as JSON. Bytes that are UTF-8 are strings; others are base64 in the field of the same name
/// with `_base64` behind it.
#[derive(Debug, Serialize)]
pub(crate) struct JsonRecord<'a> {
    topic: &'a str,
    offset: u64,
    timestamp: String,
    #[serde(flatten)]
    key: Option<Key<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<JsonHeader<'a>>,
    #[serde(flatten)]
    payload: Payload<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Key<'a> {
    Key(&'a str),
    KeyBase64(String),
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Payload<'a> {
    Payload(&'a str),
    PayloadBase64(String),
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Value<'a> {
    Value(&'a str),
    ValueBase64(String),
}

#[derive(Debug, Serialize)]
pub(crate) struct JsonHeader<'a> {
    name: &'a str,
    #[serde(flatten)]
    value: Value<'a>,
}

pub(crate) fn json_key(bytes: &[u8]) -> Key<'_> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Key::Key(text),
        Err(_) => Key::KeyBase64(STANDARD.encode(bytes)),
    }
}

pub(crate) fn json_payload(bytes: &[u8]) -> Payload<'_> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Payload::Payload(text),
        Err(_) => Payload::PayloadBase64(STANDARD.encode(bytes)),
    }
}

pub(crate) fn json_header<'a>(name: &'a str, value: &'a [u8]) -> JsonHeader<'a> {
    let value = match std::str::from_utf8(value) {
        Ok(text) => Value::Value(text),
        Err(_) => Value::ValueBase64(STANDARD.encode(value)),
    };
    JsonHeader { name, value }
}

impl<'a> JsonRecord<'a> {
    pub(crate) fn new(topic: &'a str, record: &RecordRef<'a>) -> JsonRecord<'a> {
        JsonRecord {
            topic,
            offset: record.offset(),
            timestamp: units::time(record.timestamp_nanos()),
            key: record.key().map(json_key),
            headers: record.headers().map(|(name, value)| json_header(name, value)).collect(),
            payload: json_payload(record.payload()),
        }
    }
}

/// A record to append, as JSON: what `cat --json` prints, or less. Unknown fields are passed over.
#[derive(Debug, Deserialize)]
pub(crate) struct GivenRecord {
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(default)]
    headers: GivenHeaders,
    payload: Option<String>,
    payload_base64: Option<String>,
}

/// `{"name": "value"}`, or a list of `{"name": .., "value": ..}` that keeps order and repetitions.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum GivenHeaders {
    List(Vec<GivenHeader>),
    Map(serde_json::Map<String, serde_json::Value>),
}

impl Default for GivenHeaders {
    fn default() -> GivenHeaders {
        GivenHeaders::List(Vec::new())
    }
}

#[derive(Debug, Deserialize)]
struct GivenHeader {
    name: String,
    value: Option<String>,
    value_base64: Option<String>,
}

fn bytes(text: Option<String>, base64: Option<String>) -> Result<Option<Vec<u8>>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err("both as text and as base64: which?".to_owned()),
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(base64)) => STANDARD.decode(base64).map(Some).map_err(|e| e.to_string()),
        (None, None) => Ok(None),
    }
}

impl GivenRecord {
    /// The record to append; `key` if it names none itself.
    pub(crate) fn into_record(self, key: Option<&[u8]>) -> Result<Record, String> {
        let payload = bytes(self.payload, self.payload_base64)
            .map_err(|what| format!("payload: {what}"))?
            .ok_or("no payload: give \"payload\" or \"payload_base64\"")?;
        let mut record = Record::new(payload);
        let own = bytes(self.key, self.key_base64).map_err(|what| format!("key: {what}"))?;
        if let Some(key) = own.as_deref().or(key) {
            record = record.key(key);
        }
        match self.headers {
            GivenHeaders::List(list) => {
                for header in list {
                    let value = bytes(header.value, header.value_base64)
                        .map_err(|what| format!("header {}: {what}", header.name))?;
                    record = record.header(&header.name, value.unwrap_or_default());
                }
            }
            GivenHeaders::Map(map) => {
                for (name, value) in map {
                    let serde_json::Value::String(value) = value else {
                        return Err(format!("header {name}: its value is not a string"));
                    };
                    record = record.header(&name, value);
                }
            }
        }
        Ok(record)
    }
}

/// A format like `%o %t %k %p\n`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Format {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Offset,
    Time,
    UnixNanos,
    Topic,
    Key,
    KeyLen,
    Payload,
    PayloadLen,
    Headers,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        let mut pieces = Vec::new();
        let mut plain = Vec::new();
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            let piece = match (char, if char == '%' { chars.next() } else { None }) {
                ('%', Some('o')) => Piece::Offset,
                ('%', Some('t')) => Piece::Time,
                ('%', Some('u')) => Piece::UnixNanos,
                ('%', Some('n')) => Piece::Topic,
                ('%', Some('k')) => Piece::Key,
                ('%', Some('K')) => Piece::KeyLen,
                ('%', Some('p')) => Piece::Payload,
                ('%', Some('s')) => Piece::PayloadLen,
                ('%', Some('h')) => Piece::Headers,
                ('%', Some('%')) => {
                    plain.push(b'%');
                    continue;
                }
                ('%', other) => {
                    let what = other.map(String::from).unwrap_or_default();
                    return Err(format!(
                        "%{what}: known are %o offset, %t time, %u Unix nanoseconds, %n topic, %k \
                         key, %K its length, %p payload, %s its length, %h headers, %%"
                    ));
                }
                ('\\', _) => {
                    plain.push(escaped(&mut chars)?);
                    continue;
                }
                (other, _) => {
                    plain.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(piece);
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Format { pieces })
    }
}

/// The byte behind a backslash.
fn escaped(chars: &mut std::str::Chars<'_>) -> Result<u8, String> {
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

impl Format {
    pub(crate) fn write(
        &self,
        out: &mut impl Write,
        topic: &str,
        record: &RecordRef<'_>,
    ) -> io::Result<()> {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.write_all(text)?,
                Piece::Offset => write!(out, "{}", record.offset())?,
                Piece::Time => out.write_all(units::time(record.timestamp_nanos()).as_bytes())?,
                Piece::UnixNanos => write!(out, "{}", record.timestamp_nanos())?,
                Piece::Topic => out.write_all(topic.as_bytes())?,
                Piece::Key => out.write_all(record.key().unwrap_or_default())?,
                Piece::KeyLen => write!(out, "{}", record.key().map_or(0, <[u8]>::len))?,
                Piece::Payload => out.write_all(record.payload())?,
                Piece::PayloadLen => write!(out, "{}", record.payload().len())?,
                Piece::Headers => {
                    for (index, (name, value)) in record.headers().enumerate() {
                        let comma = if index == 0 { "" } else { "," };
                        write!(out, "{comma}{name}={}", crate::output::escape(value))?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_taken_apart_and_an_unknown_letter_is_refused() {
        let format: Format = r"%o\t%k=%p%%\n\x00".parse().unwrap();
        let text = |bytes: &[u8]| Piece::Text(bytes.to_vec());
        let pieces =
            [Piece::Offset, text(b"\t"), Piece::Key, text(b"="), Piece::Payload, text(b"%\n\0")];
        assert_eq!(format.pieces, pieces);
        for bad in ["%", "%q", "\\", "\\q", "\\xz1"] {
            assert!(bad.parse::<Format>().is_err(), "{bad:?}");
        }
    }
}
