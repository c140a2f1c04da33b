//! An offset file: one consumer's position, its two durable slots, and two words for its owner's use.
//!
//! Sector 0 is written once. Sector 1 is the live state: stores into a mapping, trusted on the boot and the
//! inode that it names; elsewhere, only a position whose check fits the newest slot is trusted. Sectors 2 and
//! 3 are the durable slots: each is rewritten only after a sync covered the other. The attempt begins at
//! sector 4; it is live like sector 1.

use byteorder::{ByteOrder, LittleEndian as LE};

use super::{check_envelope, seal_envelope, Malformed, PAGE_LEN, SECTOR_LEN};

/// First bytes of an offset file.
pub const MAGIC: [u8; 8] = *b"ddropOFF";
/// u64: random identity of the topic.
pub const TOPIC_ID_AT: usize = 16;
/// CRC-32 over the bytes before it.
pub const CRC_AT: usize = 24;

/// u64, u64: the boot on which the live state was written.
pub const LIVE_BOOT_AT: usize = SECTOR_LEN;
/// u64: the device of the file itself.
pub const LIVE_DEV_AT: usize = SECTOR_LEN + 16;
/// u64: the inode of the file itself.
pub const LIVE_INO_AT: usize = SECTOR_LEN + 24;
/// u64: 1 if the live state is complete.
pub const LIVE_READY_AT: usize = SECTOR_LEN + 32;
/// u64: the topic's epoch when the owner opened the file.
pub const LIVE_EPOCH_AT: usize = SECTOR_LEN + 40;
/// u64: the committed offset: the next record to deliver.
pub const LIVE_OFFSET_AT: usize = SECTOR_LEN + 48;
/// u64: a second position for the owner: a server's reply floor.
pub const LIVE_FLOOR_AT: usize = SECTOR_LEN + 56;
/// u64: process id of the owner, for messages only.
pub const LIVE_PID_AT: usize = SECTOR_LEN + 64;
/// u64: the sequence number of the newest slot that is known to be durable.
pub const LIVE_SLOT_AT: usize = SECTOR_LEN + 88;
/// u64: the turn of the position: see [`SLOT_TURN_AT`].
pub const LIVE_TURN_AT: usize = SECTOR_LEN + 96;
/// u64: [`live_check`] of the position: with it, the position counts on another boot and in a copy as well.
pub const LIVE_CHECK_AT: usize = SECTOR_LEN + 104;

/// The first durable slot.
pub const SLOT_A_AT: usize = 2 * SECTOR_LEN;
/// The second durable slot.
pub const SLOT_B_AT: usize = 3 * SECTOR_LEN;

/// The attempt: u64 1 + offset of the record in flight, 0 if none; written last.
pub const ATTEMPT_AT: usize = 4 * SECTOR_LEN;
/// u64: how many times the handling of the record was begun.
pub const ATTEMPT_COUNT_AT: usize = ATTEMPT_AT + 8;
/// u64: the end of the reply topic when the handling was begun.
pub const ATTEMPT_FLOOR_AT: usize = ATTEMPT_AT + 16;
/// u64: length of the note, in bytes.
pub const ATTEMPT_NOTE_LEN_AT: usize = ATTEMPT_AT + 24;
/// The note: bytes chosen by the owner (a server's: request id and reply topic).
pub const ATTEMPT_NOTE_AT: usize = ATTEMPT_AT + 32;
/// The longest note.
pub const MAX_NOTE_LEN: usize = LEN - ATTEMPT_NOTE_AT;

/// Bytes of the file.
pub const LEN: usize = PAGE_LEN;

/// In a slot, u64: increases with every slot written.
pub const SLOT_SEQUENCE_AT: usize = 0;
/// In a slot, u32: the topic's epoch.
pub const SLOT_EPOCH_AT: usize = 8;
/// In a slot, u32: increases when the position moves back, and when it is taken over in another epoch. Within
/// a turn positions only increase.
pub const SLOT_TURN_AT: usize = 12;
/// In a slot, u64: the committed offset.
pub const SLOT_OFFSET_AT: usize = 16;
/// In a slot, u64: the owner's second position.
pub const SLOT_FLOOR_AT: usize = 24;
/// In a slot, CRC-32 over the bytes before it.
pub const SLOT_CRC_AT: usize = 32;
/// Bytes of a slot.
pub const SLOT_LEN: usize = 40;

/// Returns sector 0 of the offset file of a consumer of the topic `topic_id`.
pub fn encode_header(topic_id: u64) -> [u8; SECTOR_LEN] {
    let mut bytes = [0; SECTOR_LEN];
    LE::write_u64(&mut bytes[TOPIC_ID_AT..], topic_id);
    seal_envelope(&mut bytes, &MAGIC, CRC_AT);
    bytes
}

/// Checks sector 0; returns the topic's identity.
pub fn decode_header(bytes: &[u8]) -> Result<u64, Malformed> {
    super::need(bytes, LEN)?;
    check_envelope(bytes, &MAGIC, CRC_AT)?;
    Ok(LE::read_u64(&bytes[TOPIC_ID_AT..]))
}

/// A durable slot, or the live state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// See [`SLOT_SEQUENCE_AT`].
    pub sequence: u64,
    /// See [`SLOT_EPOCH_AT`].
    pub epoch: u32,
    /// See [`SLOT_TURN_AT`].
    pub turn: u32,
    /// See [`SLOT_OFFSET_AT`].
    pub offset: u64,
    /// See [`SLOT_FLOOR_AT`].
    pub floor: u64,
}

impl Saved {
    /// Returns the bytes of a slot.
    pub fn encode(&self) -> [u8; SLOT_LEN] {
        let mut bytes = [0; SLOT_LEN];
        LE::write_u64(&mut bytes[SLOT_SEQUENCE_AT..], self.sequence);
        LE::write_u32(&mut bytes[SLOT_EPOCH_AT..], self.epoch);
        LE::write_u32(&mut bytes[SLOT_TURN_AT..], self.turn);
        LE::write_u64(&mut bytes[SLOT_OFFSET_AT..], self.offset);
        LE::write_u64(&mut bytes[SLOT_FLOOR_AT..], self.floor);
        let crc = crc32fast::hash(&bytes[..SLOT_CRC_AT]);
        LE::write_u32(&mut bytes[SLOT_CRC_AT..], crc);
        bytes
    }

    /// Decodes the slot at the start of `bytes`; `None` if it was never written or is torn.
    pub fn decode(bytes: &[u8]) -> Option<Saved> {
        let bytes = bytes.get(..SLOT_LEN)?;
        let saved = Saved {
            sequence: LE::read_u64(&bytes[SLOT_SEQUENCE_AT..]),
            epoch: LE::read_u32(&bytes[SLOT_EPOCH_AT..]),
            turn: LE::read_u32(&bytes[SLOT_TURN_AT..]),
            offset: LE::read_u64(&bytes[SLOT_OFFSET_AT..]),
            floor: LE::read_u64(&bytes[SLOT_FLOOR_AT..]),
        };
        (saved.sequence != 0 && bytes[..] == saved.encode()).then_some(saved)
    }
}

/// Returns the valid slots.
pub fn slots(file: &[u8]) -> impl Iterator<Item = Saved> + '_ {
    [SLOT_A_AT, SLOT_B_AT].into_iter().filter_map(|at| Saved::decode(file.get(at..)?))
}

/// Returns the newer of the two valid slots.
pub fn newest_slot(file: &[u8]) -> Option<Saved> {
    slots(file).max_by_key(|saved| saved.sequence)
}

/// Returns the slots of which a power loss leaves one. `known` is the sequence number of the newest slot that
/// is known to be durable, if the live words can be trusted.
pub fn durable_slots(file: &[u8], known: Option<u64>) -> impl Iterator<Item = Saved> + '_ {
    let newest = newest_slot(file).map_or(0, |slot| slot.sequence);
    // A slot newer than the known one may or may not be durable, so both count.
    let least = known.map_or(newest, |known| known.min(newest));
    slots(file).filter(move |slot| slot.sequence >= least)
}

/// Returns the seed for the checks of all positions of one turn in one epoch.
pub fn live_seed(epoch: u32, turn: u32) -> u64 {
    mixed(u64::from(epoch) << 32 | u64::from(turn) | 1 << 63)
}

/// Returns the check of a live position, which shows that the position was stored whole, in this turn and
/// epoch. A page that is written back while its owner commits can hold words of two moments.
#[inline]
pub fn live_check(seed: u64, offset: u64) -> u64 {
    mixed(seed ^ offset)
}

/// The finalizer of SplitMix64: every bit depends on every other.
#[inline]
fn mixed(mut word: u64) -> u64 {
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// The live position, as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// See [`LIVE_EPOCH_AT`].
    pub epoch: u32,
    /// See [`LIVE_TURN_AT`].
    pub turn: u32,
    /// See [`LIVE_OFFSET_AT`].
    pub offset: u64,
    /// See [`LIVE_CHECK_AT`].
    pub check: u64,
}

/// Returns the position that counts: its epoch, its turn, its offset. `None` if there is none.
///
/// A later turn is newer; within a turn, the higher offset is. So an older state of the live words, which a
/// file system that was unmounted uncleanly on this boot can bring back, can only repeat records.
/// `is_trusted`: the live words are of this boot and this file, and were stored in order; otherwise the live
/// position counts only if it is whole and of the newest slot's turn.
pub fn position(slot: Option<Saved>, live: Live, is_trusted: bool) -> Option<(u32, u32, u64)> {
    let of_live = (live.epoch, live.turn, live.offset);
    let Some(slot) = slot else { return is_trusted.then_some(of_live) };
    let of_slot = (slot.epoch, slot.turn, slot.offset);
    let is_newer = if is_trusted {
        (live.turn, live.offset) >= (slot.turn, slot.offset)
    } else {
        live.check == live_check(live_seed(slot.epoch, slot.turn), live.offset)
            && live.offset > slot.offset
    };
    Some(match (is_newer, is_trusted) {
        (true, true) => of_live,
        (true, false) => (slot.epoch, slot.turn, live.offset),
        (false, _) => of_slot,
    })
}

/// Returns the position of the slot with this sequence number.
pub fn slot_at(sequence: u64) -> usize {
    if sequence % 2 == 1 {
        SLOT_A_AT
    } else {
        SLOT_B_AT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: Saved = Saved { sequence: 7, epoch: 2, turn: 3, offset: 100, floor: 0 };

    fn live(turn: u32, offset: u64) -> Live {
        Live { epoch: 2, turn, offset, check: live_check(live_seed(2, turn), offset) }
    }

    #[test]
    fn a_slot_that_is_not_known_to_be_on_the_disk_does_not_count_alone() {
        let mut page = vec![0; LEN];
        for saved in [SLOT, Saved { sequence: 8, offset: 150, ..SLOT }] {
            page[slot_at(saved.sequence)..][..SLOT_LEN].copy_from_slice(&saved.encode());
        }
        let offsets = |known| {
            let mut offsets: Vec<u64> =
                durable_slots(&page, known).map(|slot| slot.offset).collect();
            offsets.sort_unstable();
            offsets
        };
        assert_eq!(offsets(Some(7)), [100, 150], "the sync of the newest may not have ended");
        assert_eq!(offsets(Some(8)), [150]);
        assert_eq!(offsets(None), [150], "no live words: the page is what the disk had");
    }

    #[test]
    fn a_trusted_position_counts_unless_the_slot_is_of_a_later_turn_or_above_it() {
        let of = |live| position(Some(SLOT), live, true).unwrap();
        assert_eq!(of(live(3, 120)), (2, 3, 120));
        assert_eq!(of(live(3, 90)), (2, 3, 100), "an older instant of the live words");
        assert_eq!(of(live(4, 10)), (2, 4, 10), "moved back since");
        assert_eq!(of(live(2, 900)), (2, 3, 100), "from before it was moved back");
        assert_eq!(position(None, live(0, 5), true), Some((2, 0, 5)));
        assert_eq!(position(None, live(0, 5), false), None);
    }

    #[test]
    fn a_position_of_another_boot_counts_only_if_it_is_whole_and_of_the_slots_turn_and_epoch() {
        let of = |live| position(Some(SLOT), live, false).unwrap();
        assert_eq!(of(live(3, 120)), (2, 3, 120));
        assert_eq!(of(live(3, 90)), (2, 3, 100));
        assert_eq!(of(live(4, 120)), (2, 3, 100));
        assert_eq!(of(live(2, 120)), (2, 3, 100));
        assert_eq!(of(Live { offset: 121, ..live(3, 120) }), (2, 3, 100), "torn");
        let other_epoch = live_check(live_seed(1, 3), 120);
        assert_eq!(of(Live { check: other_epoch, ..live(3, 120) }), (2, 3, 100));
    }
}
