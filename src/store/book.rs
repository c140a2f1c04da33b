//! One owner's part of an offset file or a group file: pages whose positions become durable together, by one
//! sync, on any thread.
//!
//! The owner commits by stores into the live words, without a lock. Making a position durable reads those
//! words, so the background does it without the owner.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::{Closable, Store};
use crate::error::{IoResultExt, Result};
use crate::events;
use crate::format::cursor::{self, Saved};
use crate::format::PAGE_LEN;
use crate::sys::atomic::{AtomicU64, Ordering};
use crate::sys::{DiskFile, Map};

/// The background makes positions durable this often.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// The length of the range that covers every byte of a file that is ever locked.
const ALL_LOCKS: u64 = 4 << 32;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) map: Arc<Map>,
    pub(crate) path: PathBuf,
    /// The topic that handlers append to: a position becomes durable after the records appended for it.
    effects: Option<Closable>,
    /// Positions become durable after the records below them.
    after_records: bool,
    pub(crate) pages: Mutex<BTreeMap<usize, Page>>,
}

/// The state of a page's slots.
#[derive(Debug)]
pub(crate) struct Page {
    /// The sequence number of the newest slot.
    pub(crate) sequence: u64,
    /// Whether that slot is known to be on the disk, so that the other slot may be written over.
    pub(crate) slot_is_durable: bool,
    /// The contents of that slot; `None` if no slot is valid.
    pub(crate) synced: Option<Saved>,
    /// The epoch of the owner.
    pub(crate) epoch: u32,
}

impl Book {
    /// Creates the book of a consumer.
    pub(crate) fn new(file: Arc<dyn DiskFile>, map: Arc<Map>, path: &Path) -> Book {
        let pages = Mutex::default();
        Book { file, map, path: path.to_owned(), effects: None, after_records: false, pages }
    }

    /// Creates a worker's book: positions are durable after the records below them, and those of `effects`.
    pub(crate) fn of_worker(
        file: Arc<dyn DiskFile>,
        map: Arc<Map>,
        path: &Path,
        effects: Option<Closable>,
    ) -> Book {
        Book { effects, after_records: true, ..Book::new(file, map, path) }
    }

    /// Closes the book: it makes nothing durable any more, and the locks of the file are free.
    pub(crate) fn close(&self) {
        // A background sync that is running ends first.
        let mut pages = self.pages.lock();
        pages.clear();
        // If this fails, the kernel releases the locks as soon as the background has dropped the file.
        drop(self.file.unlock(0, ALL_LOCKS));
    }

    fn word(&self, base: usize, at: usize) -> &AtomicU64 {
        self.map.word(base + at)
    }

    /// Returns what the live words say now. The caller holds the lock, so that no owner moves back meanwhile.
    fn saved(&self, base: usize, page: &Page) -> Saved {
        // The floor first: an owner raises it after the position, and the floor of a later position would
        // leave out effects of the records below that position.
        let floor = self.word(base, cursor::LIVE_FLOOR_AT).load(Ordering::Acquire);
        Saved {
            sequence: page.sequence + 1,
            epoch: page.epoch,
            turn: self.word(base, cursor::LIVE_TURN_AT).load(Ordering::Acquire) as u32,
            offset: self.word(base, cursor::LIVE_OFFSET_AT).load(Ordering::Acquire),
            floor,
        }
    }

    /// Makes the positions durable that are not durable yet.
    pub(crate) fn sync(&self, topic: &Store) -> Result<()> {
        // In a file that was removed with its topic, no position is kept.
        topic.location.check()?;
        let mut pages = self.pages.lock();
        let due: Vec<(usize, Saved)> = pages
            .iter()
            .map(|(base, page)| (*base, page, self.saved(*base, page)))
            .filter(|(_, page, saved)| !page.is_durable(saved))
            .map(|(base, _, saved)| (base, saved))
            .collect();
        let Some(last) = due.iter().map(|(_, saved)| saved.offset).max() else { return Ok(()) };
        if self.after_records && last > 0 {
            let end = topic.frontier()?.end;
            topic.wait_durable(last.min(end))?;
        }
        if let Some(effects) = &self.effects {
            // If it is closed, its owner is gone, and has done this.
            let waited = effects.with(|topic| {
                topic.wait_durable(topic.member()?.control.tail.end.load(Ordering::Acquire))
            });
            let Some(waited) = waited else { return Ok(()) };
            waited?;
        }
        self.write_slots(&mut pages, &due)
    }

    fn write_slots(&self, pages: &mut BTreeMap<usize, Page>, due: &[(usize, Saved)]) -> Result<()> {
        let in_doubt: Vec<usize> =
            due.iter().map(|(base, _)| *base).filter(|base| !pages[base].slot_is_durable).collect();
        if !in_doubt.is_empty() {
            // An earlier owner may have died or failed after writing the slot, before it was on the disk.
            in_doubt.iter().try_for_each(|&base| self.redirty(base))?;
            self.sync_file()?;
            for base in in_doubt {
                self.is_on_disk(pages, base);
            }
        }
        for (base, saved) in due {
            // Until the sync has returned: a failed sync leaves both slots in doubt.
            pages.get_mut(base).expect("due").slot_is_durable = false;
            self.map.write(base + cursor::slot_at(saved.sequence), &saved.encode());
        }
        self.sync_file()?;
        for (base, saved) in due {
            let page = pages.get_mut(base).expect("due");
            // Only after the sync, or else the next write would overwrite the slot that is valid.
            page.sequence = saved.sequence;
            page.synced = Some(*saved);
            self.is_on_disk(pages, *base);
        }
        Ok(())
    }

    /// Whether a position is not durable yet, as far as that is known without waiting.
    fn has_news(&self) -> bool {
        let Some(pages) = self.pages.try_lock() else { return false };
        pages.iter().any(|(base, page)| !page.is_durable(&self.saved(*base, page)))
    }

    /// Makes one page durable as it is, without a new slot.
    pub(crate) fn sync_page(&self, base: usize) -> Result<()> {
        let _pages = self.pages.lock();
        self.redirty(base)?;
        self.sync_file()
    }

    /// Notes that the newest slot is on the disk, so retention may rely on it.
    fn is_on_disk(&self, pages: &mut BTreeMap<usize, Page>, base: usize) {
        let page = pages.get_mut(&base).expect("the caller found it there");
        page.slot_is_durable = true;
        self.word(base, cursor::LIVE_SLOT_AT).store(page.sequence, Ordering::Release);
    }

    fn redirty(&self, base: usize) -> Result<()> {
        let start = base as u64;
        self.file.redirty(start, start + PAGE_LEN as u64).at("marking pages of", &self.path)
    }

    fn sync_file(&self) -> Result<()> {
        self.file.sync_data().at("syncing", &self.path)
    }
}

impl Page {
    fn is_durable(&self, now: &Saved) -> bool {
        self.slot_is_durable
            && self.synced.is_some_and(|synced| Saved { sequence: now.sequence, ..synced } == *now)
    }
}

/// The books of a topic's owners whose positions the background makes durable.
#[derive(Debug, Default)]
pub(crate) struct Books {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    all: Vec<Weak<Book>>,
    is_timed: bool,
}

impl Books {
    /// From now on, a position of this book is durable a second after it was committed.
    ///
    /// # Errors
    ///
    /// If no thread can be started for it.
    pub(crate) fn keep(topic: &Store, book: &Arc<Book>) -> Result<()> {
        let mut state = topic.books.state.lock();
        state.all.retain(|book| book.strong_count() > 0);
        state.all.push(Arc::downgrade(book));
        if !state.is_timed {
            let look = |topic: &Store| topic.books.all().any(|book| book.has_news());
            let added = topic.background.every(SYNC_INTERVAL, SYNC_INTERVAL, look, |topic| {
                topic.books.sync(topic);
                true
            });
            added.at("starting a thread for", &topic.dir)?;
            state.is_timed = true;
        }
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = Arc<Book>> {
        let all = self.state.lock().all.clone();
        all.into_iter().filter_map(|book| book.upgrade())
    }

    fn sync(&self, topic: &Store) {
        for book in self.all() {
            // No thread waits for this: a failure is retried a second later.
            if let Err(error) = book.sync(topic) {
                events::position_not_synced(&topic.name, &error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::directory::RealDirectory;
    use crate::sys::{Access, Directory};

    #[test]
    fn the_locks_of_a_closed_book_are_free_though_the_background_still_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let files = RealDirectory::make(dir.path(), 0o666).unwrap();
        let path = files.path().join("billing");
        let open = || files.open(&path, Access::OpenOrCreate).unwrap();
        let (file, other) = (open(), open());
        file.allocate(PAGE_LEN as u64).unwrap();
        let map = Arc::new(file.map(PAGE_LEN, true).unwrap());
        assert!(file.try_lock(0, 1).unwrap());
        let book = Book::new(Arc::from(file), map, &path);
        assert!(!other.try_lock(0, 1).unwrap());
        book.close();
        assert!(other.try_lock(0, 1).unwrap());
        drop(book);
    }
}
