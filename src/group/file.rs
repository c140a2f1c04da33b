//! The group file: created whole with all its lanes, and read by processes that own none of them.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::cursor::{self, Cursor, Meaning, Seen};
use crate::error::{Error, IoResultExt, Result};
use crate::format::{group, PAGE_LEN};
use crate::reader::{self, Start};
use crate::store::{names_in, Book, Closable, Handle, Store, GROUPS};
use crate::sys::{self, Access, DiskFile, FileIdentity, Map};

/// Every byte that a worker locks.
const ALL_LOCKS: u64 = 3 << 32;

/// How often a group file is opened again before it is used as it is.
const MOST_REOPENINGS: usize = 100;

/// An open group file, with an open file description of its own, whose locks belong to one worker.
#[derive(Debug)]
pub(super) struct GroupFile {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) map: Arc<Map>,
    pub(super) lanes: u32,
    identity: FileIdentity,
    /// One thread at a time syncs it: the kernel reports an error once to each open file description.
    syncing: Mutex<()>,
}

/// Returns the path of a group's file.
pub(super) fn path_of(topic: &Store, name: &str) -> Result<PathBuf> {
    Error::check_name(name)?;
    Ok(topic.dir.join(GROUPS).join(name))
}

impl GroupFile {
    /// Opens the file of an existing group. If blocks of it were never written, a copy takes its place first.
    pub(super) fn open(topic: &Store, name: &str, access: Access) -> Result<GroupFile> {
        let mut group = GroupFile::open_as_it_is(topic, name, access)?;
        for _ in 0..MOST_REOPENINGS {
            if access == Access::Read || group.is_written()? {
                break;
            }
            let is_copied = group.copy(topic)?;
            group = GroupFile::open_as_it_is(topic, name, access)?;
            if is_copied {
                break;
            }
        }
        Ok(group)
    }

    /// Returns whether all of its blocks were written. If not, it was restored with holes, or copied a moment
    /// ago: should the first write to such a block fail, later syncs would succeed and lose the positions
    /// (see `sys::extents`).
    fn is_written(&self) -> Result<bool> {
        let unwritten = self.file.has_unwritten_blocks(0, group::file_len(self.lanes) as u64);
        Ok(!unwritten.at("asking for the blocks of", &self.path)?)
    }

    /// Puts a copy in its place. Returns false if another process has a lock on it: either that process is
    /// doing the same, or it is one of an older release, which uses the file as it is.
    fn copy(&self, topic: &Store) -> Result<bool> {
        if !self.file.try_lock(0, ALL_LOCKS).at("locking", &self.path)? {
            std::thread::sleep(std::time::Duration::from_millis(1));
            return Ok(false);
        }
        if self.has_its_name(topic)? {
            let len = group::file_len(self.lanes);
            let copied = sys::replace_by_copy(&*topic.files, &self.path, &*self.file, len);
            copied.at("copying", &self.path)?;
        }
        Ok(true)
    }

    fn open_as_it_is(topic: &Store, name: &str, access: Access) -> Result<GroupFile> {
        let path = path_of(topic, name)?;
        let file = topic.files.open(&path, access).not_found_is_none().at("opening", &path)?;
        let what = || format!("group {name} of topic {}", topic.name);
        let file = file.ok_or_else(|| Error::NotFound { what: what() })?;
        let file: Arc<dyn DiskFile> = Arc::from(file);
        let bytes = sys::read_start(&*file, PAGE_LEN).at("opening", &path)?;
        let len = file.len().at("opening", &path)?;
        let (topic_id, lanes) =
            group::decode_header(&bytes, len).map_err(|what| Error::malformed(&path, 0, what))?;
        if topic_id != topic.settings.topic_id {
            return Err(Error::Corrupt {
                path,
                position: 0,
                offset: None,
                what: "it belongs to another topic".into(),
            });
        }
        let file_len = group::file_len(lanes);
        let writable = access == Access::ReadWrite;
        let has_blocks = !writable || file.fill_holes(file_len as u64).at("opening", &path)?;
        let map = file.map(file_len, writable).at("opening", &path)?;
        if !has_blocks {
            sys::populate(&*file, &map, 0, file_len).at("opening", &path)?;
        }
        let identity = file.identity().at("opening", &path)?;
        Ok(GroupFile { path, file, map: Arc::new(map), lanes, identity, syncing: Mutex::default() })
    }

    /// Makes the current contents of the pages durable.
    pub(super) fn sync(&self) -> Result<()> {
        let len = group::file_len(self.lanes) as u64;
        let _syncing = self.syncing.lock();
        let synced = self.file.redirty(0, len).and_then(|()| self.file.sync_data());
        synced.at("syncing", &self.path)
    }

    /// Returns the book of an owner of lanes.
    pub(super) fn book(&self, effects: Option<Closable>) -> Book {
        Book::of_worker(Arc::clone(&self.file), Arc::clone(&self.map), &self.path, effects)
    }

    fn has_its_name(&self, topic: &Store) -> Result<bool> {
        let now = topic.files.open(&self.path, Access::Read).at("opening", &self.path)?;
        Ok(now.identity().at("opening", &self.path)? == self.identity)
    }

    /// Checks that its name still leads to it: it may have been deleted before a lock was taken.
    pub(super) fn check_not_deleted(&self, topic: &Store) -> Result<()> {
        if !self.has_its_name(topic)? {
            let what = format!("{} any more: it was created again", self.path.display());
            return Err(Error::NotFound { what });
        }
        Ok(())
    }

    /// Reads a lane's page.
    pub(super) fn look(&self, topic: &Store, lane: u32) -> Result<Seen> {
        cursor::look(topic, &self.map, &self.path, group::lane_at(lane), self.identity)
    }

    /// Returns whether a worker of any process owns the lane.
    pub(super) fn is_held(&self, lane: u32) -> Result<bool> {
        self.file.locked_by_other(lane.into(), 1).at("asking for locks of", &self.path)
    }
}

/// Creates the group with all its lanes, all of them at `start`; does nothing if it exists.
pub(super) fn create(topic: &Store, name: &str, lanes: u32, start: Start) -> Result<()> {
    let path = path_of(topic, name)?;
    topic.location.check()?;
    let files = &*topic.files;
    let dir = topic.dir.join(GROUPS);
    files.make_dir(&dir).at("creating", &dir)?;
    let offset = reader::resolve(topic, start)?;
    let mut bytes = vec![0; PAGE_LEN];
    let header = group::encode_header(topic.settings.topic_id, lanes);
    bytes[..header.len()].copy_from_slice(&header);
    let page = cursor::new_page(topic, offset, 0);
    for _ in 0..lanes {
        bytes.extend_from_slice(&page);
    }
    match sys::create_durably(files, &path, &bytes, sys::random()) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::io("creating", &path, error))
        }
        _ => Ok(()),
    }
}

/// Returns the names of all groups of a topic, sorted.
pub(super) fn names_of(topic: &Store) -> Result<Vec<String>> {
    names_in(&*topic.files, &topic.dir.join(GROUPS))
}

/// Opens a group that no worker has open, and keeps workers out as long as it is open.
fn open_idle(topic: &Store, name: &str) -> Result<GroupFile> {
    let group = GroupFile::open(topic, name, Access::ReadWrite)?;
    if !group.file.try_lock(0, ALL_LOCKS).at("locking", &group.path)? {
        let mut pid = None;
        for lane in 0..group.lanes {
            if group.is_held(lane)? {
                pid = Some(group.look(topic, lane)?.pid);
                break;
            }
        }
        return Err(Error::Locked { what: format!("group {name} of topic {}", topic.name), pid });
    }
    group.check_not_deleted(topic)?;
    Ok(group)
}

/// Sets all lanes of a group that no worker has open to one position.
pub(super) fn reset(topic: &Arc<Handle>, name: &str, start: Start) -> Result<u64> {
    let group = open_idle(topic, name)?;
    let to = reader::resolve(topic, start)?;
    let settled = topic.settled_end()?;
    if to > 0 {
        // A position is durable after its records.
        topic.wait_durable(to)?;
    }
    let book = Arc::new(group.book(None));
    let mut cursors = Vec::new();
    for lane in 0..group.lanes {
        let mut cursor = Cursor::take(topic, &book, group::lane_at(lane), Meaning::Handled)?;
        cursor.end_attempt();
        // Before the position: a record from here on may have been handled, and its effect is looked
        // for from the start.
        cursor.set_doubt(settled);
        cursor.set_floor(0);
        cursor.commit(to)?;
        cursors.push(cursor);
    }
    book.sync(topic)?;
    Ok(to)
}

/// Deletes a group that no worker has open.
pub(super) fn delete(topic: &Store, name: &str) -> Result<()> {
    let group = open_idle(topic, name)?;
    topic.files.remove_file(&group.path).at("deleting", &group.path)?;
    let dir = topic.dir.join(GROUPS);
    topic.files.sync_dir(&dir).at("syncing", &dir)
}
