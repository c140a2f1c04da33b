//! Consumers: named positions kept in offset files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::format::cursor::{self, Saved};
use crate::format::names;
use crate::reader::{self, Reader, Start};
use crate::record::RecordRef;
use crate::stop::Stop;
use crate::sys::atomic::Ordering;
use crate::sys::{self, Access, DiskFile, Map};
use crate::topic::{Open, TopicInner};

const CONSUMERS: &str = "consumers";

/// On a topic that keeps what is not consumed, committed positions are made durable this often.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// A named position in a topic, kept in a file, owned by one process at a time.
///
/// Delivery is at least once: what was not committed is delivered again after a crash. A commit costs
/// nanoseconds and survives `kill -9`; after a power loss the position may be an older one, unless
/// [`sync`](Self::sync) was called.
///
/// ```
/// # fn main() -> deaddrop::Result<()> {
/// # let dir = deaddrop::doc_dir();
/// # let log = deaddrop::Log::open(&dir)?;
/// use deaddrop::{Record, Start};
/// let orders = log.topic("orders")?;
/// orders.append(&Record::new("a"))?;
/// let mut billing = orders.consumer("billing", Start::First)?;
/// while let Some(record) = billing.next()? {
///     println!("bill {:?}", record.payload());
///     billing.commit()?;
/// }
/// assert_eq!(billing.lag()?, 0);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Consumer {
    topic: Arc<Open>,
    name: String,
    path: PathBuf,
    reader: Reader,
    file: Box<dyn DiskFile>,
    map: Map,
    /// The sequence number of the newest durable slot.
    sequence: u64,
    /// That slot is known to be on the disk: its neighbour may be written over.
    slot_is_durable: bool,
    synced_at: Instant,
    clamped_from: Option<u64>,
    trusted_live: bool,
    /// What the live word says: only the owner stores it.
    committed: u64,
}

/// What is known of a consumer without owning it.
#[derive(Debug)]
#[non_exhaustive]
pub struct ConsumerInfo {
    /// Its name.
    pub name: String,
    /// The next record it gets, or why its file is unreadable.
    pub committed: Result<u64>,
    /// The same as of its last sync.
    pub durable: u64,
    /// High watermark less committed.
    pub lag: u64,
    /// The process that owns it now.
    pub owner: Option<u32>,
}

impl Consumer {
    pub(crate) fn open(topic: &Arc<Open>, name: &str, start: Start) -> Result<Consumer> {
        topic.member()?;
        let path = path_of(topic, name)?;
        let (file, locked) = open_or_create(topic, name, &path, start)?;
        debug_assert!(locked);
        let bytes = sys::read_start(&*file, cursor::LEN)
            .map_err(|error| Error::io("reading", &path, error))?;
        check_header(topic, &path, &bytes)?;
        let io = |error| Error::io("mapping", &path, error);
        let map = file.map(cursor::LEN, true).map_err(io)?;
        map.populate(0, cursor::LEN).map_err(io)?;
        let identity = file.identity().map_err(io)?;
        let slot = cursor::newest_slot(&bytes);
        let trusted_live = is_live_trusted(topic, &map, identity);
        let saved = match (trusted_live, slot) {
            (true, slot) => Saved {
                sequence: slot.map_or(0, |slot| slot.sequence),
                epoch: map.word(cursor::LIVE_EPOCH_AT).load(Ordering::Relaxed) as u32,
                offset: map.word(cursor::LIVE_OFFSET_AT).load(Ordering::Acquire),
                floor: map.word(cursor::LIVE_FLOOR_AT).load(Ordering::Acquire),
            },
            (false, Some(slot)) => slot,
            (false, None) => return Err(unreadable(&path, "no valid slot")),
        };
        let end = topic.frontier()?.high_watermark;
        let offset = topic.clamp(saved.epoch, saved.offset).min(end);
        let mut consumer = Consumer {
            topic: Arc::clone(topic),
            name: name.to_owned(),
            path,
            reader: Reader::at(Arc::clone(topic), offset)?,
            file,
            map,
            sequence: saved.sequence,
            slot_is_durable: false,
            synced_at: Instant::now(),
            clamped_from: (offset < saved.offset).then_some(saved.offset),
            trusted_live,
            committed: offset,
        };
        consumer.stamp_live(identity, offset, saved.floor);
        Ok(consumer)
    }

    /// Makes the live state this owner's. Dying on the way leaves it untrusted, and the durable slots
    /// in force; so a live position that was trusted is made a slot first.
    fn stamp_live(&mut self, identity: sys::FileIdentity, offset: u64, floor: u64) {
        let live = |at| self.map.word(at);
        if !self.trusted_live {
            live(cursor::LIVE_READY_AT).store(0, Ordering::Release);
            live(cursor::ATTEMPT_AT).store(0, Ordering::Release);
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

    /// The next record behind the last one returned; `None` if there is none yet.
    ///
    /// # Errors
    ///
    /// As [`Reader::next`]. After [`Error::Trimmed`], [`seek`](Self::seek) to what is left.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<RecordRef<'_>>> {
        self.reader.next()
    }

    /// The next record; waits for it until `stop` is given: then `None`.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn wait(&mut self, stop: &Stop) -> Result<Option<RecordRef<'_>>> {
        self.reader.wait(stop)
    }

    /// The next record; waits for it for at most `timeout`: then `None`.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<RecordRef<'_>>> {
        self.reader.wait_timeout(timeout)
    }

    /// Commits everything returned so far: a store into memory, which survives `kill -9`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], where the topic keeps what is not consumed: its positions are made durable once
    /// a second.
    pub fn commit(&mut self) -> Result<()> {
        self.commit_to(self.reader.offset())
    }

    /// Commits everything below `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `offset` is behind what was returned, and as [`commit`](Self::commit).
    pub fn commit_to(&mut self, offset: u64) -> Result<()> {
        if offset > self.reader.offset() {
            return Err(Error::Invalid {
                what: format!("commit to {offset}, but only {} was read", self.reader.offset()),
            });
        }
        self.topic.not_forked()?;
        self.map.word(cursor::LIVE_OFFSET_AT).store(offset, Ordering::Release);
        self.committed = offset;
        if self.topic.options.retention.consumed && self.synced_at.elapsed() >= SYNC_INTERVAL {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes the committed position durable: it survives a power loss, as far as the records below it
    /// do.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: the position durable before stays so.
    pub fn sync(&mut self) -> Result<()> {
        self.topic.not_forked()?;
        let io = |error| Error::io("syncing", &self.path, error);
        if !self.slot_is_durable {
            // An earlier owner may have died, or failed, between writing the slot and the disk.
            self.map.redirty(0, cursor::LEN);
            self.file.sync_data().map_err(io)?;
            self.slot_is_durable = true;
        }
        let saved = Saved {
            sequence: self.sequence + 1,
            epoch: self.topic.epoch(),
            offset: self.committed().min(self.topic.frontier()?.durable_end),
            floor: self.map.word(cursor::LIVE_FLOOR_AT).load(Ordering::Acquire),
        };
        self.map.write(cursor::slot_at(saved.sequence), &saved.encode());
        self.map.redirty(0, cursor::LEN);
        self.file.sync_data().map_err(io)?;
        // Only after the sync: else the next write would go over the slot that is in force.
        self.sequence = saved.sequence;
        self.synced_at = Instant::now();
        Ok(())
    }

    /// Goes to another position and commits it.
    ///
    /// # Errors
    ///
    /// [`Error::Trimmed`] if that offset is gone, [`Error::Io`].
    pub fn seek(&mut self, start: Start) -> Result<()> {
        self.reader.seek(start)?;
        self.commit()
    }

    /// After [`Error::Corrupt`]: goes on behind the damage; see [`Reader::skip_damage`].
    ///
    /// # Errors
    ///
    /// As [`Reader::skip_damage`].
    pub fn skip_damage(&mut self) -> Result<std::ops::Range<u64>> {
        self.reader.skip_damage()
    }

    /// The committed position: the first record that is delivered after a restart.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// High watermark less committed position.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn lag(&self) -> Result<u64> {
        Ok(self.topic.frontier()?.high_watermark.saturating_sub(self.committed()))
    }

    /// The position stored in the file, if a recovery had cut the log below it and the consumer was
    /// set back to the cut.
    pub fn clamped_from(&self) -> Option<u64> {
        self.clamped_from
    }

    /// The consumer's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// See [`Reader::set_spin`].
    pub fn set_spin(&mut self, spin: Duration) {
        self.reader.set_spin(spin);
    }

    pub(crate) fn reader(&mut self) -> &mut Reader {
        &mut self.reader
    }

    /// Goes to `offset` and commits it, whatever is there.
    pub(crate) fn set_position(&mut self, offset: u64) {
        self.reader.seek_to(offset);
        self.map.word(cursor::LIVE_OFFSET_AT).store(offset, Ordering::Release);
        self.committed = offset;
    }

    /// The owner's second position.
    pub(crate) fn floor(&self) -> u64 {
        self.map.word(cursor::LIVE_FLOOR_AT).load(Ordering::Acquire)
    }

    pub(crate) fn set_floor(&self, floor: u64) {
        self.map.word(cursor::LIVE_FLOOR_AT).store(floor, Ordering::Release);
    }

    /// Notes that the handling of a record begins: survives `kill -9`, not a power loss.
    pub(crate) fn begin_attempt(&self, attempt: &Attempt) -> Result<()> {
        if attempt.note.len() > cursor::MAX_NOTE_LEN {
            return Err(Error::TooLarge { len: attempt.note.len(), limit: cursor::MAX_NOTE_LEN });
        }
        let word = |at| self.map.word(at);
        word(cursor::ATTEMPT_AT).store(0, Ordering::Release);
        word(cursor::ATTEMPT_COUNT_AT).store(attempt.count.into(), Ordering::Release);
        word(cursor::ATTEMPT_FLOOR_AT).store(attempt.floor, Ordering::Release);
        word(cursor::ATTEMPT_NOTE_LEN_AT).store(attempt.note.len() as u64, Ordering::Release);
        self.map.write(cursor::ATTEMPT_NOTE_AT, &attempt.note);
        // Last: with it the attempt counts.
        word(cursor::ATTEMPT_AT).store(attempt.offset + 1, Ordering::Release);
        Ok(())
    }

    /// The attempt that was begun and not ended.
    pub(crate) fn attempt(&self) -> Option<Attempt> {
        let word = |at| self.map.word(at).load(Ordering::Acquire);
        let offset = word(cursor::ATTEMPT_AT).checked_sub(1)?;
        let len = (word(cursor::ATTEMPT_NOTE_LEN_AT) as usize).min(cursor::MAX_NOTE_LEN);
        let mut note = vec![0; len];
        self.map.read(cursor::ATTEMPT_NOTE_AT, &mut note);
        let count = word(cursor::ATTEMPT_COUNT_AT) as u32;
        Some(Attempt { offset, count, floor: word(cursor::ATTEMPT_FLOOR_AT), note })
    }

    /// Notes that no record is in hand.
    pub(crate) fn end_attempt(&self) {
        self.map.word(cursor::ATTEMPT_AT).store(0, Ordering::Release);
    }

    /// Whether the position is the one of the last owner on this boot, and not an older durable one.
    pub(crate) fn was_live(&self) -> bool {
        self.trusted_live && self.clamped_from.is_none()
    }
}

/// A record in hand, as noted in the offset file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// The record's offset.
    pub(crate) offset: u64,
    /// How often its handling was begun, this time included.
    pub(crate) count: u32,
    /// The end of the reply topic when it was begun.
    pub(crate) floor: u64,
    /// The owner's own bytes.
    pub(crate) note: Vec<u8>,
}

fn path_of(topic: &TopicInner, name: &str) -> Result<PathBuf> {
    names::check(name).map_err(|why| Error::InvalidName { name: name.to_owned(), why })?;
    Ok(topic.dir.join(CONSUMERS).join(name))
}

/// Whether a topic has a consumer of this name.
pub(crate) fn exists(log: &crate::log::LogInner, topic: &str, name: &str) -> bool {
    log.disk.open(&log.topic_dir(topic).join(CONSUMERS).join(name), Access::Read).is_ok()
}

fn unreadable(path: &std::path::Path, what: &str) -> Error {
    Error::Corrupt {
        path: path.to_owned(),
        position: 0,
        offset: None,
        what: format!("{what}; a consumer is never reset on its own: delete it and make it anew"),
    }
}

fn check_header(topic: &TopicInner, path: &std::path::Path, bytes: &[u8]) -> Result<()> {
    let topic_id = cursor::decode_header(bytes).map_err(|error| match error {
        version @ crate::format::Malformed::Version { .. } => Error::malformed(path, 0, version),
        other => unreadable(path, &other.to_string()),
    })?;
    if topic_id != topic.settings.topic_id {
        return Err(unreadable(path, "it belongs to another topic"));
    }
    Ok(())
}

fn is_live_trusted(topic: &TopicInner, map: &Map, identity: sys::FileIdentity) -> bool {
    let word = |at| map.word(at).load(Ordering::Acquire);
    word(cursor::LIVE_READY_AT) == 1
        && word(cursor::LIVE_BOOT_AT) == topic.log.boot[0]
        && word(cursor::LIVE_BOOT_AT + 8) == topic.log.boot[1]
        && word(cursor::LIVE_DEV_AT) == identity.dev
        && word(cursor::LIVE_INO_AT) == identity.ino
}

/// Opens the offset file and locks it; makes it first if there is none.
fn open_or_create(
    topic: &TopicInner,
    name: &str,
    path: &std::path::Path,
    start: Start,
) -> Result<(Box<dyn DiskFile>, bool)> {
    let disk = &*topic.log.disk;
    let io = |error| Error::io("opening", path, error);
    for _ in 0..100 {
        let file = match disk.open(path, Access::ReadWrite) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                create(topic, path, start)?;
                continue;
            }
            Err(error) => return Err(io(error)),
        };
        if !file.try_lock(0, 1).map_err(io)? {
            let pid = read_pid(&*file);
            let what = format!("consumer {name} of topic {}", topic.name);
            return Err(Error::Locked { what, pid });
        }
        // It may have been deleted, and made again, before the lock was got.
        let same = match disk.open(path, Access::Read) {
            Ok(now) => now.identity().map_err(io)? == file.identity().map_err(io)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(io(error)),
        };
        if same {
            return Ok((file, true));
        }
    }
    Err(Error::TimedOut {
        what: format!("consumer {name}, which is made and deleted all the time"),
    })
}

fn create(topic: &TopicInner, path: &std::path::Path, start: Start) -> Result<()> {
    let disk = &*topic.log.disk;
    let dir = topic.dir.join(CONSUMERS);
    disk.create_dir_all(&dir).map_err(|error| Error::io("creating", &dir, error))?;
    let offset = reader::resolve(topic, start)?;
    let saved = Saved { sequence: 1, epoch: topic.epoch(), offset, floor: 0 };
    let mut bytes = vec![0; cursor::LEN];
    let header = cursor::encode_header(topic.settings.topic_id);
    bytes[..header.len()].copy_from_slice(&header);
    bytes[cursor::slot_at(1)..][..cursor::SLOT_LEN].copy_from_slice(&saved.encode());
    match sys::create_durably(disk, path, &bytes, sys::random()) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::io("creating", path, error))
        }
        _ => Ok(()),
    }
}

fn read_pid(file: &dyn DiskFile) -> u32 {
    let mut bytes = [0; 8];
    match file.read_at(&mut bytes, cursor::LIVE_PID_AT as u64) {
        Ok(8) => u64::from_le_bytes(bytes) as u32,
        _ => 0,
    }
}

/// The names of all consumers of a topic, sorted.
fn names_of(topic: &TopicInner) -> Result<Vec<String>> {
    let dir = topic.dir.join(CONSUMERS);
    let mut found = match topic.log.disk.list(&dir) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("listing", &dir, error)),
    };
    found.retain(|name| names::check(name).is_ok() && !name.ends_with(".tmp"));
    found.sort();
    Ok(found)
}

pub(crate) fn list(topic: &TopicInner) -> Result<Vec<ConsumerInfo>> {
    let high_watermark = topic.frontier()?.high_watermark;
    let mut all = Vec::new();
    for name in names_of(topic)? {
        let read = read_without_owning(topic, &name);
        let info = match read {
            Ok((live, durable, owner)) => ConsumerInfo {
                name,
                committed: Ok(live),
                durable,
                lag: high_watermark.saturating_sub(live),
                owner,
            },
            Err(Error::NotFound { .. }) => continue,
            Err(error) => {
                ConsumerInfo { name, committed: Err(error), durable: 0, lag: 0, owner: None }
            }
        };
        all.push(info);
    }
    Ok(all)
}

/// Committed position, durable position, owner.
fn read_without_owning(topic: &TopicInner, name: &str) -> Result<(u64, u64, Option<u32>)> {
    let path = path_of(topic, name)?;
    let io = |error| Error::io("reading", &path, error);
    let file = match topic.log.disk.open(&path, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NotFound { what: format!("consumer {name}") })
        }
        Err(error) => return Err(io(error)),
    };
    let bytes = sys::read_start(&*file, cursor::LEN).map_err(io)?;
    check_header(topic, &path, &bytes)?;
    let map = file.map(cursor::LEN, false).map_err(io)?;
    let slot = cursor::newest_slot(&bytes);
    let slot = slot.map(|slot| topic.clamp(slot.epoch, slot.offset));
    let live = is_live_trusted(topic, &map, file.identity().map_err(io)?).then(|| {
        let epoch = map.word(cursor::LIVE_EPOCH_AT).load(Ordering::Relaxed) as u32;
        topic.clamp(epoch, map.word(cursor::LIVE_OFFSET_AT).load(Ordering::Acquire))
    });
    let committed = live.or(slot).ok_or_else(|| unreadable(&path, "no valid slot"))?;
    // A file that was opened for reading cannot be asked for locks on all systems: then no owner.
    let owner = file.locked_by_other(0, 1).unwrap_or(false).then(|| read_pid(&*file));
    Ok((committed, slot.unwrap_or(committed), owner))
}

/// The smallest durable position of all consumers; `None` if there are none. An unreadable file keeps
/// everything.
pub(crate) fn durable_floor(topic: &TopicInner) -> Result<Option<u64>> {
    let mut floor = None;
    for name in names_of(topic)? {
        let durable = match read_without_owning(topic, &name) {
            Ok((_, durable, _)) => durable,
            Err(Error::NotFound { .. }) => continue,
            Err(Error::Corrupt { .. }) => 0,
            Err(other) => return Err(other),
        };
        floor = Some(floor.map_or(durable, |floor: u64| floor.min(durable)));
    }
    Ok(floor)
}

pub(crate) fn delete(topic: &TopicInner, name: &str) -> Result<()> {
    topic.member()?;
    let path = path_of(topic, name)?;
    let disk = &*topic.log.disk;
    let io = |error| Error::io("deleting", &path, error);
    let file = match disk.open(&path, Access::ReadWrite) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NotFound {
                what: format!("consumer {name} of topic {}", topic.name),
            })
        }
        Err(error) => return Err(io(error)),
    };
    if !file.try_lock(0, 1).map_err(io)? {
        let what = format!("consumer {name} of topic {}", topic.name);
        return Err(Error::Locked { what, pid: read_pid(&*file) });
    }
    disk.remove_file(&path).map_err(io)?;
    let dir = topic.dir.join(CONSUMERS);
    disk.sync_dir(&dir).map_err(|error| Error::io("syncing", &dir, error))
}
