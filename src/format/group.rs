//! A group file: a header page, then one page for each lane, with the layout of an offset file.
//!
//! Sector 0 of the header page is written once. Sector 1 holds live words: hints, checked against locks. The
//! assignment of records to lanes is part of the format.
//! locks. Which lane a record belongs to is part of the format.

use byteorder::{ByteOrder, LittleEndian as LE};

use super::{check_envelope, seal_envelope, Malformed, PAGE_LEN, SECTOR_LEN};

/// First bytes of a group file.
pub const MAGIC: [u8; 8] = *b"ddropGRP";
/// u64: random identity of the topic.
pub const TOPIC_ID_AT: usize = 16;
/// u32: number of lanes.
pub const LANES_AT: usize = 24;
/// CRC-32 over the bytes before it.
pub const CRC_AT: usize = 28;

/// 4 u64: a bit for each worker that may be alive.
pub const MEMBERS_AT: usize = SECTOR_LEN;
/// u64: increases when a worker joins, leaves, or wants lanes.
pub const CHANGES_AT: usize = SECTOR_LEN + 32;

/// In a lane's page, u64: the state of the attempt (low 8 bits); how many attempts at the record in flight
/// have failed, or ended in the process's death while the record ran alone (32 bits); how many ended in the
/// death of a process in which others ran (8 bits).
pub const LANE_TRIAL_AT: usize = SECTOR_LEN + 72;
/// In a lane's page, u64: records below it may have been handled before the last power loss; 0: none.
pub const LANE_DOUBT_AT: usize = SECTOR_LEN + 80;

/// In a lane's page, u64: 1 + offset of the record at which the lane is stopped, 0 if it is not stopped. It
/// counts on every boot and in a copy, if it is the attempt's record.
pub const LANE_STOPPED_AT: usize = SECTOR_LEN + 112;
/// In a lane's page, u64: the boot clock's nanosecond before which the record in flight is not tried again.
pub const LANE_RETRY_AT: usize = SECTOR_LEN + 120;

/// The most lanes of a group.
pub const MAX_LANES: u32 = 4096;
/// The most workers of a group.
pub const MAX_MEMBERS: u64 = 256;
/// The byte that a worker locks is this plus its number. The byte of lane `n` is `n`.
pub const MEMBER_LOCKS: u64 = 1 << 32;
/// The byte that a worker locks while it joins.
pub const JOIN_LOCK: u64 = (1 << 32) + (1 << 16);
/// The byte that a child process of a lane's owner locks is this plus the lane's number.
pub const GUARD_LOCKS: u64 = 2 << 32;

/// Returns the length of the file in bytes.
pub fn file_len(lanes: u32) -> usize {
    lane_at(lanes)
}

/// Returns the position of a lane's page.
pub fn lane_at(lane: u32) -> usize {
    (1 + lane as usize) * PAGE_LEN
}

/// Returns the lane of a record: by its key, or by its offset if it has none.
pub fn lane_of(key: Option<&[u8]>, offset: u64, lanes: u32) -> u32 {
    match key {
        Some(key) => crc32fast::hash(key) % lanes,
        None => (offset % u64::from(lanes)) as u32,
    }
}

/// Returns sector 0 of the group file of a topic.
pub fn encode_header(topic_id: u64, lanes: u32) -> [u8; SECTOR_LEN] {
    let mut bytes = [0; SECTOR_LEN];
    LE::write_u64(&mut bytes[TOPIC_ID_AT..], topic_id);
    LE::write_u32(&mut bytes[LANES_AT..], lanes);
    seal_envelope(&mut bytes, &MAGIC, CRC_AT);
    bytes
}

/// Checks sector 0 of a file of `len` bytes; returns the topic's identity and the number of lanes.
pub fn decode_header(bytes: &[u8], len: u64) -> Result<(u64, u32), Malformed> {
    super::need(bytes, SECTOR_LEN)?;
    check_envelope(bytes, &MAGIC, CRC_AT)?;
    let lanes = LE::read_u32(&bytes[LANES_AT..]);
    if lanes == 0 || lanes > MAX_LANES {
        return Err(Malformed::Field { name: "lanes", value: lanes.into() });
    }
    if len < file_len(lanes) as u64 {
        return Err(Malformed::Short { needed: file_len(lanes), found: len as usize });
    }
    Ok((LE::read_u64(&bytes[TOPIC_ID_AT..]), lanes))
}

/// Checks a whole group file: its header, and that each lane has a header and a valid slot. The error names
/// the position of the first damaged page, and the reason.
pub fn check(bytes: &[u8]) -> Result<(), (usize, Malformed)> {
    let (_, lanes) = decode_header(bytes, bytes.len() as u64).map_err(|what| (0, what))?;
    for lane in 0..lanes {
        let at = lane_at(lane);
        let page = &bytes[at..at + PAGE_LEN];
        super::cursor::decode_header(page).map_err(|what| (at, what))?;
        if super::cursor::newest_slot(page).is_none() {
            let what = Malformed::Field { name: "slot_sequence", value: 0 };
            return Err((at + super::cursor::SLOT_A_AT, what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_lane_that_it_always_had() {
        let of = |key: &[u8]| lane_of(Some(key), 7, 64);
        assert_eq!([of(b""), of(b"customer-12"), of(b"a"), of(&[255; 9])], [0, 16, 3, 16]);
        assert_eq!(lane_of(None, 130, 64), 2);
    }

    #[test]
    fn lanes_are_used_alike() {
        let mut counts = [0; 64];
        for number in 0..64_000 {
            counts[lane_of(Some(format!("customer-{number}").as_bytes()), 0, 64) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_header_comes_back_and_nothing_else_is_taken_for_one() {
        let bytes = encode_header(9, 64);
        assert_eq!(decode_header(&bytes, file_len(64) as u64).unwrap(), (9, 64));
        assert!(decode_header(&bytes, file_len(64) as u64 - 1).is_err());
        for at in 0..CRC_AT + 4 {
            let mut bad = bytes;
            bad[at] ^= 1;
            assert!(decode_header(&bad, u64::MAX).is_err(), "{at}");
        }
    }
}
