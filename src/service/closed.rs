//! Requests that were cancelled, or that expired, before a server reached them.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::envelope::{Envelope, Kind};
use super::record_at;
use super::request_id::RequestId;
use crate::error::{Error, Result};
use crate::group::{Dispatch, Job};
use crate::reader::{Reader, Start};
use crate::topic::Topic;

/// Most requests of a lane that are remembered.
const OF_A_LANE_MOST: usize = 4096;
/// Most requests that are remembered without being in the request topic yet, and for how long: their sending
/// has begun, or failed.
const UNPLACED_MOST: usize = 1024;
const UNPLACED_FOR: Duration = Duration::from_secs(10 * 60);

/// The closed requests that a server has read from the reply topic.
#[derive(Debug)]
pub(super) struct ClosedRequests {
    reader: Reader,
    requests: Topic,
    replies: Topic,
    known: Closed,
}

/// The closed requests. It holds only requests of this server's lanes, and only until the
/// lane has passed them. Another owner reads the reply topic from the lane's floor on, which stays below
/// the records that closed these requests.
#[derive(Debug, Default)]
struct Closed {
    /// The requests, with the offset of the record that closes each.
    by_id: HashMap<RequestId, u64>,
    by_offset: BTreeMap<u64, Place>,
    lanes: HashMap<u32, OfLane>,
    /// Requests that are not visible where the record that closes them says, by the offset of that record.
    unplaced: BTreeMap<u64, (RequestId, Instant)>,
}

#[derive(Debug)]
struct Place {
    id: RequestId,
    lane: u32,
    request_offset: u64,
}

/// The closed requests of a lane.
#[derive(Debug, Default)]
struct OfLane {
    /// By the offset of the request: the offset of the record that closes it.
    requests: BTreeMap<u64, u64>,
    /// If there are too many: the first of the other requests, and the first record that closes one of them.
    left_out: Option<(u64, u64)>,
}

impl Closed {
    /// Records that the record at `offset` closes a request at `request_offset`, in `lane`.
    fn insert(&mut self, offset: u64, id: RequestId, lane: u32, request_offset: u64) {
        if self.by_id.contains_key(&id) {
            return;
        }
        let of = self.lanes.entry(lane).or_default();
        of.requests.insert(request_offset, offset);
        self.by_id.insert(id.clone(), offset);
        self.by_offset.insert(offset, Place { id, lane, request_offset });
        let (from, at) = of.left_out.unwrap_or((u64::MAX, u64::MAX));
        if of.requests.len() > OF_A_LANE_MOST || request_offset >= from {
            if let Some((last, closed_at)) = of.requests.pop_last() {
                of.left_out = Some((from.min(last), at.min(closed_at)));
                let place = self.by_offset.remove(&closed_at);
                place.map(|place| self.by_id.remove(&place.id));
            }
        }
    }

    /// Records a closed request that is not at the offset that the record at `offset` names.
    fn insert_unplaced(&mut self, offset: u64, id: RequestId) {
        if self.unplaced.len() < UNPLACED_MOST {
            self.unplaced.entry(offset).or_insert((id, Instant::now()));
        }
    }

    /// Returns whether a request is closed, and forgets it.
    fn remove(&mut self, id: &RequestId) -> bool {
        let unplaced = self.unplaced.len();
        self.unplaced.retain(|_, (other, _)| other != id);
        let Some(offset) = self.by_id.remove(id) else { return self.unplaced.len() < unplaced };
        let place = self.by_offset.remove(&offset);
        let of = place.as_ref().and_then(|place| self.lanes.get_mut(&place.lane));
        of.zip(place).map(|(of, place)| of.requests.remove(&place.request_offset));
        true
    }

    /// If a request may be closed without being remembered: from where on the reply topic must be read for it.
    /// The caller reads it.
    fn take_left_out(&mut self, lane: u32, request_offset: u64) -> Option<u64> {
        let (from, at) = self.lanes.get(&lane)?.left_out?;
        if request_offset < from {
            return None;
        }
        for of in self.lanes.values_mut() {
            of.left_out.take_if(|(_, other)| *other >= at);
        }
        Some(at)
    }

    /// Forgets requests, by lane and offset, that this server will not reach any more.
    fn retain(&mut self, is_to_come: impl Fn(u32, u64) -> bool) {
        self.by_offset.retain(|_, place| {
            let stays = is_to_come(place.lane, place.request_offset);
            if !stays {
                self.by_id.remove(&place.id);
            }
            stays
        });
        self.lanes.retain(|lane, of| {
            of.requests.retain(|offset, _| is_to_come(*lane, *offset));
            is_to_come(*lane, u64::MAX) && (of.left_out.is_some() || !of.requests.is_empty())
        });
        self.unplaced.retain(|_, (_, since)| since.elapsed() < UNPLACED_FOR);
    }

    /// Returns the offset of the first record that the next owner of a lane must read.
    fn first(&self) -> Option<u64> {
        let placed = self.by_offset.keys().next().copied();
        let unplaced = self.unplaced.keys().next().copied();
        let left_out = self.lanes.values().filter_map(|of| Some(of.left_out?.1)).min();
        [placed, unplaced, left_out].into_iter().flatten().min()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.by_id.len()
    }
}

impl ClosedRequests {
    /// Reads the reply topic from `from` on.
    pub(super) fn new(requests: &Topic, replies: &Topic, from: u64) -> Result<ClosedRequests> {
        let reader = replies.reader(Start::Offset(from))?;
        let (requests, replies) = (requests.clone(), replies.clone());
        Ok(ClosedRequests { reader, requests, replies, known: Closed::default() })
    }

    /// Returns whether a request was expired or cancelled.
    pub(super) fn contains(
        &mut self,
        dispatch: &mut Dispatch,
        job: &Job,
        id: &RequestId,
    ) -> Result<bool> {
        self.look(dispatch)?;
        if let Some(at) = self.known.take_left_out(job.lane(), job.offset()) {
            self.reader.seek_to(at.max(self.replies.first_offset()?));
            self.look(dispatch)?;
        }
        Ok(self.known.remove(id))
    }

    /// Forgets the requests that this server will not reach any more.
    pub(super) fn forget_passed(&mut self, dispatch: &Dispatch) {
        self.known.retain(|lane, offset| dispatch.awaits(lane, offset));
    }

    /// Reads which requests clients have expired or cancelled since the last call.
    pub(super) fn look(&mut self, dispatch: &mut Dispatch) -> Result<()> {
        if let Some(floor) = dispatch.take_taken_floor() {
            // Records that were skipped before may close requests of the new lanes.
            if floor < self.reader.offset() {
                self.reader.seek_to(floor.max(self.replies.first_offset()?));
            }
        }
        let looked = self.read(dispatch);
        // Not above the position that was read: the next owner of a lane begins to read there.
        let read = self.reader.offset();
        dispatch.effects_kept = self.known.first().map_or(read, |first| first.min(read));
        looked
    }

    fn read(&mut self, dispatch: &Dispatch) -> Result<()> {
        loop {
            let record = match self.reader.next() {
                Ok(Some(record)) => record,
                Ok(None) => return Ok(()),
                Err(Error::Lost { .. }) => continue,
                // Trimmed while this server had nothing to do.
                Err(Error::Trimmed { first, .. }) => {
                    self.reader.seek_to(first);
                    continue;
                }
                Err(Error::Corrupt { .. }) => {
                    self.reader.skip_damage()?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(Ok(envelope)) = Envelope::of(&record) else { continue };
            if matches!(envelope.kind, Kind::Cancelled | Kind::Expired) {
                let offset = record.offset();
                self.note(dispatch, offset, envelope)?;
            }
        }
    }

    /// Handles a record that closes a request: keeps it if this server may still reach the request.
    fn note(&mut self, dispatch: &Dispatch, offset: u64, envelope: Envelope) -> Result<()> {
        let request_offset = envelope.request_offset.unwrap_or(0);
        let request = record_at(&self.requests, request_offset)?;
        match request.filter(|request| envelope.is_about(request)) {
            Some(request) => {
                let lane = dispatch.lane_of(&request.as_ref());
                if dispatch.awaits(lane, request_offset) {
                    self.known.insert(offset, envelope.id, lane, request_offset);
                }
            }
            None if request_offset >= self.requests.first_offset()? => {
                self.known.insert_unplaced(offset, envelope.id);
            }
            // The request was trimmed.
            None => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_lane_has_passed_is_forgotten_and_the_first_of_the_rest_known() {
        let id = |number| RequestId::new("c", 1, number);
        let mut closed = Closed::default();
        for number in 0..4 {
            closed.insert(10 + number, id(number), number as u32 % 2, number);
        }
        // The same record again, as happens after a lane was taken.
        closed.insert(10, id(0), 0, 0);
        assert_eq!((closed.first(), closed.len()), (Some(10), 4));
        closed.retain(|lane, offset| lane == 1 && offset >= 3);
        assert_eq!((closed.first(), closed.len()), (Some(13), 1));
        assert!(!closed.remove(&id(1)) && closed.remove(&id(3)) && !closed.remove(&id(3)));
        assert_eq!((closed.first(), closed.len()), (None, 0));
        closed.insert_unplaced(20, id(9));
        assert_eq!(closed.first(), Some(20), "its request may become visible later");
        assert!(closed.remove(&id(9)) && !closed.remove(&id(9)));
        assert_eq!(closed.first(), None);
    }

    #[test]
    fn a_lane_that_waits_remembers_the_next_closed_requests_and_where_to_read_of_the_others() {
        const MOST: u64 = OF_A_LANE_MOST as u64;
        let id = |number| RequestId::new("c", 1, number);
        let mut closed = Closed::default();
        // Closed from the last request to the first: the first ones are kept.
        let read = |closed: &mut Closed, passed: u64| {
            for at in 0..3 * MOST - passed {
                let request = 3 * MOST - 1 - at;
                closed.insert(at, id(request), 7, request);
            }
        };
        closed.insert(5 * MOST, id(5 * MOST), 8, 0);
        read(&mut closed, 0);
        assert_eq!((closed.len(), closed.first()), (OF_A_LANE_MOST + 1, Some(0)));
        for request in 0..MOST {
            assert_eq!(closed.take_left_out(7, request), None);
            assert!(closed.remove(&id(request)), "{request}");
        }
        assert_eq!(closed.take_left_out(8, u64::MAX), None, "another lane waits for none");
        assert_eq!(closed.take_left_out(7, MOST), Some(0));
        read(&mut closed, MOST);
        for request in MOST..2 * MOST {
            assert!(closed.remove(&id(request)), "{request}");
        }
        let left_out = closed.take_left_out(7, 2 * MOST);
        assert_eq!(left_out, Some(0));
    }
}
