//! What a sequence of frames means: which records it holds, which offsets it marks lost, where it ends.
//!
//! The only place that decides this. [`meaning`] judges one frame; [`Frames`] walks a segment frame by frame;
//! [`Batches`] combines frames into whole batches. The rules are those of `docs/format.md`: records count up
//! from the base and end before the next segment's base; a void frame can mark offsets lost, and one that
//! would mark more than its segment can have held is damage; a batch counts when it is whole, or when it is
//! not at the end of the log.
//!
//! Does not know where a log ends: callers decide whether to stop at a missing frame or to pass it.

use std::ops::Range;
use std::sync::Arc;

use super::walk::{Step, Walk};
use super::Segment;
use crate::error::Result;
use crate::format::frame::{self, Fixed};
use crate::format::segment::{most_records, FIRST_FRAME_AT};
use crate::format::Malformed;

/// The meaning of a valid frame where the record `next` is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The expected record.
    Record,
    /// A void frame that covers bytes and marks no offset lost.
    Covers,
    /// A void frame that marks lost the offsets from the expected one up to this one.
    Lost(u64),
    /// A record of another offset, or a void frame with an impossible offset: not a frame of the log.
    Other,
}

/// Returns the meaning of a valid frame where the record `next` is expected. `bound`: the next segment's
/// base; in the newest segment the end of the log, or else [`most`].
#[inline(always)]
pub(crate) fn meaning(fixed: &Fixed, next: u64, bound: u64) -> Meaning {
    if fixed.kind == frame::KIND_VOID {
        if fixed.offset <= next {
            Meaning::Covers
        } else if fixed.offset <= bound {
            Meaning::Lost(fixed.offset)
        } else {
            Meaning::Other
        }
    } else if fixed.offset == next {
        Meaning::Record
    } else {
        Meaning::Other
    }
}

/// Returns a test for the valid frame of the record `next`.
#[inline(always)]
pub(crate) fn is_record(next: u64) -> impl FnOnce(&Fixed) -> bool {
    move |fixed| meaning(fixed, next, next) == Meaning::Record
}

/// Returns the offset below which all records of a segment are, whatever its frames say.
fn most(segment: &Segment) -> u64 {
    segment.base().saturating_add(most_records(segment.len()))
}

/// Why a position has no frame of the log.
#[derive(Debug)]
pub(crate) enum Why {
    /// The bytes are not a frame.
    Malformed(Malformed),
    /// A frame of another offset.
    Offset { found: u64, expected: u64 },
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Why::Malformed(what) => what.fmt(f),
            Why::Offset { found, expected } => write!(f, "offset {found} instead of {expected}"),
        }
    }
}

/// A frame that belongs to the log, or why there is none.
#[derive(Debug)]
pub(crate) enum Seen {
    /// The next record.
    Record(Fixed),
    /// A void frame that marks no offset lost.
    Covers,
    /// A void frame that marks these offsets lost.
    Lost(Range<u64>),
    /// Not a frame of the log; the walk has not moved.
    Bad(Why),
    /// The offset or the position at which the walk was to end.
    End,
}

/// Bytes that were passed, and the offsets that the log loses with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Positions, from the bad frame to the next record of the log, or to the end of the walk.
    pub(crate) positions: Range<u64>,
    /// The offset that was expected.
    pub(crate) expected: u64,
    /// The offset of the next record that was found.
    pub(crate) found: Option<u64>,
}

/// Walks the frames of a segment that belong to the log.
#[derive(Debug)]
pub(crate) struct Frames {
    pub(crate) walk: Walk,
    /// The offset that the next record has.
    pub(crate) next: u64,
    /// Records have offsets below this one.
    stop: u64,
    /// See [`meaning`].
    bound: u64,
    /// Bytes at this position and later do not count.
    limit: u64,
}

impl Frames {
    /// Walks all frames of a segment.
    pub(crate) fn of(segment: &Arc<Segment>) -> Frames {
        Frames::from(segment, FIRST_FRAME_AT, segment.base())
    }

    /// Walks the frames from `position` on, where the record `next` is expected.
    pub(crate) fn from(segment: &Arc<Segment>, position: u64, next: u64) -> Frames {
        let walk = Walk::new(Arc::clone(segment), position, false);
        Frames { walk, next, stop: u64::MAX, bound: most(segment), limit: u64::MAX }
    }

    /// Ends before the offset `stop`, the start of the next segment or of unpublished records; `None` if that
    /// is unknown.
    pub(crate) fn before(mut self, stop: Option<u64>) -> Frames {
        if let Some(stop) = stop {
            (self.stop, self.bound) = (stop, stop);
        }
        self
    }

    /// Ends before the position `limit`, below which bytes do not change.
    pub(crate) fn up_to(mut self, limit: u64) -> Frames {
        self.limit = limit;
        self
    }

    /// Reads from the mapping, if the segment has one.
    pub(crate) fn hot(mut self) -> Frames {
        self.walk = Walk::new(Arc::clone(&self.walk.segment), self.walk.position, true);
        self
    }

    /// Whether the next segment's base is reached.
    pub(crate) fn is_complete(&self) -> bool {
        self.next >= self.stop
    }

    /// Returns the next frame of the log.
    #[inline]
    pub(crate) fn step(&mut self) -> Result<Seen> {
        if self.is_complete() {
            return Ok(Seen::End);
        }
        let position = self.walk.position;
        let fixed = match self.walk.step(self.limit, true)? {
            Step::Frame(fixed) => fixed,
            Step::End => return Ok(Seen::End),
            Step::Bad(what) => return Ok(Seen::Bad(Why::Malformed(what))),
        };
        Ok(match meaning(&fixed, self.next, self.bound) {
            Meaning::Record => {
                self.next += 1;
                Seen::Record(fixed)
            }
            Meaning::Covers => Seen::Covers,
            Meaning::Lost(end) => {
                let offsets = self.next..end;
                self.next = end;
                Seen::Lost(offsets)
            }
            Meaning::Other => {
                self.walk.position = position;
                Seen::Bad(Why::Offset { found: fixed.offset, expected: self.next })
            }
        })
    }

    /// Passes the bytes at the walk's position, and moves the walk to the next record of the log. The records
    /// between are lost.
    pub(crate) fn pass(&mut self) -> Result<Passed> {
        let (start, expected) = (self.walk.position, self.next);
        let end = self.limit.min(self.walk.segment.len());
        self.walk.forget();
        // A void frame must fit in before the next frame, and no frame is shorter than this.
        self.walk.position = start.saturating_add(frame::FIXED_LEN as u64).min(end).max(start);
        let found = self.walk.resync(self.limit, expected..self.stop)?;
        if let Some(found) = found {
            self.next = found;
        }
        Ok(Passed { positions: start..self.walk.position.max(start), expected, found })
    }

    /// Moves the walk to the record `offset`, or to the void frame that marks it lost, and passes damage on
    /// the way; if the record itself is damaged, to the next record. Returns the offset at which the walk is
    /// then; `None` if there is no further record.
    pub(crate) fn seek(&mut self, offset: u64) -> Result<Option<u64>> {
        while self.next <= offset {
            let before = (self.next, self.walk.position);
            match self.step()? {
                Seen::Record(_) | Seen::Lost(_) if self.next > offset => {
                    (self.next, self.walk.position) = before;
                    return Ok(Some(offset));
                }
                Seen::Record(_) | Seen::Covers | Seen::Lost(_) => {}
                Seen::Bad(_) if self.pass()?.found.is_some() => {}
                Seen::Bad(_) | Seen::End => return Ok(None),
            }
        }
        Ok(Some(self.next))
    }
}

/// A batch that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) offsets: Range<u64>,
    pub(crate) positions: Range<u64>,
}

/// What [`Batches::next`] finds.
#[derive(Debug)]
pub(crate) enum Found {
    /// A whole batch, or the remaining frames of one that was once whole.
    Batch(Batch),
    /// A void frame marks offsets lost.
    Lost,
    /// There is no frame of the log at [`Batches::position`].
    Bad(Why),
    /// The offset or the position at which the walk was to end.
    End,
}

/// Walks the whole batches of a segment.
#[derive(Debug)]
pub(crate) struct Batches {
    frames: Frames,
    /// The next offset after the last batch that counts or void frame.
    pub(crate) end: u64,
    /// The position after it.
    pub(crate) end_position: u64,
    /// The newest time of the records in batches that count.
    pub(crate) newest: u64,
    /// The newest time in the current batch, whose end was not reached yet.
    newest_begun: u64,
}

impl Batches {
    pub(crate) fn of(frames: Frames) -> Batches {
        let (end, end_position) = (frames.next, frames.walk.position);
        Batches { frames, end, end_position, newest: 0, newest_begun: 0 }
    }

    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.frames.walk.segment
    }

    /// The position of the walk.
    pub(crate) fn position(&self) -> u64 {
        self.frames.walk.position
    }

    /// The offset of the next record, after those of a batch whose end was not reached yet.
    pub(crate) fn expected(&self) -> u64 {
        self.frames.next
    }

    /// Whether the next segment's base is reached.
    pub(crate) fn is_complete(&self) -> bool {
        self.frames.is_complete()
    }

    /// Returns to the end of the last batch that counts, and reads again what follows it.
    pub(crate) fn retry(&mut self) {
        self.frames.walk.forget();
        self.frames.walk.position = self.end_position;
        self.frames.next = self.end;
        self.newest_begun = 0;
    }

    fn is_in_batch(&self) -> bool {
        self.frames.next > self.end
    }

    /// Makes the frames up to `position` count.
    fn close(&mut self, end: u64, position: u64) -> Batch {
        let batch = Batch { offsets: self.end..end, positions: self.end_position..position };
        (self.end, self.end_position) = (end, position);
        self.newest = self.newest.max(self.newest_begun);
        batch
    }

    /// Returns what follows: a batch, lost offsets, a bad frame or the end.
    pub(crate) fn next(&mut self) -> Result<Found> {
        loop {
            let before = (self.frames.next, self.frames.walk.position);
            match self.frames.step()? {
                Seen::Record(fixed) => {
                    self.newest_begun = self.newest_begun.max(fixed.timestamp);
                    // If another segment follows, the log did not end in this batch.
                    if !fixed.continues() || self.frames.is_complete() {
                        let batch = self.close(self.frames.next, self.frames.walk.position);
                        return Ok(Found::Batch(batch));
                    }
                }
                Seen::Covers if self.is_in_batch() => {}
                Seen::Covers => self.end_position = self.frames.walk.position,
                Seen::Lost(..) if before.0 > self.end => {
                    // The remaining frames of the batch before it count.
                    (self.frames.next, self.frames.walk.position) = before;
                    return Ok(Found::Batch(self.close(before.0, before.1)));
                }
                Seen::Lost(offsets) => {
                    (self.end, self.end_position) = (offsets.end, self.frames.walk.position);
                    return Ok(Found::Lost);
                }
                Seen::Bad(why) => return Ok(Found::Bad(why)),
                Seen::End => return Ok(Found::End),
            }
        }
    }

    /// Walks to the first bad frame, or to the end.
    pub(crate) fn walk(&mut self) -> Result<()> {
        while let Found::Batch(_) | Found::Lost = self.next()? {}
        Ok(())
    }

    /// Passes the bytes at the walk's position: see [`Frames::pass`]. The log continues after them, so the
    /// frames of an unfinished batch before them count.
    pub(crate) fn pass(&mut self) -> Result<Passed> {
        let passed = self.frames.pass()?;
        self.close(passed.expected, passed.positions.start);
        if let Some(found) = passed.found {
            (self.end, self.end_position) = (found, passed.positions.end);
        }
        Ok(passed)
    }
}
