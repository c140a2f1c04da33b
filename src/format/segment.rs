//! The header page of a segment file, and its name.
//!
//! Sector 0 is written once, before the segment is named. Sectors 1 and 2 are the two checkpoint slots: each
//! sync writes the durable end known before it into the slot that the previous sync already covered, so one
//! of them is always whole. Sector 3 holds the failed-sync latch. Sector 7 repeats sector 0: without a salt
//! no frame could be checked. Sector 4 says when the segment was begun.

use byteorder::{ByteOrder, LittleEndian as LE};

use super::{check_envelope, seal_envelope, Malformed, MAX_OFFSET, PAGE_LEN, SECTOR_LEN};

/// First bytes of a segment file.
pub const MAGIC: [u8; 8] = *b"ddropSEG";
/// u16: [`CHECKSUM_CRC32`].
pub const CHECKSUM_KIND_AT: usize = 10;
/// u32: increased by every recovery that could have lost or set aside records.
pub const EPOCH_AT: usize = 12;
/// u64: offset of the first record.
pub const BASE_AT: usize = 16;
/// u64: random; part of the seed of every frame's checksum.
pub const SALT_AT: usize = 24;
/// u64: random identity of the topic.
pub const TOPIC_ID_AT: usize = 32;
/// u64: the topic's durable end known when the header was written.
pub const DURABLE_END_AT: usize = 40;
/// u64: the largest timestamp of all records before this segment.
pub const MAX_TIMESTAMP_AT: usize = 48;
/// u64: bytes of the file.
pub const FILE_LEN_AT: usize = 56;
/// CRC-32 over the bytes before it.
pub const CRC_AT: usize = 64;

/// CRC-32, as crc32fast computes it.
pub const CHECKSUM_CRC32: u16 = 1;

/// The position of the first frame.
pub const FIRST_FRAME_AT: u64 = PAGE_LEN as u64;
/// The first checkpoint slot.
pub const SLOT_A_AT: usize = SECTOR_LEN;
/// The second checkpoint slot.
pub const SLOT_B_AT: usize = 2 * SECTOR_LEN;
/// The latch: non-zero after a failed sync, until a recovery clears it.
pub const LATCH_AT: usize = 3 * SECTOR_LEN;

/// u64: the time by the wall clock, in nanoseconds, when the segment was begun; then its CRC-32, seeded with
/// the salt. No record before the segment is younger, whatever clock stamped it. If it is absent, the time is
/// unknown.
pub const BEGUN_AT: usize = 4 * SECTOR_LEN;
/// Length of the time and its CRC-32, in bytes.
pub const BEGUN_LEN: usize = 16;

/// The copy of the header.
pub const HEADER_COPY_AT: usize = 7 * SECTOR_LEN;

/// In a slot, u64: increases with every slot written.
pub const SLOT_SEQUENCE_AT: usize = 0;
/// In a slot, u64: a durable end.
pub const SLOT_DURABLE_END_AT: usize = 8;
/// In a slot, CRC-32 over the bytes before it, seeded with the salt.
pub const SLOT_CRC_AT: usize = 16;
/// Bytes of a slot.
pub const SLOT_LEN: usize = 24;

/// The latch's value after a failed sync.
pub const LATCHED: u64 = u64::from_le_bytes(*b"SYNCFAIL");

/// The smallest segment file.
pub const MIN_LEN: u64 = 16 << 10;
/// The largest segment file; a position fits u32.
pub const MAX_LEN: u64 = 2 << 30;

/// Sector 0.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// See [`EPOCH_AT`].
    pub epoch: u32,
    /// See [`BASE_AT`].
    pub base: u64,
    /// See [`SALT_AT`].
    pub salt: u64,
    /// See [`TOPIC_ID_AT`].
    pub topic_id: u64,
    /// See [`DURABLE_END_AT`].
    pub durable_end: u64,
    /// See [`MAX_TIMESTAMP_AT`].
    pub max_timestamp: u64,
    /// See [`FILE_LEN_AT`].
    pub file_len: u64,
}

impl Header {
    /// Returns the bytes of sector 0.
    pub fn encode(&self) -> [u8; SECTOR_LEN] {
        let mut bytes = [0; SECTOR_LEN];
        LE::write_u16(&mut bytes[CHECKSUM_KIND_AT..], CHECKSUM_CRC32);
        LE::write_u32(&mut bytes[EPOCH_AT..], self.epoch);
        LE::write_u64(&mut bytes[BASE_AT..], self.base);
        LE::write_u64(&mut bytes[SALT_AT..], self.salt);
        LE::write_u64(&mut bytes[TOPIC_ID_AT..], self.topic_id);
        LE::write_u64(&mut bytes[DURABLE_END_AT..], self.durable_end);
        LE::write_u64(&mut bytes[MAX_TIMESTAMP_AT..], self.max_timestamp);
        LE::write_u64(&mut bytes[FILE_LEN_AT..], self.file_len);
        seal_envelope(&mut bytes, &MAGIC, CRC_AT);
        bytes
    }

    /// Returns the first header page of a segment that is begun at the time `begun`.
    pub fn encode_page(&self, begun: u64) -> [u8; PAGE_LEN] {
        let mut page = [0; PAGE_LEN];
        for at in [0, HEADER_COPY_AT] {
            page[at..at + SECTOR_LEN].copy_from_slice(&self.encode());
        }
        page[BEGUN_AT..BEGUN_AT + BEGUN_LEN].copy_from_slice(&encode_begun(begun, self.salt));
        page
    }

    /// Checks and decodes sector 0.
    pub fn decode(bytes: &[u8]) -> Result<Header, Malformed> {
        check_envelope(bytes, &MAGIC, CRC_AT)?;
        let kind = LE::read_u16(&bytes[CHECKSUM_KIND_AT..]);
        if kind != CHECKSUM_CRC32 {
            return Err(Malformed::Field { name: "checksum_kind", value: kind.into() });
        }
        let header = Header {
            epoch: LE::read_u32(&bytes[EPOCH_AT..]),
            base: LE::read_u64(&bytes[BASE_AT..]),
            salt: LE::read_u64(&bytes[SALT_AT..]),
            topic_id: LE::read_u64(&bytes[TOPIC_ID_AT..]),
            durable_end: LE::read_u64(&bytes[DURABLE_END_AT..]),
            max_timestamp: LE::read_u64(&bytes[MAX_TIMESTAMP_AT..]),
            file_len: LE::read_u64(&bytes[FILE_LEN_AT..]),
        };
        if header.base > MAX_OFFSET {
            return Err(Malformed::Field { name: "base", value: header.base });
        }
        if header.durable_end > header.base {
            return Err(Malformed::Field { name: "durable_end", value: header.durable_end });
        }
        Ok(header)
    }

    /// Checks and decodes a header page: sector 0, or its copy.
    pub fn decode_page(page: &[u8]) -> Result<Header, Malformed> {
        super::need(page, PAGE_LEN)?;
        Header::decode(&page[..SECTOR_LEN])
            .or_else(|error| Header::decode(&page[HEADER_COPY_AT..]).map_err(|_| error))
    }
}

/// One checkpoint slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// See [`SLOT_SEQUENCE_AT`].
    pub sequence: u64,
    /// See [`SLOT_DURABLE_END_AT`].
    pub durable_end: u64,
}

impl Slot {
    /// Returns the bytes of a slot in a segment with `salt`.
    pub fn encode(&self, salt: u64) -> [u8; SLOT_LEN] {
        let mut bytes = [0; SLOT_LEN];
        LE::write_u64(&mut bytes[SLOT_SEQUENCE_AT..], self.sequence);
        LE::write_u64(&mut bytes[SLOT_DURABLE_END_AT..], self.durable_end);
        let crc = super::frame::checksum(&bytes[..SLOT_CRC_AT], salt, 0);
        LE::write_u32(&mut bytes[SLOT_CRC_AT..], crc);
        bytes
    }

    /// Decodes the slot at the start of `bytes`; `None` if it was never written or is torn.
    pub fn decode(bytes: &[u8], salt: u64) -> Option<Slot> {
        let bytes = bytes.get(..SLOT_LEN)?;
        let slot = Slot {
            sequence: LE::read_u64(&bytes[SLOT_SEQUENCE_AT..]),
            durable_end: LE::read_u64(&bytes[SLOT_DURABLE_END_AT..]),
        };
        (slot.sequence != 0 && bytes[..] == slot.encode(salt)).then_some(slot)
    }
}

/// Returns the newer of the two valid slots of a header page.
pub fn newest_slot(page: &[u8], salt: u64) -> Option<Slot> {
    [SLOT_A_AT, SLOT_B_AT]
        .into_iter()
        .filter_map(|at| Slot::decode(page.get(at..)?, salt))
        .max_by_key(|slot| slot.sequence)
}

/// Returns the position of the slot with this sequence number.
pub fn slot_at(sequence: u64) -> usize {
    if sequence % 2 == 1 {
        SLOT_A_AT
    } else {
        SLOT_B_AT
    }
}

/// Returns the bytes at [`BEGUN_AT`] of a segment with `salt` that was begun at `time`.
pub fn encode_begun(time: u64, salt: u64) -> [u8; BEGUN_LEN] {
    let mut bytes = [0; BEGUN_LEN];
    LE::write_u64(&mut bytes, time);
    let crc = super::frame::checksum(&bytes[..8], salt, 0);
    LE::write_u32(&mut bytes[8..], crc);
    bytes
}

/// Returns the time at which the segment of a header page was begun, if it is known.
pub fn decode_begun(page: &[u8], salt: u64) -> Option<u64> {
    let bytes = page.get(BEGUN_AT..BEGUN_AT + BEGUN_LEN)?;
    let time = LE::read_u64(bytes);
    (time != 0 && bytes == encode_begun(time, salt)).then_some(time)
}

/// Returns whether no header was ever written to this page, nor to its copy: then no record in the segment
/// was promised. A header with a wrong byte was written.
pub fn is_blank(page: &[u8]) -> bool {
    let blank = |at: usize| {
        let sector = page.get(at..).unwrap_or_default();
        sector[..sector.len().min(SECTOR_LEN)].iter().all(|&byte| byte == 0)
    };
    blank(0) && blank(HEADER_COPY_AT)
}

/// Returns the most records that a segment file of this length can hold.
pub fn most_records(file_len: u64) -> u64 {
    file_len.saturating_sub(FIRST_FRAME_AT) / super::frame::FIXED_LEN as u64
}

/// Returns whether a header page says that a sync failed.
pub fn is_latched(page: &[u8]) -> bool {
    page.get(LATCH_AT..LATCH_AT + 8).is_some_and(|latch| LE::read_u64(latch) == LATCHED)
}

/// Returns the file name of the segment that starts at `base`.
pub fn file_name(base: u64) -> String {
    format!("{base:020}.seg")
}

/// Returns the base offset in a segment's file name.
pub fn parse_file_name(name: &str) -> Option<u64> {
    parse_base(name.strip_suffix(".seg")?)
}

/// Returns the name of the empty file that says that every record below `first` was dropped.
pub fn first_file_name(first: u64) -> String {
    format!("{first:020}.first")
}

/// Returns the first retained offset, according to the names in a topic's directory; `None` if they do not
/// say it. A power loss can bring back segments below it.
pub fn first_among<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<u64> {
    let noted = names.clone().filter_map(|name| parse_base(name.strip_suffix(".first")?)).max()?;
    // Trimming made this segment durable before it noted the offset. If it is missing, the others are not
    // dropped.
    names.into_iter().any(|name| parse_file_name(name) == Some(noted)).then_some(noted)
}

/// Returns the name of a segment that the recovery that began `epoch` has set aside.
pub fn cut_file_name(base: u64, epoch: u32) -> String {
    format!("{}.cut-{epoch}", file_name(base))
}

/// Returns the epoch in the name of a segment that was set aside.
pub fn epoch_of_cut(name: &str) -> Option<u32> {
    let (segment, epoch) = name.split_once(".cut-")?;
    parse_file_name(segment)?;
    epoch.parse().ok()
}

/// Returns the base of the segment to which a file of a topic belongs, by the file's name: a segment, its
/// index, a file of it that a recovery has set aside, a note of the first offset.
pub fn base_of(name: &str) -> Option<u64> {
    let (digits, kind) = name.split_once('.')?;
    let belongs = matches!(kind, "seg" | "idx" | "first") || kind.starts_with("seg.cut-");
    parse_base(digits).filter(|_| belongs)
}

/// Parses a base offset in a file name.
pub(super) fn parse_base(digits: &str) -> Option<u64> {
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
        .filter(|&base| base <= MAX_OFFSET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_and_every_flipped_bit_is_found() {
        let header = Header {
            epoch: 3,
            base: 1000,
            salt: 77,
            topic_id: 5,
            durable_end: 900,
            max_timestamp: 1,
            file_len: 65536,
        };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        for bit in 0..(CRC_AT + 4) * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_newer_valid_slot_wins_and_a_torn_one_is_passed_over() {
        let mut page = vec![0; PAGE_LEN];
        assert_eq!(newest_slot(&page, 9), None);
        for sequence in 1..=2 {
            let slot = Slot { sequence, durable_end: 10 * sequence };
            page[slot_at(sequence)..][..SLOT_LEN].copy_from_slice(&slot.encode(9));
        }
        assert_eq!(newest_slot(&page, 9), Some(Slot { sequence: 2, durable_end: 20 }));
        page[SLOT_B_AT + 9] ^= 1;
        assert_eq!(newest_slot(&page, 9), Some(Slot { sequence: 1, durable_end: 10 }));
        assert_eq!(newest_slot(&page, 8), None, "a slot of another segment");
    }

    #[test]
    fn the_time_of_a_segments_beginning_comes_back_and_no_other_bytes_are_taken_for_one() {
        let mut page = vec![0; PAGE_LEN];
        assert_eq!(decode_begun(&page, 9), None);
        page[BEGUN_AT..][..BEGUN_LEN].copy_from_slice(&encode_begun(77, 9));
        assert_eq!(decode_begun(&page, 9), Some(77));
        assert_eq!(decode_begun(&page, 8), None, "of another segment");
        page[BEGUN_AT] ^= 1;
        assert_eq!(decode_begun(&page, 9), None);
        assert_eq!(decode_begun(&page[..100], 9), None);
    }

    #[test]
    fn a_note_of_the_first_offset_counts_if_its_segment_is_there() {
        let first = |names: &[String]| first_among(names.iter().map(String::as_str));
        let mut names = vec![file_name(3), file_name(9), first_file_name(9), first_file_name(5)];
        assert_eq!(first(&names), Some(9));
        names.remove(1);
        assert_eq!(first(&names), None);
        let of = [
            file_name(9),
            first_file_name(9),
            super::super::index::file_name(9),
            cut_file_name(9, 2),
        ];
        for name in &of {
            assert_eq!(base_of(name), Some(9), "{name}");
        }
        assert_eq!(epoch_of_cut(&cut_file_name(9, 2)), Some(2));
        for name in ["9.seg.cut-2", "00000000000000000009.seg.cut-", "00000000000000000009.seg"] {
            assert_eq!(epoch_of_cut(name), None, "{name}");
        }
        for name in ["control", "9.seg", "00000000000000000009.tmp", "next-0-1.tmp"] {
            assert_eq!(base_of(name), None, "{name}");
        }
    }

    #[test]
    fn only_twenty_digits_name_a_segment() {
        assert_eq!(parse_file_name(&file_name(42)), Some(42));
        for name in ["42.seg", "0000000000000000004x.seg", "99999999999999999999.seg", ".seg"] {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }
}
