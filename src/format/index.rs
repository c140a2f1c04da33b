//! The sparse index of a sealed segment: disposable, and built again from the segment if it is absent or
//! wrong.

use byteorder::{ByteOrder, LittleEndian as LE};

use super::{check_envelope, need, seal_envelope, Malformed};

/// First bytes of an index file.
pub const MAGIC: [u8; 8] = *b"ddropIDX";
/// u32: number of entries.
pub const COUNT_AT: usize = 12;
/// u64: the salt of the segment that it belongs to.
pub const SALT_AT: usize = 16;
/// u64: the offset after the segment's last record.
pub const END_AT: usize = 24;
/// u32: CRC-32 of the entries.
pub const ENTRIES_CRC_AT: usize = 32;
/// CRC-32 over the header before it.
pub const CRC_AT: usize = 36;
/// Bytes before the first entry.
pub const HEADER_LEN: usize = 40;

/// In an entry, u64: offset of a record.
pub const ENTRY_OFFSET_AT: usize = 0;
/// In an entry, u64: the largest timestamp of all records before it, in all segments.
pub const ENTRY_MAX_TIMESTAMP_AT: usize = 8;
/// In an entry, u64: the position of its frame.
pub const ENTRY_POSITION_AT: usize = 16;
/// Bytes of an entry.
pub const ENTRY_LEN: usize = 24;

/// Between the frames of two entries there is a multiple of this many bytes, counted from the start of the file.
pub const SPACING: u64 = 64 << 10;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// See [`ENTRY_OFFSET_AT`].
    pub offset: u64,
    /// See [`ENTRY_MAX_TIMESTAMP_AT`].
    pub max_timestamp: u64,
    /// See [`ENTRY_POSITION_AT`].
    pub position: u64,
}

/// Returns the bytes of an index file.
pub fn encode(salt: u64, end: u64, entries: &[Entry]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN + entries.len() * ENTRY_LEN];
    for (entry, at) in entries.iter().zip(bytes[HEADER_LEN..].chunks_mut(ENTRY_LEN)) {
        LE::write_u64(&mut at[ENTRY_OFFSET_AT..], entry.offset);
        LE::write_u64(&mut at[ENTRY_MAX_TIMESTAMP_AT..], entry.max_timestamp);
        LE::write_u64(&mut at[ENTRY_POSITION_AT..], entry.position);
    }
    LE::write_u32(&mut bytes[COUNT_AT..], entries.len() as u32);
    LE::write_u64(&mut bytes[SALT_AT..], salt);
    LE::write_u64(&mut bytes[END_AT..], end);
    let entries_crc = crc32fast::hash(&bytes[HEADER_LEN..]);
    LE::write_u32(&mut bytes[ENTRIES_CRC_AT..], entries_crc);
    seal_envelope(&mut bytes, &MAGIC, CRC_AT);
    bytes
}

/// Checks and decodes an index file: the salt of its segment, the segment's end, and the entries.
pub fn decode(bytes: &[u8]) -> Result<(u64, u64, Vec<Entry>), Malformed> {
    check_envelope(bytes, &MAGIC, CRC_AT)?;
    let count = LE::read_u32(&bytes[COUNT_AT..]) as usize;
    let entries = &bytes[HEADER_LEN..];
    need(entries, count.saturating_mul(ENTRY_LEN))?;
    let entries = &entries[..count * ENTRY_LEN];
    let stored = LE::read_u32(&bytes[ENTRIES_CRC_AT..]);
    let computed = crc32fast::hash(entries);
    if stored != computed {
        return Err(Malformed::Checksum { stored, computed });
    }
    let entries = entries.chunks(ENTRY_LEN).map(|at| Entry {
        offset: LE::read_u64(&at[ENTRY_OFFSET_AT..]),
        max_timestamp: LE::read_u64(&at[ENTRY_MAX_TIMESTAMP_AT..]),
        position: LE::read_u64(&at[ENTRY_POSITION_AT..]),
    });
    Ok((LE::read_u64(&bytes[SALT_AT..]), LE::read_u64(&bytes[END_AT..]), entries.collect()))
}

/// Returns the file name of the index of the segment that starts at `base`.
pub fn file_name(base: u64) -> String {
    format!("{base:020}.idx")
}

/// Returns the base offset in an index's file name.
pub fn parse_file_name(name: &str) -> Option<u64> {
    super::segment::parse_base(name.strip_suffix(".idx")?)
}

/// Returns whether the end of an index was not written: a process is storing it now, or was killed while it
/// did.
pub fn is_unfinished(bytes: &[u8]) -> bool {
    let entry = bytes.len().checked_sub(ENTRY_LEN).and_then(|at| bytes.get(at..));
    bytes.len() < HEADER_LEN || entry.is_none_or(|last| last.iter().all(|&byte| byte == 0))
}
