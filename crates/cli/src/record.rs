//! A record as JSON.

mod given;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use deaddrop::format::headers::RESERVED;
use deaddrop::{Record, RecordRef};
use serde::Serialize;

use crate::args::append::check_header_name;
use crate::units;
pub(crate) use given::GivenRecord;
use given::{GivenHeader, GivenHeaders};

/// A record as JSON, with everything that the log stores about it. Bytes that are UTF-8 are strings;
/// others are base64 in the field of the same name with `_base64` appended.
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
            timestamp: units::time_nanos(record.timestamp_nanos()),
            key: record.key().map(json_key),
            headers: record.headers().map(|(name, value)| json_header(name, value)).collect(),
            payload: json_payload(record.payload()),
        }
    }
}

fn bytes(text: Option<String>, base64: Option<String>) -> Result<Option<Vec<u8>>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err("given both as text and as base64: give only one".to_owned()),
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(base64)) => STANDARD
            .decode(base64)
            .map(Some)
            .map_err(|error| format!("not base64: {}", error.to_string().trim_end_matches('.'))),
        (None, None) => Ok(None),
    }
}

/// What happens to headers that start with `deaddrop.`, which make a record a request or an outcome.
#[derive(Debug, Clone)]
pub(crate) enum Reserved {
    /// The append refuses them.
    Refuse,
    /// They are left out, and counted.
    Drop(Arc<AtomicU64>),
    /// They are stored as they were.
    Restore,
}

/// How JSON objects become records.
#[derive(Debug, Clone)]
pub(crate) struct Taking {
    /// The key of records that have no key themselves.
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) reserved: Reserved,
    /// Store where they come from in headers of their own.
    pub(crate) origin: bool,
}

impl GivenRecord {
    /// The record to append.
    pub(crate) fn into_record(self, taking: &Taking) -> Result<Record, String> {
        if let Some(version) = self.v.filter(|&version| version != crate::output::VERSION) {
            return Err(format!("it has version {version}, which a newer release wrote"));
        }
        let payload = bytes(self.payload, self.payload_base64)
            .map_err(|what| format!("payload: {what}"))?
            .ok_or("it has no payload: give \"payload\" or \"payload_base64\"")?;
        let mut record = Record::new(payload);
        let own = bytes(self.key, self.key_base64).map_err(|what| format!("key: {what}"))?;
        if let Some(key) = own.as_ref().or(taking.key.as_ref()) {
            record = record.key(key);
        }
        for (name, value) in self.headers.into_pairs()? {
            if matches!(taking.reserved, Reserved::Refuse) {
                check_header_name(&name)?;
            }
            record = match (name.starts_with(RESERVED), &taking.reserved) {
                (true, Reserved::Drop(left)) => {
                    left.fetch_add(1, Ordering::Relaxed);
                    record
                }
                (true, Reserved::Restore) => record.header_as_stored(&name, value),
                _ => record.header(&name, value),
            };
        }
        if taking.origin {
            let offset = self.offset.map(|offset| offset.to_string());
            for (name, value) in [
                ("origin-topic", self.topic),
                ("origin-offset", offset),
                ("origin-time", self.timestamp),
            ] {
                if let Some(value) = value {
                    record = record.header(name, value);
                }
            }
        }
        Ok(record)
    }
}

impl GivenHeaders {
    fn into_pairs(self) -> Result<Vec<(String, Vec<u8>)>, String> {
        let pair = |header: GivenHeader| match bytes(header.value, header.value_base64) {
            Ok(value) => Ok((header.name, value.unwrap_or_default())),
            Err(what) => Err(format!("header {}: {what}", header.name)),
        };
        self.0.into_iter().map(pair).collect()
    }
}
