//! The `traceparent` of the W3C's Trace Context.

/// The longest `traceparent` that is carried: the W3C's is 55 bytes, and later versions may add fields.
const MAX_TRACEPARENT_LEN: usize = 128;

/// Returns `Ok` for a `traceparent` as the W3C's Trace Context defines it, or the reason why `text` is not
/// one: version, trace id, parent id and flags in lower-case hexadecimal, neither id all zeros. Versions
/// above 00 may have more after another dash.
pub(super) fn check_traceparent(text: &str) -> Result<(), &'static str> {
    let hex = |from: usize, to: usize| {
        let part = text.as_bytes().get(from..to)?;
        let lower = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        part.iter().all(lower).then_some(part)
    };
    let parts = (|| Some((hex(0, 2)?, hex(3, 35)?, hex(36, 52)?, hex(53, 55)?)))();
    let (version, trace, parent, _) =
        parts.ok_or("it is not version-traceid-parentid-flags in lower-case hexadecimal")?;
    if [2, 35, 52].iter().any(|&at| text.as_bytes()[at] != b'-') {
        return Err("its parts are not separated by dashes");
    }
    let is_zero = |part: &[u8]| part.iter().all(|&byte| byte == b'0');
    if is_zero(trace) || is_zero(parent) {
        return Err("an id of zeros is invalid");
    }
    match (version, text.len()) {
        (b"ff", _) => Err("version ff is invalid"),
        (_, 55) => Ok(()),
        (b"00", _) => Err("version 00 ends after the flags"),
        (_, len) if len > MAX_TRACEPARENT_LEN => Err("it is longer than 128 bytes"),
        _ if text.as_bytes()[55] == b'-' && text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(())
        }
        _ => Err("the part after the flags does not begin with a dash, or is not printable"),
    }
}

#[cfg(test)]
mod tests {
    use super::check_traceparent;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn only_what_the_standard_allows_is_a_traceparent() {
        check_traceparent(GOOD).unwrap();
        check_traceparent(&format!("01{}-more", &GOOD[2..])).unwrap();
        for len in 0..GOOD.len() {
            assert!(check_traceparent(&GOOD[..len]).is_err(), "cut to {len}");
        }
        let bad = [
            GOOD.to_uppercase(),
            format!("{GOOD}-more"),
            format!("ff{}", &GOOD[2..]),
            format!("01{}.more", &GOOD[2..]),
            format!("01{}-{}", &GOOD[2..], "x".repeat(200)),
            format!("01{}-a b", &GOOD[2..]),
            GOOD.replace('-', "_"),
            GOOD.replace("b7ad6b7169203331", "0000000000000000"),
            GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            "00-0af7651916cd43dd8448eb211c8031ü-b7ad6b7169203331-01".to_owned(),
        ];
        for text in bad {
            assert!(check_traceparent(&text).is_err(), "{text}");
        }
    }
}
