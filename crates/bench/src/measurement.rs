//! Results of a measurement: a histogram of latencies, and counts over time.

use std::time::{Duration, Instant};

use base64::Engine;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};
use hdrhistogram::Histogram;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::case::Window;
use crate::error::{Error, Result};

/// Operations in each slot of time since the start of the window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Series {
    /// A power of two times [`SLOT_NANOS`], so that any two series can be added.
    pub(crate) slot_nanos: u64,
    pub(crate) counts: Vec<u64>,
}

/// The shortest slot.
const SLOT_NANOS: u64 = 1 << 20;
/// When there would be more slots, each two are merged.
const SLOTS_MAX: usize = 128;

impl Series {
    pub(crate) fn new() -> Series {
        Series { slot_nanos: SLOT_NANOS, counts: Vec::new() }
    }

    /// Counts one operation that ended this long after the start. True if it is the first in its slot.
    fn count(&mut self, nanos: u64) -> bool {
        while nanos / self.slot_nanos >= SLOTS_MAX as u64 {
            self.coarsen();
        }
        let slot = (nanos / self.slot_nanos) as usize;
        let is_first = slot >= self.counts.len();
        if is_first {
            self.counts.resize(slot + 1, 0);
        }
        self.counts[slot] += 1;
        is_first
    }

    /// Merges each two slots into one.
    pub(crate) fn coarsen(&mut self) {
        self.counts = self.counts.chunks(2).map(|pair| pair.iter().sum()).collect();
        self.slot_nanos *= 2;
    }

    pub(crate) fn add(&mut self, mut other: Series) {
        while self.slot_nanos < other.slot_nanos {
            self.coarsen();
        }
        while other.slot_nanos < self.slot_nanos {
            other.coarsen();
        }
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (mine, others) in self.counts.iter_mut().zip(&other.counts) {
            *mine += others;
        }
    }
}

/// The operation that a thread repeats. It returns its duration, unless it began when the one before it
/// ended: one clock reading then serves both.
pub(crate) type Operation = Box<dyn FnMut() -> Result<Option<Duration>> + Send>;

/// The results of one thread, one process or one case.
#[derive(Debug, Clone)]
pub(crate) struct Measurement {
    /// Nanoseconds of each operation.
    pub(crate) latencies: Histogram<u64>,
    pub(crate) series: Series,
    /// From the start of the window to the end of the last operation.
    pub(crate) seconds: f64,
}

/// The same, as it is sent and stored.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// Operations of all processes.
    pub(crate) operations: u64,
    /// Time from the start of the window to the end of the last operation.
    pub(crate) seconds: f64,
    /// Operations over time; in the file of --output only.
    #[schemars(skip)]
    pub(crate) series: Series,
    /// An HDR histogram of nanoseconds, serialised as V2, in base64; in the file of --output only.
    #[schemars(skip)]
    pub(crate) histogram: String,
}

/// A latency is at most this, about 18 minutes.
const LATENCY_MAX_NANOS: u64 = 1 << 40;

/// An empty histogram: three digits, nanoseconds.
fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NANOS, 3)
        .map_err(|error| Error::Invalid(error.to_string()))
}

impl Measurement {
    pub(crate) fn empty() -> Result<Measurement> {
        Ok(Measurement { latencies: histogram()?, series: Series::new(), seconds: 0.0 })
    }

    /// Runs `operation` until the window is over, or `is_stopped`. `progress` gets the fraction.
    pub(crate) fn take(
        window: Window,
        begun: Instant,
        is_stopped: &dyn Fn() -> bool,
        progress: &dyn Fn(f64),
        mut operation: Operation,
    ) -> Result<Measurement> {
        let mut taken = Measurement::empty()?;
        let (limit, count) = match window {
            Window::Seconds(seconds) => (Duration::from_secs_f64(seconds), u64::MAX),
            Window::Count(count) => (Duration::MAX, count),
        };
        // The threads share the start of the window; each operation counts from its own start.
        let mut last = Instant::now().max(begun);
        let mut done = 0;
        while done < count && !is_stopped() {
            let took = operation()?;
            let now = Instant::now();
            let elapsed = now.saturating_duration_since(begun);
            let took = took.unwrap_or_else(|| now.saturating_duration_since(last));
            taken.latencies.saturating_record(took.as_nanos() as u64);
            done += 1;
            if taken.series.count(elapsed.as_nanos() as u64) {
                progress(match window {
                    Window::Seconds(seconds) => elapsed.as_secs_f64() / seconds,
                    Window::Count(count) => done as f64 / count as f64,
                });
            }
            last = now;
            if elapsed >= limit {
                break;
            }
        }
        taken.seconds = last.saturating_duration_since(begun).as_secs_f64();
        Ok(taken)
    }

    pub(crate) fn add(&mut self, other: Measurement) -> Result<()> {
        self.latencies.add(&other.latencies).map_err(|error| Error::Invalid(error.to_string()))?;
        self.series.add(other.series);
        self.seconds = self.seconds.max(other.seconds);
        Ok(())
    }

    pub(crate) fn store(&self) -> Result<Stored> {
        let mut bytes = Vec::new();
        V2Serializer::new()
            .serialize(&self.latencies, &mut bytes)
            .map_err(|error| Error::Failed(format!("serialising: {error}")))?;
        Ok(Stored {
            operations: self.latencies.len(),
            seconds: self.seconds,
            series: self.series.clone(),
            histogram: base64::engine::general_purpose::STANDARD.encode(bytes),
        })
    }
}

/// No serialised histogram is longer: 33 buckets of 1,024 counters of 9 bytes.
const STORED_MAX: usize = 512 << 10;

impl Stored {
    /// Stored bytes can come from any program: an inconsistency is an error.
    pub(crate) fn load(&self) -> Result<Measurement, String> {
        if self.histogram.len() > STORED_MAX {
            return Err("its histogram is too long".into());
        }
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(&self.histogram)
            .map_err(|error| format!("its histogram: {error}"))?;
        let found: Histogram<u64> = Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .map_err(|error| format!("its histogram: {error}"))?;
        if found.len() != self.operations {
            return Err(format!(
                "its histogram has {} operations, but its count is {}",
                found.len(),
                self.operations
            ));
        }
        let slots = self.series.slot_nanos / SLOT_NANOS;
        if !slots.is_power_of_two()
            || self.series.slot_nanos % SLOT_NANOS != 0
            || self.series.counts.len() > SLOTS_MAX
        {
            return Err("its series has slots of an unknown length".into());
        }
        if !self.seconds.is_finite() || self.seconds < 0.0 {
            return Err("its seconds are not a valid time".into());
        }
        let mut latencies = histogram().map_err(|_| "its histogram".to_owned())?;
        latencies.add(found).map_err(|error| format!("its histogram: {error}"))?;
        Ok(Measurement { latencies, series: self.series.clone(), seconds: self.seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_counts_every_operation_whatever_its_length() {
        let mut series = Series::new();
        for step in 0..10_000u64 {
            series.count(step * 3_000_000);
        }
        assert_eq!(series.counts.iter().sum::<u64>(), 10_000);
        assert!(series.counts.len() <= SLOTS_MAX && series.counts.len() > SLOTS_MAX / 2);
        let mut short = Series::new();
        short.count(0);
        short.count(5 * SLOT_NANOS);
        short.add(series.clone());
        assert_eq!(short.counts.iter().sum::<u64>(), 10_002);
        assert_eq!(short.counts[0], series.counts[0] + 2);
    }

    #[test]
    fn a_measurement_comes_back_from_its_stored_form_and_damage_is_told() {
        let begun = Instant::now();
        let mut taken =
            Measurement::take(Window::Count(100), begun, &|| false, &|_| {}, Box::new(|| Ok(None)))
                .unwrap();
        assert_eq!(taken.latencies.len(), 100);
        taken.latencies.saturating_record(u64::MAX);
        let stored = taken.store().unwrap();
        let loaded = stored.load().unwrap();
        assert_eq!(loaded.latencies, taken.latencies);
        assert_eq!((loaded.series, loaded.seconds), (taken.series, taken.seconds));
        let other = Stored { operations: 7, ..stored.clone() };
        assert!(other.load().unwrap_err().contains("its count is 7"));
        assert!(Stored { histogram: "AAAA".into(), ..stored.clone() }.load().is_err());
        assert!(Stored { seconds: f64::NAN, ..stored }.load().is_err());
    }

    #[test]
    fn a_window_of_time_ends_with_the_first_operation_behind_it() {
        let begun = Instant::now();
        let fractions = std::cell::RefCell::new(Vec::new());
        let taken = Measurement::take(
            Window::Seconds(0.01),
            begun,
            &|| false,
            &|fraction| fractions.borrow_mut().push(fraction),
            Box::new(|| Ok(None)),
        )
        .unwrap();
        assert!(taken.seconds >= 0.01);
        assert!(fractions.borrow().windows(2).all(|pair| pair[0] < pair[1]));
    }
}
