//! Recovery: reading the newest segments after a crash, and making the log end where they end.

use std::sync::Arc;

use super::resume::reset;
use super::{Access, Durability, Store};
use crate::control::Words;
use crate::error::{Error, IoResultExt, Result};
use crate::format::segment::{self as layout, Header};
use crate::format::{frame, PAGE_LEN, SECTOR_LEN};
use crate::recovery::{self, Cut, Damage, Ending, RecoveryReport, ScanFacts};
use crate::segment::{Batches, Found, Frames, Segment, Step, Walk};
use crate::sys::atomic::Ordering;
use crate::sys::crash_point::crash_point;
use crate::sys::{self, clock};

/// How far a scan has come, and what it has found.
pub(super) struct Scan {
    /// The next offset.
    pub(super) end: u64,
    /// The position after the last whole batch of the current segment.
    pub(super) position: u64,
    /// The current segment; `None` if its header is unreadable.
    pub(super) segment: Option<Arc<Segment>>,
    max_timestamp: u64,
    /// Where the last whole batch starts: its position and its first offset.
    last_batch: (u64, u64),
    /// Whether everything after the end is zero, and no segment follows.
    clean: bool,
    frames_behind: u64,
    /// Segments after a cut.
    unpromised: Vec<u64>,
    damage: Vec<Damage>,
    cuts: Vec<Cut>,
    /// For each segment that was read: its base, and the range of positions of its frames that are not below
    /// the boundary.
    unpromised_frames: Vec<(u64, std::ops::Range<u64>)>,
}

impl Scan {
    /// Counts the whole frames from the walk's position to the end of its segment. All of them are cut off,
    /// from `position` on.
    fn count_cut(&mut self, mut walk: Walk, position: u64, from: u64) -> Result<()> {
        let frames = walk.count_records(from)?;
        self.frames_behind += frames;
        self.cuts.push(Cut { path: walk.segment.path.clone(), position, frames });
        Ok(())
    }

    /// Returns what an opening for writing would report, for a process that only reads.
    pub(super) fn report(&self, promised_boundary: u64) -> RecoveryReport {
        RecoveryReport {
            promised_boundary,
            end: self.end.max(promised_boundary),
            epoch: None,
            cut: !self.clean,
            frames_behind_cut: self.frames_behind,
            cuts: self.cuts.clone(),
            set_aside: Vec::new(),
            damage: self.damage.clone(),
        }
    }

    /// Moves the end to where `batches` has found it so far.
    fn stand(&mut self, batches: &Batches) {
        (self.end, self.position) = (batches.end, batches.end_position);
        self.max_timestamp = self.max_timestamp.max(batches.newest);
    }

    /// Notes whether the frame before `position` is below the boundary.
    fn pass_promised(&mut self, is_promised: bool, position: u64) {
        if let (Some((_, frames)), true) = (self.unpromised_frames.last_mut(), is_promised) {
            frames.start = position;
        }
    }
}

impl Store {
    /// Finds the end of the log by reading from the promised boundary on, and rebuilds the words.
    /// `boundary_of_words`: a durable end from trusted control words.
    pub(super) fn recover(&self, words: &Words, boundary_of_words: Option<u64>) -> Result<()> {
        let bases = self.refresh_bases_alone()?;
        let boundary = self.promised_boundary(&bases)?.max(boundary_of_words.unwrap_or(0));
        let mut scan = self.scan(&bases, boundary)?;
        let lost_to_the_end =
            scan.damage.last().is_some_and(|damage| damage.offsets.end == scan.end) && !scan.clean;
        let ending = recovery::ending(ScanFacts {
            boundary_reached: scan.end >= boundary && !lost_to_the_end,
            rest_is_clean: scan.clean,
            whole_frames_behind: scan.frames_behind > 0,
        });
        let end = scan.end.max(boundary);
        let begins_anew = ending != Ending::Continue && bases.contains(&end);
        if begins_anew && !scan.unpromised.contains(&end) {
            // It has no whole frame: the new segment that begins there takes its name.
            scan.unpromised.insert(0, end);
        }
        reset(words);
        let epoch = self.epochs.begin(end)?;
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
                let slot = layout::newest_slot(&segment.header_page()?, segment.header.salt);
                let sequence = slot.map_or(0, |slot| slot.sequence);
                words.sync.slot_sequence.store(sequence, Ordering::Relaxed);
                words.sync.names_durable.store(segment.base() + 1, Ordering::Relaxed);
            }
            _ => self.start_next(words, end, epoch, scan.max_timestamp)?,
        }
        words.intent.max_timestamp.store(scan.max_timestamp, Ordering::Relaxed);
        words.durable.end.store(end, Ordering::Release);
        let first = self.refresh_bases_alone()?.first().copied().unwrap_or(end);
        words.tail.first.store(first, Ordering::Release);
        for cut in &mut scan.cuts {
            let name = cut.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(aside) = set_aside.iter().find(|aside| aside.starts_with(&name)) {
                cut.path.set_file_name(aside);
            }
        }
        let report = RecoveryReport {
            end,
            epoch: Some(epoch),
            cut: matches!(ending, Ending::Cut | Ending::CutAndReport),
            set_aside,
            ..scan.report(boundary)
        };
        let was_empty = self.recovery.set(report);
        debug_assert!(was_empty.is_ok(), "a topic is recovered once");
        Ok(())
    }

    /// Returns the highest durable end in any valid segment header or checkpoint slot of the newest segments.
    pub(super) fn promised_boundary(&self, bases: &[u64]) -> Result<u64> {
        let mut boundary = 0;
        // A later header states at least as much as an earlier one, so the newest readable header decides.
        // Its slots, and those of the segment before, are read as well.
        for &base in bases.iter().rev() {
            let segment = match self.segment(base) {
                Ok(segment) => segment,
                Err(Error::Corrupt { .. }) => continue,
                Err(other) => return Err(other),
            };
            let slot = layout::newest_slot(&segment.header_page()?, segment.header.salt);
            let most = base.saturating_add(layout::most_records(segment.len()));
            let slot_end = slot.map(|slot| slot.durable_end).filter(|&end| end <= most);
            let before = boundary;
            boundary = boundary.max(segment.header.durable_end).max(slot_end.unwrap_or(0));
            if before != 0 {
                break;
            }
        }
        Ok(boundary)
    }

    /// Reads from the segment of the promised boundary on. Changes nothing.
    pub(super) fn scan(&self, bases: &[u64], boundary: u64) -> Result<Scan> {
        let first = bases.partition_point(|&base| base <= boundary).saturating_sub(1);
        let start = bases[first];
        let mut scan = Scan {
            end: start,
            position: layout::FIRST_FRAME_AT,
            segment: None,
            max_timestamp: 0,
            last_batch: (0, 0),
            clean: true,
            frames_behind: 0,
            unpromised: Vec::new(),
            damage: Vec::new(),
            cuts: Vec::new(),
            unpromised_frames: Vec::new(),
        };
        for (index, &base) in bases.iter().enumerate().skip(first) {
            let next = bases.get(index + 1).copied();
            if scan.end < base && scan.end >= boundary {
                // The end was found before this segment, none of which was promised.
                scan.unpromised.push(base);
                scan.clean = false;
                if let Ok(segment) = self.segment(base) {
                    let walk = Walk::new(segment, layout::FIRST_FRAME_AT, false);
                    scan.count_cut(walk, layout::FIRST_FRAME_AT, base)?;
                }
                continue;
            }
            scan.end = scan.end.max(base);
            match self.segment(base) {
                Ok(segment) => {
                    scan.unpromised_frames.push((base, layout::FIRST_FRAME_AT..u64::MAX));
                    self.scan_segment(&mut scan, segment, next, boundary)?;
                    let frames = scan.unpromised_frames.last_mut().expect("just pushed");
                    frames.1.end = scan.position;
                }
                Err(Error::Corrupt { path, position, what, .. }) => {
                    scan.clean = false;
                    let (blank, most) = self.look_at_header(&path)?;
                    if blank && base >= boundary {
                        // It has its name, but its header never reached the disk.
                        scan.unpromised.push(base);
                        continue;
                    }
                    // There was a header, and it is unknown how many records followed it.
                    let end =
                        if blank { boundary } else { base.saturating_add(most).max(boundary) };
                    let offsets = base..next.unwrap_or(end);
                    scan.end = offsets.end;
                    scan.damage.push(Damage { path, position, offsets, what });
                    scan.segment = None;
                }
                Err(other) => return Err(other),
            }
        }
        Ok(scan)
    }

    /// For a segment file whose header does not decode: returns whether no header was ever written, and how
    /// many records the file can hold.
    pub(super) fn look_at_header(&self, path: &std::path::Path) -> Result<(bool, u64)> {
        let file = self.files.open(path, sys::Access::Read).at("opening", path)?;
        let page = sys::read_start(&*file, PAGE_LEN).at("reading", path)?;
        Ok((layout::is_blank(&page), layout::most_records(file.len().at("reading", path)?)))
    }

    fn scan_segment(
        &self,
        scan: &mut Scan,
        segment: Arc<Segment>,
        next: Option<u64>,
        boundary: u64,
    ) -> Result<()> {
        let mut batches = Batches::of(Frames::of(&segment).before(next));
        scan.stand(&batches);
        scan.max_timestamp = scan.max_timestamp.max(segment.header.max_timestamp);
        scan.segment = Some(Arc::clone(&segment));
        scan.clean = true;
        loop {
            let what = match batches.next()? {
                Found::Batch(batch) => {
                    scan.last_batch = (batch.positions.start, batch.offsets.start);
                    scan.pass_promised(batch.offsets.end <= boundary, batch.positions.end);
                    continue;
                }
                Found::GivenUp => continue,
                Found::Bad(why) => why.to_string(),
                Found::End => "the file ends".into(),
            };
            scan.stand(&batches);
            if batches.is_complete() {
                // The bytes after it were cut off before the next segment was begun.
                return Ok(());
            }
            if scan.end >= boundary && !self.is_rotten(&batches, next)? {
                return self.scan_behind_end(scan, &batches, next);
            }
            // Every batch here was whole, so the frames before the damage count.
            let passed = batches.pass()?;
            scan.stand(&batches);
            let end = passed.found.or(next).unwrap_or(boundary).max(passed.expected);
            let (path, position) = (segment.path.clone(), passed.positions.start);
            let offsets = passed.expected..end;
            scan.damage.push(Damage { path, position, offsets, what });
            if passed.found.is_none() {
                scan.end = end;
                scan.clean = false;
                return Ok(());
            }
        }
    }

    /// Whether the missing frame at which `batches` is was once whole. A power cut takes sectors, which then
    /// hold their earlier contents: zeros after some byte. If nothing here looks like that, and whole frames
    /// or a segment follow, bytes have changed.
    fn is_rotten(&self, batches: &Batches, next: Option<u64>) -> Result<bool> {
        let (segment, at) = (batches.segment(), batches.position());
        let mut search = Walk::new(Arc::clone(segment), at, false);
        if !matches!(search.step(u64::MAX, false)?, Step::Bad(_)) {
            // There is nothing, or a frame of another offset.
            return Ok(false);
        }
        let after = at.saturating_add(frame::ALIGN as u64);
        let mut search = Walk::new(Arc::clone(segment), after, false);
        let offsets = batches.expected()..next.unwrap_or(u64::MAX);
        let end = if search.resync(u64::MAX, offsets)?.is_some() {
            search.position
        } else if next.is_some_and(|next| self.segment(next).is_ok()) {
            Walk::new(Arc::clone(segment), at, false).end_of_frame()?
        } else {
            return Ok(false);
        };
        Ok(!segment.has_unwritten(at..end)?)
    }

    /// Examines the bytes after the end that was found: zeros, or the rest of a torn tail. `batches` is at
    /// the first bad byte, which is after the end if a batch is cut in two.
    fn scan_behind_end(&self, scan: &mut Scan, batches: &Batches, next: Option<u64>) -> Result<()> {
        let walk = |position| Walk::new(Arc::clone(batches.segment()), position, false);
        scan.clean = next.is_none() && batches.segment().is_zero_from(scan.position)?;
        if scan.clean {
            return Ok(());
        }
        scan.count_cut(walk(batches.position()), scan.position, scan.end)
    }

    /// Makes durable what the scan could read: the page cache may hold bytes that the disk does not. With
    /// `all`, also the bytes below the boundary.
    fn sync_found(&self, scan: &Scan, all: bool) -> Result<()> {
        let mut kept = Vec::new();
        for (base, frames) in &scan.unpromised_frames {
            match self.segment(*base) {
                Ok(segment) if !scan.unpromised.contains(base) => {
                    let latch = segment.map()?.word(layout::LATCH_AT).load(Ordering::Acquire);
                    kept.push((latch == layout::LATCHED, segment, frames));
                }
                _ => {}
            }
        }
        let failed = all || kept.iter().any(|(is_latched, ..)| *is_latched);
        // In a topic that syncs, every block is written before it is used.
        let copy_all = failed && self.options.durability == Durability::ProcessCrash;
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
            segment.map()?.word(layout::LATCH_AT).store(0, Ordering::Release);
            let end = frames.end.max(start).min(segment.len());
            segment.redirty(0..layout::FIRST_FRAME_AT)?;
            segment.redirty(start..end)?;
            if segment.sync().is_err() {
                return Err(Error::SyncFailed { path: self.dir.clone() });
            }
            if segment.has_unwritten_blocks(start..end)? {
                // The file was restored with holes.
                self.copy_into_new_blocks(&segment)?;
                copies = true;
            }
        }
        if copies {
            let synced = self.files.sync_dir(&self.dir);
            synced.at("syncing", &self.dir)?;
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
    fn start_next(&self, words: &Words, base: u64, epoch: u32, max_timestamp: u64) -> Result<()> {
        let len = self.settings.segment_len;
        match self.start_segment(words, base, (epoch, max_timestamp), len) {
            Err(Error::NoSpace { .. }) => {
                let len = layout::MIN_LEN;
                self.start_segment(words, base, (epoch, max_timestamp), len)
            }
            started => started,
        }
    }

    /// Creates a new segment of `len` bytes at `base`, durable with its name, and enters it. The gate is held
    /// and no other process is a member.
    pub(super) fn start_segment(
        &self,
        words: &Words,
        base: u64,
        (epoch, max_timestamp): (u32, u64),
        len: u64,
    ) -> Result<()> {
        debug_assert!(matches!(self.access, Access::Member(_)));
        let temporary = self.dir.join("first.tmp");
        self.remove_if_there(&temporary)?;
        let file = self.make_file(&temporary, len)?;
        let header = Header {
            epoch,
            base,
            salt: sys::random(),
            topic_id: self.settings.topic_id,
            durable_end: base,
            max_timestamp,
            file_len: len,
        };
        let path = self.dir.join(layout::file_name(base));
        file.write_all_at(&header.encode(), 0).at("creating", &path)?;
        file.write_all_at(&header.encode(), layout::HEADER_COPY_AT as u64).at("creating", &path)?;
        let begun = layout::encode_begun(clock::wall(), header.salt);
        file.write_all_at(&begun, layout::BEGUN_AT as u64).at("creating", &path)?;
        file.sync_data().at("creating", &path)?;
        crash_point!("start.headed");
        self.check_in_place()?;
        self.files.rename_no_replace(&temporary, &path).at("creating", &path)?;
        self.files.sync_dir(&self.dir).at("creating", &path)?;
        crash_point!("start.named");
        self.segments.forget(base);
        words.tail.enter(base, layout::FIRST_FRAME_AT);
        words.tail.end.store(base, Ordering::Relaxed);
        words.durable.end.store(base, Ordering::Relaxed);
        words.intent.max_timestamp.store(max_timestamp, Ordering::Relaxed);
        words.sync.names_durable.store(base + 1, Ordering::Release);
        Ok(())
    }
}
