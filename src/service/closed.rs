//! Requests that were cancelled, or that expired, before a server reached them.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::envelope::{Envelope, Kind};
use super::record_at;
use super::request_id::RequestId;
use super::server::Server;
use crate::error::{Error, Result};
use crate::record::OwnedRecord;

/// Most requests that are remembered without being in the request topic yet.
const UNPLACED_MOST: usize = 1024;

/// The closed requests; see the module. It holds only requests of this server's lanes, and only until the
/// lane has passed them. Another owner reads the reply topic from the lane's floor on, which stays below
/// the records that closed these requests.
#[derive(Debug, Default)]
pub(super) struct Closed {
    /// The requests, with the offset of the record that closes each.
    by_id: HashMap<RequestId, u64>,
    by_offset: BTreeMap<u64, Place>,
    /// Redrives that were cancelled before they were sent.
    unplaced: HashSet<RequestId>,
}

#[derive(Debug)]
struct Place {
    id: RequestId,
    lane: u32,
    request_offset: u64,
}

impl Closed {
    /// Records that the record at `offset` closes a request at `request_offset`, in `lane`.
    pub(super) fn insert(&mut self, offset: u64, id: RequestId, lane: u32, request_offset: u64) {
        if !self.by_id.contains_key(&id) {
            self.by_id.insert(id.clone(), offset);
            self.by_offset.insert(offset, Place { id, lane, request_offset });
        }
    }

    /// Records a closed request that is not at the offset that the record names.
    pub(super) fn insert_unplaced(&mut self, id: RequestId) {
        if self.unplaced.len() < UNPLACED_MOST {
            self.unplaced.insert(id);
        }
    }

    /// Returns whether a request is closed, and forgets it.
    pub(super) fn remove(&mut self, id: &RequestId) -> bool {
        let is_unplaced = self.unplaced.remove(id);
        match self.by_id.remove(id) {
            Some(offset) => self.by_offset.remove(&offset).is_some(),
            None => is_unplaced,
        }
    }

    /// Forgets requests, by lane and offset, that this server will not reach any more.
    pub(super) fn retain(&mut self, is_to_come: impl Fn(u32, u64) -> bool) {
        self.by_offset.retain(|_, place| {
            let stays = is_to_come(place.lane, place.request_offset);
            if !stays {
                self.by_id.remove(&place.id);
            }
            stays
        });
    }

    /// Returns the offset of the first record that the next owner of a lane must read.
    pub(super) fn first(&self) -> Option<u64> {
        self.by_offset.keys().next().copied()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.by_id.len()
    }
}

impl Server {
    /// Reads which requests clients have expired or cancelled since the last call.
    pub(super) fn look_for_closed(&mut self) -> Result<()> {
        if let Some(floor) = self.dispatch.take_taken_floor() {
            // Records that were skipped before may close requests of the new lanes.
            if floor < self.reply_reader.offset() {
                self.reply_reader.seek_to(floor.max(self.replies.first_offset()?));
            }
        }
        let looked = self.read_closed();
        // Not above the position that was read: the next owner of a lane begins to read there.
        let read = self.reply_reader.offset();
        self.dispatch.effects_kept = self.closed.first().map_or(read, |first| first.min(read));
        looked
    }

    fn read_closed(&mut self) -> Result<()> {
        loop {
            let record = match self.reply_reader.next() {
                Ok(Some(record)) => record,
                Ok(None) => return Ok(()),
                Err(Error::Lost { .. }) => continue,
                // Trimmed while this server had nothing to do.
                Err(Error::Trimmed { first, .. }) => {
                    self.reply_reader.seek_to(first);
                    continue;
                }
                Err(Error::Corrupt { .. }) => {
                    self.reply_reader.skip_damage()?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(Ok(envelope)) = Envelope::of(&record) else { continue };
            if matches!(envelope.kind, Kind::Cancelled | Kind::Expired) {
                let offset = record.offset();
                self.note_closed(offset, &envelope)?;
            }
        }
    }

    /// Handles a record that closes a request: keeps it if this server may still reach the request.
    fn note_closed(&mut self, offset: u64, envelope: &Envelope) -> Result<()> {
        let request_offset = envelope.request_offset.unwrap_or(0);
        let request = record_at(&self.requests, request_offset)?;
        let is_it = |record: &OwnedRecord| matches!(Envelope::of(&record.as_ref()), Some(Ok(found)) if found.id == envelope.id);
        match request.filter(is_it) {
            Some(request) => {
                let lane = self.dispatch.lane_of(&request.as_ref());
                if self.dispatch.awaits(lane, request_offset) {
                    self.closed.insert(offset, envelope.id.clone(), lane, request_offset);
                }
            }
            None if request_offset >= self.requests.first_offset()? => {
                self.closed.insert_unplaced(envelope.id.clone());
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
        closed.insert_unplaced(id(9));
        assert_eq!(closed.first(), None, "it holds nothing back");
        assert!(closed.remove(&id(9)) && !closed.remove(&id(9)));
    }
}
