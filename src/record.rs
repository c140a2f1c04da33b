//! Records: what a caller appends, and what a reader lends.

use std::time::{Duration, SystemTime};

use crate::error::{Error, Result};
use crate::format::frame::{self, Fixed, Parts};
use crate::format::headers::{self, ToEncode};

/// A record to append: a payload, with an optional key and headers. [`BorrowedRecord`] borrows them instead.
///
/// ```
/// use deaddrop::Record;
/// let record = Record::new(b"3 of item 7").with_key("customer-12").with_header("trace", "abc");
/// assert_eq!(record.payload(), b"3 of item 7");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "a record is appended by `Topic::append`"]
pub struct Record {
    key: Option<Vec<u8>>,
    headers: Vec<u8>,
    payload: Vec<u8>,
    /// The first reason why no frame can hold it; the append reports it.
    refused: Option<&'static str>,
}

const LONG_KEY: &str = "a key over 65,535 bytes";
const LONG_HEADERS: &str = "headers over 16 MiB, or a header name over 65,535 bytes";
const RESERVED_NAME: &str = "a header name that starts with `deaddrop.`, which is reserved";

impl Record {
    /// Returns a record with this payload: a vector is kept, everything else is copied.
    pub fn new(payload: impl Into<Vec<u8>>) -> Record {
        Record { payload: payload.into(), ..Record::default() }
    }

    /// Returns a record whose payload is `value` as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`] if the value cannot be written as JSON.
    #[cfg(feature = "json")]
    pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Record> {
        Ok(Record::new(to_json(value)?))
    }

    /// Sets the record's key, at most 65,535 bytes. Records with the same key are handled in their order.
    #[doc(alias("partition", "ordering"))]
    pub fn with_key(mut self, key: impl AsRef<[u8]>) -> Record {
        if key.as_ref().len() > frame::MAX_KEY_LEN {
            self.refused.get_or_insert(LONG_KEY);
        }
        self.key = Some(key.as_ref().to_owned());
        self
    }

    /// Adds a header. Names that start with `deaddrop.` are reserved: the append refuses them.
    pub fn with_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Record {
        if name.starts_with(headers::RESERVED) {
            self.refused.get_or_insert(RESERVED_NAME);
        }
        self.push(name, value.as_ref());
        self
    }

    /// Adds a header of any name, reserved or not, as it is in an export: for tools that restore a log. A
    /// record with the header of a request is that request to every server and client.
    #[doc(hidden)]
    pub fn header_as_stored(mut self, name: &str, value: impl AsRef<[u8]>) -> Record {
        self.push(name, value.as_ref());
        self
    }

    fn push(&mut self, name: &str, value: &[u8]) {
        if headers::push(&mut self.headers, name, value).is_none() {
            self.refused.get_or_insert(LONG_HEADERS);
        }
    }

    /// Adds the header of a higher layer, before the caller's headers.
    pub(crate) fn reserved_header(mut self, name: &str, value: &[u8]) -> Record {
        let more = self.headers.len() + value.len() + 32;
        let later = std::mem::replace(&mut self.headers, Vec::with_capacity(more));
        self.push(name, value);
        self.headers.extend_from_slice(&later);
        self
    }

    /// Returns the first header with this name, which belongs to a layer of this crate.
    pub(crate) fn reserved(&self, name: &str) -> Option<&[u8]> {
        headers::iter(&self.headers).find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// Returns the record without the headers of this crate's layers.
    pub(crate) fn without_reserved_headers(mut self) -> Record {
        let all = std::mem::take(&mut self.headers);
        for (name, value) in headers::iter(&all) {
            if !name.starts_with(headers::RESERVED) {
                headers::push(&mut self.headers, name, value).expect("it fitted before");
            }
        }
        self
    }

    /// Returns the payload.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Returns the bytes that the record takes in a segment, without padding.
    pub fn frame_len(&self) -> usize {
        self.parts().frame_len()
    }
}

/// A record to append that borrows its parts: nothing is copied or allocated before they are written to the
/// topic.
///
/// ```
/// # fn main() -> deaddrop::Result<()> {
/// # let dir = deaddrop::doc_dir();
/// # let orders = deaddrop::Log::open_or_create(&dir)?.topic("orders")?;
/// use deaddrop::BorrowedRecord;
/// let line = String::from("customer-12,3 of item 7");
/// let (customer, order) = line.split_once(',').unwrap();
/// let headers = [("trace", &b"abc"[..])];
/// let record = BorrowedRecord::new(order).with_key(customer).with_headers(&headers);
/// orders.append(&record)?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use = "a record is appended by `Topic::append`"]
pub struct BorrowedRecord<'a> {
    key: Option<&'a [u8]>,
    headers: &'a [(&'a str, &'a [u8])],
    payload: &'a [u8],
}

impl<'a> BorrowedRecord<'a> {
    /// Returns a record with this payload.
    pub fn new(payload: &'a (impl AsRef<[u8]> + ?Sized)) -> BorrowedRecord<'a> {
        BorrowedRecord { key: None, headers: &[], payload: payload.as_ref() }
    }

    /// Sets the key, at most 65,535 bytes.
    pub fn with_key(self, key: &'a (impl AsRef<[u8]> + ?Sized)) -> BorrowedRecord<'a> {
        BorrowedRecord { key: Some(key.as_ref()), ..self }
    }

    /// Sets the headers. Names that start with `deaddrop.` are reserved: the append refuses them.
    pub fn with_headers(self, headers: &'a [(&'a str, &'a [u8])]) -> BorrowedRecord<'a> {
        BorrowedRecord { headers, ..self }
    }
}

/// A record whose frame the store can write.
pub(crate) trait ToFrame {
    fn parts(&self) -> Parts<'_>;

    /// Returns why no frame can hold a part of it.
    fn refused(&self) -> Option<&'static str>;
}

impl ToFrame for Record {
    #[inline]
    fn parts(&self) -> Parts<'_> {
        let headers = ToEncode::Encoded(&self.headers);
        Parts { key: self.key.as_deref(), headers, payload: &self.payload }
    }

    #[inline]
    fn refused(&self) -> Option<&'static str> {
        self.refused
    }
}

impl ToFrame for BorrowedRecord<'_> {
    #[inline]
    fn parts(&self) -> Parts<'_> {
        let headers = ToEncode::Listed(self.headers);
        Parts { key: self.key, headers, payload: self.payload }
    }

    fn refused(&self) -> Option<&'static str> {
        if self.key.is_some_and(|key| key.len() > frame::MAX_KEY_LEN) {
            return Some(LONG_KEY);
        }
        if self.headers.iter().any(|(name, _)| name.starts_with(headers::RESERVED)) {
            return Some(RESERVED_NAME);
        }
        (!ToEncode::Listed(self.headers).fits()).then_some(LONG_HEADERS)
    }
}

/// Returns the length of a record's frame; an error if no frame can hold the record.
#[inline]
pub(crate) fn checked_len(record: &impl ToFrame) -> Result<usize> {
    if let Some(why) = record.refused() {
        return Err(Error::Invalid { what: format!("{why}: nothing was appended") });
    }
    let len = record.parts().frame_len();
    if len > frame::MAX_LEN {
        return Err(Error::TooLarge { len, limit: frame::MAX_LEN });
    }
    Ok(len)
}

impl From<&[u8]> for Record {
    fn from(payload: &[u8]) -> Record {
        Record::new(payload)
    }
}

/// A record that a reader lends: valid until the reader's next call.
#[derive(Clone, Copy)]
pub struct RecordRef<'a> {
    fixed: Fixed,
    frame: &'a [u8],
}

impl<'a> RecordRef<'a> {
    /// Lends the record of `frame`, which starts with a verified frame whose fixed part is `fixed`.
    pub(crate) fn new(fixed: Fixed, frame: &'a [u8]) -> RecordRef<'a> {
        RecordRef { fixed, frame: &frame[..fixed.len] }
    }

    /// Returns the record's offset: dense, from 0.
    pub fn offset(&self) -> u64 {
        self.fixed.offset
    }

    /// Returns the time when it was appended, by the appender's wall clock, to a few milliseconds.
    pub fn timestamp(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.fixed.timestamp)
    }

    /// Returns the same time in nanoseconds since the Unix epoch.
    pub fn timestamp_nanos(&self) -> u64 {
        self.fixed.timestamp
    }

    /// Returns the key, if the record has one.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.fixed.key_range().map(|range| &self.frame[range])
    }

    /// Returns the payload.
    pub fn payload(&self) -> &'a [u8] {
        &self.frame[self.fixed.payload_range()]
    }

    /// Decodes the payload as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`] if it is not the JSON of a `T`.
    #[cfg(feature = "json")]
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        from_json(self.payload())
    }

    /// Returns all headers, in the order in which they were added.
    pub fn headers(&self) -> headers::Headers<'a> {
        headers::iter(&self.frame[self.fixed.headers_range()])
    }

    /// Returns the value of the first header with this name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// Returns a copy that outlives the reader's next call.
    #[allow(clippy::should_implement_trait)]
    pub fn to_owned(&self) -> OwnedRecord {
        OwnedRecord { fixed: self.fixed, frame: self.frame.into() }
    }
}

impl std::fmt::Debug for RecordRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record")
            .field("offset", &self.offset())
            .field("key", &self.key().map(String::from_utf8_lossy))
            .field("payload", &String::from_utf8_lossy(self.payload()))
            .finish()
    }
}

/// A record read from the log, with its own bytes.
#[derive(Clone)]
pub struct OwnedRecord {
    fixed: Fixed,
    frame: Box<[u8]>,
}

impl OwnedRecord {
    /// Returns the record as a reader lends it.
    pub fn as_ref(&self) -> RecordRef<'_> {
        RecordRef { fixed: self.fixed, frame: &self.frame }
    }

    /// Returns the record's offset.
    pub fn offset(&self) -> u64 {
        self.fixed.offset
    }

    /// Returns the payload.
    pub fn payload(&self) -> &[u8] {
        &self.frame[self.fixed.payload_range()]
    }

    /// Decodes the payload as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`] if it is not the JSON of a `T`.
    #[cfg(feature = "json")]
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        from_json(self.payload())
    }

    /// Returns the headers without those of this crate's layers.
    fn caller_headers(&self) -> Vec<u8> {
        let mut kept = Vec::new();
        for (name, value) in self.as_ref().headers() {
            if !name.starts_with(headers::RESERVED) {
                headers::push(&mut kept, name, value).expect("it fitted before");
            }
        }
        kept
    }

    /// Returns the record with all its headers, including those of this crate's layers, after `front`.
    pub(crate) fn to_record_after(&self, front: &[(&str, &str)]) -> Record {
        self.with_headers(front.iter().map(|(name, value)| (*name, value.as_bytes())), 0)
    }

    /// Returns the record with all its headers except the first `skipped`: the reverse of
    /// [`to_record_after`](Self::to_record_after).
    pub(crate) fn to_record_without(&self, skipped: usize) -> Record {
        self.with_headers(std::iter::empty(), skipped)
    }

    fn with_headers<'a>(
        &self,
        front: impl Iterator<Item = (&'a str, &'a [u8])>,
        skipped: usize,
    ) -> Record {
        let mut record = Record { headers: Vec::new(), ..self.to_record() };
        for (name, value) in front {
            record.push(name, value);
        }
        for (name, value) in self.as_ref().headers().skip(skipped) {
            record.push(name, value);
        }
        record
    }

    /// Returns a record to append elsewhere, with the same key, headers and payload.
    pub fn to_record(&self) -> Record {
        Record {
            key: self.as_ref().key().map(<[u8]>::to_owned),
            headers: self.caller_headers(),
            payload: self.payload().to_owned(),
            refused: None,
        }
    }
}

impl std::fmt::Debug for OwnedRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_ref().fmt(f)
    }
}

#[cfg(feature = "json")]
pub(crate) fn to_json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::Decode { what: error.to_string() })
}

#[cfg(feature = "json")]
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| Error::Decode { what: error.to_string() })
}
