//! The file `epochs` of a topic: which recoveries may have cut the log, and where.
//!
//! Epoch 0 has no entry. A position that was stored in epoch `e` is clamped to the smallest start of all
//! epochs after `e`, if it is above that start.

use byteorder::{ByteOrder, LittleEndian as LE};

use super::SECTOR_LEN;

/// In an entry, u32: the epoch.
pub const EPOCH_AT: usize = 0;
/// In an entry, CRC-32 over the rest of the entry.
pub const CRC_AT: usize = 4;
/// In an entry, u64: the end of the log when the epoch began.
pub const START_AT: usize = 8;
/// Length of an entry; entries follow each other, each in its own sector.
pub const ENTRY_LEN: usize = SECTOR_LEN;

const USED_LEN: usize = 16;

/// One recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// See [`EPOCH_AT`].
    pub epoch: u32,
    /// See [`START_AT`].
    pub start: u64,
}

impl Entry {
    /// Returns the bytes of an entry.
    pub fn encode(&self) -> [u8; ENTRY_LEN] {
        let mut bytes = [0; ENTRY_LEN];
        LE::write_u32(&mut bytes[EPOCH_AT..], self.epoch);
        LE::write_u64(&mut bytes[START_AT..], self.start);
        let crc = Self::crc(&bytes);
        LE::write_u32(&mut bytes[CRC_AT..], crc);
        bytes
    }

    fn crc(bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(b"epoch");
        hasher.update(&bytes[EPOCH_AT..CRC_AT]);
        hasher.update(&bytes[START_AT..USED_LEN]);
        hasher.finalize()
    }

    fn decode(bytes: &[u8]) -> Option<Entry> {
        let bytes = bytes.get(..USED_LEN)?;
        (LE::read_u32(&bytes[CRC_AT..]) == Self::crc(bytes)).then(|| Entry {
            epoch: LE::read_u32(&bytes[EPOCH_AT..]),
            start: LE::read_u64(&bytes[START_AT..]),
        })
    }
}

/// Returns the valid entries, in the order of the file. An entry whose write was cut off never counted: the
/// recovery that wrote it had not continued.
pub fn decode(bytes: &[u8]) -> Vec<Entry> {
    bytes.chunks(ENTRY_LEN).filter_map(Entry::decode).collect()
}

/// Returns `position`, stored in `epoch`, as the recoveries in `entries` leave it.
pub fn clamp(entries: &[Entry], epoch: u32, position: u64) -> u64 {
    let start = entries.iter().filter(|entry| entry.epoch > epoch).map(|entry| entry.start).min();
    start.map_or(position, |start| position.min(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_clamped_by_later_epochs_only() {
        let entries = [Entry { epoch: 1, start: 900 }, Entry { epoch: 2, start: 950 }];
        assert_eq!(clamp(&entries, 0, 1000), 900);
        assert_eq!(clamp(&entries, 0, 800), 800);
        assert_eq!(clamp(&entries, 1, 1000), 950);
        assert_eq!(clamp(&entries, 2, 1000), 1000);
    }

    #[test]
    fn a_torn_entry_is_passed_over() {
        let mut bytes = Entry { epoch: 1, start: 5 }.encode().to_vec();
        bytes.extend(Entry { epoch: 2, start: 6 }.encode());
        bytes[ENTRY_LEN + 9] ^= 1;
        assert_eq!(decode(&bytes), [Entry { epoch: 1, start: 5 }]);
        assert_eq!(decode(&[0; 3 * ENTRY_LEN]), []);
    }
}
