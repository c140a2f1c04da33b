//! Reading: a frame is copied out, the copy is checked, and the record is lent from it.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::format::{frame, Malformed};
use crate::record::{OwnedRecord, RecordRef};
use crate::segment::{is_record, meaning, Frames, Meaning, Segment, Step, Walk};
use crate::stop::Stop;
use crate::store::{Frontier, Handle};
use crate::topic::Topic;

mod scan;
mod start;

pub(crate) use scan::scan;
pub(crate) use start::resolve;
pub use start::Start;

/// Reads a topic from its own position.
///
/// A record is lent until the next call; [`RecordRef::to_owned`] keeps it, and [`records`](Self::records)
/// iterates over copies. Every record is checked against its checksum after it was copied, so a returned
/// record is the one that was appended. Damage to the wanted record is an error that leaves the reader at its
/// position: [`skip_damage`](Self::skip_damage) moves past it.
///
/// ```
/// # fn main() -> deaddrop::Result<()> {
/// # let dir = deaddrop::doc_dir();
/// # let log = deaddrop::Log::open_or_create(&dir)?;
/// use deaddrop::{Record, Start};
/// let orders = log.topic("orders")?;
/// orders.append_batch(&[Record::new("a"), Record::new("b")])?;
/// let mut reader = orders.reader(Start::LastN(2))?;
/// let mut seen = Vec::new();
/// while let Some(record) = reader.next()? {
///     seen.push(record.payload().to_owned());
/// }
/// assert_eq!(seen, [b"a", b"b"]);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Reader {
    topic: Arc<Handle>,
    next: u64,
    frontier: Frontier,
    walk: Option<Walk>,
    /// The offset that was wanted when `walk` was made. Once a later one is wanted, the walk has met the
    /// frame before that, so its position is certain even if it started from an index.
    walk_from: u64,
    /// The base of the segment after the one being walked.
    segment_end: Option<u64>,
    spin: Duration,
    /// Skips offsets that a repair marked lost instead of returning `Error::Lost`.
    passes_over_lost: bool,
    /// The start that was requested, and the offset that it resolved to.
    start: Option<(Start, u64)>,
}

/// How long a wait spins before it sleeps. Being woken by the kernel costs some microseconds.
const DEFAULT_SPIN: Duration = Duration::from_micros(5);

/// Reads ahead, instead of copying the next record only, when at least this many records are pending.
const FAR: u64 = 8;

impl Topic {
    /// Returns a reader with its own position, beginning at `start`.
    ///
    /// # Errors
    ///
    /// [`Error::Trimmed`] if `start` is an offset that is no longer retained, [`Error::Io`],
    /// [`Error::Corrupt`].
    #[doc(alias("subscribe", "consume", "iter"))]
    pub fn reader(&self, start: Start) -> Result<Reader> {
        Reader::new(Arc::clone(self.inner()), start)
    }
}

impl Reader {
    pub(crate) fn new(topic: Arc<Handle>, start: Start) -> Result<Reader> {
        let next = resolve(&topic, start)?;
        Ok(Reader { start: Some((start, next)), ..Reader::at(topic, next)? })
    }

    /// Returns a reader at an offset that is not checked before the first read.
    pub(crate) fn at(topic: Arc<Handle>, next: u64) -> Result<Reader> {
        let frontier = topic.frontier()?;
        Ok(Reader {
            topic,
            next,
            frontier,
            walk: None,
            walk_from: next,
            segment_end: None,
            spin: DEFAULT_SPIN,
            passes_over_lost: false,
            start: None,
        })
    }

    /// Returns the offset of the next record to read.
    pub fn offset(&self) -> u64 {
        self.next
    }

    /// Returns the number of records between this reader and the high watermark.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn lag(&self) -> Result<u64> {
        Ok(self.topic.current_frontier()?.high_watermark.saturating_sub(self.next))
    }

    /// Sets how long a wait spins before it sleeps. Spinning costs CPU time and saves the microseconds of a
    /// wake-up. The default is 5 µs.
    pub fn set_spin(&mut self, spin: Duration) {
        self.spin = spin;
    }

    /// Moves to another position.
    ///
    /// # Errors
    ///
    /// [`Error::Trimmed`] if that offset is no longer retained, [`Error::Io`].
    pub fn seek(&mut self, start: Start) -> Result<()> {
        let next = resolve(&self.topic, start)?;
        self.seek_to(next);
        self.start = Some((start, next));
        Ok(())
    }

    /// From now on [`Error::Lost`] is not returned: for layers that treat a record that a repair marked lost
    /// as one that never existed.
    pub(crate) fn pass_over_lost(&mut self) {
        self.passes_over_lost = true;
    }

    pub(crate) fn seek_to(&mut self, next: u64) {
        self.next = next;
        self.walk = None;
        self.start = None;
    }

    /// Returns the next record; `None` if there is none yet.
    ///
    /// # Errors
    ///
    /// [`Error::Trimmed`] if retention dropped the record: seek. [`Error::Corrupt`] if it is damaged.
    /// [`Error::Lost`] if a repair marked it lost: call again. [`Error::NotFound`] if the topic was deleted,
    /// [`Error::Replaced`], [`Error::Io`].
    #[allow(clippy::should_implement_trait)]
    #[inline]
    pub fn next(&mut self) -> Result<Option<RecordRef<'_>>> {
        self.topic.not_forked()?;
        let near = self.next_near(|walk, limit, next| walk.step_in_buffer(limit, is_record(next)));
        let fixed = match near {
            Some(fixed) => fixed,
            None => match self.advance_far()? {
                Some(fixed) => fixed,
                None => return Ok(None),
            },
        };
        let walk = self.walk.as_ref().expect("a frame was just read from it");
        Ok(Some(RecordRef::new(fixed, walk.frame())))
    }

    /// Moves past the next record's frame, if `step` finds it without reading and it is published.
    #[inline(always)]
    fn next_near(
        &mut self,
        step: impl FnOnce(&mut Walk, u64, u64) -> Option<frame::Fixed>,
    ) -> Option<frame::Fixed> {
        let (next, limit) = (self.next, self.limit());
        if next >= self.frontier.high_watermark.min(self.segment_end.unwrap_or(u64::MAX)) {
            return None;
        }
        let fixed = step(self.walk.as_mut()?, limit, next)?;
        self.next += 1;
        Some(fixed)
    }

    /// Moves past the next record's frame, wherever it is.
    #[inline(never)]
    fn advance_far(&mut self) -> Result<Option<frame::Fixed>> {
        self.advance(|walk, limit, far| walk.step(limit, far))
    }

    /// The position up to which bytes of the segment being walked do not change.
    #[inline(always)]
    fn limit(&self) -> u64 {
        self.segment_end.map_or(self.frontier.position, |_| u64::MAX)
    }

    /// Returns the next record, waiting for it. Returns `None` if `stop` is set first.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    #[doc(alias("recv", "poll"))]
    pub fn wait(&mut self, stop: &Stop) -> Result<Option<RecordRef<'_>>> {
        self.wait_for(Duration::MAX, stop)
    }

    /// Returns the next record, waiting at most `timeout` for it. Returns `None` after that.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<RecordRef<'_>>> {
        self.wait_for(timeout, &Stop::new())
    }

    /// Returns the next record, waiting for it. Returns `None` after `timeout`, or if `stop` is set first.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn wait_for(&mut self, timeout: Duration, stop: &Stop) -> Result<Option<RecordRef<'_>>> {
        if self.next >= self.frontier.high_watermark
            && !self.topic.wait_beyond(self.next, self.spin, timeout, stop)?
        {
            return Ok(None);
        }
        if stop.is_stopped() {
            return Ok(None);
        }
        self.next()
    }

    /// Returns an iterator over copies of the records from here on. It ends where [`next`](Self::next) returns
    /// `None`, and after the first error; a new iterator continues.
    ///
    /// ```
    /// # fn main() -> deaddrop::Result<()> {
    /// # let dir = deaddrop::doc_dir();
    /// # let log = deaddrop::Log::open_or_create(&dir)?;
    /// use deaddrop::{OwnedRecord, Record, Start};
    /// let orders = log.topic("orders")?;
    /// orders.append_batch(&[Record::new("a"), Record::new("b")])?;
    /// for order in orders.reader(Start::First)?.records() {
    ///     println!("{:?}", order?.payload());
    /// }
    /// let all: deaddrop::Result<Vec<OwnedRecord>> = orders.reader(Start::First)?.records().collect();
    /// assert_eq!(all?.len(), 2);
    /// # Ok(()) }
    /// ```
    #[doc(alias("iter", "into_iter"))]
    pub fn records(&mut self) -> impl Iterator<Item = Result<OwnedRecord>> + '_ {
        let mut has_failed = false;
        std::iter::from_fn(move || {
            let next = if has_failed { Ok(None) } else { self.next() };
            has_failed |= next.is_err();
            next.map(|record| record.map(|record| record.to_owned())).transpose()
        })
    }

    /// Sleeps until there is a next record, `timeout` has passed, or `stop` is set.
    pub(crate) fn wait_until_more(&self, timeout: Duration, stop: &Stop) -> Result<()> {
        self.topic.wait_beyond(self.next, self.spin, timeout, stop).map(drop)
    }

    /// Returns the next record, checked and lent in place from the mapped file, without a copy; `None` if
    /// there is none yet. For callers that read much more than they keep, and that control which processes
    /// write.
    ///
    /// # Safety
    ///
    /// While this runs, and while the record is lent, no process changes the bytes of records that are
    /// already published (this library never does), and none shortens the segment's file: changing the bytes
    /// under a `&[u8]` is undefined behaviour, and a file that shrinks, or a bad sector, ends the process
    /// with a signal. [`next`](Self::next) has neither condition.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    #[allow(unsafe_code)]
    pub unsafe fn next_in_place(&mut self) -> Result<Option<RecordRef<'_>>> {
        self.topic.not_forked()?;
        if let Some(walk) = &mut self.walk {
            walk.forget();
        }
        // SAFETY: by the caller's promise, here and below; bytes below the limit are published.
        let near = self
            .next_near(|walk, limit, next| unsafe { walk.step_in_entered(limit, is_record(next)) });
        let advanced = match near {
            // SAFETY: as above.
            None => self.advance(|walk, limit, _| unsafe { walk.step_in_place(limit) })?,
            near => near,
        };
        let Some(fixed) = advanced else { return Ok(None) };
        let walk = self.walk.as_ref().expect("a frame was just read from it");
        // SAFETY: as above.
        let frame = unsafe { walk.frame_in_place(&fixed)? };
        Ok(Some(RecordRef::new(fixed, frame)))
    }

    /// Moves to the next record's frame, and past it.
    #[inline(always)]
    fn advance(
        &mut self,
        step: impl Fn(&mut Walk, u64, bool) -> Result<Step>,
    ) -> Result<Option<frame::Fixed>> {
        if self.next >= self.frontier.high_watermark {
            self.frontier = self.topic.frontier()?;
            if self.next >= self.frontier.high_watermark {
                return self.topic.location.check_when_idle().map(|()| None);
            }
            if let Some(walk) = &self.walk {
                // The handle is from before the segment grew, or the segment was sealed meanwhile.
                let base = walk.segment.base();
                let outgrown =
                    base == self.frontier.active && walk.segment.len() < self.frontier.position;
                if outgrown || (self.segment_end.is_none() && base != self.frontier.active) {
                    self.walk = None;
                }
            }
        }
        loop {
            if (self.walk.is_none() || self.segment_end.is_some_and(|end| self.next >= end))
                && !self.enter_segment()?
            {
                return Ok(None);
            }
            let limit = self.limit();
            let walk = self.walk.as_mut().expect("just set");
            let far = self.frontier.high_watermark - self.next > FAR;
            let position = walk.position;
            let bound = self.segment_end.unwrap_or(self.frontier.end);
            let what = match step(walk, limit, far)? {
                Step::Frame(fixed) => match meaning(&fixed, self.next, bound) {
                    Meaning::Record => {
                        self.next += 1;
                        return Ok(Some(fixed));
                    }
                    Meaning::Covers => continue,
                    Meaning::Lost(end) => {
                        let offsets = self.next..end;
                        self.next = end;
                        if !self.passes_over_lost {
                            return Err(Error::Lost { path: walk.segment.path.clone(), offsets });
                        }
                        if self.next >= self.frontier.high_watermark {
                            return Ok(None);
                        }
                        continue;
                    }
                    // The index leads to a frame some way before the one wanted.
                    Meaning::Other if fixed.offset < self.next => continue,
                    Meaning::Other => Malformed::Field { name: "offset", value: fixed.offset },
                },
                Step::End => Malformed::Short { needed: frame::FIXED_LEN, found: 0 },
                Step::Bad(what) => what,
            };
            walk.position = position;
            walk.forget();
            self.pass_bad_frame(limit, what)?;
        }
    }

    /// Moves to the frame of `next`, in its segment. Returns false if there is no such record yet.
    fn enter_segment(&mut self) -> Result<bool> {
        let (walk, end) = loop {
            if self.next >= self.frontier.high_watermark {
                return Ok(false);
            }
            match self.topic.walk_at(self.next, &self.frontier) {
                Err(Error::Trimmed { .. }) if self.look_up_again()? => {}
                entered => break entered.map_err(|error| error.at_offset(self.next))?,
            }
        };
        self.walk = Some(walk);
        self.walk_from = self.next;
        self.segment_end = end;
        Ok(true)
    }

    /// Resolves the start of this reader again if retention has moved past it before its first record was
    /// read: "the first record since noon" is then another record. Returns whether the reader now begins
    /// elsewhere.
    #[cold]
    fn look_up_again(&mut self) -> Result<bool> {
        let Some((start, at)) = self.start.filter(|(_, at)| *at == self.next) else {
            return Ok(false);
        };
        if matches!(start, Start::Offset(_)) {
            return Ok(false);
        }
        let next = resolve(&self.topic, start)?;
        self.frontier = self.topic.frontier()?;
        self.walk = None;
        self.next = next;
        self.start = Some((start, next));
        Ok(next > at)
    }

    /// Handles bytes that are not the next frame: an error, unless the next frame is elsewhere.
    #[cold]
    fn pass_bad_frame(&mut self, limit: u64, what: Malformed) -> Result<()> {
        let walk = self.walk.as_ref().expect("the walk found the bad frame");
        let error = walk.segment.corrupt(walk.position, Some(self.next), &what);
        let seen = (walk.segment.base(), self.segment_end);
        if self.topic.has_moved(self.next, self.frontier.active, seen)?
            || !self.topic.segments.is_current(&walk.segment)?
        {
            // The list of segments was an older one, or the file is.
            self.walk = None;
            return Ok(());
        }
        // Damage before the record that is wanted is not damage of it.
        let frames = frames_to(&walk.segment, self.sure_position(), self.next);
        let stop = self.segment_end.unwrap_or(self.frontier.end);
        let mut frames = frames.before(Some(stop)).up_to(limit);
        if frames.seek(self.next)? == Some(self.next) {
            let walk = self.walk.as_mut().expect("as above");
            walk.position = frames.walk.position;
            return Ok(());
        }
        match self.trimmed_instead(error) {
            Error::Trimmed { .. } if self.look_up_again()? => Ok(()),
            error => Err(error),
        }
    }

    /// Where the frame of the next record starts, or bytes that are none, if that is sure: an index may have
    /// led astray.
    fn sure_position(&self) -> Option<u64> {
        self.walk.as_ref().filter(|_| self.next > self.walk_from).map(|walk| walk.position)
    }

    /// A segment that was trimmed while it was read is not damaged, nor is one that was removed with its
    /// topic.
    fn trimmed_instead(&self, error: Error) -> Error {
        if let Some(displaced) = self.topic.location.displaced() {
            return displaced;
        }
        match self.topic.first_offset() {
            Ok(first) if first > self.next => Error::Trimmed { wanted: self.next, first },
            _ => error,
        }
    }

    /// After [`Error::Corrupt`]: moves to the next whole record after the damage, and returns the offsets
    /// that are skipped. The range is empty if the current record can be read after all.
    ///
    /// # Errors
    ///
    /// [`Error::Trimmed`], [`Error::Io`].
    pub fn skip_damage(&mut self) -> Result<std::ops::Range<u64>> {
        let from = self.next;
        let (sure, walk) = (self.sure_position(), self.walk.take());
        self.frontier = self.topic.frontier()?;
        let (base, end) = match self.topic.around(from, self.frontier.active) {
            Err(Error::Corrupt { .. }) => {
                // No file holds this offset: continue with the next file there is.
                let next = self
                    .topic
                    .next_base(from, self.frontier.active)?
                    .unwrap_or(self.frontier.high_watermark);
                self.next = next.max(from);
                return Ok(from..self.next);
            }
            around => around?,
        };
        let sure = sure.filter(|_| walk.is_some_and(|walk| walk.segment.base() == base));
        let found = match self.topic.segment(base) {
            Ok(segment) => {
                let limit = if end.is_some() { u64::MAX } else { self.frontier.position };
                let stop = end.unwrap_or(self.frontier.end);
                let frames = frames_to(&segment, sure, from);
                let mut frames = frames.before(Some(stop)).up_to(limit);
                let found = frames.seek(from)?;
                if found.is_some() {
                    frames.walk.forget();
                    self.walk = Some(frames.walk.holding_all());
                    self.segment_end = end;
                }
                found
            }
            Err(Error::Corrupt { .. }) => None,
            Err(other) => return Err(other),
        };
        // Records that are not published yet come later.
        let most = self.frontier.high_watermark.max(from);
        self.next = found.or(end).unwrap_or(most).clamp(from, most);
        self.walk_from = self.next;
        Ok(from..self.next)
    }
}

/// The frames of a segment on the way to the record `next`: from the position where it has to be, if that is
/// sure. Else from the front; much damage is many searches, so not always.
fn frames_to(segment: &Arc<Segment>, sure: Option<u64>, next: u64) -> Frames {
    match sure {
        Some(position) => Frames::from(segment, position, next),
        None => Frames::of(segment),
    }
}
