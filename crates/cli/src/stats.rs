//! `stats`: shows how much a topic contains, how fast it grows, and which consumers lag.

mod sizes;

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use deaddrop::{ConsumerInfo, Error, Reader, Start, Topic};
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::stats::Stats;
use crate::exchange::{one_of_all, worse};
use crate::failure::{Exit, Failure};
use crate::ls::segments;
use crate::missing::say_missing;
use crate::output::{Colour, Out};
use crate::{consumers, info, progress, units, Global};
use sizes::{Bucket, Sizes};

/// How often the search for a record is repeated when retention drops it meanwhile.
const TRIES: u32 = 100;
/// The length of the longest bar of the histogram, in characters.
const BAR_LEN: u64 = 40;

/// A topic.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Numbers {
    /// Its name.
    topic: String,
    /// Records that can be read.
    records: u64,
    /// First offset that is retained.
    first: u64,
    /// Offset after the newest record that readers see.
    end: u64,
    /// Records below it are known to survive power loss; without a writer, by the newest checkpoint: more of them
    /// may.
    durable_end: u64,
    /// Segment files.
    segments: usize,
    /// Their bytes.
    bytes: u64,
    /// Bytes of all payloads; estimated unless exact.
    payload_bytes: u64,
    /// All records were read.
    exact: bool,
    /// Bytes of segment files for each byte of payload.
    overhead: Option<f64>,
    last_minute: Rate,
    last_hour: Rate,
    /// When the first record was appended: RFC 3339, UTC.
    oldest: Option<String>,
    /// When the last one was appended.
    newest: Option<String>,
    sizes: SizeNumbers,
    consumers: Vec<consumers::Row>,
}

/// Records that were appended in some period before now.
#[derive(Debug, JsonSchema, Serialize)]
struct Rate {
    /// Records appended in this time.
    records: u64,
    /// The same as a rate.
    per_second: f64,
}

#[derive(Debug, JsonSchema, Serialize)]
struct SizeNumbers {
    /// Records whose sizes were looked at.
    records: u64,
    /// Of these, records that cannot be read.
    damaged: u64,
    /// Bytes of the smallest payload.
    min: Option<u64>,
    /// Half of the payloads are not larger.
    p50: Option<u64>,
    /// Nine of ten are not.
    p90: Option<u64>,
    /// 99 of 100 are not.
    p99: Option<u64>,
    /// Bytes of the largest.
    max: Option<u64>,
    histogram: Vec<Bucket>,
}

impl Stats {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let log = global.open_read_only()?;
        let topics = if self.topics.is_empty() { log.topics()? } else { self.topics.clone() };
        let mut exit = Exit::Ok;
        for (index, name) in topics.iter().enumerate() {
            let topic = match self.topics.is_empty() {
                true => one_of_all(&log, name, &mut exit),
                false => Some(log.open_topic(name)?),
            };
            let Some(topic) = topic else { continue };
            let consumers = topic.consumers()?;
            let numbers = self.count(&topic, &consumers)?;
            if numbers.sizes.damaged > 0 || consumers.iter().any(|info| info.committed.is_err()) {
                exit = Exit::Corruption;
            }
            exit = worse(exit, say_missing(&topic)?.1);
            if out.is_json() {
                out.object(&numbers)?;
                continue;
            }
            if index > 0 {
                writeln!(out)?;
            }
            print(out, &numbers, topic.is_live())?;
            if !consumers.is_empty() {
                writeln!(out)?;
                consumers::print(out, &consumers, numbers.first)?;
            }
        }
        Ok(exit)
    }

    fn count(&self, topic: &Topic, consumers: &[ConsumerInfo]) -> Result<Numbers, Failure> {
        let (first, end) = (topic.first_offset()?, topic.high_watermark()?);
        let records = end.saturating_sub(first);
        let files = segments(topic);
        let bytes: u64 = files.iter().map(|file| file.bytes).sum();
        let bar = match self.full {
            true => progress::bar(Some(records), true).with_message(topic.name().to_owned()),
            false => indicatif::ProgressBar::hidden(),
        };
        let sizes = Sizes::of(topic, first..end, self.full, &bar)?;
        bar.finish_and_clear();
        let exact = sizes.seen == records;
        let payload_bytes = match sizes.seen {
            0 => 0,
            _ if exact => sizes.payload_bytes,
            seen => {
                (u128::from(sizes.payload_bytes) * u128::from(records) / u128::from(seen)) as u64
            }
        };
        Ok(Numbers {
            topic: topic.name().to_owned(),
            records,
            first,
            end,
            durable_end: info::durable_end(topic)?,
            segments: files.len(),
            bytes,
            payload_bytes,
            exact,
            overhead: (payload_bytes > 0).then(|| bytes as f64 / payload_bytes as f64),
            last_minute: rate(topic, end, Duration::from_secs(60))?,
            last_hour: rate(topic, end, Duration::from_secs(3600))?,
            oldest: time_of(topic, Start::First)?,
            newest: time_of(topic, Start::Last)?,
            sizes: SizeNumbers {
                records: sizes.seen,
                damaged: sizes.damaged,
                min: sizes.min(),
                p50: sizes.at(0.5),
                p90: sizes.at(0.9),
                p99: sizes.at(0.99),
                max: sizes.max(),
                histogram: sizes.buckets(),
            },
            consumers: consumers.iter().map(|info| consumers::Row::of(info, first)).collect(),
        })
    }
}

/// Records below `end` that were appended in the last `time`.
fn rate(topic: &Topic, end: u64, time: Duration) -> Result<Rate, Failure> {
    let since = SystemTime::now().checked_sub(time).unwrap_or(SystemTime::UNIX_EPOCH);
    let records = end.saturating_sub(first_since(topic, since)?);
    Ok(Rate { records, per_second: records as f64 / time.as_secs_f64() })
}

/// The offset of the first record of this time or later; the end if there is none. Finding the time's
/// position stops at damage, so records after it may be older and are skipped.
fn first_since(topic: &Topic, since: SystemTime) -> Result<u64, Failure> {
    let mut reader = reader_at(topic, Start::Time(since))?;
    loop {
        let stands_at = reader.offset();
        match reader.next() {
            Ok(Some(record)) => {
                let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(record.timestamp_nanos());
                if at >= since {
                    return Ok(record.offset());
                }
            }
            Ok(None) | Err(Error::Trimmed { .. }) => return Ok(stands_at),
            Err(Error::Corrupt { .. }) => {
                reader.skip_damage()?;
            }
            Err(Error::Lost { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A reader at `start`; at the first record if retention drops the one at `start` meanwhile.
fn reader_at(topic: &Topic, start: Start) -> Result<Reader, Failure> {
    Ok(match topic.reader(start) {
        Err(Error::Trimmed { .. }) => topic.reader(Start::First)?,
        other => other?,
    })
}

/// The time at which the record at `start`, or the next one that is left, was appended; none if there is
/// no record, or it is damaged.
fn time_of(topic: &Topic, start: Start) -> Result<Option<String>, Failure> {
    let mut reader = reader_at(topic, start)?;
    for _ in 0..TRIES {
        match reader.next() {
            Ok(record) => return Ok(record.map(|record| units::time(record.timestamp_nanos()))),
            // The sampling of sizes has reported it.
            Err(Error::Corrupt { .. }) if start == Start::Last => return behind_damage(topic),
            Err(Error::Corrupt { .. }) => return Ok(None),
            Err(Error::Lost { .. }) => {}
            Err(Error::Trimmed { .. }) => reader.seek(Start::First)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// The time at which the newest record was appended, if there is damage before it.
fn behind_damage(topic: &Topic) -> Result<Option<String>, Failure> {
    let mut reader = topic.reader(Start::Last)?;
    let mut newest = None;
    // A writer may append past the damage as fast as this reads.
    let end = topic.high_watermark()?;
    while reader.offset() < end {
        match reader.next() {
            Ok(Some(record)) => newest = Some(units::time(record.timestamp_nanos())),
            Ok(None) => return Ok(newest),
            Err(Error::Corrupt { .. }) => {
                reader.skip_damage()?;
            }
            Err(Error::Lost { .. }) => {}
            Err(Error::Trimmed { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(newest)
}

fn print(out: &mut Out, numbers: &Numbers, live: bool) -> io::Result<()> {
    out.line(Colour::Strong, &numbers.topic)?;
    let sizes = &numbers.sizes;
    let about = if numbers.exact { "" } else { "about " };
    let overhead = numbers
        .overhead
        .map_or(String::new(), |times| format!(", {} times the payload", ratio(times)));
    let rate = |rate: &Rate| {
        let records = units::count(rate.records, "record");
        format!("{records}, {} a second", units::rate(rate.per_second))
    };
    let or_none = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".to_owned());
    let lines = [
        (
            "records",
            format!(
                "{}, offsets {}..{}",
                units::grouped(numbers.records),
                numbers.first,
                numbers.end
            ),
        ),
        ("durable end", info::durable(numbers.durable_end, live)),
        ("payload", format!("{about}{}", units::size(numbers.payload_bytes))),
        (
            "on disk",
            format!(
                "{} in {}{overhead}",
                units::size(numbers.bytes),
                units::count(numbers.segments as u64, "segment")
            ),
        ),
        ("last minute", rate(&numbers.last_minute)),
        ("last hour", rate(&numbers.last_hour)),
        ("oldest", or_none(&numbers.oldest)),
        ("newest", or_none(&numbers.newest)),
    ];
    for (name, value) in lines {
        let name = out.paint(Colour::Faint, format!("  {name:<14}"));
        writeln!(out, "{name}{value}")?;
    }
    if sizes.damaged > 0 {
        let what = units::count(sizes.damaged, "record");
        let what = out.paint(Colour::Bad, format!("{what} could not be read"));
        writeln!(out, "  {what}")?;
    }
    let (Some(min), Some(p50), Some(p90), Some(p99), Some(max)) =
        (sizes.min, sizes.p50, sizes.p90, sizes.p99, sizes.max)
    else {
        return Ok(());
    };
    let of = if sizes.records == numbers.records {
        "of all records".to_owned()
    } else {
        format!("of {}", units::count(sizes.records, "record"))
    };
    let name = out.paint(Colour::Faint, format!("  {:<14}", "sizes"));
    writeln!(out, "{name}{of}: min {min}, p50 {p50}, p90 {p90}, p99 {p99}, max {max} bytes")?;
    histogram(out, &sizes.histogram)
}

/// Two decimals, where they mean something.
fn ratio(times: f64) -> String {
    match times {
        times if times < 99.995 => format!("{times:.2}"),
        times => units::grouped(times.round() as u64),
    }
}

fn histogram(out: &mut Out, buckets: &[Bucket]) -> io::Result<()> {
    let most = buckets.iter().map(|bucket| bucket.records).max().unwrap_or(0).max(1);
    let range = |bucket: &Bucket| format!("{}..{}", bucket.from, bucket.to);
    let width = buckets.iter().map(|bucket| range(bucket).len()).max().unwrap_or(0);
    let count_width = most.to_string().len();
    for bucket in buckets {
        // A value that occurs at all has a bar.
        let len = (bucket.records * BAR_LEN).div_ceil(most) as usize;
        let line = format!(
            "    {:>width$} {:>count_width$} {}",
            range(bucket),
            bucket.records,
            "#".repeat(len)
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
