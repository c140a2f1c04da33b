//! Making the log end where a scan has found its end, and rebuilding the words.

use std::io::IoSlice;

use super::scan::{promised_boundary, Scan};
use super::{remove_if_there, Recovery};
use crate::error::{Error, IoResultExt, Result};
use crate::format::segment::{self as layout, Header};
use crate::format::SECTOR_LEN;
use crate::recovery::{self, Ending, RecoveryReport};
use crate::segment::Segment;
use crate::store::prepared::make_file;
use crate::store::Durability;
use crate::sys::atomic::Ordering;
use crate::sys::crash_point::crash_point;
use crate::sys::{self, clock};

impl Recovery<'_> {
    /// Finds the end of the log by reading from the promised boundary on, and rebuilds the words.
    /// `boundary_of_words`: a durable end from trusted control words.
    pub(super) fn rebuild(&self, boundary_of_words: Option<u64>) -> Result<()> {
        let (topic, words) = (self.topic, self.words);
        let bases = topic.segments.refresh_alone()?;
        let boundary = promised_boundary(topic, &bases)?.max(boundary_of_words.unwrap_or(0));
        let mut scan = Scan::run(topic, &bases, boundary)?;
        let ending = recovery::ending(scan.facts());
        let end = scan.end.max(boundary);
        let is_name_taken = ending != Ending::Continue && bases.contains(&end);
        if is_name_taken && !scan.unpromised.contains(&end) {
            // It has no whole frame: the new segment that begins there takes its name.
            scan.unpromised.insert(0, end);
        }
        words.reset();
        let epoch = topic.epochs.begin(end)?;
        words.identity.epoch.store(epoch.into(), Ordering::Relaxed);
        let set_aside = self.set_aside(&scan.unpromised, epoch)?;
        crash_point!("recover.set-aside");
        self.sync_found(&scan, boundary_of_words.is_some())?;
        match (&ending, &scan.segment) {
            (Ending::Continue, Some(segment)) => {
                words.tail.enter(segment.base(), scan.position);
                words.tail.end.store(end, Ordering::Relaxed);
                words.intent.start.store(scan.last_batch.0, Ordering::Relaxed);
                words.intent.offset.store(scan.last_batch.1, Ordering::Relaxed);
                let sequence = segment.newest_slot()?.map_or(0, |slot| slot.sequence);
                words.sync.slot_sequence.store(sequence, Ordering::Relaxed);
                words.sync.names_durable.store(segment.base() + 1, Ordering::Relaxed);
            }
            _ => self.start_next(end, epoch, scan.max_timestamp)?,
        }
        words.intent.max_timestamp.store(scan.max_timestamp, Ordering::Relaxed);
        words.durable.end.store(end, Ordering::Release);
        let first = topic.segments.refresh_alone()?.first().copied().unwrap_or(end);
        words.tail.first.store(first, Ordering::Release);
        let mut report = RecoveryReport {
            end,
            epoch: Some(epoch),
            cut: matches!(ending, Ending::Cut | Ending::CutAndReport),
            set_aside,
            ..scan.report()
        };
        for cut in &mut report.cuts {
            let name = cut.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(aside) = report.set_aside.iter().find(|aside| aside.starts_with(&name)) {
                cut.path.set_file_name(aside);
            }
        }
        let was_empty = topic.recovery.set(report);
        debug_assert!(was_empty.is_ok(), "a topic is recovered once");
        Ok(())
    }

    /// Makes durable what the scan could read: the page cache may hold bytes that the disk does not. With
    /// `all`, also the bytes below the boundary.
    fn sync_found(&self, scan: &Scan<'_>, all: bool) -> Result<()> {
        let topic = self.topic;
        let mut kept = Vec::new();
        for (base, frames) in &scan.unpromised_frames {
            match topic.segment(*base) {
                Ok(segment) if !scan.unpromised.contains(base) => {
                    let is_latched = layout::is_latched(&segment.header_page()?);
                    kept.push((is_latched, segment, frames));
                }
                _ => {}
            }
        }
        let failed = all || kept.iter().any(|(is_latched, ..)| *is_latched);
        // In a topic that syncs, every block is written before it is used.
        let copy_all = failed && topic.options.durability == Durability::ProcessCrash;
        let mut copies = false;
        // Latched segments last: if this recovery is interrupted, a latch makes the next one do the rest.
        kept.sort_by_key(|(is_latched, ..)| *is_latched);
        for (_, segment, frames) in kept {
            self.heal_header(&segment)?;
            if copy_all {
                self.copy_into_new_blocks(&segment)?;
                copies = true;
                continue;
            }
            let start = if all { layout::FIRST_FRAME_AT } else { frames.start };
            segment.write(layout::LATCH_AT as u64, &mut [IoSlice::new(&[0; 8])])?;
            let end = frames.end.max(start).min(segment.len());
            segment.redirty(0..layout::FIRST_FRAME_AT)?;
            segment.redirty(start..end)?;
            if segment.sync().is_err() {
                return Err(Error::SyncFailed { path: topic.dir.clone() });
            }
            if segment.has_unwritten_blocks(start..end)? {
                // The file was restored with holes.
                self.copy_into_new_blocks(&segment)?;
                copies = true;
            }
        }
        if copies {
            let synced = topic.files.sync_dir(&topic.dir);
            synced.at("syncing", &topic.dir)?;
        }
        crash_point!("recover.synced");
        Ok(())
    }

    /// Rewrites both header sectors if one of them was lost.
    fn heal_header(&self, segment: &Segment) -> Result<()> {
        let page = segment.header_page()?;
        for at in [0, layout::HEADER_COPY_AT] {
            let sector = page.get(at..at + SECTOR_LEN);
            if sector.is_some_and(|sector| Header::decode(sector) != Ok(segment.header)) {
                segment
                    .file()
                    .write_all_at(&segment.header.encode(), at as u64)
                    .at("writing the header of", &segment.path)?;
            }
        }
        Ok(())
    }

    /// Creates the segment in which the log continues after a cut. If the disk is full, a short one is
    /// enough, so that the topic can be opened.
    fn start_next(&self, base: u64, epoch: u32, max_timestamp: u64) -> Result<()> {
        let len = self.topic.settings.segment_len;
        match self.start_segment(base, (epoch, max_timestamp), len) {
            Err(Error::NoSpace { .. }) => {
                let len = layout::MIN_LEN;
                self.start_segment(base, (epoch, max_timestamp), len)
            }
            started => started,
        }
    }

    /// Creates a new segment of `len` bytes at `base`, durable with its name, and enters it. No other process
    /// is a member.
    pub(super) fn start_segment(
        &self,
        base: u64,
        (epoch, max_timestamp): (u32, u64),
        len: u64,
    ) -> Result<()> {
        let (topic, words) = (self.topic, self.words);
        let temporary = topic.dir.join("first.tmp");
        remove_if_there(&*topic.files, &temporary)?;
        let file = make_file(topic, &temporary, len)?;
        let header = Header {
            epoch,
            base,
            salt: sys::random(),
            topic_id: topic.settings.topic_id,
            durable_end: base,
            max_timestamp,
            file_len: len,
        };
        let path = topic.dir.join(layout::file_name(base));
        file.write_all_at(&header.encode_page(clock::wall()), 0).at("creating", &path)?;
        file.sync_data().at("creating", &path)?;
        crash_point!("start.headed");
        topic.location.check()?;
        topic.files.rename_no_replace(&temporary, &path).at("creating", &path)?;
        topic.files.sync_dir(&topic.dir).at("creating", &path)?;
        crash_point!("start.named");
        topic.segments.forget(base);
        words.tail.enter(base, layout::FIRST_FRAME_AT);
        words.tail.end.store(base, Ordering::Relaxed);
        words.durable.end.store(base, Ordering::Relaxed);
        words.intent.max_timestamp.store(max_timestamp, Ordering::Relaxed);
        words.sync.names_durable.store(base + 1, Ordering::Release);
        Ok(())
    }
}
