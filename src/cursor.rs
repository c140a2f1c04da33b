//! An offset file, or one page of a group file, in its owner's hands: a position, its durable slots, and
//! the note of the record in hand.
//!
//! It knows no reader and takes no lock: whoever makes one holds the lock.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::format::cursor::{self, Saved};
use crate::format::{group, PAGE_LEN};
use crate::sys::atomic::Ordering;
use crate::sys::{self, DiskFile, Map};
use crate::topic::{Open, TopicInner};

/// See the module.
#[derive(Debug)]
pub(crate) struct Cursor {
    topic: Arc<Open>,
    file: Arc<dyn DiskFile>,
    map: Arc<Map>,
    path: PathBuf,
    /// Where its page begins.
    base: usize,
    /// The sequence number of the newest durable slot.
    sequence: u64,
    /// That slot is known to be on the disk: its neighbour may be written over.
    slot_is_durable: bool,
    synced_at: Instant,
    synced: (u64, u64),
    clamped_from: Option<u64>,
    trusted_live: bool,
    /// What the live word says: only the owner stores it.
    committed: u64,
}

/// A record in hand, as noted in the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// The record's offset.
    pub(crate) offset: u64,
    /// How often its handling was begun, this time included.
    pub(crate) count: u32,
    /// The end of the reply topic when it was begun, or an offset before it.
    pub(crate) floor: u64,
    /// The owner's own bytes.
    pub(crate) note: Vec<u8>,
}

impl Cursor {
    /// Takes over the page at `base`, whose lock the caller holds.
    pub(crate) fn take(
        topic: &Arc<Open>,
        file: Arc<dyn DiskFile>,
        map: Arc<Map>,
        path: &Path,
        base: usize,
    ) -> Result<Cursor> {
        let mut bytes = vec![0; PAGE_LEN];
        map.read(base, &mut bytes);
        check_header(topic, path, base, &bytes)?;
        let io = |error| Error::io("asking for the identity of", path, error);
        let identity = file.identity().map_err(io)?;
        let slot = cursor::newest_slot(&bytes);
        let trusted_live = is_live_trusted(topic, &map, base, identity);
        let word = |at: usize| map.word(base + at).load(Ordering::Acquire);
        let saved = match (trusted_live, slot) {
            (true, slot) => Saved {
                sequence: slot.map_or(0, |slot| slot.sequence),
                epoch: word(cursor::LIVE_EPOCH_AT) as u32,
                offset: word(cursor::LIVE_OFFSET_AT),
                floor: word(cursor::LIVE_FLOOR_AT),
            },
            (false, Some(slot)) => slot,
            (false, None) => return Err(unreadable(path, base, "no valid slot")),
        };
        let end = topic.frontier()?.high_watermark;
        let offset = topic.clamp(saved.epoch, saved.offset).min(end);
        let mut taken = Cursor {
            topic: Arc::clone(topic),
            file,
            map,
            path: path.to_owned(),
            base,
            sequence: saved.sequence,
            slot_is_durable: false,
            synced_at: Instant::now(),
            synced: (0, 0),
            clamped_from: (offset < saved.offset).then_some(saved.offset),
            trusted_live,
            committed: offset,
        };
        taken.stamp_live(identity, offset, saved.floor);
        Ok(taken)
    }

    /// Makes the live state this owner's. Dying on the way leaves it untrusted, and the durable slots
    /// in force; so a live position that was trusted is made a slot first.
    fn stamp_live(&mut self, identity: sys::FileIdentity, offset: u64, floor: u64) {
        let live = |at| self.word(at);
        if !self.trusted_live {
            live(cursor::LIVE_READY_AT).store(0, Ordering::Release);
            live(cursor::ATTEMPT_AT).store(0, Ordering::Release);
        }
        if !self.was_live() && self.base != 0 {
            // With the words below it: who takes over from here knows as little as this owner.
            live(group::LANE_DOUBT_AT).store(u64::MAX, Ordering::Release);
        }
        live(cursor::LIVE_OFFSET_AT).store(offset, Ordering::Release);
        live(cursor::LIVE_EPOCH_AT).store(self.topic.epoch().into(), Ordering::Release);
        live(cursor::LIVE_FLOOR_AT).store(floor, Ordering::Release);
        live(cursor::LIVE_BOOT_AT).store(self.topic.log.boot[0], Ordering::Release);
        live(cursor::LIVE_BOOT_AT + 8).store(self.topic.log.boot[1], Ordering::Release);
        live(cursor::LIVE_DEV_AT).store(identity.dev, Ordering::Release);
        live(cursor::LIVE_INO_AT).store(identity.ino, Ordering::Release);
        live(cursor::LIVE_PID_AT).store(std::process::id().into(), Ordering::Release);
        live(cursor::LIVE_READY_AT).store(1, Ordering::Release);
    }

    fn word(&self, at: usize) -> &crate::sys::atomic::AtomicU64 {
        self.map.word(self.base + at)
    }

    /// Stores the committed position: survives `kill -9`.
    pub(crate) fn commit(&mut self, offset: u64) -> Result<()> {
        self.topic.not_forked()?;
        self.word(cursor::LIVE_OFFSET_AT).store(offset, Ordering::Release);
        self.committed = offset;
        Ok(())
    }

    /// Makes the position durable, but no more of it than its topic's durable end.
    pub(crate) fn sync(&mut self) -> Result<()> {
        sync_all(&mut [self])
    }

    /// Whether something was committed since the last sync.
    pub(crate) fn is_changed(&self) -> bool {
        self.synced != (self.committed, self.floor())
    }

    /// How long ago it was synced, or taken.
    pub(crate) fn since_sync(&self) -> Duration {
        self.synced_at.elapsed()
    }

    fn redirty(&self) -> Result<()> {
        let start = self.base as u64;
        self.file
            .redirty(start, start + PAGE_LEN as u64)
            .map_err(|error| Error::io("marking pages of", &self.path, error))
    }

    fn saved(&self) -> Result<Saved> {
        Ok(Saved {
            sequence: self.sequence + 1,
            epoch: self.topic.epoch(),
            offset: self.committed.min(self.topic.frontier()?.durable_end),
            floor: self.floor(),
        })
    }

    pub(crate) fn committed(&self) -> u64 {
        self.committed
    }

    pub(crate) fn clamped_from(&self) -> Option<u64> {
        self.clamped_from
    }

    /// Whether the position is the one of the last owner on this boot, and not an older durable one.
    pub(crate) fn was_live(&self) -> bool {
        self.trusted_live && self.clamped_from.is_none()
    }

    /// The owner's second position.
    pub(crate) fn floor(&self) -> u64 {
        self.word(cursor::LIVE_FLOOR_AT).load(Ordering::Acquire)
    }

    pub(crate) fn set_floor(&self, floor: u64) {
        self.word(cursor::LIVE_FLOOR_AT).store(floor, Ordering::Release);
    }

    /// Records below it may have been handled before a power loss; 0: none.
    pub(crate) fn doubt(&self) -> u64 {
        self.word(group::LANE_DOUBT_AT).load(Ordering::Acquire)
    }

    pub(crate) fn set_doubt(&self, below: u64) {
        self.word(group::LANE_DOUBT_AT).store(below, Ordering::Release);
    }

    /// What is known of the attempt, in one word: see `group::lane`.
    pub(crate) fn trial(&self) -> u64 {
        self.word(group::LANE_TRIAL_AT).load(Ordering::Acquire)
    }

    pub(crate) fn set_trial(&self, trial: u64) {
        self.word(group::LANE_TRIAL_AT).store(trial, Ordering::Release);
    }

    /// Notes that the handling of a record begins: survives `kill -9`, not a power loss.
    pub(crate) fn begin_attempt(&self, attempt: &Attempt) -> Result<()> {
        if attempt.note.len() > cursor::MAX_NOTE_LEN {
            return Err(Error::TooLarge { len: attempt.note.len(), limit: cursor::MAX_NOTE_LEN });
        }
        let again = self.word(cursor::ATTEMPT_AT).load(Ordering::Acquire) == attempt.offset + 1;
        if !again {
            self.word(cursor::ATTEMPT_AT).store(0, Ordering::Release);
        }
        self.word(cursor::ATTEMPT_COUNT_AT).store(attempt.count.into(), Ordering::Release);
        if again {
            // The floor of the first attempt is below that of any later one, and serves as well.
            return Ok(());
        }
        self.word(cursor::ATTEMPT_FLOOR_AT).store(attempt.floor, Ordering::Release);
        self.word(cursor::ATTEMPT_NOTE_LEN_AT).store(attempt.note.len() as u64, Ordering::Release);
        self.map.write(self.base + cursor::ATTEMPT_NOTE_AT, &attempt.note);
        // Last: with it the attempt counts.
        self.word(cursor::ATTEMPT_AT).store(attempt.offset + 1, Ordering::Release);
        Ok(())
    }

    /// The attempt that was begun and not ended.
    pub(crate) fn attempt(&self) -> Option<Attempt> {
        attempt_in(&self.map, self.base)
    }

    /// Notes that no record is in hand.
    pub(crate) fn end_attempt(&self) {
        self.word(cursor::ATTEMPT_AT).store(0, Ordering::Release);
    }
}

/// Makes the positions of cursors in one file durable, with one sync for all of them.
pub(crate) fn sync_all(cursors: &mut [&mut Cursor]) -> Result<()> {
    let Some(first) = cursors.first() else { return Ok(()) };
    first.topic.not_forked()?;
    let (file, path) = (Arc::clone(&first.file), first.path.clone());
    let sync = || file.sync_data().map_err(|error| Error::io("syncing", &path, error));
    if cursors.iter().any(|cursor| !cursor.slot_is_durable) {
        // An earlier owner may have died, or failed, between writing the slot and the disk.
        cursors.iter().try_for_each(|cursor| cursor.redirty())?;
        sync()?;
        cursors.iter_mut().for_each(|cursor| cursor.slot_is_durable = true);
    }
    let mut all = Vec::new();
    for cursor in cursors.iter_mut() {
        let saved = cursor.saved()?;
        // Until the sync has returned: a failed one leaves both slots in doubt.
        cursor.slot_is_durable = false;
        cursor.map.write(cursor.base + cursor::slot_at(saved.sequence), &saved.encode());
        all.push(saved);
    }
    sync()?;
    for (cursor, saved) in cursors.iter_mut().zip(all) {
        // Only after the sync: else the next write would go over the slot that is in force.
        cursor.sequence = saved.sequence;
        cursor.slot_is_durable = true;
        cursor.synced_at = Instant::now();
        cursor.synced = (saved.offset, saved.floor);
    }
    Ok(())
}

/// What a page says, read by somebody who does not own it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) committed: u64,
    pub(crate) durable: u64,
    /// Of the durable slot.
    pub(crate) durable_floor: u64,
    /// The live attempt and its trial word.
    pub(crate) attempt: Option<(Attempt, u64)>,
    pub(crate) pid: u32,
}

/// Reads the page at `base` without owning it.
pub(crate) fn look(
    topic: &TopicInner,
    map: &Map,
    path: &Path,
    base: usize,
    identity: sys::FileIdentity,
) -> Result<Seen> {
    let mut bytes = vec![0; PAGE_LEN];
    map.read(base, &mut bytes);
    check_header(topic, path, base, &bytes)?;
    let slot = cursor::newest_slot(&bytes);
    let durable_floor = slot.map_or(0, |slot| slot.floor);
    let slot = slot.map(|slot| topic.clamp(slot.epoch, slot.offset));
    let word = |at: usize| map.word(base + at).load(Ordering::Acquire);
    let is_live = is_live_trusted(topic, map, base, identity);
    let live = is_live
        .then(|| topic.clamp(word(cursor::LIVE_EPOCH_AT) as u32, word(cursor::LIVE_OFFSET_AT)));
    let committed = live.or(slot).ok_or_else(|| unreadable(path, base, "no valid slot"))?;
    let attempt = attempt_in(map, base).filter(|_| is_live);
    Ok(Seen {
        committed,
        durable: slot.unwrap_or(committed),
        durable_floor,
        attempt: attempt.map(|attempt| (attempt, word(group::LANE_TRIAL_AT))),
        pid: word(cursor::LIVE_PID_AT) as u32,
    })
}

fn attempt_in(map: &Map, base: usize) -> Option<Attempt> {
    let word = |at: usize| map.word(base + at).load(Ordering::Acquire);
    let offset = word(cursor::ATTEMPT_AT).checked_sub(1)?;
    let len = (word(cursor::ATTEMPT_NOTE_LEN_AT) as usize).min(cursor::MAX_NOTE_LEN);
    let mut note = vec![0; len];
    map.read(base + cursor::ATTEMPT_NOTE_AT, &mut note);
    let count = word(cursor::ATTEMPT_COUNT_AT) as u32;
    Some(Attempt { offset, count, floor: word(cursor::ATTEMPT_FLOOR_AT), note })
}

fn unreadable(path: &Path, base: usize, what: &str) -> Error {
    Error::Corrupt {
        path: path.to_owned(),
        position: base as u64,
        offset: None,
        what: format!("{what}; a position is never reset on its own: delete it and make it anew"),
    }
}

fn check_header(topic: &TopicInner, path: &Path, base: usize, bytes: &[u8]) -> Result<()> {
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

fn is_live_trusted(
    topic: &TopicInner,
    map: &Map,
    base: usize,
    identity: sys::FileIdentity,
) -> bool {
    let word = |at: usize| map.word(base + at).load(Ordering::Acquire);
    word(cursor::LIVE_READY_AT) == 1
        && word(cursor::LIVE_BOOT_AT) == topic.log.boot[0]
        && word(cursor::LIVE_BOOT_AT + 8) == topic.log.boot[1]
        && word(cursor::LIVE_DEV_AT) == identity.dev
        && word(cursor::LIVE_INO_AT) == identity.ino
}

/// The bytes of a new page.
pub(crate) fn new_page(topic: &TopicInner, offset: u64, floor: u64) -> Vec<u8> {
    let saved = Saved { sequence: 1, epoch: topic.epoch(), offset, floor };
    let mut bytes = vec![0; PAGE_LEN];
    let header = cursor::encode_header(topic.settings.topic_id);
    bytes[..header.len()].copy_from_slice(&header);
    bytes[cursor::slot_at(1)..][..cursor::SLOT_LEN].copy_from_slice(&saved.encode());
    bytes
}
