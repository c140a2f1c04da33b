//! A record as JSON.

mod given;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use deaddrop::format::headers::RESERVED;
use deaddrop::{Record, RecordRef};
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::append::check_header_name;
use crate::units;
pub(crate) use given::GivenRecord;
use given::{GivenHeader, GivenHeaders};

/// A record. Key, payload and header values are text, or base64 if they are not UTF-8.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct JsonRecord<'a> {
    /// The topic.
    topic: &'a str,
    /// The record's offset.
    offset: u64,
    /// When it was appended: RFC 3339, UTC, to the nanosecond.
    timestamp: String,
    #[serde(flatten)]
    key: Key<'a>,
    /// Headers, in the order of the record; absent if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<JsonHeader<'a>>,
    #[serde(flatten)]
    payload: Payload<'a>,
}

#[derive(Debug, Default, JsonSchema, Serialize)]
pub(crate) struct Key<'a> {
    /// The key, if the record has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    /// The same, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
}

#[derive(Debug, Default, JsonSchema, Serialize)]
pub(crate) struct Payload<'a> {
    /// The payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    /// The same, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct JsonHeader<'a> {
    /// Name of a header.
    name: &'a str,
    /// Its value.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    /// The same, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

/// Bytes as text, or as base64 if they are not UTF-8.
fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    let text = std::str::from_utf8(bytes).ok();
    (text, text.is_none().then(|| STANDARD.encode(bytes)))
}

pub(crate) fn json_key(bytes: &[u8]) -> Key<'_> {
    let (key, key_base64) = text_or_base64(bytes);
    Key { key, key_base64 }
}

pub(crate) fn json_payload(bytes: &[u8]) -> Payload<'_> {
    let (payload, payload_base64) = text_or_base64(bytes);
    Payload { payload, payload_base64 }
}

pub(crate) fn json_header<'a>(name: &'a str, value: &'a [u8]) -> JsonHeader<'a> {
    let (value, value_base64) = text_or_base64(value);
    JsonHeader { name, value, value_base64 }
}

impl<'a> JsonRecord<'a> {
    pub(crate) fn new(topic: &'a str, record: &RecordRef<'a>) -> JsonRecord<'a> {
        JsonRecord {
            topic,
            offset: record.offset(),
            timestamp: units::time_nanos(record.timestamp_nanos()),
            key: record.key().map(json_key).unwrap_or_default(),
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
            record = record.with_key(key);
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
                _ => record.with_header(&name, value),
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
                    record = record.with_header(name, value);
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
