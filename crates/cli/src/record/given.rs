//! Records as users give them in JSON. They are parsed by hand, so that a repeated field or a wrong shape
//! is refused, not guessed, and the message uses JSON's terms.

use std::fmt;

use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::Deserialize;

/// A record to append, as JSON: an object that `cat --json` or `export` printed, or a part of it. Unknown
/// fields are ignored.
#[derive(Debug, Default)]
pub(crate) struct GivenRecord {
    pub(super) v: Option<u32>,
    pub(super) topic: Option<String>,
    pub(super) offset: Option<u64>,
    pub(super) timestamp: Option<String>,
    pub(super) key: Option<String>,
    pub(super) key_base64: Option<String>,
    pub(super) headers: GivenHeaders,
    pub(super) payload: Option<String>,
    pub(super) payload_base64: Option<String>,
}

/// `{"name": "value"}`, or a list of `{"name": .., "value": ..}` that keeps order and duplicates; or null.
#[derive(Debug, Default)]
pub(super) struct GivenHeaders(pub(super) Vec<GivenHeader>);

#[derive(Debug, Default)]
pub(super) struct GivenHeader {
    pub(super) name: String,
    pub(super) value: Option<String>,
    pub(super) value_base64: Option<String>,
}

/// Takes the value of a field, which must not have one yet.
fn take<'de, M: MapAccess<'de>, T: Deserialize<'de>>(
    map: &mut M,
    field: &str,
    seen: &mut Vec<String>,
) -> Result<T, M::Error> {
    if seen.iter().any(|name| name == field) {
        return Err(M::Error::custom(format_args!("{field:?} is given twice")));
    }
    seen.push(field.to_owned());
    map.next_value()
}

impl<'de> Deserialize<'de> for GivenRecord {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<GivenRecord, D::Error> {
        from.deserialize_map(RecordVisitor)
    }
}

struct RecordVisitor;

impl<'de> Visitor<'de> for RecordVisitor {
    type Value = GivenRecord;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with \"payload\" or \"payload_base64\"")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<GivenRecord, M::Error> {
        let mut record = GivenRecord::default();
        let mut seen = Vec::new();
        while let Some(field) = map.next_key::<String>()? {
            let (map, seen) = (&mut map, &mut seen);
            match field.as_str() {
                "v" => record.v = take(map, &field, seen)?,
                "topic" => record.topic = take(map, &field, seen)?,
                "offset" => record.offset = take(map, &field, seen)?,
                "timestamp" => record.timestamp = take(map, &field, seen)?,
                "key" => record.key = take(map, &field, seen)?,
                "key_base64" => record.key_base64 = take(map, &field, seen)?,
                "headers" => record.headers = take(map, &field, seen)?,
                "payload" => record.payload = take(map, &field, seen)?,
                "payload_base64" => record.payload_base64 = take(map, &field, seen)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(record)
    }
}

impl<'de> Deserialize<'de> for GivenHeaders {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<GivenHeaders, D::Error> {
        from.deserialize_any(HeadersVisitor)
    }
}

struct HeadersVisitor;

impl<'de> Visitor<'de> for HeadersVisitor {
    type Value = GivenHeaders;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "headers as {\"name\": \"value\"} or as a list of {\"name\": .., \"value\": ..}",
        )
    }

    fn visit_unit<E: Error>(self) -> Result<GivenHeaders, E> {
        Ok(GivenHeaders::default())
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<GivenHeaders, S::Error> {
        let mut headers = Vec::new();
        while let Some(header) = list.next_element()? {
            headers.push(header);
        }
        Ok(GivenHeaders(headers))
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<GivenHeaders, M::Error> {
        let mut headers = Vec::new();
        let mut seen = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if seen.contains(&name) {
                return Err(M::Error::custom(format_args!(
                    "header {name:?} is given twice: a list of {{\"name\": .., \"value\": ..}} keeps both"
                )));
            }
            let value = Some(map.next_value()?);
            seen.push(name.clone());
            headers.push(GivenHeader { name, value, value_base64: None });
        }
        Ok(GivenHeaders(headers))
    }
}

impl<'de> Deserialize<'de> for GivenHeader {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<GivenHeader, D::Error> {
        from.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = GivenHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a header as {\"name\": .., \"value\": ..}")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<GivenHeader, M::Error> {
        let mut header = GivenHeader::default();
        let mut seen = Vec::new();
        while let Some(field) = map.next_key::<String>()? {
            let (map, seen) = (&mut map, &mut seen);
            match field.as_str() {
                "name" => header.name = take(map, &field, seen)?,
                "value" => header.value = take(map, &field, seen)?,
                "value_base64" => header.value_base64 = take(map, &field, seen)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if !seen.iter().any(|field| field == "name") {
            return Err(M::Error::custom("a header without a \"name\""));
        }
        Ok(header)
    }
}
