//! Sizes, times and durabilities as people write and read them.

use std::time::{Duration, SystemTime};

use deaddrop::{Durability, Retention};

/// `16MiB`, `64k`, `4096`: a number of bytes. Units are powers of 1024.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(format!("{unit:?} is no unit: use KiB, MiB or GiB")),
    };
    let number: u64 = number.parse().map_err(|_| "a number of bytes, as 64KiB".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

/// `power-loss`, `process-crash`, `within:500ms`.
pub(crate) fn parse_durability(text: &str) -> Result<Durability, String> {
    match text {
        "power-loss" => Ok(Durability::PowerLoss),
        "process-crash" => Ok(Durability::ProcessCrash),
        other => match other.strip_prefix("within:") {
            Some(interval) => humantime::parse_duration(interval)
                .map(Durability::PowerLossWithin)
                .map_err(|error| format!("within:{interval}: {error}")),
            None => Err("power-loss, process-crash or within:500ms".to_owned()),
        },
    }
}

/// The inverse of [`parse_durability`].
pub(crate) fn durability(durability: Durability) -> String {
    match durability {
        Durability::PowerLoss => "power-loss".into(),
        Durability::ProcessCrash => "process-crash".into(),
        Durability::PowerLossWithin(interval) => {
            format!("within:{}", humantime::format_duration(interval).to_string().replace(' ', ""))
        }
    }
}

/// What a topic keeps.
pub(crate) fn retention(retention: Retention) -> String {
    let mut parts = Vec::new();
    if let Some(age) = retention.age {
        parts.push(format!("age {}", humantime::format_duration(age)));
    }
    if let Some(bytes) = retention.bytes {
        parts.push(format!("size {}", size(bytes)));
    }
    if retention.consumed {
        parts.push("until consumed".to_owned());
    }
    if parts.is_empty() {
        parts.push("forever".to_owned());
    }
    parts.join(", ")
}

/// Bytes, to three digits.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value.fract() == 0.0 {
        format!("{value} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Nanoseconds since the Unix epoch, as RFC 3339 to the microsecond.
pub(crate) fn time(nanos: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
    humantime::format_rfc3339_micros(time).to_string()
}

/// The same to the nanosecond: what was stored, without loss.
pub(crate) fn time_nanos(nanos: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
    humantime::format_rfc3339_nanos(time).to_string()
}

/// Nanoseconds, to three digits.
pub(crate) fn nanos(nanos: u64) -> String {
    let (value, unit) = match nanos {
        0..1_000 => return format!("{nanos} ns"),
        1_000..1_000_000 => (nanos as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (nanos as f64 / 1e6, "ms"),
        _ => (nanos as f64 / 1e9, "s"),
    };
    let digits = match value {
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let text = if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {unit}")
}

/// A number as short as an axis needs it: `1.5M`.
pub(crate) fn short(number: f64) -> String {
    let (value, unit) = match number {
        number if number >= 1e9 => (number / 1e9, "G"),
        number if number >= 1e6 => (number / 1e6, "M"),
        number if number >= 1e3 => (number / 1e3, "k"),
        number => (number, ""),
    };
    format!("{}{unit}", (value * 100.0).round() / 100.0)
}

/// A number with commas between the thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A name with the letter that makes it a plural, unless there is one.
pub(crate) fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("64KiB"), Ok(64 << 10));
        assert_eq!(parse_size("2g"), Ok(2 << 30));
        for bad in ["", "k", "1.5M", "-1", "99999999999999999999", "99999999999999G", "1 x"] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1234567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn times_have_three_digits_and_a_unit_that_suits() {
        for (value, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1 us"),
            (1_234, "1.23 us"),
            (45_678, "45.7 us"),
            (120_000, "120 us"),
            (100_000_000, "100 ms"),
            (12_000_000_000, "12 s"),
        ] {
            assert_eq!(nanos(value), text);
        }
    }

    #[test]
    fn a_durability_is_written_as_it_is_read() {
        for text in ["power-loss", "process-crash", "within:500ms", "within:1m30s"] {
            assert_eq!(durability(parse_durability(text).unwrap()), text);
        }
        assert!(parse_durability("within:").is_err());
        assert!(parse_durability("none").is_err());
    }
}
