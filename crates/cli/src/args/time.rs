//! Points in time as users and programs write them.
//!
//! | written | means |
//! |---|---|
//! | `2026-11-29T15:40:00+01:00`, `2026-11-29 15:40Z` | that instant: what `date -Iseconds` and `%d` print |
//! | `2026-11-29T15:40`, `2026-11-29` | local time; a date alone is its midnight |
//! | `15:40`, `15:40:30Z` | today, in local time or in the given zone |
//! | 10, 13, 16 or 19 digits | Unix seconds, milliseconds, microseconds or nanoseconds |
//!
//! Everything else is refused: a number of another length could be a year, an hour or an offset.

use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::Timestamp;

/// The accepted forms, for messages and help texts.
pub(crate) const FORMS: &str = "\
@2026-11-29T15:40:00Z, with +01:00 in place of Z, or without a zone in local time; @2026-11-29 \
(midnight); @15:40 (today); Unix time of 10 digits (s), 13 (ms), 16 (us) or 19 (ns)";

/// Returns the instant that `text` means, without the `@`, or the reason why it is not valid and the
/// accepted forms.
pub(crate) fn parse(text: &str) -> Result<SystemTime, String> {
    let time = parse_in(text, Timestamp::now(), local_zone).and_then(|time| {
        let since = Duration::try_from(time.as_duration()).map_err(|_| "before 1970".to_owned())?;
        SystemTime::UNIX_EPOCH.checked_add(since).ok_or_else(|| "too late".to_owned())
    });
    time.map_err(|why| format!("@{text}: {why}; write {FORMS}"))
}

fn parse_in(
    text: &str,
    now: Timestamp,
    local: impl FnOnce() -> Result<TimeZone, String>,
) -> Result<Timestamp, String> {
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return unix(text);
    }
    let (date, rest) = split_date(text)?;
    let zone_at = rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len());
    let (time, zone) = rest.split_at(zone_at);
    let zone = match zone {
        "" => local()?,
        "Z" | "z" => TimeZone::UTC,
        offset => TimeZone::fixed(parse_offset(offset)?),
    };
    let date = date.unwrap_or_else(|| zone.to_datetime(now).date());
    // `ls --full-time` puts a space in front of the zone.
    let time = if zone_at < rest.len() { time.strip_suffix(' ').unwrap_or(time) } else { time };
    let time = if time.is_empty() { Time::midnight() } else { parse_time(time)? };
    instant(DateTime::from_parts(date, time), &zone)
}

/// Unix time, whose number of digits determines its unit. With ten digits it may have a fraction.
fn unix(text: &str) -> Result<Timestamp, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let unit = match (whole.len(), fraction.len()) {
        (10, 0..=9) => 1_000_000_000,
        (13, 0) => 1_000_000,
        (16, 0) => 1_000,
        (19, 0) => 1,
        (digits, _) => return Err(format!("{digits} digits are not a time")),
    };
    let number = |text: &str| text.parse::<i128>().map_err(|error| error.to_string());
    let nanos = number(whole)? * unit + number(&format!("{fraction:0<9}"))?;
    Timestamp::from_nanosecond(nanos).map_err(|error| error.to_string())
}

/// The date at the start, if there is one, and the text after it.
fn split_date(text: &str) -> Result<(Option<Date>, &str), String> {
    const DATE_LEN: usize = "2026-11-29".len();
    let is_date = text.as_bytes().get(4) == Some(&b'-');
    let Some((date, rest)) = text.split_at_checked(DATE_LEN).filter(|_| is_date) else {
        // Without a date, a time of day needs its minutes: an hour alone could be anything.
        let is_time = text.as_bytes().get(2) == Some(&b':');
        return if is_time { Ok((None, text)) } else { Err("not a time".to_owned()) };
    };
    let date = date.parse::<Date>().map_err(|error| error.to_string())?;
    let time = rest.strip_prefix(['T', 't', ' ']);
    if time == Some("") {
        return Err("no time of day follows the date".to_owned());
    }
    Ok((Some(date), time.unwrap_or(rest)))
}

fn parse_time(text: &str) -> Result<Time, String> {
    if !text.bytes().all(|byte| byte.is_ascii_digit() || b":.,".contains(&byte)) {
        return Err(format!("{text:?} is not a time of day"));
    }
    text.parse::<Time>().map_err(|error| error.to_string())
}

/// `+01:00`, `+0100`, `+01`.
fn parse_offset(text: &str) -> Result<Offset, String> {
    let wrong = || format!("{text:?} is not a zone: +01:00 and Z are");
    let (sign, digits) = text.split_at(1);
    let digits = match digits.len() {
        5 if digits.as_bytes()[2] == b':' => digits.replace(':', ""),
        2 | 4 => digits.to_owned(),
        _ => return Err(wrong()),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: i32 = format!("{digits:0<4}").parse().map_err(|_| wrong())?;
    let (hours, minutes) = (number / 100, number % 100);
    if hours > 15 || minutes > 59 {
        return Err(wrong());
    }
    let seconds = (hours * 60 + minutes) * 60;
    Offset::from_seconds(if sign == "-" { -seconds } else { seconds }).map_err(|_| wrong())
}

/// A time that the wall clock in `zone` shows exactly once. Where clocks are set back, an hour happens
/// twice; where they are set forward, one does not happen. Such a time is refused.
fn instant(written: DateTime, zone: &TimeZone) -> Result<Timestamp, String> {
    let ambiguous = zone.to_ambiguous_timestamp(written);
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => {
            ambiguous.unambiguous().map_err(|error| error.to_string())
        }
        AmbiguousOffset::Gap { before, after } => Err(format!(
            "in local time clocks skipped it, {before} to {after}: write it with a zone"
        )),
        AmbiguousOffset::Fold { before, after } => Err(format!(
            "in local time it happened twice, at {before} and {after}: write it with a zone"
        )),
    }
}

/// The time zone of this process: TZ, or that of the system. Without either it is UTC, as for `date`.
fn local_zone() -> Result<TimeZone, String> {
    if std::env::var_os("TZ").is_none() && !Path::new("/etc/localtime").exists() {
        return Ok(TimeZone::UTC);
    }
    TimeZone::try_system().map_err(|error| {
        format!("the local time zone is not known ({error}): write it with a zone")
    })
}

/// Parses a duration as a user writes it.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "not a duration: write 500ms, 5s, 10m, 1h, 7d or 1h30m".to_owned())
}

/// An instant as it is shown to the user who named it: in UTC, like all times of the log.
pub(crate) fn show(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-29T12:00:00Z, when clocks in Berlin show 13:00.
    const NOON: i64 = 1_795_953_600;

    fn read(text: &str, zone: &str) -> Result<i128, String> {
        let now = Timestamp::from_second(NOON).unwrap();
        let zone = TimeZone::posix(zone).unwrap();
        parse_in(text, now, || Ok(zone)).map(|time| time.as_nanosecond())
    }

    const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

    #[test]
    fn digits_are_read_by_their_magnitude() {
        let nanos = i128::from(NOON) * 1_000_000_000;
        for (text, plus) in [
            ("1795953600", 0),
            ("1795953600123", 123_000_000),
            ("1795953600123456", 123_456_000),
            ("1795953600123456789", 123_456_789),
            ("1795953600.5", 500_000_000),
            ("1795953600.123456789", 123_456_789),
        ] {
            assert_eq!(read(text, BERLIN), Ok(nanos + plus), "{text}");
        }
        for bad in
            ["", ".", "15", "2026", "20261129", "123456789", "12345678901", "1795953600123.5"]
        {
            assert!(read(bad, BERLIN).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_time_without_a_zone_is_local() {
        let hour = 3600;
        for (text, seconds) in [
            ("2026-11-29T12:00:00Z", NOON),
            ("2026-11-29t12:00z", NOON),
            ("2026-11-29 12:00Z", NOON),
            ("2026-11-29T13:00:00+01:00", NOON),
            ("2026-11-29T13:00+0100", NOON),
            ("2026-11-29T13+01", NOON),
            ("2026-11-29 07:00:00 -0500", NOON),
            ("2026-11-29T13:00", NOON),
            ("2026-11-29 13:00:30", NOON + 30),
            ("13:00", NOON),
            ("13:00:30", NOON + 30),
            ("12:00Z", NOON),
            ("14:00+02:00", NOON),
            ("15:40", NOON + 2 * hour + 40 * 60),
            ("2026-11-29", NOON - 13 * hour),
            ("2026-11-29Z", NOON - 12 * hour),
            // Summer time.
            ("2026-07-01T02:00", 1_782_864_000),
        ] {
            assert_eq!(read(text, BERLIN), Ok(i128::from(seconds) * 1_000_000_000), "{text}");
        }
        let comma = read("2026-11-29T13:00:00,5+01:00", BERLIN);
        assert_eq!(comma, read("2026-11-29T12:00:00.5Z", BERLIN));
    }

    #[test]
    fn today_is_the_day_of_the_zone_that_is_written() {
        // At noon UTC it is already the 30th where clocks are 13 hours ahead.
        assert_eq!(read("00:30+13:00", BERLIN), read("2026-11-30T00:30+13:00", BERLIN));
        assert_eq!(read("00:30", "ABC-13"), read("2026-11-30T00:30+13:00", BERLIN));
    }

    #[test]
    fn what_can_be_read_in_two_ways_or_in_none_is_refused() {
        for bad in [
            "yesterday",
            "15",
            "9:40",
            "15:4",
            "25:00",
            "15:40:61",
            "15:40 ",
            "15:",
            "2026-13-01",
            "2026-02-30",
            "2026-11",
            "2026-11-29T",
            "2026-11-29T15:40+1",
            "2026-11-29T15:40+01:99",
            "2026-11-29T15:40+99:00",
            "2026-11-29T15:40 CET",
            "2026-11-29T15:40Zx",
            "15:40+01:00Z",
            "29.11.2026",
            "11/29/2026",
            "-5",
            "+5",
            "2026-11-29T15:40 +aa",
            "2026-11-2\u{e9}",
            // Clocks were set forward at 2:00 and back at 3:00.
            "2026-03-29T02:30",
            "2026-10-25T02:30",
        ] {
            assert!(read(bad, BERLIN).is_err(), "{bad:?}");
        }
        assert!(read("2026-10-25T02:30+01:00", BERLIN).is_ok());
        assert!(read("2026-10-25T02:30", "UTC0").is_ok());
    }
}
