//! Decides how to repair a header page and a damaged range: bytes and facts in, decisions out. No I/O here.

use std::ops::Range;

use crate::format::frame::{self, FIXED_LEN};
use crate::format::segment::{self as layout, Header};
use crate::format::{Malformed, SECTOR_LEN};

/// The repair that a header page needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HeaderPage {
    /// Nothing.
    Whole(Header),
    /// The sector at this position is written again from the other one.
    OneSector(Header, usize),
    /// Neither sector describes the segment. `blank`: neither was ever written. `foreign`: the salt of a segment
    /// of another topic, whose header this is.
    Unreadable { blank: bool, what: String, foreign: Option<u64> },
}

/// Describes a segment with the header of another topic.
pub(super) const FOREIGN: &str = "the segment belongs to another topic";

/// Describes the damage if the header sector at this position is damaged and the other one is not.
pub(crate) fn damaged_sector(at: usize) -> &'static str {
    match at {
        0 => "the segment header is unreadable in its first sector, its copy is whole",
        _ => "the copy of the segment header is damaged",
    }
}

/// Looks at a header page of the segment that is named `base` in a topic of this identity. A header of
/// another segment or topic does not count: its salt is not that of the frames that belong here. Nor does one
/// of another version of the format beside a right one: both are always of the same.
pub(super) fn header_page(page: &[u8], base: u64, topic_id: u64) -> Result<HeaderPage, Malformed> {
    let decoded = |at: usize| match page.get(at..at + SECTOR_LEN).map(Header::decode) {
        Some(Err(version @ Malformed::Version { .. })) => Err(version),
        Some(Ok(header)) if header.base == base && header.topic_id == topic_id => Ok(Some(header)),
        _ => Ok(None),
    };
    Ok(match (decoded(0), decoded(layout::HEADER_COPY_AT)) {
        (Ok(Some(header)), Ok(Some(copy))) if header == copy => HeaderPage::Whole(header),
        (Ok(Some(header)), _) => HeaderPage::OneSector(header, layout::HEADER_COPY_AT),
        (_, Ok(Some(header))) => HeaderPage::OneSector(header, 0),
        (Ok(None), Ok(None)) => {
            let (what, foreign) = match Header::decode_page(page) {
                Err(what) => (format!("the segment header is unreadable: {what}"), None),
                Ok(header) if header.topic_id != topic_id => (FOREIGN.into(), Some(header.salt)),
                Ok(header) => {
                    (format!("the header has base {}, the name {base}", header.base), None)
                }
            };
            HeaderPage::Unreadable { blank: layout::is_blank(page), what, foreign }
        }
        (Err(version), _) | (_, Err(version)) => return Err(version),
    })
}

/// A range of a segment that holds no frames of the log, and the offsets that are lost with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gap {
    /// Positions in the file.
    pub(super) range: Range<u64>,
    /// The offsets whose records were there.
    pub(super) lost: Range<u64>,
    /// Why there is no frame at its start.
    pub(super) what: String,
    /// No frame of the log follows it in its segment.
    pub(super) reaches_the_end: bool,
}

impl Gap {
    /// Returns the void frame that covers the range and marks its offsets lost; `None` if the file has no
    /// room for it.
    pub(super) fn void(&self, timestamp: u64, salt: u64, file_len: u64) -> Option<[u8; FIXED_LEN]> {
        let len = u32::try_from(self.range.end.checked_sub(self.range.start)?).ok()? as usize;
        let fits = len >= FIXED_LEN && len % frame::ALIGN == 0 && self.range.end <= file_len;
        fits.then(|| frame::void(len, self.lost.end, timestamp, salt, self.range.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::PAGE_LEN;

    fn header(base: u64) -> Header {
        let (salt, topic_id) = (7, 9);
        Header { epoch: 1, base, salt, topic_id, durable_end: 0, max_timestamp: 0, file_len: 16384 }
    }

    fn page(first: Option<Header>, copy: Option<Header>) -> Vec<u8> {
        let mut page = vec![0; PAGE_LEN];
        for (header, at) in [(first, 0), (copy, layout::HEADER_COPY_AT)] {
            if let Some(header) = header {
                page[at..at + SECTOR_LEN].copy_from_slice(&header.encode());
            }
        }
        page
    }

    #[test]
    fn the_sector_that_is_whole_and_of_this_segment_decides() {
        let (right, wrong) = (header(5), header(6));
        let copy_at = layout::HEADER_COPY_AT;
        for (first, copy, expected) in [
            (Some(right), Some(right), HeaderPage::Whole(right)),
            (Some(right), None, HeaderPage::OneSector(right, copy_at)),
            (None, Some(right), HeaderPage::OneSector(right, 0)),
            (Some(wrong), Some(right), HeaderPage::OneSector(right, 0)),
        ] {
            assert_eq!(header_page(&page(first, copy), 5, 9), Ok(expected));
        }
        for (page, topic_id, of, is_blank, why) in [
            (page(Some(wrong), Some(wrong)), 9, None, false, "has base 6, the name 5"),
            (page(Some(right), Some(right)), 8, Some(7), false, "belongs to another topic"),
            (page(None, None), 9, None, true, "is unreadable"),
            (Vec::new(), 9, None, true, "is unreadable"),
        ] {
            match header_page(&page, 5, topic_id) {
                Ok(HeaderPage::Unreadable { blank, what, foreign }) => {
                    assert!(blank == is_blank && what.contains(why), "{what}");
                    assert_eq!(foreign, of);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_header_of_another_version_is_never_written_over() {
        let mut bytes = page(Some(header(5)), Some(header(5)));
        for at in [0, layout::HEADER_COPY_AT] {
            bytes[at + 8] += 1;
            let crc = crc32fast::hash(&bytes[at..at + layout::CRC_AT]);
            bytes[at + layout::CRC_AT..][..4].copy_from_slice(&crc.to_le_bytes());
        }
        assert!(matches!(header_page(&bytes, 5, 9), Err(Malformed::Version { found: 2 })));
        // Beside a sector that is right, it is damage: both sectors are always of the same version.
        bytes[layout::HEADER_COPY_AT..][..SECTOR_LEN].copy_from_slice(&header(5).encode());
        assert_eq!(header_page(&bytes, 5, 9), Ok(HeaderPage::OneSector(header(5), 0)));
    }

    #[test]
    fn a_void_frame_is_made_only_where_it_fits() {
        let gap = |range: Range<u64>| Gap {
            range,
            lost: 3..5,
            what: String::new(),
            reaches_the_end: false,
        };
        let void = gap(4096..4136).void(1, 7, 8192).unwrap();
        let fixed = frame::Fixed::decode(&void, 40).unwrap();
        fixed.verify(&void, 7, 4096).unwrap();
        assert_eq!((fixed.kind, fixed.len, fixed.offset), (frame::KIND_VOID, 40, 5));
        assert!(gap(4096..4120).void(1, 7, 8192).is_none());
        assert!(gap(8176..8208).void(1, 7, 8192).is_none());
    }
}
