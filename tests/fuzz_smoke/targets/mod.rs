//! The bodies of the fuzz targets. Each takes any input, and panics if the library breaks a promise
//! about untrusted bytes.
//!
//! The decoders also get the input with corrected checksums, which no mutation finds by itself.
#![allow(unreachable_pub)] // Public in the fuzz crate, which has this file too.

mod topic;

use deaddrop::format::frame::{self, Fixed, Parts};
use deaddrop::format::segment::{self, Header, Slot};
use deaddrop::format::settings::{self, Settings};
use deaddrop::format::{cursor, epochs, group, headers, index, marker, names};
use deaddrop::service::{Envelope, RequestId};

pub use topic::{segment, topic};

/// A target's name and body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const ALL: [Target; 13] = [
    ("frame", frame),
    ("segment_header", segment_header),
    ("settings", settings),
    ("epochs", epochs),
    ("index", index),
    ("cursor", cursor),
    ("group", group),
    ("headers", headers),
    ("names", names),
    ("marker", marker),
    ("envelope", envelope),
    ("segment", segment),
    ("topic", topic),
];

/// Takes an input apart; yields zeros after its end.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn number(&mut self, len: usize) -> u64 {
        self.bytes(len).iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    }

    /// A number below `limit`, which is positive.
    fn below(&mut self, limit: usize) -> usize {
        self.number(4) as usize % limit
    }
}

/// Returns `bytes` with the right magic, version and checksum, if there is room for them.
fn sealed(bytes: &[u8], magic: &[u8; 8], crc_at: usize) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    bytes.get(crc_at + 4 - 1)?;
    bytes[..8].copy_from_slice(magic);
    bytes[8..10].copy_from_slice(&deaddrop::format::VERSION.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..crc_at]);
    bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    Some(bytes)
}

pub fn frame(data: &[u8]) {
    let mut input = Input(data);
    let (salt, position) = (input.number(8), input.number(4));
    let mut bytes = input.0.to_vec();
    let Ok(fixed) = Fixed::decode(&bytes, bytes.len()) else { return };
    assert!(fixed.padded_len() <= bytes.len() && fixed.checked_len() <= fixed.padded_len());
    // It passes by chance only.
    drop(fixed.verify(&bytes, salt, position));

    let crc = frame::checksum(&bytes[frame::LEN_AT..fixed.checked_len()], salt, position);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    let fixed = Fixed::decode(&bytes, bytes.len()).expect("the checksum does not cover itself");
    fixed.verify(&bytes, salt, position).expect("the checksum was made right");
    assert!(fixed.verify(&bytes, salt ^ 1, position).is_err());
    if fixed.kind != frame::KIND_RECORD {
        return;
    }
    let parts = Parts {
        key: fixed.key_range().map(|range| &bytes[range]),
        headers: bytes[fixed.headers_range()].into(),
        payload: &bytes[fixed.payload_range()],
    };
    headers(&bytes[fixed.headers_range()]);
    let padding = &bytes[fixed.len..fixed.padded_len()];
    if padding.iter().all(|&byte| byte == 0) {
        let again = parts.fixed(fixed.offset, fixed.timestamp, fixed.continues(), salt, position);
        assert_eq!(again, bytes[..frame::FIXED_LEN]);
    }
}

pub fn segment_header(data: &[u8]) {
    for bytes in [Some(data.to_vec()), sealed(data, &segment::MAGIC, segment::CRC_AT)] {
        let Some(bytes) = bytes else { continue };
        if let Ok(header) = Header::decode(&bytes) {
            let len = segment::CRC_AT + 4;
            assert_eq!(header.encode()[..len], bytes[..len]);
        }
    }
    let salt = Input(data).number(8);
    if let Some(slot) = segment::newest_slot(data, salt) {
        assert!(slot.sequence > 0);
        assert_eq!(Slot::decode(&slot.encode(salt), salt), Some(slot));
    }
    segment::is_latched(data);
    let name = String::from_utf8_lossy(data);
    if let Some(base) = segment::parse_file_name(&name) {
        assert_eq!(segment::file_name(base), name);
    }
}

pub fn settings(data: &[u8]) {
    for bytes in [Some(data.to_vec()), sealed(data, &settings::MAGIC, settings::CRC_AT)] {
        let Some(bytes) = bytes else { continue };
        if let Ok(stored) = Settings::decode(&bytes) {
            assert_eq!(Settings::decode(&stored.encode()), Ok(stored));
        }
    }
}

pub fn epochs(data: &[u8]) {
    let entries = epochs::decode(data);
    assert!(entries.len() <= data.len().div_ceil(epochs::ENTRY_LEN));
    let mut input = Input(data);
    let (epoch, position) = (input.number(4) as u32, input.number(8));
    let clamped = epochs::clamp(&entries, epoch, position);
    assert!(clamped <= position);
    assert_eq!(epochs::clamp(&entries, epoch, clamped), clamped);
    for entry in &entries {
        assert_eq!(epochs::decode(&entry.encode()), [*entry]);
    }
}

pub fn index(data: &[u8]) {
    let mut fitted = data.to_vec();
    if let Some(entries) = fitted.get(index::HEADER_LEN..) {
        let count = entries.len() / index::ENTRY_LEN;
        let crc = crc32fast::hash(&entries[..count * index::ENTRY_LEN]);
        fitted[index::COUNT_AT..][..4].copy_from_slice(&(count as u32).to_le_bytes());
        fitted[index::ENTRIES_CRC_AT..][..4].copy_from_slice(&crc.to_le_bytes());
    }
    let sealed_only = sealed(data, &index::MAGIC, index::CRC_AT);
    let fitted = sealed(&fitted, &index::MAGIC, index::CRC_AT);
    assert!(fitted.as_ref().is_none_or(|bytes| index::decode(bytes).is_ok()));
    for bytes in [Some(data.to_vec()), sealed_only, fitted] {
        let Some(bytes) = bytes else { continue };
        if let Ok((salt, end, entries)) = index::decode(&bytes) {
            assert!(entries.len() * index::ENTRY_LEN + index::HEADER_LEN <= bytes.len());
            let again = index::encode(salt, end, &entries);
            assert_eq!(index::decode(&again), Ok((salt, end, entries)));
        }
    }
}

pub fn cursor(data: &[u8]) {
    for bytes in [Some(data.to_vec()), sealed(data, &cursor::MAGIC, cursor::CRC_AT)] {
        let Some(bytes) = bytes else { continue };
        if let Ok(topic_id) = cursor::decode_header(&bytes) {
            let len = cursor::TOPIC_ID_AT + 8;
            assert_eq!(
                cursor::encode_header(topic_id)[cursor::TOPIC_ID_AT..len],
                bytes[cursor::TOPIC_ID_AT..len]
            );
        }
        if let Some(saved) = cursor::newest_slot(&bytes) {
            assert_eq!(cursor::Saved::decode(&saved.encode()), Some(saved));
        }
    }
}

pub fn group(data: &[u8]) {
    drop(group::check(data));
    let mut input = Input(data);
    let lanes = 1 + input.number(1) as u32;
    let keyed = group::lane_of(Some(input.bytes(4)), input.number(8), lanes);
    assert!(keyed < lanes && group::lane_of(None, input.number(8), lanes) < lanes);
    let Some(bytes) = sealed(data, &group::MAGIC, group::CRC_AT) else { return };
    if let Ok((topic_id, lanes)) = group::decode_header(&bytes, bytes.len() as u64) {
        assert!(group::file_len(lanes) <= bytes.len());
        let fields = group::TOPIC_ID_AT..group::CRC_AT;
        assert_eq!(group::encode_header(topic_id, lanes)[fields.clone()], bytes[fields]);
    }
    if let Err((position, _)) = group::check(&bytes) {
        assert!(position <= bytes.len());
    }
}

/// Decodes what a service takes from a record of another process.
pub fn envelope(data: &[u8]) {
    let Ok(envelope) = Envelope::decode(data) else { return };
    let id = envelope.id.to_string();
    assert_eq!(id.parse::<RequestId>().expect("an id that was decoded"), envelope.id);
    assert!(names::check(envelope.id.client()).is_ok());
    assert!(!envelope.conversation().to_string().is_empty() && !envelope.to_string().is_empty());
}

pub fn headers(data: &[u8]) {
    let mut again = Vec::new();
    for (name, value) in headers::iter(data) {
        headers::push(&mut again, name, value).expect("as long as it was before");
    }
    assert!(data.starts_with(&again));
    assert_eq!(headers::check(data).is_ok(), again.len() == data.len());
}

pub fn names(data: &[u8]) {
    let name = String::from_utf8_lossy(data);
    if names::check(&name).is_ok() {
        let path = std::path::Path::new("dir").join(&*name);
        assert_eq!(path.parent(), Some(std::path::Path::new("dir")));
        assert_eq!(path.file_name(), Some(std::ffi::OsStr::new(&*name)));
    }
}

pub fn marker(data: &[u8]) {
    drop(marker::decode(data));
    if let Some(bytes) = sealed(data, &marker::MAGIC, marker::CRC_AT) {
        assert_eq!(marker::decode(&bytes), Ok(()));
    }
}
