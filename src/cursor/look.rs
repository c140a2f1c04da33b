//! The content of a page, read by a process that may not own it.

use std::path::Path;

use super::Attempt;
use crate::error::{Error, Result};
use crate::format::cursor::{self, Live};
use crate::format::{group, PAGE_LEN};
use crate::store::{durable_slots, is_live_trusted, Store};
use crate::sys::atomic::Ordering;
use crate::sys::{self, Map};

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) committed: u64,
    /// The lowest position that a power loss can leave.
    pub(crate) durable: u64,
    /// The owner's second position at that durable position.
    pub(crate) durable_floor: u64,
    /// The attempt and its trial word.
    pub(crate) attempt: Option<(Attempt, u64)>,
    /// The record at which the lane is stopped.
    pub(crate) stopped_at: Option<u64>,
    /// The live words are of this boot and this file.
    pub(crate) is_live: bool,
    pub(crate) pid: u32,
}

/// Reads the page at `base` without owning it.
pub(crate) fn look(
    topic: &Store,
    map: &Map,
    path: &Path,
    base: usize,
    identity: sys::FileIdentity,
) -> Result<Seen> {
    let mut bytes = vec![0; PAGE_LEN];
    map.read(base, &mut bytes);
    check_header(topic, path, base, &bytes)?;
    let is_live = is_live_trusted(topic, map, base, identity);
    let live = live_in(map, base);
    let found = cursor::position(cursor::newest_slot(&bytes), live, is_live);
    let (epoch, _, offset) = found.ok_or_else(|| unreadable(path, base, "no valid slot"))?;
    let committed = topic.epochs.clamp(epoch, offset);
    let word = |at: usize| map.word(base + at).load(Ordering::Acquire);
    let durable = durable_slots(map, base, &bytes, is_live);
    let durable: Vec<(u64, u64)> =
        durable.map(|slot| (topic.epochs.clamp(slot.epoch, slot.offset), slot.floor)).collect();
    let attempt = attempt_in(map, base);
    let stopped_at = stopped_at(topic, map, base, committed);
    Ok(Seen {
        committed,
        durable: durable.iter().map(|(offset, _)| *offset).min().unwrap_or(0),
        durable_floor: durable.iter().map(|(_, floor)| *floor).min().unwrap_or(0),
        attempt: attempt
            .filter(|_| is_live || stopped_at.is_some())
            .map(|attempt| (attempt, word(group::LANE_TRIAL_AT))),
        stopped_at,
        is_live,
        pid: word(cursor::LIVE_PID_AT) as u32,
    })
}

pub(super) fn live_in(map: &Map, base: usize) -> Live {
    let word = |at: usize| map.word(base + at).load(Ordering::Acquire);
    Live {
        epoch: word(cursor::LIVE_EPOCH_AT) as u32,
        turn: word(cursor::LIVE_TURN_AT) as u32,
        offset: word(cursor::LIVE_OFFSET_AT),
        check: word(cursor::LIVE_CHECK_AT),
    }
}

pub(super) fn attempt_in(map: &Map, base: usize) -> Option<Attempt> {
    let word = |at: usize| map.word(base + at).load(Ordering::Acquire);
    let offset = word(cursor::ATTEMPT_AT).checked_sub(1)?;
    let len = (word(cursor::ATTEMPT_NOTE_LEN_AT) as usize).min(cursor::MAX_NOTE_LEN);
    let mut note = vec![0; len];
    map.read(base + cursor::ATTEMPT_NOTE_AT, &mut note);
    let count = word(cursor::ATTEMPT_COUNT_AT) as u32;
    Some(Attempt { offset, count, floor: word(cursor::ATTEMPT_FLOOR_AT), note })
}

/// Returns the record at which a lane was stopped, durably. It counts on another boot as well, if the record
/// is still there and not done.
pub(super) fn stopped_at(topic: &Store, map: &Map, base: usize, committed: u64) -> Option<u64> {
    if base == 0 {
        return None;
    }
    let word = |at: usize| map.word(base + at).load(Ordering::Acquire);
    let behind = word(group::LANE_STOPPED_AT);
    let offset = behind.checked_sub(1)?;
    let is_kept = topic.epochs.clamp(word(cursor::LIVE_EPOCH_AT) as u32, behind) == behind;
    (is_kept && offset >= committed && word(cursor::ATTEMPT_AT) == behind).then_some(offset)
}

pub(super) fn unreadable(path: &Path, base: usize, what: &str) -> Error {
    Error::Corrupt {
        path: path.to_owned(),
        position: base as u64,
        offset: None,
        what: format!("{what}; a position is never reset automatically: delete and recreate it"),
    }
}

pub(super) fn check_header(topic: &Store, path: &Path, base: usize, bytes: &[u8]) -> Result<()> {
    let topic_id = cursor::decode_header(bytes).map_err(|error| match error {
        version @ crate::format::Malformed::Version { .. } => {
            Error::malformed(path, base as u64, version)
        }
        other => unreadable(path, base, &other.to_string()),
    })?;
    if topic_id != topic.settings.topic_id {
        return Err(unreadable(path, base, "it belongs to another topic"));
    }
    Ok(())
}
