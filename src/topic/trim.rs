//! Retention: dropping whole segments from the start of a topic.

use std::sync::Arc;

use super::TopicInner;
use crate::error::{Error, Result};
use crate::format::{index, segment as layout};
use crate::segment::Segment;
use crate::sys::atomic::Ordering;
use crate::sys::clock;
use crate::sys::crash_point::crash_point;

impl TopicInner {
    /// Drops the segments all of whose records are below `offset`.
    pub(super) fn trim_before(&self, offset: u64) -> Result<u64> {
        let words = &self.member()?.control;
        let active = words.tail.place().active;
        let bases = self.refresh_bases()?;
        let ends: Vec<u64> = bases.iter().skip(1).copied().collect();
        let mut ends = &ends[..ends.partition_point(|&end| end <= active && end <= offset)];
        if let Some(&last) = ends.last() {
            // What is left must begin with a header on the disk: else a power cut could leave nothing
            // that says where the log ends.
            let end = words.tail.end.load(Ordering::Acquire);
            if last < end && words.durable.end.load(Ordering::Acquire) <= last {
                self.wait_durable(end)?;
            }
            let durable = words.durable.end.load(Ordering::Acquire);
            ends = &ends[..ends.partition_point(|&end| end < durable)];
        }
        let Some(&first) = ends.last() else {
            return self.first_offset();
        };
        // Told before it is done: a reader that finds a file missing knows why. Oldest first, and each
        // removal durable before the next, so that what is left after a crash has no gap.
        words.tail.first.fetch_max(first, Ordering::AcqRel);
        for &base in bases.iter().take_while(|&&base| base < first) {
            self.remove_if_there(&self.dir.join(index::file_name(base)))?;
            self.remove_if_there(&self.dir.join(layout::file_name(base)))?;
            crash_point!("trim.removed");
            self.files.sync_dir(&self.dir).map_err(|error| self.io("syncing", &self.dir, error))?;
        }
        self.remove_indexes_before(first)?;
        self.segments.bases.lock().retain(|&base| base >= first);
        self.segments.open.lock().retain(|&base, _| base >= first);
        self.first_offset()
    }

    /// Removes indexes that somebody stored after their segment was dropped.
    fn remove_indexes_before(&self, first: u64) -> Result<()> {
        let names = self.files.list(&self.dir);
        let names = names.map_err(|error| self.io("listing", &self.dir, error))?;
        for name in names {
            if index::parse_file_name(&name).is_some_and(|base| base < first) {
                self.remove_if_there(&self.dir.join(name))?;
            }
        }
        Ok(())
    }

    /// Whether wall clock and boot clock have moved alike since the topic was opened. If somebody set
    /// the wall clock, ages are not what they seem: nothing is dropped for its age.
    fn clocks_agree(&self) -> bool {
        clock_difference().abs_diff(self.clock_difference) < 60_000_000_000
    }

    /// The segment at `base`; `None` if another thread or process has dropped it since the directory
    /// was read: every roll trims in the background.
    fn segment_if_kept(&self, base: u64) -> Result<Option<Arc<Segment>>> {
        match self.segment(base) {
            Err(Error::Trimmed { .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Drops what the topic's settings let go.
    pub(super) fn trim_by_retention(&self) -> Result<u64> {
        let retention = self.options.retention;
        if retention == super::Retention::default() {
            return self.first_offset();
        }
        let words = &self.member()?.control;
        let active = words.tail.place().active;
        let bases: Vec<u64> =
            self.refresh_bases()?.into_iter().filter(|&base| base <= active).collect();
        let floor = match retention.consumed {
            // No consumer has committed anything yet: nothing goes.
            true => crate::consumer::durable_floor(self)?.unwrap_or(0),
            false => u64::MAX,
        };
        let mut keep_from = 0;
        if let Some(age) = retention.age.filter(|_| self.clocks_agree()) {
            // The newest timestamp of a segment is in the header of the next.
            let now = clock::wall();
            for &base in bases.iter().skip(1) {
                let Some(segment) = self.segment_if_kept(base)? else { continue };
                let newest = segment.header.max_timestamp;
                if now.saturating_sub(newest) <= clock::nanos(age) {
                    break;
                }
                keep_from = base;
            }
        }
        if let Some(limit) = retention.bytes {
            let mut total = 0;
            for pair in bases.windows(2).rev() {
                let Some(segment) = self.segment_if_kept(pair[0])? else { break };
                total += segment.len();
                if total > limit {
                    keep_from = keep_from.max(pair[1]);
                    break;
                }
            }
        }
        if retention.age.is_none() && retention.bytes.is_none() {
            keep_from = u64::MAX;
        }
        self.trim_before(keep_from.min(floor))
    }
}

/// Wall clock less boot clock, in nanoseconds.
pub(super) fn clock_difference() -> u64 {
    clock::wall().wrapping_sub(clock::boottime())
}
