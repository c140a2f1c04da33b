//! The file `settings` of a topic: written once, when the topic is created.

use byteorder::{ByteOrder, LittleEndian as LE};

use super::{check_envelope, seal_envelope, segment, Malformed, PAGE_LEN};

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"ddropTOP";
/// u8: 0 `PowerLoss`, 1 `PowerLossWithin`, 2 `ProcessCrash`.
pub const DURABILITY_AT: usize = 10;
/// u8: 1 if trimming waits for every consumer.
pub const RETAIN_UNCONSUMED_AT: usize = 11;
/// u64: nanoseconds of `PowerLossWithin`, otherwise 0.
pub const INTERVAL_AT: usize = 16;
/// u64: bytes of a segment file.
pub const SEGMENT_LEN_AT: usize = 24;
/// u64: random identity of the topic.
pub const TOPIC_ID_AT: usize = 32;
/// u64: records older than this many nanoseconds may be trimmed; 0: no limit.
pub const RETAIN_AGE_AT: usize = 40;
/// u64: sealed segments beyond this many bytes may be trimmed; 0: no limit.
pub const RETAIN_BYTES_AT: usize = 48;
/// CRC-32 over the bytes before it.
pub const CRC_AT: usize = 56;
/// Bytes of the file.
pub const LEN: usize = 64;

/// See [`DURABILITY_AT`].
pub const POWER_LOSS: u8 = 0;
/// See [`DURABILITY_AT`].
pub const POWER_LOSS_WITHIN: u8 = 1;
/// See [`DURABILITY_AT`].
pub const PROCESS_CRASH: u8 = 2;

/// The stored settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// See [`DURABILITY_AT`].
    pub durability: u8,
    /// See [`INTERVAL_AT`].
    pub interval: u64,
    /// See [`SEGMENT_LEN_AT`].
    pub segment_len: u64,
    /// See [`TOPIC_ID_AT`].
    pub topic_id: u64,
    /// See [`RETAIN_UNCONSUMED_AT`].
    pub retain_unconsumed: bool,
    /// See [`RETAIN_AGE_AT`].
    pub retain_age: u64,
    /// See [`RETAIN_BYTES_AT`].
    pub retain_bytes: u64,
}

impl Settings {
    /// Returns the bytes of the file.
    pub fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[DURABILITY_AT] = self.durability;
        bytes[RETAIN_UNCONSUMED_AT] = self.retain_unconsumed.into();
        LE::write_u64(&mut bytes[INTERVAL_AT..], self.interval);
        LE::write_u64(&mut bytes[SEGMENT_LEN_AT..], self.segment_len);
        LE::write_u64(&mut bytes[TOPIC_ID_AT..], self.topic_id);
        LE::write_u64(&mut bytes[RETAIN_AGE_AT..], self.retain_age);
        LE::write_u64(&mut bytes[RETAIN_BYTES_AT..], self.retain_bytes);
        seal_envelope(&mut bytes, &MAGIC, CRC_AT);
        bytes
    }

    /// Checks and decodes the file.
    pub fn decode(bytes: &[u8]) -> Result<Settings, Malformed> {
        check_envelope(bytes, &MAGIC, CRC_AT)?;
        let settings = Settings {
            durability: bytes[DURABILITY_AT],
            interval: LE::read_u64(&bytes[INTERVAL_AT..]),
            segment_len: LE::read_u64(&bytes[SEGMENT_LEN_AT..]),
            topic_id: LE::read_u64(&bytes[TOPIC_ID_AT..]),
            retain_unconsumed: bytes[RETAIN_UNCONSUMED_AT] != 0,
            retain_age: LE::read_u64(&bytes[RETAIN_AGE_AT..]),
            retain_bytes: LE::read_u64(&bytes[RETAIN_BYTES_AT..]),
        };
        if settings.durability > PROCESS_CRASH {
            let value = settings.durability.into();
            return Err(Malformed::Field { name: "durability", value });
        }
        let len = settings.segment_len;
        if !(segment::MIN_LEN..=segment::MAX_LEN).contains(&len) || len % PAGE_LEN as u64 != 0 {
            return Err(Malformed::Field { name: "segment_len", value: len });
        }
        Ok(settings)
    }
}
