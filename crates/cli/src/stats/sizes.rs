//! The sizes of payloads: of all records, or of a sample.

use deaddrop::{Error, Start, Topic};
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use schemars::JsonSchema;
use serde::Serialize;

use crate::failure::{note, Failure};

/// The number of stretches in a sample, and the records in each.
const STRETCHES: u64 = 100;
const STRETCH_LEN: u64 = 100;
/// No record is larger.
const LARGEST: u64 = 1 << 30;
/// Buckets of a histogram of sizes: empty payloads, and one for each power of two.
const BUCKETS: usize = 65;

/// Sizes of payloads.
pub(super) struct Sizes {
    /// Records that were read.
    pub(super) seen: u64,
    pub(super) payload_bytes: u64,
    /// Records that could not be read.
    pub(super) damaged: u64,
    histogram: Histogram<u64>,
    min: u64,
    max: u64,
    buckets: [u64; BUCKETS],
}

/// Records whose payloads have `from` to `to - 1` bytes.
#[derive(Debug, JsonSchema, Serialize)]
pub(super) struct Bucket {
    /// The smallest payload in this bucket, in bytes.
    pub(super) from: u64,
    /// The payload after the largest, in bytes.
    pub(super) to: u64,
    /// Records that have such a payload.
    pub(super) records: u64,
}

impl Sizes {
    /// Reads the records of `offsets`: all of them, or stretches evenly spread over them.
    pub(super) fn of(
        topic: &Topic,
        offsets: std::ops::Range<u64>,
        full: bool,
        bar: &ProgressBar,
    ) -> Result<Sizes, Failure> {
        let mut sizes = Sizes {
            seen: 0,
            payload_bytes: 0,
            damaged: 0,
            histogram: Histogram::new_with_bounds(1, LARGEST, 3).expect("bounds in order"),
            min: u64::MAX,
            max: 0,
            buckets: [0; BUCKETS],
        };
        let len = offsets.end.saturating_sub(offsets.start);
        if full || len <= STRETCHES * STRETCH_LEN {
            sizes.look_at(topic, offsets, bar)?;
            return Ok(sizes);
        }
        for stretch in 0..STRETCHES {
            // The first stretch starts at the first record, the last one ends at the end.
            let room = u128::from(len - STRETCH_LEN);
            let skip = room * u128::from(stretch) / u128::from(STRETCHES - 1);
            let from = offsets.start + skip as u64;
            sizes.look_at(topic, from..from + STRETCH_LEN, bar)?;
        }
        Ok(sizes)
    }

    fn look_at(
        &mut self,
        topic: &Topic,
        offsets: std::ops::Range<u64>,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        // Retention may have dropped the first of them after the end was read.
        let from = offsets.start.max(topic.first_offset()?);
        if from >= offsets.end {
            return Ok(());
        }
        let mut reader = super::reader_at(topic, Start::Offset(from))?;
        while reader.offset() < offsets.end {
            match reader.next() {
                Ok(Some(record)) => self.add(record.payload().len() as u64),
                Ok(None) => break,
                Err(error @ Error::Corrupt { .. }) => {
                    note(&error);
                    let skipped = reader.skip_damage()?;
                    self.damaged += skipped.end - skipped.start;
                }
                // The reader has moved past them already.
                Err(error @ Error::Lost { .. }) => note(&error),
                Err(Error::Trimmed { .. }) => reader.seek(Start::First)?,
                Err(error) => return Err(error.into()),
            }
            bar.set_position(self.seen + self.damaged);
        }
        Ok(())
    }

    fn add(&mut self, len: u64) {
        self.seen += 1;
        self.payload_bytes += len;
        self.histogram.saturating_record(len);
        (self.min, self.max) = (self.min.min(len), self.max.max(len));
        self.buckets[(u64::BITS - len.leading_zeros()) as usize] += 1;
    }

    /// The size that `quantile` of the records do not exceed, to three digits.
    pub(super) fn at(&self, quantile: f64) -> Option<u64> {
        (self.seen > 0).then(|| self.histogram.value_at_quantile(quantile).min(self.max))
    }

    pub(super) fn min(&self) -> Option<u64> {
        (self.seen > 0).then_some(self.min)
    }

    pub(super) fn max(&self) -> Option<u64> {
        (self.seen > 0).then_some(self.max)
    }

    /// From the smallest size that occurs to the largest.
    pub(super) fn buckets(&self) -> Vec<Bucket> {
        let occurs = |&records: &u64| records > 0;
        let Some(first) = self.buckets.iter().position(occurs) else { return Vec::new() };
        let last = self.buckets.iter().rposition(occurs).unwrap_or(first);
        let bucket = |index: usize| match index {
            0 => Bucket { from: 0, to: 1, records: self.buckets[0] },
            _ => Bucket {
                from: 1 << (index - 1),
                // A record has at most a GiB.
                to: 1u64.checked_shl(index as u32).unwrap_or(u64::MAX),
                records: self.buckets[index],
            },
        };
        (first..=last).map(bucket).collect()
    }
}
