//! A topic's directory: opening it once, and detecting that its files were removed or replaced while they are
//! in use.

use std::io::ErrorKind::{NotADirectory, NotFound};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::LogInner;
use crate::control::member;
use crate::error::{Error, IoResultExt, Result};
use crate::sys::atomic::{AtomicU64, Ordering};
use crate::sys::{self, clock, Directory, DiskFile, FileIdentity};

/// The names of a topic's files.
pub(super) const SETTINGS: &str = "settings";
pub(super) const LOCK: &str = "lock";
pub(super) const CONTROL: &str = "control";

/// An append checks this often, in nanoseconds, that the topic is still where it was opened.
const CHECK_INTERVAL: u64 = 1_000_000_000;
/// How often to try to open a topic that is deleted and created again meanwhile, before that is an error.
const TRIES: usize = 100;

/// A topic's directory with the gate of its lock file, both still under the topic's name.
pub(super) struct Entered {
    pub(super) files: Arc<dyn Directory>,
    pub(super) lock_file: Box<dyn DiskFile>,
}

/// Where a topic was opened, and whether it is still there.
#[derive(Debug)]
pub(crate) struct Location {
    log: Arc<LogInner>,
    name: String,
    files: Arc<dyn Directory>,
    /// The file that identifies the topic: for a member the lock file, in which it holds its slot; for every
    /// other process the settings file that it has read.
    known_by: (&'static str, FileIdentity),
    /// When an append last checked that the topic's files are in place.
    checked_at: AtomicU64,
}

impl Location {
    pub(super) fn new(
        log: &Arc<LogInner>,
        name: &str,
        files: &Arc<dyn Directory>,
        known_by: (&'static str, FileIdentity),
    ) -> Location {
        let (log, name, files) = (Arc::clone(log), name.to_owned(), Arc::clone(files));
        Location { log, name, files, known_by, checked_at: clock::wall_coarse().into() }
    }

    /// Makes durable the names in a directory of the topic, and the directory's own name. A name that another
    /// process gave before it died may be in the page cache only.
    pub(crate) fn sync_names_in(&self, directory: &str) -> Result<()> {
        let path = self.files.path();
        for dir in [&path.join(directory), path] {
            self.files.sync_dir(dir).at("syncing", dir)?;
        }
        Ok(())
    }

    /// Whether the name of the topic still leads to it.
    pub(super) fn has_its_name(&self) -> Result<bool> {
        if !is_in_place(&self.log, &*self.files)? {
            return Ok(false);
        }
        match self.check() {
            Ok(()) => Ok(true),
            Err(Error::NotFound { .. } | Error::Replaced { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Fails if the topic's files were removed or replaced since it was opened: members that use
    /// the new files would not see this process's records, nor would this process see theirs.
    pub(crate) fn check(&self) -> Result<()> {
        if self.log.made_in.is_parents() {
            return Err(Error::Forked);
        }
        let (name, held) = self.known_by;
        let path = self.files.path().join(name);
        match self.files.identity_of(&path).not_found_is_none().at("looking for", &path)? {
            Some(found) if found == held => Ok(()),
            Some(_) => Err(Error::Replaced { path: self.files.path().to_owned() }),
            None => Err(self.removed()),
        }
    }

    /// The same, from time to time: an append to an open segment resolves no name.
    #[inline]
    pub(super) fn check_sometimes(&self, now: u64) -> Result<()> {
        if now.abs_diff(self.checked_at.load(Ordering::Relaxed)) < CHECK_INTERVAL {
            return Ok(());
        }
        self.check()?;
        self.checked_at.store(now, Ordering::Relaxed);
        Ok(())
    }

    /// For a caller that finds nothing new, or asks how far the topic goes: without this check, a topic whose
    /// files are gone would look like one to which nothing is appended.
    pub(crate) fn check_when_idle(&self) -> Result<()> {
        match self.known_by {
            (LOCK, _) => self.check_sometimes(clock::wall_coarse()),
            _ => self.check(),
        }
    }

    /// Called before the durable end moves: the synced files must still be the topic.
    pub(super) fn check_after_sync(&self) -> Result<()> {
        let checked = self.check();
        if checked.is_err() {
            // The next append checks again before it writes.
            self.checked_at.store(0, Ordering::Relaxed);
        }
        checked
    }

    /// Returns why files are missing if they are not damaged: the topic was removed or replaced.
    pub(crate) fn displaced(&self) -> Option<Error> {
        let checked = self.check().err();
        checked.filter(|error| matches!(error, Error::NotFound { .. } | Error::Replaced { .. }))
    }

    /// Returns the error for a topic whose files are gone.
    pub(super) fn removed(&self) -> Error {
        let now = match is_in_place(&self.log, &*self.files) {
            Ok(false) if self.log.names_topic(self.files.path()) => {
                "another topic was created under its name: open that one"
            }
            _ => "close it, and create it again if you need it",
        };
        let dir = self.log.dir.display();
        let what = "its files were removed while it was open";
        Error::NotFound { what: format!("topic {} in {dir} any more: {what}; {now}", self.name) }
    }
}

/// Whether a topic is in `dir`, a directory of `topics`.
pub(crate) fn exists(topics: &dyn Directory, dir: &Path) -> Result<bool> {
    let path = dir.join(SETTINGS);
    match topics.open(&path, sys::Access::Read) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(false),
        // Perhaps the symbolic link is not the file, but the directory.
        Err(error) if sys::is_symbolic_link(&error) && topics.open_dir(dir).is_err() => {
            Err(refused("opening", dir, error))
        }
        Err(error) => Err(Error::io("opening", &path, error)),
    }
}

/// Opens the directory of an existing topic.
pub(super) fn existing(log: &LogInner, name: &str) -> Result<Arc<dyn Directory>> {
    let dir = log.topic_dir(name);
    let not_found = || Error::NotFound { what: format!("topic {name} in {}", log.dir.display()) };
    let Some(topics) = log.topics_directory()? else { return Err(not_found()) };
    if !exists(&**topics, &dir)? {
        return Err(not_found());
    }
    topics.open_dir(&dir).map_err(|error| match error.kind() {
        NotFound => not_found(),
        _ => refused("opening", &dir, error),
    })
}

/// Opens the directory of a topic that is to be deleted. Without its settings the topic cannot be used, and
/// its lock file distinguishes it from any other directory.
pub(super) fn to_delete(log: &LogInner, name: &str) -> Result<Arc<dyn Directory>> {
    match existing(log, name) {
        Err(Error::NotFound { what }) => {
            let dir = log.topic_dir(name);
            let topics = log.topics_for_writing()?;
            match topics.identity_of(&dir.join(LOCK)).and_then(|_| topics.open_dir(&dir)) {
                Err(error) if matches!(error.kind(), NotFound | NotADirectory) => {
                    Err(Error::NotFound { what })
                }
                other => other.map_err(|error| refused("opening", &dir, error)),
            }
        }
        other => other,
    }
}

/// Opens a directory with `open`, and takes the gate of the topic that has it under its name.
pub(super) fn enter(
    log: &LogInner,
    name: &str,
    open: impl Fn() -> Result<Arc<dyn Directory>>,
) -> Result<Entered> {
    let deadline = log.options.lock_deadline();
    for _ in 0..TRIES {
        let files = open()?;
        let path = files.path().join(LOCK);
        let lock_file = files.open(&path, sys::Access::OpenOrCreate).not_found_is_none();
        // If the lock file is missing, the topic was deleted since its directory was opened.
        let Some(lock_file) = lock_file.at("locking", &path)? else { continue };
        wait_for_gate(&*lock_file, name, &path, deadline)?;
        // The topic may have been deleted, and made again, while this process waited.
        let held = lock_file.identity().at("locking", &path)?;
        if is_named(&*files, &path, held)? && is_in_place(log, &*files)? {
            return Ok(Entered { files, lock_file });
        }
    }
    let what = format!("topic {name}, which is repeatedly deleted and created again");
    Err(Error::TimedOut { what })
}

/// Removes a file of a topic, if it exists.
pub(super) fn remove_if_there(files: &dyn Directory, path: &Path) -> Result<()> {
    files.remove_file(path).not_found_is_none().at("removing", path).map(drop)
}

/// Creates the directory of a topic, unless it exists.
pub(super) fn make(topics: &dyn Directory, dir: &Path) -> Result<Arc<dyn Directory>> {
    topics.make_dir(dir).map_err(|error| refused("creating", dir, error))
}

/// Makes an error about a topic's directory; for a symbolic link it names the mistake.
fn refused(doing: &'static str, dir: &Path, error: std::io::Error) -> Error {
    if sys::is_symbolic_link(&error) {
        let why = "a topic must be a directory of the log, and this is a symbolic link: move the \
                   directory here, or mount it here (mount --bind)";
        return Error::Unsupported { path: dir.to_owned(), why: why.into() };
    }
    Error::io(doing, dir, error)
}

fn wait_for_gate(
    lock_file: &dyn DiskFile,
    name: &str,
    path: &Path,
    deadline: Option<Instant>,
) -> Result<()> {
    let mut pause = Duration::from_micros(50);
    while !member::try_gate(lock_file).at("locking", path)? {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let what = format!("another process that is opening topic {name}");
            return Err(Error::TimedOut { what });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
    Ok(())
}

/// Whether `path` names the file `held`.
fn is_named(files: &dyn Directory, path: &Path, held: FileIdentity) -> Result<bool> {
    Ok(files.identity_of(path).not_found_is_none().at("looking for", path)? == Some(held))
}

/// Whether the log has this directory under the name with which it was opened.
fn is_in_place(log: &LogInner, files: &dyn Directory) -> Result<bool> {
    let Some(topics) = log.topics_directory()? else { return Ok(false) };
    let held = files.identity().at("identifying", files.path())?;
    is_named(&**topics, files.path(), held)
}
