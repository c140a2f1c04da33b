//! What one owner has of an offset file or a group file: pages whose positions become durable together, by
//! one sync, on any thread.
//!
//! The owner commits by stores into the live words and takes no lock for it. Making a position durable
//! reads those words, so the background does it without the owner.

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

/// Positions that are kept in the background are made durable this often.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Every byte of a file that anything locks.
const ALL_LOCKS: u64 = 4 << 32;

/// See the module.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) map: Arc<Map>,
    pub(crate) path: PathBuf,
    /// The topic that handling appends to: a position is durable after the records it stands for.
    effects: Option<Closable>,
    /// Positions are durable after the records below them.
    after_records: bool,
    pub(crate) pages: Mutex<BTreeMap<usize, Page>>,
}

/// What is known of a page's slots.
#[derive(Debug)]
pub(crate) struct Page {
    /// The sequence number of the newest slot.
    pub(crate) sequence: u64,
    /// It is known to be on the disk: its neighbour may be written over.
    pub(crate) slot_is_durable: bool,
    /// What it says; `None`: something that the live words do not.
    pub(crate) synced: Option<Saved>,
    /// The epoch of the owner.
    pub(crate) epoch: u32,
}

impl Book {
    /// Of a consumer.
    pub(crate) fn new(file: Arc<dyn DiskFile>, map: Arc<Map>, path: &Path) -> Book {
        let pages = Mutex::default();
        Book { file, map, path: path.to_owned(), effects: None, after_records: false, pages }
    }

    /// Of a worker: its positions are durable after the records below them, and those of `effects`.
    pub(crate) fn of_worker(
        file: Arc<dyn DiskFile>,
        map: Arc<Map>,
        path: &Path,
        effects: Option<Closable>,
    ) -> Book {
        Book { effects, after_records: true, ..Book::new(file, map, path) }
    }

    /// Ends it: nothing is made durable any more, and the locks of the file are free.
    pub(crate) fn close(&self) {
        // A sync of the background that is under way ends first.
        let mut pages = self.pages.lock();
        pages.clear();
        // What fails here is done by the kernel as soon as the background has let go of the file.
        drop(self.file.unlock(0, ALL_LOCKS));
    }

    fn word(&self, base: usize, at: usize) -> &AtomicU64 {
        self.map.word(base + at)
    }

    /// What the live words say now. With the lock held, so that no owner moves back meanwhile.
    fn saved(&self, base: usize, page: &Page) -> Saved {
        // The floor first: an owner raises it after the position, and a floor of a later position would
        // leave out what the records below that may have left behind.
        let floor = self.word(base, cursor::LIVE_FLOOR_AT).load(Ordering::Acquire);
        Saved {
            sequence: page.sequence + 1,
            epoch: page.epoch,
            turn: self.word(base, cursor::LIVE_TURN_AT).load(Ordering::Acquire) as u32,
            offset: self.word(base, cursor::LIVE_OFFSET_AT).load(Ordering::Acquire),
            floor,
        }
    }

    /// Makes the positions durable that are not.
    pub(crate) fn sync(&self, topic: &Store) -> Result<()> {
        // In a file that was removed with its topic, no position is kept.
        topic.check_in_place()?;
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
            // Closed: its owner is gone, and has done this.
            let Some(waited) = effects.with(Store::wait_all_durable) else { return Ok(()) };
            waited?;
        }
        self.write_slots(&mut pages, &due)
    }

    fn write_slots(&self, pages: &mut BTreeMap<usize, Page>, due: &[(usize, Saved)]) -> Result<()> {
        let in_doubt: Vec<usize> =
            due.iter().map(|(base, _)| *base).filter(|base| !pages[base].slot_is_durable).collect();
        if !in_doubt.is_empty() {
            // An earlier owner may have died, or failed, between writing the slot and the disk.
            in_doubt.iter().try_for_each(|&base| self.redirty(base))?;
            self.sync_file()?;
            for base in in_doubt {
                self.is_on_disk(pages, base);
            }
        }
        for (base, saved) in due {
            // Until the sync has returned: a failed one leaves both slots in doubt.
            pages.get_mut(base).expect("due").slot_is_durable = false;
            self.map.write(base + cursor::slot_at(saved.sequence), &saved.encode());
        }
        self.sync_file()?;
        for (base, saved) in due {
            let page = pages.get_mut(base).expect("due");
            // Only after the sync: else the next write would go over the slot that is in force.
            page.sequence = saved.sequence;
            page.synced = Some(*saved);
            self.is_on_disk(pages, *base);
        }
        Ok(())
    }

    /// Whether a position is not durable, as far as can be told without waiting.
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

    /// The newest slot is on the disk: retention may believe it.
    fn is_on_disk(&self, pages: &mut BTreeMap<usize, Page>, base: usize) {
        let page = pages.get_mut(&base).expect("the caller has it from there");
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
    /// From now on a position of this book is durable a second after it was committed.
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
            topic.every(SYNC_INTERVAL, SYNC_INTERVAL, look, |topic| {
                topic.books.sync(topic);
                true
            })?;
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
            // Nobody waits for it: what fails is tried again a second later.
            if let Err(error) = book.sync(topic) {
                events::position_not_synced(&topic.name, &error);
            }
        }
    }
}
