//! Sizes, times and durabilities as users write and read them.

use std::time::{Duration, SystemTime};

use deaddrop::{Durability, Retention};
pub(crate) use deaddrop_bench::units::{count, grouped, nanos, size};

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

/// A rate per second: about three digits, and a rate that is not zero is never shown as zero.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate > 0.0 && rate < 0.1 => "<0.1".to_owned(),
        rate if rate > 0.0 && rate < 9.95 => format!("{rate:.1}"),
        rate => grouped(rate.round() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
