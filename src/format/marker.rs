//! The file `deaddrop` at the top of a log: it distinguishes a log from any other directory.

use super::{check_envelope, seal_envelope, Malformed};

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"ddropLOG";
/// CRC-32 over the bytes before it.
pub const CRC_AT: usize = 16;
/// Bytes of the file.
pub const LEN: usize = 20;

/// Returns the bytes of the marker.
pub fn encode() -> [u8; LEN] {
    let mut bytes = [0; LEN];
    seal_envelope(&mut bytes, &MAGIC, CRC_AT);
    bytes
}

/// Checks a marker.
pub fn decode(bytes: &[u8]) -> Result<(), Malformed> {
    check_envelope(bytes, &MAGIC, CRC_AT)
}
