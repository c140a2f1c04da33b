//! The next segment: prepared ahead, entered under the append lock without a sync.
//!
//! Ordered steps of a roll, under the lock: 1. announce it, 2. write the header, 3. give the file its name,
//! 4. enter it, 5. clear the announcement. If the roller dies, its successor looks for the name: if it
//! exists, the successor enters the segment, else there was no roll.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ahead::{self, Unnamed};
use super::{Durability, Local, Store};
use crate::control::member::Held;
use crate::control::Words;
use crate::error::{Error, IoResultExt, Result};
use crate::format::segment::{self as layout, Header};
use crate::format::PAGE_LEN;
use crate::segment::Segment;
use crate::sys::atomic::Ordering;
use crate::sys::crash_point::crash_point;
use crate::sys::{self, clock, DiskFile};

/// Zeros are written one page at a time. The page cache keeps the bytes of one write as one unit, and a store
/// through a mapping makes the whole unit dirty: after larger writes, every sync of a few records would write
/// a megabyte and more.
const ZEROS_LEN: usize = PAGE_LEN;

/// The longest wait for the append lock in a roll that no append waits for.
const BACKGROUND_WAIT: Duration = Duration::from_millis(100);

impl Store {
    /// Leaves the segment `seen`, which has no room for `needed` bytes. On return the next segment is active,
    /// this thread's or another writer's.
    pub(super) fn roll(&self, seen: u64, needed: u64) -> Result<()> {
        let member = self.member()?;
        let words = &member.control;
        if words.tail.end.load(Ordering::Acquire) == seen {
            return extend_empty(self, seen, needed);
        }
        if self.options.durability != Durability::ProcessCrash {
            // At most two segments are ever unsynced, so a recovery reads no more than two.
            self.wait_durable(seen)?;
        }
        self.sealed.wait_for_room();
        let unnamed = unnamed_file(self, needed)?;
        leave(self, seen, unnamed, self.lock_deadline())?;
        self.retaining.hold_to_limit(self);
        Ok(())
    }

    /// Leaves the segment `seen`, which has records, although it still has room. Does nothing if the append
    /// lock is not free soon.
    pub(super) fn roll_in_background(&self, seen: u64) -> Result<()> {
        if self.options.durability != Durability::ProcessCrash {
            self.wait_durable(seen)?;
        }
        let unnamed = unnamed_file(self, 0)?;
        match leave(self, seen, unnamed, Some(Instant::now() + BACKGROUND_WAIT)) {
            Err(Error::TimedOut { .. }) => Ok(()),
            left => left,
        }
    }

    /// Completes a dead owner's roll, or forgets it.
    pub(super) fn settle_roll(&self, held: &mut Held<'_, Local>) -> Result<()> {
        let words = &self.member()?.control;
        let base = words.intent.roll.load(Ordering::Acquire) - 1;
        match self.segment(base) {
            Ok(segment) => {
                if words.tail.place().active != base {
                    words.tail.enter(base, layout::FIRST_FRAME_AT);
                }
                segment.map()?;
                held.active = None;
                self.ahead.forget_entered(self, words)?;
            }
            Err(error) if error.is_file_not_found() => {}
            Err(error) => return Err(error),
        }
        crash_point!("settle.rolled");
        words.intent.roll.store(0, Ordering::Release);
        Ok(())
    }

    /// Makes the next use of the segment open it again, because its file has grown.
    pub(super) fn forget_segment(&self, base: u64) -> Result<()> {
        self.segments.forget(base);
        let mut held = self.lock_append()?;
        if held.active.as_ref().is_some_and(|segment| segment.base() == base) {
            held.active = None;
        }
        Ok(())
    }

    /// Makes a new file of `len` zero bytes. It is allocated, and for topics that sync also written and
    /// synced, so that a later sync has no allocation to make durable. Removes the file if that fails.
    pub(super) fn make_file(&self, path: &std::path::Path, len: u64) -> Result<Box<dyn DiskFile>> {
        let files = &self.files;
        self.check_in_place()?;
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
            if self.options.durability == Durability::ProcessCrash {
                return Ok(());
            }
            let zeros = vec![0; ZEROS_LEN.min(len as usize)];
            let mut position = 0;
            while position < len {
                let piece = zeros.len().min((len - position) as usize);
                file.write_all_at(&zeros[..piece], position)?;
                position += piece as u64;
            }
            file.sync_data()
        });
        match made {
            Ok(()) => Ok(file),
            Err(error) => {
                let failed = self.allocation_failed(path, len, error);
                files.remove_file(path).at("removing", path)?;
                Err(failed)
            }
        }
    }

    pub(super) fn allocation_failed(
        &self,
        path: &std::path::Path,
        len: u64,
        error: std::io::Error,
    ) -> Error {
        match Error::io("allocating", path, error) {
            Error::NoSpace { path, .. } => Error::NoSpace { path, needed: len },
            other => other,
        }
    }

    pub(super) fn remove_if_there(&self, path: &std::path::Path) -> Result<()> {
        self.files.remove_file(path).not_found_is_none().at("removing", path).map(drop)
    }
}

/// Enters `unnamed` after the segment `seen`, unless another writer has left `seen`.
fn leave(topic: &Store, seen: u64, unnamed: Unnamed, deadline: Option<Instant>) -> Result<()> {
    let words = &topic.member()?.control;
    let len = unnamed.file.len().at("sizing", &unnamed.path)?;
    let salt = sys::random();
    let mut held = match topic.lock_append_until(deadline) {
        Ok(held) => held,
        Err(error) => {
            give_back(topic, unnamed)?;
            return Err(error);
        }
    };
    let base = words.tail.end.load(Ordering::Relaxed);
    if words.tail.place().active != seen || base == seen {
        drop(held);
        return give_back(topic, unnamed);
    }
    if let Err(error) = topic.check_in_place() {
        drop(held);
        give_back(topic, unnamed)?;
        return Err(error);
    }
    let header = Header {
        epoch: words.identity.epoch.load(Ordering::Relaxed) as u32,
        base,
        salt,
        topic_id: topic.settings.topic_id,
        durable_end: words.durable.end.load(Ordering::Acquire),
        max_timestamp: words.intent.max_timestamp.load(Ordering::Relaxed),
        file_len: len,
    };
    let made = unnamed.prepared.is_none().then(|| unnamed.path.clone());
    let sealed = held.active.take();
    let entered = enter_named(topic, words, unnamed, header);
    if let Ok(segment) = &entered {
        held.active = Some(Arc::clone(segment));
    }
    drop(held);
    if let (Err(_), Some(made)) = (&entered, made) {
        topic.remove_if_there(&made)?;
    }
    entered?;
    topic.ahead.may_prepare();
    topic.seal(seen, base, sealed);
    Ok(())
}

fn enter_named(
    topic: &Store,
    words: &Words,
    unnamed: Unnamed,
    header: Header,
) -> Result<Arc<Segment>> {
    let path = topic.dir.join(layout::file_name(header.base));
    words.intent.roll.store(header.base + 1, Ordering::Release);
    crash_point!("roll.announced");
    let named = (|| {
        let begun_at = clock::wall();
        let segment = Segment::with_header(path.clone(), unnamed.file, header, Some(begun_at))?;
        segment.was_allocated();
        segment.map()?.write(0, &header.encode());
        segment.map()?.write(layout::HEADER_COPY_AT, &header.encode());
        let begun = layout::encode_begun(begun_at, header.salt);
        segment.map()?.write(layout::BEGUN_AT, &begun);
        crash_point!("roll.headed");
        topic.files.rename_no_replace(&unnamed.path, &path).at("naming", &path)?;
        Ok(segment)
    })();
    crash_point!("roll.named");
    let entered = named.map(|segment| {
        if topic.options.durability != Durability::ProcessCrash {
            segment.skip_populate();
        }
        let segment = Arc::new(segment);
        topic.segments.keep(&segment);
        words.tail.enter(header.base, layout::FIRST_FRAME_AT);
        segment
    });
    crash_point!("roll.entered");
    if let (Ok(_), Some(prepared)) = (&entered, unnamed.prepared) {
        ahead::clear(words, prepared);
    }
    words.intent.roll.store(0, Ordering::Release);
    entered
}

/// Makes room in the active segment, which has no record yet, for a record that is larger than a segment.
fn extend_empty(topic: &Store, active: u64, needed: u64) -> Result<()> {
    let path = topic.dir.join(layout::file_name(active));
    let len = (topic.words().map_or(0, |words| words.tail.place().position) + needed)
        .next_multiple_of(PAGE_LEN as u64);
    let file = topic.files.open(&path, sys::Access::ReadWrite).at("opening", &path)?;
    file.allocate(len).map_err(|error| topic.allocation_failed(&path, len, error))?;
    topic.forget_segment(active)
}

/// Returns the prepared file if it is ready and large enough, else a file made now.
fn unnamed_file(topic: &Store, needed: u64) -> Result<Unnamed> {
    let member = topic.member()?;
    let least = layout::FIRST_FRAME_AT + needed;
    if least <= topic.settings.segment_len {
        if let Some(unnamed) = topic.ahead.ready_file(topic, &member.control)? {
            return Ok(unnamed);
        }
    }
    // A number among this process's files; the slot distinguishes them from those of other processes.
    let number = topic.files_made.fetch_add(1, Ordering::Relaxed) + 1;
    let me = member.me;
    let path = topic.dir.join(format!("roll-{}-{}-{number}.tmp", me.slot(), me.generation()));
    let len = least.max(topic.settings.segment_len).next_multiple_of(PAGE_LEN as u64);
    let file = topic.make_file(&path, len)?;
    Ok(Unnamed { path, file, prepared: None })
}

fn give_back(topic: &Store, unnamed: Unnamed) -> Result<()> {
    if unnamed.prepared.is_some() {
        return Ok(());
    }
    topic.files.remove_file(&unnamed.path).at("removing", &unnamed.path)
}
