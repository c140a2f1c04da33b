//! How far a topic goes.

use super::Durability;
use crate::control::{Place, Words};
use crate::segment::Batches;
use crate::sys::atomic::Ordering;

/// How far the topic goes, at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frontier {
    /// The end of the records that readers may see.
    pub(crate) high_watermark: u64,
    /// The offset of the next record.
    pub(crate) end: u64,
    /// Records below this are known to survive a power loss.
    pub(crate) durable_end: u64,
    /// The base of the active segment.
    pub(crate) active: u64,
    /// In the active segment, bytes below this position no longer change.
    pub(crate) position: u64,
}

impl Frontier {
    /// Returns how far a topic with these words goes.
    pub(super) fn of(words: &Words, durability: Durability) -> Frontier {
        // Acquire: pairs with the Release stores that publish records; the place that is read after them is
        // at least as new.
        let durable_end = words.durable.end.load(Ordering::Acquire);
        let end = words.tail.end.load(Ordering::Acquire);
        let Place { active, position } = words.tail.place();
        let synced = durability == Durability::PowerLoss;
        let high_watermark = if synced { durable_end } else { end };
        Frontier { high_watermark, end, durable_end, active, position }
    }
}

/// The end of a topic without living members, as it was last found by walking frames.
#[derive(Debug)]
pub(crate) struct FoundEnd {
    pub(super) batches: Batches,
    /// Readers see no further, because the rest was not durable when its writers died.
    pub(super) visible: u64,
    pub(super) durable_end: u64,
}
