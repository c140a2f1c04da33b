//! What the topics of a log share: the log's directory, the boot, the background threads, the open topics.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::Handles;
use crate::error::{Error, IoResultExt, Result};
use crate::format::names;
use crate::housekeeper::Housekeeper;
use crate::sys::fork::Generation;
use crate::sys::{Directory, FileIdentity, Medium};

/// The name of the marker file.
pub(crate) const MARKER: &str = "deaddrop";
/// The name of the directory of all topics.
pub(crate) const TOPICS: &str = "topics";

/// How to open a log.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LogOptions {
    /// File mode of a new log, less the umask; directories get the search bits as well. 0600 allows only
    /// the owner. 0640 also lets a group read, 0660 lets it append; users of several groups need a
    /// directory with the setgid bit (`chmod g+s`), so that new files get its group. Files that any process
    /// adds to a log later get the mode of the log's file `deaddrop`: `chmod -R` changes it. Files that
    /// root adds also get its owner and group, so that a command run with `sudo` does not lock the owner
    /// out.
    pub mode: u32,
    /// Allows a network file system. Locks and mappings are not shared between machines: all processes must
    /// run on one machine, and a power loss there is outside the promises.
    pub allow_network_file_system: bool,
    /// Longest wait for a process that is opening the same topic, or that is stopped inside an append.
    /// `None` waits as long as that process lives.
    pub lock_timeout: Option<Duration>,
}

impl LogOptions {
    /// Returns the deadline for a wait, starting now, for another process or thread.
    pub(crate) fn lock_deadline(&self) -> Option<Instant> {
        self.lock_timeout.and_then(|timeout| Instant::now().checked_add(timeout))
    }
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions { mode: 0o600, allow_network_file_system: false, lock_timeout: None }
    }
}

setters! { LogOptions:
    with_mode mode: u32,
    with_allow_network_file_system allow_network_file_system: bool,
    with_lock_timeout lock_timeout: impl Into<Option<Duration>>,
}

#[derive(Debug)]
pub(crate) struct LogInner {
    /// The directory, opened once: the log is this directory, wherever its path leads later.
    pub(crate) files: Arc<dyn Directory>,
    /// The directory of the topics, opened once as well. A log that is only read may not have it yet.
    topics_dir: OnceLock<Arc<dyn Directory>>,
    /// The marker file that was found when the log was opened.
    marker: FileIdentity,
    /// For messages: the absolute path under which it was opened.
    pub(crate) dir: PathBuf,
    pub(crate) options: LogOptions,
    pub(crate) read_only: bool,
    pub(crate) boot: [u64; 2],
    pub(crate) housekeeper: Housekeeper,
    pub(crate) made_in: Generation,
    pub(crate) topics: Handles,
}

impl LogInner {
    /// Describes the log in `files`. `topics_dir` is the directory of its topics, if it is open already.
    pub(crate) fn new(
        files: Arc<dyn Directory>,
        topics_dir: Option<Arc<dyn Directory>>,
        options: LogOptions,
        read_only: bool,
    ) -> Result<LogInner> {
        let dir = files.path();
        let path = dir.join(MARKER);
        let marker = files.identity_of(&path).at("identifying", &path)?;
        let boot = files.boot_id().at("reading the boot id for", dir)?;
        Ok(LogInner {
            topics_dir: topics_dir.map_or_else(OnceLock::new, OnceLock::from),
            marker,
            dir: dir.to_owned(),
            files,
            options,
            read_only,
            boot,
            housekeeper: Housekeeper::default(),
            made_in: Generation::default(),
            topics: Handles::default(),
        })
    }

    /// Returns the path of a topic's directory. The caller has checked the name.
    pub(crate) fn topic_dir(&self, name: &str) -> PathBuf {
        self.dir.join(TOPICS).join(name)
    }

    /// Returns the directory of the topics, if it exists.
    pub(crate) fn topics_directory(&self) -> Result<Option<&Arc<dyn Directory>>> {
        if let Some(topics) = self.topics_dir.get() {
            return Ok(Some(topics));
        }
        let path = self.dir.join(TOPICS);
        let topics = self.files.open_dir(&path).not_found_is_none().at("opening", &path)?;
        // Another thread may have been faster: then its handle is kept.
        Ok(topics.map(|topics| self.topics_dir.get_or_init(|| topics)))
    }

    /// Returns the directory of the topics; an error if the log is read-only.
    pub(crate) fn topics_for_writing(&self) -> Result<&Arc<dyn Directory>> {
        self.topics_dir.get().ok_or_else(|| Error::ReadOnly { path: self.dir.clone() })
    }

    /// Whether anything exists under this path of a topic's directory.
    pub(crate) fn names_topic(&self, dir: &Path) -> bool {
        matches!(self.topics_directory(), Ok(Some(topics)) if topics.identity_of(dir).is_ok())
    }

    /// Fails if the log's files were removed or replaced since it was opened. Callers ask before they add
    /// something to the log.
    pub(crate) fn check_not_replaced(&self) -> Result<()> {
        let path = self.dir.join(MARKER);
        match self.files.identity_of(&path).not_found_is_none().at("looking for", &path)? {
            Some(found) if found == self.marker => Ok(()),
            Some(_) => Err(Error::Replaced { path: self.dir.clone() }),
            None => Err(Error::NotFound {
                what: format!(
                    "log in {} any more: its files were removed while it was open; open it again",
                    self.dir.display()
                ),
            }),
        }
    }
}

/// Returns the storage that a directory is on; refuses a network file system unless that was allowed. A
/// topic can be a mount point, and then is not on its log's storage.
pub(crate) fn medium_of(files: &dyn Directory, options: &LogOptions) -> Result<Medium> {
    let path = files.path();
    let medium = files.medium().at("asking the file system of", path)?;
    if let (Medium::Network(name), false) = (&medium, options.allow_network_file_system) {
        let why = format!(
            "{name} is a network or user-space file system, whose locks and mappings may not be \
             shared: put the log on a local disk, or set allow_network_file_system"
        );
        return Err(Error::Unsupported { path: path.to_owned(), why });
    }
    Ok(medium)
}

/// Lists the files or folders of `dir` that have valid names, sorted; empty if `dir` does not exist.
pub(crate) fn names_in(files: &dyn Directory, dir: &Path) -> Result<Vec<String>> {
    let mut found = files.list(dir).not_found_is_none().at("listing", dir)?.unwrap_or_default();
    found.retain(|name| names::check(name).is_ok());
    found.sort();
    Ok(found)
}
