//! Prepares the next segment's file, and the next pages of the active segment, ahead of the writers. Members
//! share one prepared file. A word names its maker, and says whether the file is ready.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use super::background::Scheduled;
use super::{remove_if_there, Durability, Store};
use crate::control::lock::{Liveness, Owner};
use crate::control::Words;
use crate::error::{Error, IoResultExt, Result};
use crate::format::segment as layout;
use crate::format::PAGE_LEN;
use crate::housekeeper::Duty;
use crate::segment::Segment;
use crate::sys::atomic::Ordering;
use crate::sys::crash_point::crash_point;
use crate::sys::{self, DiskFile};

/// Bytes of zeros that are written at once. The page cache keeps the bytes of one write as one unit, and a store
/// through a mapping makes the whole unit dirty: on topics with such stores, zeros are written one page at a
/// time, or every sync of a few records would write much more.
const ZEROS_LEN: usize = 128 << 10;

/// Zeros that are written before they are synced: a disk that has more to write lets the syncs of records wait.
const UNSYNCED_LEN: u64 = 1 << 20;

const PREPARING: u64 = 1 << 32;
const READY: u64 = 2 << 32;
/// Pages are made resident this far ahead of the writer, in the background.
const POPULATE_AHEAD: u64 = 8 << 20;
/// Pages are made resident in pieces of this size: each holds the address space's lock for a short time.
const POPULATE_PIECE: u64 = 256 << 10;

/// A segment file that has no name yet.
pub(super) struct Unnamed {
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn DiskFile>,
    /// The `prepared` word under which it was found; `None` if it was made for this roll.
    pub(super) prepared: Option<u64>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Whether a background job of this kind is waiting or running, or has done all there is to do.
    preparing: Arc<AtomicBool>,
    populating: Arc<AtomicBool>,
}

impl Ahead {
    /// The prepared file was used: the next append near the end of its segment has another one made.
    pub(super) fn may_prepare(&self) {
        self.preparing.store(false, Ordering::Release);
    }

    /// Returns the prepared file if it is ready.
    pub(super) fn ready_file(&self, topic: &Store, words: &Words) -> Result<Option<Unnamed>> {
        let word = words.prepared.word.load(Ordering::Acquire);
        let Some(owner) = Owner::of_word(word as u32).filter(|_| word & READY != 0) else {
            return Ok(None);
        };
        let path = Ahead::path_of(topic, owner);
        let file = topic.files.open(&path, sys::Access::ReadWrite);
        let file = file.not_found_is_none().at("opening", &path)?;
        Ok(file.map(|file| Unnamed { path, file, prepared: Some(word) }))
    }

    /// Clears the word of a prepared file to which a dead roller has given a segment's name: otherwise no
    /// process would prepare one again. The append lock is held, so no living roller is between these steps.
    pub(super) fn forget_entered(&self, topic: &Store, words: &Words) -> Result<()> {
        let seen = words.prepared.word.load(Ordering::Acquire);
        let Some(owner) = Owner::of_word(seen as u32).filter(|_| seen & READY != 0) else {
            return Ok(());
        };
        let path = Ahead::path_of(topic, owner);
        let file = topic.files.open(&path, sys::Access::Read);
        if file.not_found_is_none().at("opening", &path)?.is_none() {
            clear(words, seen);
        }
        Ok(())
    }

    fn path_of(topic: &Store, owner: Owner) -> PathBuf {
        topic.dir.join(format!("next-{}-{}.tmp", owner.slot(), owner.generation()))
    }

    /// Called under the append lock after every append: has the background prepare the next segment and the
    /// next pages.
    #[inline]
    pub(super) fn look(&self, topic: &Store, segment: &Arc<Segment>, end: u64) {
        let is_near = end + POPULATE_AHEAD / 2 > segment.resident();
        if is_near && segment.resident() < segment.len() && !topic.writes_by_call(segment) {
            self.populate_in_background(topic, segment, end);
        }
        if end > segment.len() / 2 && !self.preparing.load(Ordering::Relaxed) {
            self.prepare_in_background(topic);
        }
    }

    #[cold]
    fn populate_in_background(&self, topic: &Store, segment: &Arc<Segment>, end: u64) {
        let Some(scheduled) = Scheduled::take(&self.populating) else { return };
        let segment = Arc::clone(segment);
        topic.background.submit(Duty::Prepare, move |topic| {
            let target = (end + POPULATE_AHEAD).min(segment.len());
            while segment.resident() < target && !topic.background.is_closed() {
                let piece = segment.resident().max(layout::FIRST_FRAME_AT) + POPULATE_PIECE;
                // The appending thread gets the same error and reports it.
                if segment.populate(piece).is_err() {
                    break;
                }
            }
            drop(scheduled);
        });
    }

    #[cold]
    fn prepare_in_background(&self, topic: &Store) {
        let Some(scheduled) = Scheduled::take(&self.preparing) else { return };
        topic.background.submit(Duty::Prepare, move |topic| {
            // On a full disk, the append that needs the segment gets the error and reports it. If a file is
            // ready, or cannot be made, there is nothing more to prepare before the next roll.
            if !matches!(prepare_next(topic), Ok(false)) {
                scheduled.stay();
            }
        });
    }

    /// Clears the word `seen`, whose owner is dead, if the owner did not finish the file.
    pub(super) fn settle(&self, topic: &Store, words: &Words, seen: u64) -> Result<()> {
        if let (Some(owner), true) = (Owner::of_word(seen as u32), seen & PREPARING != 0) {
            remove_if_there(&*topic.files, &Ahead::path_of(topic, owner))?;
            clear(words, seen);
        }
        Ok(())
    }
}

impl Store {
    /// Makes the pages of the active segment's next `len` bytes resident now.
    pub(crate) fn populate_ahead(&self, len: u64) -> Result<()> {
        let place = self.member()?.control.tail.place();
        let segment = self.segment(place.active)?;
        segment.fill_holes()?;
        if self.writes_by_call(&segment) {
            return Ok(());
        }
        let target = (place.position + len).min(segment.len());
        while segment.resident() < target {
            segment.populate(segment.resident().max(layout::FIRST_FRAME_AT) + POPULATE_PIECE)?;
        }
        let mut held = self.lock_append()?;
        if held.active.as_ref().is_none_or(|active| active.base() != place.active) {
            held.active = Some(segment);
        }
        Ok(())
    }
}

/// Makes the next segment's file, unless it exists or a living process is making it. Returns true if one is
/// ready.
fn prepare_next(topic: &Store) -> Result<bool> {
    let member = topic.member()?;
    let word = &member.control.prepared.word;
    let seen = word.load(Ordering::Acquire);
    if let Some(owner) = Owner::of_word(seen as u32) {
        if seen & READY != 0 {
            return Ok(true);
        }
        if member.is_alive(owner) {
            return Ok(false);
        }
    }
    let mine = PREPARING | u64::from(member.me.word());
    if word.compare_exchange(seen, mine, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        return Ok(false);
    }
    if let Some(dead) = Owner::of_word(seen as u32) {
        remove_if_there(&*topic.files, &Ahead::path_of(topic, dead))?;
    }
    crash_point!("prepare.claimed");
    let made = make_file(topic, &Ahead::path_of(topic, member.me), topic.settings.segment_len);
    let ready = READY | u64::from(member.me.word());
    word.store(if made.is_ok() { ready } else { 0 }, Ordering::Release);
    crash_point!("prepare.ready");
    made.map(|_| true)
}

/// Makes a new file of `len` zero bytes. It is allocated, and for topics that sync also written and
/// synced, so that a later sync has no allocation to make durable. Removes the file if that fails.
pub(super) fn make_file(topic: &Store, path: &Path, len: u64) -> Result<Box<dyn DiskFile>> {
    let files = &topic.files;
    topic.location.check()?;
    let file = match files.open(path, sys::Access::CreateNew) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            // Left by a dead process that had this slot and generation on another boot.
            files.remove_file(path).at("removing", path)?;
            files.open(path, sys::Access::CreateNew)
        }
        other => other,
    }
    .at("creating", path)?;
    let made = file.allocate(len).and_then(|()| {
        if topic.options.durability == Durability::ProcessCrash {
            return Ok(());
        }
        let at_once = if topic.by_call { ZEROS_LEN } else { PAGE_LEN };
        let zeros = vec![0; at_once.min(len as usize)];
        for position in (0..len).step_by(zeros.len()) {
            let piece = zeros.len().min((len - position) as usize);
            if position > 0 && position % UNSYNCED_LEN == 0 {
                file.sync_data()?;
            }
            file.write_all_at(&zeros[..piece], position)?;
        }
        file.sync_data()
    });
    match made {
        Ok(()) => Ok(file),
        Err(error) => {
            let failed = Error::allocating(path, len, error);
            files.remove_file(path).at("removing", path)?;
            Err(failed)
        }
    }
}

/// Clears the word of a prepared file, unless the word now names another file, of a process that took over
/// from a dead owner.
pub(super) fn clear(words: &Words, prepared: u64) {
    let word = &words.prepared.word;
    let cleared = word.compare_exchange(prepared, 0, Ordering::AcqRel, Ordering::Relaxed);
    debug_assert!(cleared != Err(prepared));
}
