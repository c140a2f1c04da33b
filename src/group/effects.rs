//! What lanes keep of the topic that handling appends to: their floors, from which on the next owner of a
//! lane reads it.

use super::dispatch::Dispatch;
use super::lane::EffectsFloor;
use crate::error::Result;
use crate::format::group::lane_of;
use crate::record::RecordRef;
use crate::topic::Topic;

impl Dispatch {
    /// Whether a record is still to come: it is of a lane of this worker that has not passed it.
    pub(crate) fn awaits(&self, lane: u32, offset: u64) -> bool {
        self.lanes.get(&lane).is_some_and(|lane| lane.cursor.committed() <= offset)
    }

    /// The lane of a record.
    pub(crate) fn lane_of(&self, record: &RecordRef<'_>) -> u32 {
        lane_of(record.key(), record.offset(), self.group.lanes)
    }

    /// Where the effects end now, and the floor of lanes that have done everything.
    pub(super) fn effects_floor(&self) -> Result<Option<EffectsFloor>> {
        let end = self.effects.as_ref().map(Topic::end_offset).transpose()?;
        Ok(end.map(|end| EffectsFloor { end, floor: end.min(self.effects_kept) }))
    }
}
