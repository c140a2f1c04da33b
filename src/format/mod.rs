//! Bytes to values and back: every structure that is stored, and nothing else.
//!
//! Pure: no file, no map, no clock, no lock. `docs/format.md` is the normative text; a test compares its
//! tables with the constants here, and golden files pin the bytes. Given any bytes, a decoder returns a value
//! or an error; it never panics, and never allocates more than the bytes that it was given.
//!
//! All integers are little-endian. Every structure has its own checksum.

pub mod cursor;
pub mod epochs;
pub mod frame;
pub mod group;
pub mod headers;
pub mod index;
pub mod marker;
pub mod names;
pub mod segment;
pub mod settings;

/// The version of every structure in this module. Any change of a layout increases it.
pub const VERSION: u16 = 1;

/// The unit in which a disk is assumed to lose or keep a write. A structure that must survive a torn write of
/// its neighbour starts on a multiple of it.
pub const SECTOR_LEN: usize = 512;

/// The granularity of mappings, and the length of a segment's header page.
pub const PAGE_LEN: usize = 4096;

/// The largest offset of a record: a base after it still has a name of 20 digits, and no sum of an offset and
/// a count that fits a segment overflows.
pub const MAX_OFFSET: u64 = 1 << 62;

/// The reason why stored bytes are not valid. It has no path: the caller knows the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Malformed {
    /// There are fewer bytes than the structure needs.
    Short {
        /// Bytes needed.
        needed: usize,
        /// Bytes found.
        found: usize,
    },
    /// The magic number of this structure is missing.
    Magic,
    /// The structure was written by a version of the format that this one does not know.
    Version {
        /// The version found.
        found: u16,
    },
    /// The checksum does not match the bytes.
    Checksum {
        /// The checksum in the file.
        stored: u32,
        /// The checksum of the bytes in the file.
        computed: u32,
    },
    /// A field has a value that no writer stores.
    Field {
        /// The field's name in `docs/format.md`.
        name: &'static str,
        /// Its value.
        value: u64,
    },
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Malformed::Short { needed, found } => {
                write!(f, "{needed} bytes expected, {found} found")
            }
            Malformed::Magic => write!(f, "the magic number is missing"),
            Malformed::Version { found } => {
                write!(f, "format version {found}, this library knows version {VERSION}")
            }
            Malformed::Checksum { stored, computed } => {
                write!(f, "checksum {stored:08x} stored, {computed:08x} computed")
            }
            Malformed::Field { name, value } => write!(f, "field {name} has the value {value}"),
        }
    }
}

impl std::error::Error for Malformed {}

/// Checks that `bytes` has at least `needed` bytes.
pub(crate) fn need(bytes: &[u8], needed: usize) -> Result<(), Malformed> {
    if bytes.len() < needed {
        return Err(Malformed::Short { needed, found: bytes.len() });
    }
    Ok(())
}

/// Checks magic (8 bytes at 0), version (u16 at 8) and the CRC-32 stored at `crc_at` over `bytes[..crc_at]`:
/// the envelope of all small structures.
pub(crate) fn check_envelope(
    bytes: &[u8],
    magic: &[u8; 8],
    crc_at: usize,
) -> Result<(), Malformed> {
    use byteorder::{ByteOrder, LittleEndian as LE};
    need(bytes, crc_at + 4)?;
    if &bytes[..8] != magic {
        return Err(Malformed::Magic);
    }
    let found = LE::read_u16(&bytes[8..10]);
    let stored = LE::read_u32(&bytes[crc_at..crc_at + 4]);
    let computed = crc32fast::hash(&bytes[..crc_at]);
    if found != VERSION {
        // Distinguishes another version of the format from this one with a damaged version field.
        let mut repaired = bytes[..crc_at].to_vec();
        LE::write_u16(&mut repaired[8..10], VERSION);
        if crc32fast::hash(&repaired) == stored {
            return Err(Malformed::Checksum { stored, computed });
        }
        return Err(Malformed::Version { found });
    }
    if stored != computed {
        return Err(Malformed::Checksum { stored, computed });
    }
    Ok(())
}

/// Writes magic, version and checksum around the fields already in `bytes[10..crc_at]`.
pub(crate) fn seal_envelope(bytes: &mut [u8], magic: &[u8; 8], crc_at: usize) {
    use byteorder::{ByteOrder, LittleEndian as LE};
    bytes[..8].copy_from_slice(magic);
    LE::write_u16(&mut bytes[8..10], VERSION);
    let crc = crc32fast::hash(&bytes[..crc_at]);
    LE::write_u32(&mut bytes[crc_at..crc_at + 4], crc);
}
