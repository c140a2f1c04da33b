//! The records of the output topic that lanes still need: the floors of the lanes, from which on the next
//! owner of a lane reads that topic.

use super::dispatch::Dispatch;
use super::lane::EffectsFloor;
use crate::error::Result;
use crate::format::group::lane_of;
use crate::record::RecordRef;
use crate::topic::Topic;

impl Dispatch {
    /// Returns whether a record is yet to come: its lane belongs to this worker and has not passed it.
    pub(crate) fn awaits(&self, lane: u32, offset: u64) -> bool {
        self.lanes.get(lane).is_some_and(|lane| lane.cursor.committed() <= offset)
    }

    /// Returns the lane of a record.
    pub(crate) fn lane_of(&self, record: &RecordRef<'_>) -> u32 {
        lane_of(record.key(), record.offset(), self.group.lanes)
    }

    /// Returns the current end of the effects, and the floor of lanes that have done everything.
    pub(super) fn effects_floor(&self) -> Result<Option<EffectsFloor>> {
        let end = self.effects.as_ref().map(Topic::end_offset).transpose()?;
        Ok(end.map(|end| EffectsFloor { end, floor: end.min(self.effects_kept) }))
    }
}
