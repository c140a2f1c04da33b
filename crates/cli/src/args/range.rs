//! Ranges of a topic as users write them.
//!
//! | written | means |
//! |---|---|
//! | `10:20` | offsets 10 to 19 |
//! | `10` | offset 10 |
//! | `10:+5` | five records from offset 10 |
//! | `-5` | the newest five |
//! | `-1h`, `-1h:` | the records appended in the last hour |
//! | `-1h:-30m` | the half hour before the last one |
//! | `@2026-01-01T00:00:00Z:end` | from that time on; other ways to write a time are in [`time`] |
//! | `@15:40:@16:00` | between two times, each with its `@` |
//! | `start:end`, `:` | all |
//!
//! A range that ends before it begins is refused. A range from a time to an offset is accepted only if
//! the time ends with its zone: `@15:40:20` is one time, and `@1767225600:20` is refused.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use super::time;

/// One end of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The first record that is retained.
    First,
    /// After the newest record.
    End,
    /// An offset.
    Offset(u64),
    /// This many records before the end.
    FromEnd(u64),
    /// This many records after the start of the range.
    Plus(u64),
    /// This long ago.
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
-1h: or -1h the last hour; -1h:-30m; @TIME or @TIME:end from then on; @TIME:@TIME; start:end.";

/// How times are written, for the help of the commands that take a range or a point.
pub(crate) const TIMES: &str = "\
Times: @2026-11-29T15:40:00Z; @2026-11-29T15:40+01:00; @2026-11-29 (midnight); @15:40 (today);
Unix time of 10 digits (seconds), 13 (ms), 16 (us) or 19 (ns). A time without a zone is local
time (TZ), and so are dates.";

/// The records that a command is about.
#[derive(Debug, clap::Args)]
pub(crate) struct Selection {
    /// Select these records: 10:20, -5, -1h:, @2026-01-01T00:00:00Z:end [default: all]
    #[arg(allow_hyphen_values = true, conflicts_with_all = ["from", "to"])]
    pub(crate) range: Option<Range>,
    /// Start at this record: an offset, -5, -1h, @TIME, start
    #[arg(long, allow_hyphen_values = true, value_name = "POINT")]
    pub(crate) from: Option<Point>,
    /// End before this record: an offset, +5, -1h, @TIME, end
    #[arg(long, allow_hyphen_values = true, value_name = "POINT")]
    pub(crate) to: Option<Point>,
}

impl Selection {
    /// The range that the user asked for, if any.
    pub(crate) fn range(&self) -> Option<Range> {
        let range = self.range.unwrap_or(Range::ALL);
        let asked = self.range.is_some() || self.from.is_some() || self.to.is_some();
        let (from, to) = (self.from.unwrap_or(range.from), self.to.unwrap_or(range.to));
        asked.then_some(Range { from, to })
    }
}

/// For commands that destroy or skip records.
#[derive(Debug, clap::Args)]
pub(crate) struct Future {
    /// Accept a time in the future, which is otherwise refused because all records are older
    #[arg(long)]
    pub(crate) allow_future: bool,
}

impl Range {
    /// All records.
    pub(crate) const ALL: Range = Range { from: Point::First, to: Point::End };

    /// Whether it ends before it begins, in any topic.
    pub(crate) fn is_reversed(&self) -> bool {
        match (self.from, self.to) {
            (Point::Offset(from), Point::Offset(to)) => from > to,
            (Point::At(from), Point::At(to)) => from > to,
            (Point::FromEnd(from), Point::FromEnd(to)) => from < to,
            (Point::Ago(from), Point::Ago(to)) => from < to,
            (from, to) => from == Point::End && to == Point::First,
        }
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Point, String> {
        if let Some(time) = text.strip_prefix('@') {
            return time::parse(time).map(Point::At);
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
        let Some((from, to)) = split(text)? else {
            let from = Point::from_str(text)?;
            let to = match from {
                Point::Offset(_) => Point::Plus(1),
                Point::Plus(_) => return Err(format!("{text} needs a start: write 10:{text}")),
                _ => Point::End,
            };
            return Ok(Range { from, to });
        };
        let written = from;
        let from = if from.is_empty() { Point::First } else { from.parse()? };
        let to = if to.is_empty() { Point::End } else { to.parse()? };
        match (from, to) {
            (Point::Plus(_), _) => return Err(format!("{text}: a range cannot start with +")),
            (Point::At(_), Point::Offset(offset)) if !has_zone(written) => {
                return Err(format!(
                    "{text} goes from a time to offset {offset}: if that is meant, write --from \
                     and --to; a second time needs its own @: @15:40:@16:00"
                ))
            }
            _ => {}
        }
        let range = Range { from, to };
        if range.is_reversed() {
            return Err(format!("{text}: the range ends before it begins"));
        }
        Ok(range)
    }
}

/// Whether a time ends with its full zone: then the text after another colon is not part of it.
fn has_zone(time: &str) -> bool {
    let full = time.len().checked_sub("+01:00".len()).and_then(|at| time.get(at..));
    time.ends_with(['Z', 'z'])
        || full.is_some_and(|zone| zone.starts_with(['+', '-']) && zone[3..].starts_with(':'))
}

/// Splits at the colon between two points. A time contains colons itself, so `@15:40:30` is one time, and
/// the separating colon is the one that has a valid point on both sides.
fn split(text: &str) -> Result<Option<(&str, &str)>, String> {
    let whole = text.strip_prefix('@').map(time::parse);
    if let Some(Ok(_)) = whole {
        return Ok(None);
    }
    let reads = |point: &str| point.is_empty() || point.parse::<Point>().is_ok();
    let mut colons = text.match_indices(':').map(|(index, _)| (&text[..index], &text[index + 1..]));
    if !text.contains('@') {
        return Ok(colons.next());
    }
    let mut both = colons.filter(|(from, to)| reads(from) && reads(to));
    match (both.next(), both.next(), whole) {
        (Some(_), Some(_), _) => {
            Err(format!("{text} is ambiguous: write its ends with --from and --to"))
        }
        (None, _, None) => Err(format!("{text}: write times as {}", time::FORMS)),
        (one, ..) => Ok(one),
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not an offset: write 10, -5, -1h, @2026-01-01T00:00:00Z, start or end")
    })
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
            ("@2026-01-01Z", at(NEW_YEAR), Point::End),
            ("@2026-01-01T00:00:00Z", at(NEW_YEAR), Point::End),
            ("@2026-01-01T00:00Z", at(NEW_YEAR), Point::End),
            ("@2026-01-01T01:00:00+01:00", at(NEW_YEAR), Point::End),
            ("@2026-01-01T01:00:00+01:00:end", at(NEW_YEAR), Point::End),
            ("@2026-01-01T01:00+01:00:+3", at(NEW_YEAR), Point::Plus(3)),
            ("@2026-01-01T01:00+01:+3", at(NEW_YEAR), Point::Plus(3)),
            ("@2026-01-01T00:00:00Z:end", at(NEW_YEAR), Point::End),
            ("@2026-01-01T00:00:00Z:@2026-01-01T00:00:10Z", at(NEW_YEAR), at(NEW_YEAR + 10)),
            ("@2026-01-01T00:00Z:@2026-01-01T00:00:10Z", at(NEW_YEAR), at(NEW_YEAR + 10)),
            ("@2026-01-01T00:00:00Z:+3", at(NEW_YEAR), Point::Plus(3)),
            ("@2026-01-01T00:00Z:-3", at(NEW_YEAR), Point::FromEnd(3)),
            (":@2026-01-01T00:00:00Z", Point::First, at(NEW_YEAR)),
            ("10:@2026-01-01T00:00:00Z", Point::Offset(10), at(NEW_YEAR)),
            ("@2026-01-01T00:00:00Z:20", at(NEW_YEAR), Point::Offset(20)),
            ("@2026-01-01T01:00+01:00:20", at(NEW_YEAR), Point::Offset(20)),
            ("@1767225600:", at(NEW_YEAR), Point::End),
            ("@1767225600000:@1767225601000000", at(NEW_YEAR), at(NEW_YEAR + 1)),
            ("@1767225600:@1767225601000000000", at(NEW_YEAR), at(NEW_YEAR + 1)),
            ("5:5", Point::Offset(5), Point::Offset(5)),
        ] {
            assert_eq!(range(text), Range { from, to }, "{text}");
        }
    }

    #[test]
    fn a_time_of_day_is_one_time_and_not_two_numbers() {
        for text in ["@15:40", "@15:40:30", "@2026-11-29T15:40", "@2026-11-29 15:40"] {
            let Range { from: Point::At(_), to: Point::End } = range(text) else {
                panic!("{text}: {:?}", range(text));
            };
        }
        let Range { from: Point::At(from), to: Point::At(to) } = range("@15:40:@15:40:30") else {
            panic!("two times");
        };
        assert_eq!(to.duration_since(from).ok(), Some(Duration::from_secs(30)));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bad in [
            "",
            "x",
            "1:2:3",
            "+5",
            "+5:9",
            "-",
            "-1q",
            "@",
            "@yesterday",
            "1.5",
            "--5",
            // A year, an hour, a day: anything but a number of seconds.
            "@15",
            "@2026",
            "@20261129",
            "@15:",
            "@2026:",
            "15:40:00",
            // A time and an offset.
            "@1767225600:20",
            "@2026-01-01:20",
            "@15:40:99",
            "@2026-01-01T00:00+01:99",
            // The second one has no @.
            "@15:40:16:00",
            "@2026-01-01T00:00Z:2026-01-02",
        ] {
            assert!(bad.parse::<Range>().is_err(), "{bad:?}");
        }
        assert!("99999999999999999999".parse::<Range>().is_err());
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_refused() {
        for bad in [
            "5:2",
            "-2:-5",
            "-30m:-1h",
            "@16:00:@15:00",
            "@1767225601:@1767225600",
            "end:start",
            "@1767225600001:@1767225600",
        ] {
            let error = bad.parse::<Range>().unwrap_err();
            assert!(error.contains("ends before it begins"), "{bad}: {error}");
        }
    }
}
