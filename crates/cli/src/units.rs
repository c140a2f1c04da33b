//! Sizes, times and durabilities as users write and read them.

use std::time::{Duration, SystemTime};

use deaddrop::{Durability, Retention};

use crate::args::durability;

impl From<durability::Durability> for Durability {
    fn from(asked: durability::Durability) -> Durability {
        match asked {
            durability::Durability::PowerLoss => Durability::PowerLoss,
            durability::Durability::ProcessCrash => Durability::ProcessCrash,
            durability::Durability::Within(interval) => Durability::PowerLossWithin(interval),
        }
    }
}

/// A durability, as users write it.
pub(crate) fn durability(durability: Durability) -> String {
    match durability {
        Durability::PowerLoss => durability::Durability::PowerLoss,
        Durability::ProcessCrash => durability::Durability::ProcessCrash,
        Durability::PowerLossWithin(interval) => durability::Durability::Within(interval),
    }
    .to_string()
}

/// The records that a topic keeps.
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

/// The same to the nanosecond: the stored value, without loss.
pub(crate) fn time_nanos(nanos: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
    humantime::format_rfc3339_nanos(time).to_string()
}

/// The newest time of some records; `None` if there are none, which is stored as 0.
pub(crate) fn newest(nanos: u64) -> Option<String> {
    (nanos != 0).then(|| time(nanos))
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

/// A number in the short form of an axis: `1.5M`.
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

/// A rate per second: about three digits, and a rate that is not zero is never shown as zero.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate > 0.0 && rate < 0.1 => "<0.1".to_owned(),
        rate if rate > 0.0 && rate < 9.95 => format!("{rate:.1}"),
        rate => grouped(rate.round() as u64),
    }
}

/// A name with a plural s, unless the number is 1.
pub(crate) fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1234567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn rates_are_whole_above_ten_and_never_nothing_if_there_is_something() {
        for (value, text) in [
            (0.0, "0"),
            (0.000_278, "<0.1"),
            (0.5, "0.5"),
            (9.94, "9.9"),
            (9.96, "10"),
            (1_234.567_8, "1,235"),
        ] {
            assert_eq!(rate(value), text);
        }
        assert_eq!([count(1, "record"), count(1_000, "record")], ["1 record", "1,000 records"]);
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
}
