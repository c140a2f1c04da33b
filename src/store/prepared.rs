//! Segment files that are made before a roll needs them. They have no segment's name yet. Members share them:
//! for each, a word of the control page names its maker, and says whether the file is ready.

use std::path::{Path, PathBuf};

use super::{remove_if_there, Durability, Store};
use crate::control::lock::Owner;
use crate::control::Words;
use crate::error::{Error, IoResultExt, Result};
use crate::format::PAGE_LEN;
use crate::sys::atomic::Ordering;
use crate::sys::{self, DiskFile, Map};

/// Bytes of the next segment that are made ready at once, by a background thread or by an appending thread.
/// The page cache keeps what one write brings as one unit, and large units are cheap to make and to map.
pub(super) const PIECE_LEN: u64 = 128 << 10;
/// For a topic that syncs and stores through a mapping, zeros are written one page at a time: a store makes the
/// whole unit dirty, so after larger writes every sync of a few records would write a megabyte and more.
const PIECE_LEN_SYNCED: usize = PAGE_LEN;
/// Zeros that are written before they are synced: a disk that has more to write lets the syncs of records wait.
const UNSYNCED_LEN: u64 = 1 << 20;

const PREPARING: u64 = 1 << 62;
const READY: u64 = 2 << 62;
const NUMBER_AT: u32 = 32;
const NUMBER_MASK: u64 = (1 << 30) - 1;

/// What a word of the control page says about a prepared file. No two files get the same word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    place: usize,
    word: u64,
}

impl Claim {
    /// Returns what the words say now, in the order in which one maker's files were begun.
    pub(super) fn all(words: &Words) -> Vec<Claim> {
        let words = words.prepared.words.iter().enumerate();
        let claim = |(place, word): (usize, &sys::atomic::AtomicU64)| {
            // Acquire: pairs with the store of READY, after the last zero was written.
            Claim { place, word: word.load(Ordering::Acquire) }
        };
        let mut claims: Vec<Claim> = words.map(claim).collect();
        claims.sort_by_key(|claim| claim.word >> NUMBER_AT & NUMBER_MASK);
        claims
    }

    /// Takes the place for a file that this member makes; `None` if another process was faster.
    pub(super) fn take(self, topic: &Store, words: &Words, me: Owner) -> Option<Claim> {
        let number = topic.files_made.fetch_add(1, Ordering::Relaxed) & NUMBER_MASK;
        let word = PREPARING | number << NUMBER_AT | u64::from(me.word());
        let at = &words.prepared.words[self.place];
        let taken = at.compare_exchange(self.word, word, Ordering::AcqRel, Ordering::Relaxed);
        taken.ok().map(|_| Claim { word, ..self })
    }

    /// Says that the file is whole.
    pub(super) fn make_ready(self, words: &Words) {
        let ready = self.word & !PREPARING | READY;
        words.prepared.words[self.place].store(ready, Ordering::Release);
    }

    /// Frees the place, unless the word now names another file, of a process that took over from a dead maker.
    pub(super) fn clear(self, words: &Words) {
        let at = &words.prepared.words[self.place];
        let cleared = at.compare_exchange(self.word, 0, Ordering::AcqRel, Ordering::Relaxed);
        debug_assert!(cleared != Err(self.word));
    }

    /// Whether the words still say this.
    pub(super) fn stands(self, words: &Words) -> bool {
        words.prepared.words[self.place].load(Ordering::Acquire) == self.word
    }

    pub(super) fn owner(self) -> Option<Owner> {
        Owner::of_word(self.word as u32)
    }

    pub(super) fn is_ready(self) -> bool {
        self.word & READY != 0 && self.owner().is_some()
    }

    /// Returns the file's temporary name.
    pub(super) fn file_name(self) -> Option<String> {
        let number = self.word >> NUMBER_AT & NUMBER_MASK;
        let name =
            |owner: Owner| format!("next-{}-{}-{number}.tmp", owner.slot(), owner.generation());
        self.owner().map(name)
    }

    pub(super) fn path(self, topic: &Store) -> PathBuf {
        topic.dir.join(self.file_name().unwrap_or_default())
    }

    /// Clears the words of dead makers, which did not finish their files, where `is_dead` says so.
    pub(super) fn settle(
        topic: &Store,
        words: &Words,
        is_dead: impl Fn(Owner) -> bool,
    ) -> Result<()> {
        for claim in Claim::all(words) {
            if !claim.is_ready() && claim.owner().is_some_and(&is_dead) {
                remove_if_there(&*topic.files, &claim.path(topic))?;
                claim.clear(words);
            }
        }
        Ok(())
    }

    /// Clears the word of a prepared file to which a dead roller has given a segment's name: otherwise no
    /// process would prepare one again. The append lock is held, so no living roller is between these steps.
    pub(super) fn forget_entered(topic: &Store, words: &Words) -> Result<()> {
        for claim in Claim::all(words).into_iter().filter(|claim| claim.is_ready()) {
            if open(topic, &claim.path(topic))?.is_none() {
                claim.clear(words);
            }
        }
        Ok(())
    }
}

fn open(topic: &Store, path: &Path) -> Result<Option<Box<dyn DiskFile>>> {
    let file = topic.files.open(path, sys::Access::ReadWrite);
    file.not_found_is_none().at("opening", path)
}

/// A segment file that has no segment's name yet.
pub(super) struct Unnamed {
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn DiskFile>,
    /// The word under which it was found; `None` if it was made for this roll.
    pub(super) claim: Option<Claim>,
    /// This process's mapping of it, and the position below which its pages are resident.
    pub(super) mapped: Option<(Map, u64)>,
}

impl Unnamed {
    /// Returns a prepared file that is ready, if there is one.
    pub(super) fn ready(topic: &Store, words: &Words) -> Result<Option<Unnamed>> {
        let Some(claim) = Claim::all(words).into_iter().find(|claim| claim.is_ready()) else {
            return Ok(None);
        };
        let path = claim.path(topic);
        let file = open(topic, &path)?;
        Ok(file.map(|file| Unnamed { path, file, claim: Some(claim), mapped: None }))
    }

    /// Whether it is a prepared file, and not entered yet.
    pub(super) fn is_prepared(&self, words: &Words) -> bool {
        self.claim.is_some_and(|claim| claim.stands(words))
    }

    /// Maps the file, and makes the next pages resident. Returns false if all are.
    pub(super) fn populate(&mut self) -> Result<bool> {
        let len = self.file.len().at("sizing", &self.path)?;
        if self.mapped.is_none() {
            let map = self.file.map(len as usize, true).at("mapping", &self.path)?;
            self.mapped = Some((map, 0));
        }
        let Some((map, resident)) = &mut self.mapped else { return Ok(false) };
        if *resident >= len {
            return Ok(false);
        }
        let end = (*resident + PIECE_LEN).min(len);
        sys::populate(&*self.file, map, *resident as usize, end as usize)
            .at("allocating pages of", &self.path)?;
        *resident = end;
        Ok(true)
    }
}

/// A new segment file whose bytes are being made. It is allocated. For topics that sync, and for those that
/// need the next segment soon, it is also written with zeros, so that a later sync has no allocation to make
/// durable, and a later store no page to make.
pub(super) struct Making {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    len: u64,
    /// Bytes below this position are written, or are not to be.
    position: u64,
    syncs: bool,
}

impl Making {
    /// Creates and allocates the file.
    pub(super) fn begin(topic: &Store, path: &Path, len: u64, soon: bool) -> Result<Making> {
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
        let syncs = topic.options.durability != Durability::ProcessCrash;
        let position = if syncs || soon && !topic.by_call { 0 } else { len };
        let making = Making { path: path.to_owned(), file, len, position, syncs };
        let allocated = making.file.allocate(len);
        making.or_remove(topic, allocated)?;
        Ok(making)
    }

    /// Writes the next zeros. Returns true once the file is whole. Removes the file if that fails.
    pub(super) fn advance(&mut self, topic: &Store) -> Result<bool> {
        let end = (self.position + PIECE_LEN).min(self.len);
        let by_page = self.syncs && !topic.by_call;
        let zeros = vec![0; if by_page { PIECE_LEN_SYNCED } else { PIECE_LEN as usize }];
        let is_whole = self.position >= self.len;
        let done = (|| {
            while self.position < end {
                let piece = zeros.len().min((end - self.position) as usize);
                self.file.write_all_at(&zeros[..piece], self.position)?;
                self.position += piece as u64;
            }
            match self.syncs && (is_whole || self.position % UNSYNCED_LEN == 0) {
                true => self.file.sync_data(),
                false => Ok(()),
            }
        })();
        self.or_remove(topic, done)?;
        Ok(is_whole)
    }

    /// Bytes that are still to be written.
    pub(super) fn left_len(&self) -> u64 {
        self.len - self.position
    }

    fn or_remove(&self, topic: &Store, done: std::io::Result<()>) -> Result<()> {
        let Err(error) = done else { return Ok(()) };
        let failed = Error::allocating(&self.path, self.len, error);
        topic.files.remove_file(&self.path).at("removing", &self.path)?;
        Err(failed)
    }
}

/// Makes a new segment file at once, for a caller that cannot wait: see [`Making`].
pub(super) fn make_file(topic: &Store, path: &Path, len: u64) -> Result<Box<dyn DiskFile>> {
    let mut making = Making::begin(topic, path, len, false)?;
    while !making.advance(topic)? {}
    Ok(making.file)
}
