//! Consumers: named positions kept in offset files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cursor::{Cursor, Meaning};
use crate::error::{Error, IoResultExt, Result};
use crate::events;
use crate::format::cursor;
use crate::reader::{self, Reader, Start};
use crate::record::RecordRef;
use crate::stop::Stop;
use crate::store::{
    is_live_trusted, names_in, Book, Books, Durability, Handle, LogInner, Store, CONSUMERS,
};
use crate::sys::{self, Access, DiskFile};
use crate::topic::Topic;

/// A named position in a topic, kept in a file, owned by one process at a time.
///
/// Delivery is at least once: records that were not committed are delivered again after a crash. A commit
/// costs nanoseconds and survives `kill -9`. On a topic that survives power loss, a background thread makes
/// it durable within a second; [`sync`](Self::sync) does so at once, on every topic. Dropping a consumer
/// makes its position durable as well, so after an orderly close a reboot loses nothing.
///
/// A copy of the log's directory keeps the position that was committed when the copy was made.
///
/// ```
/// # fn main() -> deaddrop::Result<()> {
/// # let dir = deaddrop::doc_dir();
/// # let log = deaddrop::Log::open_or_create(&dir)?;
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
    topic: Arc<Handle>,
    name: String,
    reader: Reader,
    cursor: Cursor,
    book: Arc<Book>,
    /// The owner decides when the position is made durable.
    has_manual_sync: bool,
}

/// The state of a consumer, read without owning it.
#[derive(Debug)]
#[non_exhaustive]
pub struct ConsumerInfo {
    /// Its name.
    pub name: String,
    /// The next record it gets, or why its file is unreadable.
    pub committed: Result<u64>,
    /// Its position after a power loss, at least; `None` if its file is unreadable.
    pub durable: Option<u64>,
    /// High watermark less committed.
    pub lag: u64,
    /// How many of the records in `lag` it never gets, because retention has dropped them.
    pub trimmed: u64,
    /// The process that owns it now.
    pub owner: Option<u32>,
}

impl Topic {
    /// Opens the consumer of this name: a position kept in a file, with one owner at a time. A new consumer
    /// begins at `start`; an existing one continues where it committed.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if it is owned by another process or another value in this one,
    /// [`Error::Corrupt`] if its file is unreadable (it is never reset), [`Error::InvalidName`],
    /// [`Error::Trimmed`], [`Error::Io`].
    #[doc(alias("subscribe", "subscription", "consume"))]
    pub fn consumer(&self, name: &str, start: Start) -> Result<Consumer> {
        Consumer::open(self.inner(), name, start)
    }
    /// Returns the state of all consumers, without owning them. Sorted by name.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]. An unreadable file is an error in its own entry.
    pub fn consumers(&self) -> Result<Vec<ConsumerInfo>> {
        self.inner().location.check()?;
        list(self.inner())
    }
    /// Deletes a consumer.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if it has an owner, [`Error::NotFound`], [`Error::Io`].
    pub fn delete_consumer(&self, name: &str) -> Result<()> {
        delete(self.inner(), name)
    }
}

impl Consumer {
    pub(crate) fn open(topic: &Arc<Handle>, name: &str, start: Start) -> Result<Consumer> {
        let consumer = Consumer::take(topic, name, Some(start), Meaning::Handled)?;
        let survives = topic.options.durability != Durability::ProcessCrash;
        // Retention uses durable positions, on every topic.
        if survives || topic.options.retention.consumed {
            Books::keep(topic, &consumer.book)?;
        }
        Ok(consumer)
    }

    /// Opens a consumer whose position becomes durable by [`sync`](Self::sync) alone, because it belongs
    /// together with another position.
    pub(crate) fn open_manual(topic: &Arc<Handle>, name: &str, start: Start) -> Result<Consumer> {
        let mut consumer = Consumer::take(topic, name, Some(start), Meaning::Answered)?;
        consumer.has_manual_sync = true;
        Ok(consumer)
    }

    /// The same, if there is one of this name: it may have been deleted since it was seen.
    pub(crate) fn open_existing(topic: &Arc<Handle>, name: &str) -> Result<Consumer> {
        let mut consumer = Consumer::take(topic, name, None, Meaning::Answered)?;
        consumer.has_manual_sync = true;
        Ok(consumer)
    }

    /// Deletes it while no other process can own it.
    pub(crate) fn remove(self) -> Result<()> {
        self.topic.not_forked()?;
        remove_file(&self.topic, &path_of(&self.topic, &self.name)?)
    }

    fn take(
        topic: &Arc<Handle>,
        name: &str,
        start: Option<Start>,
        meaning: Meaning,
    ) -> Result<Consumer> {
        topic.member()?;
        topic.location.check()?;
        let path = path_of(topic, name)?;
        let (file, is_new) = open_or_create(topic, name, &path, start)?;
        let file: Arc<dyn DiskFile> = Arc::from(file);
        let map = file.map(cursor::LEN, true).at("mapping", &path)?;
        sys::populate(&*file, &map, 0, cursor::LEN).at("mapping", &path)?;
        let identity = file.identity().at("identifying", &path)?;
        if !is_new && !is_live_trusted(topic, &map, 0, identity) {
            // A process that made it may have died before its name was durable. Once a boot.
            topic.location.sync_names_in(CONSUMERS)?;
        }
        let book = Arc::new(Book::new(file, Arc::new(map), &path));
        let cursor = Cursor::take(topic, &book, 0, meaning)?;
        Ok(Consumer {
            topic: Arc::clone(topic),
            name: name.to_owned(),
            reader: Reader::at(Arc::clone(topic), cursor.committed())?,
            cursor,
            book,
            has_manual_sync: false,
        })
    }

    /// Returns the record after the last one returned; `None` if there is none yet.
    ///
    /// # Errors
    ///
    /// As [`Reader::next`]. After [`Error::Trimmed`], [`seek`](Self::seek) to a record that is retained;
    /// after [`Error::Lost`], [`commit`](Self::commit) so that a restart continues after the lost records
    /// too.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<RecordRef<'_>>> {
        self.reader.next()
    }

    /// Returns the next record, waiting for it. Returns `None` if `stop` is set first.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn wait(&mut self, stop: &Stop) -> Result<Option<RecordRef<'_>>> {
        self.reader.wait(stop)
    }

    /// Returns the next record, waiting at most `timeout` for it. Returns `None` after that.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<RecordRef<'_>>> {
        self.reader.wait_timeout(timeout)
    }

    /// Returns the next record, waiting for it. Returns `None` after `timeout`, or if `stop` is set first.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn wait_for(&mut self, timeout: Duration, stop: &Stop) -> Result<Option<RecordRef<'_>>> {
        self.reader.wait_for(timeout, stop)
    }

    /// Commits every record returned so far: a store into memory, which survives `kill -9`.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`].
    #[doc(alias("ack", "acknowledge", "offset"))]
    pub fn commit(&mut self) -> Result<()> {
        self.commit_to(self.reader.offset())
    }

    /// Commits every record below `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if `offset` is past the records returned so far, and as [`commit`](Self::commit).
    pub fn commit_to(&mut self, offset: u64) -> Result<()> {
        if offset > self.reader.offset() {
            return Err(Error::Invalid {
                what: format!("cannot commit to {offset}: reading is at {}", self.reader.offset()),
            });
        }
        self.cursor.commit(offset)
    }

    /// Makes the committed position durable, on every topic: after it returns, a power loss does not bring
    /// back a record below the position. If the topic then loses records, because they were not durable
    /// themselves, the position is set back to the end of the remaining records, and
    /// [`clamped_from`](Self::clamped_from) reports it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: the position that was durable before stays durable.
    #[doc(alias("flush", "fsync"))]
    pub fn sync(&mut self) -> Result<()> {
        self.cursor.sync()
    }

    /// Moves to another position and commits it.
    ///
    /// # Errors
    ///
    /// [`Error::Trimmed`] if that offset is no longer retained, [`Error::Io`].
    pub fn seek(&mut self, start: Start) -> Result<()> {
        self.reader.seek(start)?;
        self.commit()
    }

    /// After [`Error::Corrupt`]: moves past the damage; see [`Reader::skip_damage`].
    ///
    /// # Errors
    ///
    /// As [`Reader::skip_damage`].
    pub fn skip_damage(&mut self) -> Result<std::ops::Range<u64>> {
        self.reader.skip_damage()
    }

    /// Returns the committed position: the first record that is delivered after a restart.
    pub fn committed(&self) -> u64 {
        self.cursor.committed()
    }

    /// Returns the high watermark less the committed position.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn lag(&self) -> Result<u64> {
        Ok(self.topic.current_frontier()?.high_watermark.saturating_sub(self.committed()))
    }

    /// Returns the position stored in the file, if a recovery had cut the log below it and the consumer was
    /// set back to the cut.
    pub fn clamped_from(&self) -> Option<u64> {
        self.cursor.clamped_from()
    }

    /// Returns the consumer's name.
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

    /// Moves to `offset` and commits it, without checking that a record is there.
    pub(crate) fn set_position(&mut self, offset: u64) -> Result<()> {
        self.reader.seek_to(offset);
        self.cursor.commit(offset)
    }

    /// Returns the owner's second position.
    pub(crate) fn floor(&self) -> u64 {
        self.cursor.floor()
    }

    pub(crate) fn set_floor(&self, floor: u64) {
        self.cursor.set_floor(floor);
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // A forked child has the descriptor, and with it the lock, of its parent.
        if self.topic.not_forked().is_err() {
            return;
        }
        if !self.has_manual_sync {
            if let Err(error) = self.cursor.sync() {
                events::position_not_synced(&self.topic.name, &error);
            }
        }
        self.book.close();
    }
}

fn path_of(topic: &Store, name: &str) -> Result<PathBuf> {
    Error::check_name(name)?;
    Ok(topic.dir.join(CONSUMERS).join(name))
}

/// Returns whether a topic has a consumer of this name.
pub(crate) fn exists(log: &LogInner, topic: &str, name: &str) -> bool {
    let path = log.topic_dir(topic).join(CONSUMERS).join(name);
    matches!(log.topics_directory(), Ok(Some(topics)) if topics.open(&path, Access::Read).is_ok())
}

fn cursor_is_short(path: &std::path::Path) -> Error {
    Error::Corrupt {
        path: path.to_owned(),
        position: 0,
        offset: None,
        what: "it is too short; a consumer is never reset automatically: delete and recreate it"
            .into(),
    }
}

/// Opens the offset file and locks it; if it does not exist, creates it, given a start. The second value says
/// whether this call created it.
fn open_or_create(
    topic: &Store,
    name: &str,
    path: &std::path::Path,
    start: Option<Start>,
) -> Result<(Box<dyn DiskFile>, bool)> {
    let files = &*topic.files;
    let (mut is_new, mut is_copied) = (false, false);
    for _ in 0..100 {
        let file = files.open(path, Access::ReadWrite).not_found_is_none().at("opening", path)?;
        let Some(file) = file else {
            let what = || format!("consumer {name} of topic {}", topic.name);
            is_new = create(topic, path, start.ok_or_else(|| Error::NotFound { what: what() })?)?;
            continue;
        };
        if !file.try_lock(0, 1).at("opening", path)? {
            let pid = read_pid(&*file);
            let what = format!("consumer {name} of topic {}", topic.name);
            return Err(Error::Locked { what, pid });
        }
        // The file may have been deleted, and created again, before the lock was taken.
        let now = files.open(path, Access::Read).not_found_is_none().at("opening", path)?;
        let same = match now {
            Some(now) => {
                now.identity().at("opening", path)? == file.identity().at("opening", path)?
            }
            None => false,
        };
        if same && (is_written(path, &*file)? || is_copied) {
            return Ok((file, is_new));
        }
        if same {
            sys::replace_by_copy(files, path, &*file, cursor::LEN).at("copying", path)?;
            is_copied = true;
        }
    }
    Err(Error::TimedOut {
        what: format!("consumer {name}, which is repeatedly deleted and created again"),
    })
}

/// Allocates the holes of an offset file, and returns whether all of its blocks were written. If not, it was
/// restored with holes, or copied a moment ago: should the first write to such a block fail, later syncs would
/// succeed and lose the position (see `sys::extents`).
fn is_written(path: &std::path::Path, file: &dyn DiskFile) -> Result<bool> {
    const LEN: u64 = cursor::LEN as u64;
    if file.len().at("mapping", path)? < LEN {
        return Err(cursor_is_short(path));
    }
    file.fill_holes(LEN).at("mapping", path)?;
    let unwritten = file.has_unwritten_blocks(0, LEN).at("asking for the blocks of", path)?;
    Ok(!unwritten)
}

/// Creates an offset file; false if another process was faster.
fn create(topic: &Store, path: &std::path::Path, start: Start) -> Result<bool> {
    topic.location.check()?;
    let files = &*topic.files;
    let dir = topic.dir.join(CONSUMERS);
    files.make_dir(&dir).at("creating", &dir)?;
    let offset = reader::resolve(topic, start)?;
    let bytes = crate::cursor::new_page(topic, offset, 0);
    match sys::create_durably(files, path, &bytes, sys::random()) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        created => created.map(|()| true).at("creating", path),
    }
}

fn read_pid(file: &dyn DiskFile) -> Option<u32> {
    let mut bytes = [0; 8];
    match file.read_at(&mut bytes, cursor::LIVE_PID_AT as u64) {
        Ok(8) => Some(u64::from_le_bytes(bytes) as u32).filter(|&pid| pid != 0),
        _ => None,
    }
}

pub(crate) fn list(topic: &Store) -> Result<Vec<ConsumerInfo>> {
    let (high_watermark, first) = (topic.frontier()?.high_watermark, topic.first_offset()?);
    let mut all = Vec::new();
    for name in names_in(&*topic.files, &topic.dir.join(CONSUMERS))? {
        let read = read_without_owning(topic, &name);
        let info = match read {
            Ok((live, durable, owner)) => ConsumerInfo {
                name,
                committed: Ok(live),
                durable: Some(durable),
                lag: high_watermark.saturating_sub(live),
                trimmed: first.saturating_sub(live),
                owner,
            },
            Err(Error::NotFound { .. }) => continue,
            Err(error) => {
                let (durable, lag, trimmed) = (None, 0, 0);
                ConsumerInfo { name, committed: Err(error), durable, lag, trimmed, owner: None }
            }
        };
        all.push(info);
    }
    Ok(all)
}

/// Returns the committed position, the durable position and the owner.
fn read_without_owning(topic: &Store, name: &str) -> Result<(u64, u64, Option<u32>)> {
    let path = path_of(topic, name)?;
    let file = topic.files.open(&path, Access::Read).not_found_is_none().at("reading", &path)?;
    let file = file.ok_or_else(|| Error::NotFound { what: format!("consumer {name}") })?;
    if file.len().at("reading", &path)? < cursor::LEN as u64 {
        return Err(cursor_is_short(&path));
    }
    let map = file.map(cursor::LEN, false).at("reading", &path)?;
    let seen = crate::cursor::look(topic, &map, &path, 0, file.identity().at("reading", &path)?)?;
    // Some systems cannot query locks through a file that was opened for reading: then no owner is reported.
    let owner = file.locked_by_other(0, 1).unwrap_or(false).then_some(seen.pid);
    Ok((seen.committed, seen.durable, owner))
}

fn delete(topic: &Store, name: &str) -> Result<()> {
    topic.member()?;
    let path = path_of(topic, name)?;
    let files = &*topic.files;
    let what = format!("consumer {name} of topic {}", topic.name);
    let file = files.open(&path, Access::ReadWrite).not_found_is_none().at("deleting", &path)?;
    let Some(file) = file else { return Err(Error::NotFound { what }) };
    if !file.try_lock(0, 1).at("deleting", &path)? {
        return Err(Error::Locked { what, pid: read_pid(&*file) });
    }
    remove_file(topic, &path)
}

fn remove_file(topic: &Store, path: &std::path::Path) -> Result<()> {
    topic.files.remove_file(path).at("deleting", path)?;
    let dir = topic.dir.join(CONSUMERS);
    topic.files.sync_dir(&dir).at("syncing", &dir)
}
