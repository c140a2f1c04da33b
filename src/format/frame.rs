//! Frames: the bytes of one record, or of a range that holds no record.
//!
//! A frame starts on a multiple of 8 bytes and is followed by zeros up to the next one. It is valid
//! if and only if its length fits the file and its own parts, its padding is covered by the checksum,
//! and the checksum, seeded with the segment's salt and the frame's position, matches.

use byteorder::{ByteOrder, LittleEndian as LE};

use super::headers::ToEncode;
use super::Malformed;

/// CRC-32 over the rest of the frame, padding included.
pub const CRC_AT: usize = 0;
/// u32: bytes of the frame without padding.
pub const LEN_AT: usize = 4;
/// u64: the record's offset; in a void frame the offset of the next record.
pub const OFFSET_AT: usize = 8;
/// u64: nanoseconds since the Unix epoch, by the appender's wall clock.
pub const TIMESTAMP_AT: usize = 16;
/// u8: [`KIND_RECORD`] or [`KIND_VOID`].
pub const KIND_AT: usize = 24;
/// u8: a sum of flags.
pub const FLAGS_AT: usize = 25;
/// u16: bytes of the key.
pub const KEY_LEN_AT: usize = 26;
/// u32: bytes of the headers.
pub const HEADERS_LEN_AT: usize = 28;
/// The fixed part; key, headers and payload follow.
pub const FIXED_LEN: usize = 32;

/// Frames start on a multiple of this.
pub const ALIGN: usize = 8;

/// A frame that holds a record.
pub const KIND_RECORD: u8 = 1;
/// A frame that covers bytes which are not records: those of a dead writer, or a damaged range. Only its
/// fixed part is checksummed.
pub const KIND_VOID: u8 = 2;

/// The record has a key (which may be empty).
pub const FLAG_KEY: u8 = 1;
/// Another record of the same batch follows: alone, this frame does not count.
pub const FLAG_CONTINUES: u8 = 2;

/// The largest frame: 1 GiB.
pub const MAX_LEN: usize = 1 << 30;
/// The longest key.
pub const MAX_KEY_LEN: usize = u16::MAX as usize;
/// The largest sum of headers: 16 MiB.
pub const MAX_HEADERS_LEN: usize = 16 << 20;

/// The fixed part, decoded but not yet checked against the checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixed {
    /// The checksum as stored.
    pub crc: u32,
    /// Bytes of the frame without padding.
    pub len: usize,
    /// See [`OFFSET_AT`].
    pub offset: u64,
    /// See [`TIMESTAMP_AT`].
    pub timestamp: u64,
    /// See [`KIND_AT`].
    pub kind: u8,
    /// See [`FLAGS_AT`].
    pub flags: u8,
    /// Bytes of the key.
    pub key_len: usize,
    /// Bytes of the headers.
    pub headers_len: usize,
}

impl Fixed {
    /// Decodes the fixed part and checks everything that does not need the rest. `room` is the number of
    /// bytes from the frame's start to the end of the file.
    #[inline(always)]
    pub fn decode(bytes: &[u8], room: usize) -> Result<Fixed, Malformed> {
        super::need(bytes, FIXED_LEN)?;
        let bytes = &bytes[..FIXED_LEN];
        let fixed = Fixed {
            crc: LE::read_u32(&bytes[CRC_AT..]),
            len: LE::read_u32(&bytes[LEN_AT..]) as usize,
            offset: LE::read_u64(&bytes[OFFSET_AT..]),
            timestamp: LE::read_u64(&bytes[TIMESTAMP_AT..]),
            kind: bytes[KIND_AT],
            flags: bytes[FLAGS_AT],
            key_len: LE::read_u16(&bytes[KEY_LEN_AT..]) as usize,
            headers_len: LE::read_u32(&bytes[HEADERS_LEN_AT..]) as usize,
        };
        let field = |name, value: usize| Err(Malformed::Field { name, value: value as u64 });
        if fixed.len < FIXED_LEN || (fixed.kind == KIND_RECORD && fixed.len > MAX_LEN) {
            return field("len", fixed.len);
        }
        if padded(fixed.len) > room {
            return Err(Malformed::Short { needed: padded(fixed.len), found: room });
        }
        if fixed.offset > super::MAX_OFFSET {
            return Err(Malformed::Field { name: "offset", value: fixed.offset });
        }
        match fixed.kind {
            KIND_RECORD if fixed.flags & !(FLAG_KEY | FLAG_CONTINUES) != 0 => {
                return field("flags", fixed.flags as usize)
            }
            KIND_RECORD if fixed.flags & FLAG_KEY == 0 && fixed.key_len != 0 => {
                return field("key_len", fixed.key_len)
            }
            KIND_RECORD if fixed.headers_len > MAX_HEADERS_LEN => {
                return field("headers_len", fixed.headers_len)
            }
            KIND_RECORD if fixed.key_len + fixed.headers_len > fixed.len - FIXED_LEN => {
                return field("headers_len", fixed.headers_len)
            }
            KIND_RECORD => {}
            KIND_VOID if fixed.flags != 0 || fixed.key_len != 0 || fixed.headers_len != 0 => {
                return field("flags", fixed.flags as usize)
            }
            KIND_VOID => {}
            other => return field("kind", other as usize),
        }
        Ok(fixed)
    }

    /// Returns the distance to the next frame, in bytes.
    #[inline]
    pub fn padded_len(&self) -> usize {
        padded(self.len)
    }

    /// Returns how many bytes the checksum covers, from the frame's start.
    #[inline]
    pub fn checked_len(&self) -> usize {
        if self.kind == KIND_VOID {
            FIXED_LEN
        } else {
            self.padded_len()
        }
    }

    /// Returns whether more records of the same batch follow.
    pub fn continues(&self) -> bool {
        self.flags & FLAG_CONTINUES != 0
    }

    /// Checks the checksum; `bytes` starts with the frame and holds at least
    /// [`checked_len`](Self::checked_len) bytes.
    #[inline]
    pub fn verify(&self, bytes: &[u8], salt: u64, position: u64) -> Result<(), Malformed> {
        super::need(bytes, self.checked_len())?;
        let computed = checksum(&bytes[LEN_AT..self.checked_len()], salt, position);
        if computed != self.crc {
            return Err(Malformed::Checksum { stored: self.crc, computed });
        }
        Ok(())
    }

    /// Returns the range of the key in the frame.
    pub fn key_range(&self) -> Option<std::ops::Range<usize>> {
        (self.flags & FLAG_KEY != 0).then_some(FIXED_LEN..FIXED_LEN + self.key_len)
    }

    /// Returns the range of the headers in the frame.
    pub fn headers_range(&self) -> std::ops::Range<usize> {
        let start = FIXED_LEN + self.key_len;
        start..start + self.headers_len
    }

    /// Returns the range of the payload in the frame.
    pub fn payload_range(&self) -> std::ops::Range<usize> {
        self.headers_range().end..self.len
    }
}

/// Returns `len` rounded up to the next multiple of [`ALIGN`].
pub const fn padded(len: usize) -> usize {
    (len + ALIGN - 1) & !(ALIGN - 1)
}

/// Returns the checksum's start value for a frame at `position` of a segment with `salt`: a frame at another
/// position, or left over from another segment, fails the check.
pub fn seed(salt: u64, position: u64) -> u32 {
    (salt as u32) ^ ((salt >> 32) as u32).rotate_left(7) ^ (position as u32).rotate_left(13)
}

/// Returns the checksum of the bytes of a frame that follow its checksum field.
#[inline]
pub fn checksum(bytes: &[u8], salt: u64, position: u64) -> u32 {
    let mut hasher = hasher(salt, position);
    hasher.update(bytes);
    hasher.finalize()
}

/// Returns the beginning of a [`checksum`] over bytes that come in pieces.
pub fn hasher(salt: u64, position: u64) -> crc32fast::Hasher {
    crc32fast::Hasher::new_with_initial(seed(salt, position))
}

/// Returns a salt with which `crc` is the right checksum of `bytes`, which follow it, at `position`: for a
/// file whose header is lost. The salt gives the same seeds as the lost one, at every position; two frames in
/// a row do not agree on a salt by accident.
pub fn salt_of(crc: u32, bytes: &[u8], position: u64) -> u64 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    // The computation of the checksum in reverse.
    let mut state = !crc;
    for &byte in bytes.iter().rev() {
        for _ in 0..8 {
            let low = state >> 31;
            state = if low == 1 { ((state ^ POLYNOMIAL) << 1) | 1 } else { state << 1 };
        }
        state ^= u32::from(byte);
    }
    // A salt below 2^32 is used in the seed unchanged.
    (!state ^ seed(0, position)).into()
}

/// The parts of a record that a frame stores.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The key, if the record has one.
    pub key: Option<&'a [u8]>,
    /// The headers.
    pub headers: ToEncode<'a>,
    /// The payload.
    pub payload: &'a [u8],
}

impl Parts<'_> {
    /// Returns the length of the frame in bytes, without padding.
    #[inline(always)]
    pub fn frame_len(&self) -> usize {
        FIXED_LEN
            + self.key.map_or(0, <[u8]>::len)
            + self.headers.encoded_len()
            + self.payload.len()
    }

    /// Calls `each` with the bytes that follow the fixed part, in order, without the padding.
    #[inline(always)]
    pub fn for_each_piece(&self, mut each: impl FnMut(&[u8])) {
        if let Some(key) = self.key {
            each(key);
        }
        self.headers.for_each_piece(&mut each);
        each(self.payload);
    }

    /// Returns the fixed part, including the checksum, for a frame at `position`.
    pub fn fixed(
        &self,
        offset: u64,
        timestamp: u64,
        continues: bool,
        salt: u64,
        position: u64,
    ) -> [u8; FIXED_LEN] {
        let len = self.frame_len();
        let mut fixed = self.unsealed(len, offset, timestamp, continues);
        let mut hasher = crc32fast::Hasher::new_with_initial(seed(salt, position));
        hasher.update(&fixed[LEN_AT..]);
        self.for_each_piece(|piece| hasher.update(piece));
        let padding = padded(len) - len;
        if padding > 0 {
            hasher.update(&[0; ALIGN][..padding]);
        }
        LE::write_u32(&mut fixed[CRC_AT..], hasher.finalize());
        fixed
    }

    /// Writes the whole frame except its checksum, including padding, to the start of `out`, and returns its
    /// padded length. [`seal`] completes it: the result is [`fixed`](Self::fixed), followed by the other
    /// parts.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than the padded frame.
    // Inlined always: of each type of record, it is known how its headers are stored.
    #[inline(always)]
    pub fn encode(&self, offset: u64, timestamp: u64, continues: bool, out: &mut [u8]) -> usize {
        let len = self.frame_len();
        let out = &mut out[..padded(len)];
        // The padding is in the last word.
        let last = out.len() - ALIGN;
        out[last..].fill(0);
        out[..FIXED_LEN].copy_from_slice(&self.unsealed(len, offset, timestamp, continues));
        let mut at = FIXED_LEN;
        self.for_each_piece(|piece| {
            if !piece.is_empty() {
                out[at..at + piece.len()].copy_from_slice(piece);
                at += piece.len();
            }
        });
        out.len()
    }

    /// Returns the fixed part without its checksum. `len` is the frame's length.
    #[inline]
    fn unsealed(
        &self,
        len: usize,
        offset: u64,
        timestamp: u64,
        continues: bool,
    ) -> [u8; FIXED_LEN] {
        let mut fixed = [0; FIXED_LEN];
        LE::write_u32(&mut fixed[LEN_AT..], len as u32);
        LE::write_u64(&mut fixed[OFFSET_AT..], offset);
        LE::write_u64(&mut fixed[TIMESTAMP_AT..], timestamp);
        fixed[KIND_AT] = KIND_RECORD;
        fixed[FLAGS_AT] = if self.key.is_some() { FLAG_KEY } else { 0 }
            | if continues { FLAG_CONTINUES } else { 0 };
        LE::write_u16(&mut fixed[KEY_LEN_AT..], self.key.map_or(0, <[u8]>::len) as u16);
        LE::write_u32(&mut fixed[HEADERS_LEN_AT..], self.headers.encoded_len() as u32);
        fixed
    }
}

/// Returns the checksum of an encoded frame, including padding, as it is stored at [`CRC_AT`].
#[inline]
pub fn seal(frame: &[u8], salt: u64, position: u64) -> [u8; 4] {
    checksum(&frame[LEN_AT..], salt, position).to_le_bytes()
}

/// Returns the length of the encoded frame at the start of `bytes`, including padding.
#[inline]
pub fn encoded_len(bytes: &[u8]) -> usize {
    padded(LE::read_u32(&bytes[LEN_AT..]) as usize)
}

/// Gives an encoded frame another offset; its checksum changes with it.
pub fn renumber(frame: &mut [u8], offset: u64) {
    LE::write_u64(&mut frame[OFFSET_AT..], offset);
}

/// Gives an encoded frame another timestamp; its checksum changes with it.
pub fn restamp(frame: &mut [u8], timestamp: u64) {
    LE::write_u64(&mut frame[TIMESTAMP_AT..], timestamp);
}

/// Returns the fixed part of a void frame that covers `len` bytes (a multiple of 8, at least 32) at
/// `position`. `next_offset` is the offset of the next record.
pub fn void(
    len: usize,
    next_offset: u64,
    timestamp: u64,
    salt: u64,
    position: u64,
) -> [u8; FIXED_LEN] {
    let mut fixed = [0; FIXED_LEN];
    LE::write_u32(&mut fixed[LEN_AT..], len as u32);
    LE::write_u64(&mut fixed[OFFSET_AT..], next_offset);
    LE::write_u64(&mut fixed[TIMESTAMP_AT..], timestamp);
    fixed[KIND_AT] = KIND_VOID;
    let crc = checksum(&fixed[LEN_AT..], salt, position);
    LE::write_u32(&mut fixed[CRC_AT..], crc);
    fixed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(parts: Parts<'_>, position: u64) -> Vec<u8> {
        let mut bytes = parts.fixed(7, 9, false, 0x1234_5678_9abc_def0, position).to_vec();
        parts.for_each_piece(|piece| bytes.extend(piece));
        bytes.resize(padded(bytes.len()), 0);
        bytes
    }

    #[test]
    fn zeros_are_no_frame() {
        assert!(Fixed::decode(&[0; 64], 64).is_err());
    }

    #[test]
    fn a_checksum_run_backwards_gives_a_salt_with_the_same_seeds() {
        for salt in [0, 1, 0xdead_beef, 0x1234_5678_9abc_def0, u64::MAX] {
            let found = salt_of(checksum(b"some bytes", salt, 4096), b"some bytes", 4096);
            for position in [0, 4096, 1 << 30] {
                assert_eq!(seed(found, position), seed(salt, position));
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let parts =
            Parts { key: Some(b"k"), headers: ToEncode::Listed(&[]), payload: b"some payload" };
        let bytes = frame(parts, 4096);
        let fixed = Fixed::decode(&bytes, bytes.len()).unwrap();
        fixed.verify(&bytes, 0x1234_5678_9abc_def0, 4096).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let passes = Fixed::decode(&bad, bad.len())
                .and_then(|f| f.verify(&bad, 0x1234_5678_9abc_def0, 4096));
            assert!(passes.is_err(), "bit {bit} flipped and not found");
        }
    }

    #[test]
    fn a_frame_encoded_in_one_piece_is_the_same_as_in_parts() {
        let listed = [("a", &b"1"[..]), ("", b"")];
        let mut encoded = Vec::new();
        for (name, value) in listed {
            crate::format::headers::push(&mut encoded, name, value).unwrap();
        }
        for payload_len in 0..40 {
            for key in [None, Some(&b""[..]), Some(b"key")] {
                let payload = vec![0xa5; payload_len];
                let parts = Parts { key, headers: encoded[..].into(), payload: &payload };
                let in_parts = frame(parts, 8192);
                let parts = Parts { headers: ToEncode::Listed(&listed), ..parts };
                assert_eq!(frame(parts, 8192), in_parts);
                let mut out = [0xff; 128];
                let len = parts.encode(7, 9, false, &mut out);
                assert_eq!(encoded_len(&out), len);
                let crc = seal(&out[..len], 0x1234_5678_9abc_def0, 8192);
                out[CRC_AT..CRC_AT + 4].copy_from_slice(&crc);
                assert_eq!(out[..len], in_parts);
                assert!(out[len..].iter().all(|&byte| byte == 0xff));
            }
        }
    }

    #[test]
    fn a_frame_elsewhere_or_of_another_segment_fails() {
        let parts = Parts { key: None, headers: ToEncode::Listed(&[]), payload: b"stale" };
        let bytes = frame(parts, 4096);
        let fixed = Fixed::decode(&bytes, bytes.len()).unwrap();
        assert!(fixed.verify(&bytes, 0x1234_5678_9abc_def0, 4104).is_err());
        assert!(fixed.verify(&bytes, 0x1234_5678_9abc_def1, 4096).is_err());
    }
}
