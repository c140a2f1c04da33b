//! Ranges of a topic as people write them.
//!
//! | written | means |
//! |---|---|
//! | `10:20` | offsets 10 to 19 |
//! | `10` | offset 10 |
//! | `10:+5` | five records from offset 10 |
//! | `-5` | the newest five |
//! | `-1h`, `-1h:` | what was appended in the last hour |
//! | `-1h:-30m` | the half hour before the last one |
//! | `@2026-01-01T00:00:00Z:end` | from that time on; `@2026-01-01` and Unix seconds do as well |
//! | `start:end`, `:` | all |

use std::str::FromStr;
use std::time::{Duration, SystemTime};

/// One end of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The first record that is retained.
    First,
    /// Behind the newest record.
    End,
    /// An offset.
    Offset(u64),
    /// So many records before the end.
    FromEnd(u64),
    /// So many records behind the start of the range.
    Plus(u64),
    /// So long ago.
    Ago(Duration),
    /// A time.
    At(SystemTime),
}

/// A half-open range of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) from: Point,
    pub(crate) to: Point,
}

/// How ranges are written, for the help of the commands that take one.
pub(crate) const RANGES: &str = "\
Ranges are half-open. 10:20 offsets; 10 one record; 10:+5 five records; -5 the newest five;
-1h: or -1h the last hour; -1h:-30m; @2026-01-01T00:00:00Z:end; @2026-01-01; @1767225600 (Unix
seconds); start:end.";

/// The records that a command is about.
#[derive(Debug, clap::Args)]
pub(crate) struct Selection {
    /// Which records: 10:20, -5, -1h:, @2026-01-01T00:00:00Z:end [default: all]
    #[arg(allow_hyphen_values = true, conflicts_with_all = ["from", "to"])]
    pub(crate) range: Option<Range>,
    /// The first record: an offset, -5, -1h, @TIME, start
    #[arg(long, allow_hyphen_values = true, value_name = "POINT")]
    pub(crate) from: Option<Point>,
    /// The record behind the last one: an offset, +5, -1h, @TIME, end
    #[arg(long, allow_hyphen_values = true, value_name = "POINT")]
    pub(crate) to: Option<Point>,
}

impl Selection {
    /// The range that was asked for, if one was.
    pub(crate) fn range(&self) -> Option<Range> {
        let range = self.range.unwrap_or(Range::ALL);
        let asked = self.range.is_some() || self.from.is_some() || self.to.is_some();
        let (from, to) = (self.from.unwrap_or(range.from), self.to.unwrap_or(range.to));
        asked.then_some(Range { from, to })
    }
}

impl Range {
    /// Everything.
    pub(crate) const ALL: Range = Range { from: Point::First, to: Point::End };
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Point, String> {
        if let Some(time) = text.strip_prefix('@') {
            return parse_time(time).map(Point::At);
        }
        if let Some(count) = text.strip_prefix('+') {
            return number(count).map(Point::Plus);
        }
        if let Some(back) = text.strip_prefix('-') {
            if back.bytes().all(|byte| byte.is_ascii_digit()) {
                return number(back).map(Point::FromEnd);
            }
            return humantime::parse_duration(back)
                .map(Point::Ago)
                .map_err(|error| format!("-{back}: {error}: write -5 (records) or -1h (time)"));
        }
        match text {
            "start" | "first" => Ok(Point::First),
            "end" => Ok(Point::End),
            other => number(other).map(Point::Offset),
        }
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Range, String> {
        let Some((from, to)) = split(text) else {
            let from = Point::from_str(text)?;
            let to = match from {
                Point::Offset(_) => Point::Plus(1),
                Point::Plus(_) => return Err(format!("{text}: from where? Write 10:{text}")),
                _ => Point::End,
            };
            return Ok(Range { from, to });
        };
        let from = if from.is_empty() { Point::First } else { from.parse()? };
        let to = if to.is_empty() { Point::End } else { to.parse()? };
        if matches!(from, Point::Plus(_)) {
            return Err(format!("{text}: a range cannot start with +"));
        }
        Ok(Range { from, to })
    }
}

/// Splits at the colon between two points. A time has colons of its own, so the one that separates is
/// the one whose two sides can both be read.
fn split(text: &str) -> Option<(&str, &str)> {
    let reads = |point: &str| point.is_empty() || point.parse::<Point>().is_ok();
    let at = |index| (&text[..index], &text[index + 1..]);
    let colons = || text.match_indices(':').map(|(index, _)| at(index));
    // A time of day without seconds is not read, so `12:30:45` has no second reading.
    colons()
        .find(|(from, to)| reads(from) && reads(to))
        .or_else(|| (!text.contains('@')).then(|| colons().next()).flatten())
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is no offset: write 10, -5, -1h, @2026-01-01T00:00:00Z, start or end")
    })
}

/// RFC 3339, a date, or Unix seconds.
fn parse_time(text: &str) -> Result<SystemTime, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let seconds = Duration::from_secs(number(text)?);
        return SystemTime::UNIX_EPOCH.checked_add(seconds).ok_or_else(|| "too late".to_owned());
    }
    let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    humantime::parse_rfc3339_weak(&whole)
        .map_err(|error| format!("@{text}: {error}: write @2026-01-01T00:00:00Z or Unix seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn at(seconds: u64) -> Point {
        Point::At(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    const NEW_YEAR: u64 = 1_767_225_600;

    #[test]
    fn ranges_are_read_as_people_write_them() {
        let hour = Point::Ago(Duration::from_secs(3600));
        for (text, from, to) in [
            ("10:20", Point::Offset(10), Point::Offset(20)),
            ("10", Point::Offset(10), Point::Plus(1)),
            ("10:", Point::Offset(10), Point::End),
            (":10", Point::First, Point::Offset(10)),
            (":", Point::First, Point::End),
            ("10:+5", Point::Offset(10), Point::Plus(5)),
            ("-5", Point::FromEnd(5), Point::End),
            ("-5:-2", Point::FromEnd(5), Point::FromEnd(2)),
            ("-1h", hour, Point::End),
            ("-1h:", hour, Point::End),
            ("-1h:-30m", hour, Point::Ago(Duration::from_secs(1800))),
            ("start:end", Point::First, Point::End),
            ("@2026-01-01", at(NEW_YEAR), Point::End),
            ("@2026-01-01T00:00:00Z", at(NEW_YEAR), Point::End),
            ("@2026-01-01T00:00:00Z:end", at(NEW_YEAR), Point::End),
            ("@2026-01-01T00:00:00Z:@2026-01-01T00:00:10Z", at(NEW_YEAR), at(NEW_YEAR + 10)),
            ("@2026-01-01T00:00:00Z:+3", at(NEW_YEAR), Point::Plus(3)),
            (":@2026-01-01T00:00:00Z", Point::First, at(NEW_YEAR)),
            ("@1767225600:", at(NEW_YEAR), Point::End),
        ] {
            assert_eq!(range(text), Range { from, to }, "{text}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bad in ["", "x", "1:2:3", "+5", "+5:9", "-", "-1q", "@", "@yesterday", "1.5", "--5"] {
            assert!(bad.parse::<Range>().is_err(), "{bad:?}");
        }
        assert!("99999999999999999999".parse::<Range>().is_err());
    }
}
