//! A record's headers: names and values, in the order in which they were added.
//!
//! Each is a u16 name length, a u32 value length, the name (UTF-8) and the value. Names that start with
//! [`RESERVED`] belong to the layers of this crate.

use byteorder::{ByteOrder, LittleEndian as LE};

use super::{frame::MAX_HEADERS_LEN, Malformed};

/// The prefix of header names that callers cannot set.
pub const RESERVED: &str = "deaddrop.";
/// Length of the two lengths before each header.
pub const FIXED_LEN: usize = 6;
/// The longest name.
pub const MAX_NAME_LEN: usize = u16::MAX as usize;

/// Appends one header to encoded ones. Returns `None` if the name or the sum is too long.
pub fn push(encoded: &mut Vec<u8>, name: &str, value: &[u8]) -> Option<()> {
    let header = [(name, value)];
    let header = ToEncode::Listed(&header);
    if !header.fits() || encoded.len() + header.encoded_len() > MAX_HEADERS_LEN {
        return None;
    }
    header.for_each_piece(&mut |piece| encoded.extend_from_slice(piece));
    Some(())
}

/// The headers of a record to append.
#[derive(Debug, Clone, Copy)]
pub enum ToEncode<'a> {
    /// As they are stored.
    Encoded(&'a [u8]),
    /// As a caller lists them.
    Listed(&'a [(&'a str, &'a [u8])]),
}

impl<'a> From<&'a [u8]> for ToEncode<'a> {
    fn from(encoded: &'a [u8]) -> ToEncode<'a> {
        ToEncode::Encoded(encoded)
    }
}

impl ToEncode<'_> {
    /// Returns whether no name is too long, nor all of them together.
    pub fn fits(&self) -> bool {
        let names_fit = match self {
            ToEncode::Encoded(_) => true,
            ToEncode::Listed(list) => list.iter().all(|(name, _)| name.len() <= MAX_NAME_LEN),
        };
        names_fit && self.encoded_len() <= MAX_HEADERS_LEN
    }

    /// Returns their length in a frame, in bytes.
    #[inline]
    pub fn encoded_len(&self) -> usize {
        match self {
            ToEncode::Encoded(encoded) => encoded.len(),
            ToEncode::Listed(list) => {
                list.iter().map(|(name, value)| FIXED_LEN + name.len() + value.len()).sum()
            }
        }
    }

    /// Calls `each` with the bytes that a frame stores, in order. They [fit](Self::fits).
    #[inline(always)]
    pub fn for_each_piece(&self, each: &mut impl FnMut(&[u8])) {
        match self {
            ToEncode::Encoded(encoded) => each(encoded),
            ToEncode::Listed(list) => {
                for (name, value) in *list {
                    let mut lens = [0; FIXED_LEN];
                    LE::write_u16(&mut lens, name.len() as u16);
                    LE::write_u32(&mut lens[2..], value.len() as u32);
                    [&lens, name.as_bytes(), value].into_iter().for_each(&mut *each);
                }
            }
        }
    }
}

/// Iterates over the headers in `encoded`, in order. Ends at the first header that does not fit.
pub fn iter(encoded: &[u8]) -> Headers<'_> {
    Headers { rest: encoded }
}

/// Checks that every byte of `encoded` belongs to a header.
pub fn check(encoded: &[u8]) -> Result<(), Malformed> {
    let mut headers = iter(encoded);
    while headers.next().is_some() {}
    if headers.rest.is_empty() {
        Ok(())
    } else {
        Err(Malformed::Field {
            name: "headers",
            value: (encoded.len() - headers.rest.len()) as u64,
        })
    }
}

/// See [`iter`].
#[derive(Debug, Clone)]
pub struct Headers<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let lens = self.rest.get(..FIXED_LEN)?;
        let name_end = FIXED_LEN + LE::read_u16(lens) as usize;
        let value_end = name_end.checked_add(LE::read_u32(&lens[2..]) as usize)?;
        let value = self.rest.get(name_end..value_end)?;
        let name = std::str::from_utf8(&self.rest[FIXED_LEN..name_end]).ok()?;
        self.rest = &self.rest[value_end..];
        Some((name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_in_order_and_a_cut_one_ends_them() {
        let mut encoded = Vec::new();
        push(&mut encoded, "a", b"1").unwrap();
        push(&mut encoded, "b", b"").unwrap();
        assert_eq!(iter(&encoded).collect::<Vec<_>>(), [("a", &b"1"[..]), ("b", &b""[..])]);
        check(&encoded).unwrap();
        for len in 1..encoded.len() {
            assert!(iter(&encoded[..len]).count() < 2);
        }
        assert!(check(&encoded[..encoded.len() - 1]).is_err());
    }
}
