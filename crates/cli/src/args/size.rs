//! Numbers of bytes, as users write them.

/// `16MiB`, `64k`, `4096`: a number of bytes. Units are powers of 1024.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(format!("{unit:?} is not a unit: use KiB, MiB or GiB")),
    };
    let number: u64 = number.parse().map_err(|_| "write a number, such as 64KiB".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("64KiB"), Ok(64 << 10));
        assert_eq!(parse("2g"), Ok(2 << 30));
        for bad in ["", "k", "1.5M", "-1", "99999999999999999999", "99999999999999G", "1 x"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
