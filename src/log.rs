//! A log: one directory of topics.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, IoResultExt, Result};
use crate::format::{marker, names};
use crate::store::{self, medium_of, names_in, Handle, LogInner, Store, MARKER, TOPICS};
use crate::sys::directory::RealDirectory;
use crate::sys::{self, Access, Directory};
use crate::topic::{Topic, TopicOptions};

pub use crate::store::LogOptions;

/// Files that file systems and desktops create in a directory that is otherwise empty.
const LEFT_BY_DESKTOPS: &[&str] = &[
    "lost+found",
    ".DS_Store",
    "._.DS_Store",
    ".localized",
    ".fseventsd",
    ".Spotlight-V100",
    ".Trashes",
    ".directory",
    ".hidden",
    "Thumbs.db",
    "desktop.ini",
];

/// A directory of topics, open. Clones share it; any number of threads and processes may use it.
///
/// ```
/// # fn main() -> deaddrop::Result<()> {
/// # let dir = deaddrop::doc_dir();
/// use deaddrop::{Log, Record, Start};
/// let log = Log::open_or_create(&dir)?;
/// let orders = log.topic("orders")?;
/// let offset = orders.append(&Record::new("3 of item 7"))?;
/// let mut reader = orders.reader(Start::First)?;
/// let record = reader.next()?.expect("just appended");
/// assert_eq!((record.offset(), record.payload()), (offset, &b"3 of item 7"[..]));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Log {
    inner: Arc<LogInner>,
}

impl Log {
    /// Opens the log in `dir`; creates the directory and the log if they do not exist.
    ///
    /// # Errors
    ///
    /// [`Error::NotALog`] if the directory has other files in it (what desktops and new file systems
    /// leave, such as `.DS_Store` and `lost+found`, is ignored), [`Error::Unsupported`] on a network
    /// file system, [`Error::Version`] if another version wrote it, [`Error::Io`].
    pub fn open_or_create(dir: impl AsRef<Path>) -> Result<Log> {
        Log::open_or_create_with(dir, LogOptions::default())
    }

    /// Opens the log in `dir` with these options.
    ///
    /// # Errors
    ///
    /// As [`open_or_create`](Self::open_or_create).
    pub fn open_or_create_with(dir: impl AsRef<Path>, options: LogOptions) -> Result<Log> {
        let dir = dir.as_ref();
        let mut files =
            RealDirectory::make(dir, options.mode).at("opening or creating the directory", dir)?;
        let marker = files.path().join(MARKER);
        files.make_like(&marker).at("looking for", &marker)?;
        Log::on_disk(Arc::new(files), options, false)
    }

    /// Opens the log in `dir` without writing or locking anything: on a read-only medium, as a user with read
    /// permission only, or beside running writers. Readers see new records when they read again; consumers
    /// and appends are refused.
    ///
    /// # Errors
    ///
    /// [`Error::NotALog`] if there is no log, and as [`open_or_create`](Self::open_or_create).
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<Log> {
        let dir = dir.as_ref();
        let files = RealDirectory::open(dir, 0).map_err(|error| cannot_open(dir, error))?;
        Log::on_disk(Arc::new(files), LogOptions::default(), true)
    }

    /// Opens a log on a simulated disk.
    ///
    /// # Errors
    ///
    /// As [`open_or_create`](Self::open_or_create).
    #[cfg(feature = "sim")]
    pub fn open_sim(disk: &crate::sys::sim::SimDisk, dir: impl AsRef<Path>) -> Result<Log> {
        let dir = dir.as_ref();
        let files = disk.open_root(dir, true).at("opening or creating the directory", dir)?;
        Log::on_disk(files, LogOptions::default(), false)
    }

    /// Opens a log on a simulated disk without writing or locking anything.
    ///
    /// # Errors
    ///
    /// As [`open_read_only`](Self::open_read_only).
    #[cfg(feature = "sim")]
    pub fn open_sim_read_only(
        disk: &crate::sys::sim::SimDisk,
        dir: impl AsRef<Path>,
    ) -> Result<Log> {
        let dir = dir.as_ref();
        let files = disk.open_root(dir, false).map_err(|error| cannot_open(dir, error))?;
        Log::on_disk(files, LogOptions::default(), true)
    }

    fn on_disk(files: Arc<dyn Directory>, options: LogOptions, read_only: bool) -> Result<Log> {
        sys::fork::begin_generation();
        let dir = files.path();
        if read_only {
            check_marker(&*files, false)?;
        }
        medium_of(&*files, &options)?;
        let mut topics_dir = None;
        if !read_only {
            check_marker(&*files, true)?;
            let topics = dir.join(TOPICS);
            let made = files.make_dir(&topics).at("creating", &topics)?;
            // Files that cannot be removed now are removed at the next opening: no name leads to them.
            drop(store::remove_deleted(&*made));
            topics_dir = Some(made);
        }
        let inner = LogInner::new(files, topics_dir, options, read_only)?;
        Ok(Log { inner: Arc::new(inner) })
    }

    /// Opens the topic of this name; creates it with the default options if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], which is also returned for a missing topic whose name ends with `.dead.marks`
    /// or `.parked`, because only the library creates those. [`Error::Corrupt`] if its files are damaged so
    /// that a recovery cannot pass over the damage, [`Error::NotFound`] if the log is read-only and there is
    /// no such topic, [`Error::Io`].
    pub fn topic(&self, name: &str) -> Result<Topic> {
        self.topic_or_create(name, None)
    }

    /// Opens the topic of this name, if there is one.
    ///
    /// # Errors
    ///
    /// As [`topic`](Self::topic); [`Error::NotFound`] if there is none.
    pub fn open_topic(&self, name: &str) -> Result<Topic> {
        self.topic_of(name, None, false)
    }

    /// Opens the topic of this name; creates it with these options if there is none.
    ///
    /// # Errors
    ///
    /// As [`topic`](Self::topic); [`Error::Conflict`], which names both values, if it has other settings than
    /// these.
    pub fn topic_with(&self, name: &str, options: TopicOptions) -> Result<Topic> {
        self.topic_or_create(name, Some(options))
    }

    /// As [`topic_with`](Self::topic_with), and creates topics of every name: for tools that restore a
    /// log.
    ///
    /// # Errors
    ///
    /// As [`topic_with`](Self::topic_with).
    pub fn restore_topic(&self, name: &str, options: TopicOptions) -> Result<Topic> {
        self.topic_of(name, Some(options), true)
    }

    fn topic_or_create(&self, name: &str, wanted: Option<TopicOptions>) -> Result<Topic> {
        let create = self.inner.read_only || !names::is_reserved(name);
        match self.topic_of(name, wanted, create) {
            Err(Error::NotFound { .. }) if !create => Err(Error::InvalidName {
                name: name.to_owned(),
                why: "topics whose names end with .dead.marks or .parked are those of dead letters and clients, \
                      which create them: choose another ending",
            }),
            other => other,
        }
    }

    fn topic_of(&self, name: &str, wanted: Option<TopicOptions>, create: bool) -> Result<Topic> {
        Error::check_name(name)?;
        if self.inner.made_in.is_parents() {
            return Err(Error::Forked);
        }
        let open = || {
            let inner = if self.inner.read_only {
                Store::open_read_only(&self.inner, name)?
            } else {
                Store::open(&self.inner, name, wanted, create)?
            };
            Ok(Handle::new(inner))
        };
        let deadline = self.inner.options.lock_deadline();
        let topic = Topic::new(self.inner.topics.get_or_open(name, deadline, open)?);
        if let Some(wanted) = wanted {
            topic.check_options(&wanted)?;
        }
        Ok(topic)
    }

    /// Returns the names of all topics, sorted.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn topics(&self) -> Result<Vec<String>> {
        let Some(topics) = self.inner.topics_directory()? else { return Ok(Vec::new()) };
        let mut found = names_in(&**topics, topics.path())?;
        // A topic that cannot be examined is listed: opening it gives the error.
        found.retain(|name| store::exists(&**topics, &self.inner.topic_dir(name)).unwrap_or(true));
        Ok(found)
    }

    /// Deletes a topic with all its records and consumers, in one step: if the process is killed, or the
    /// power fails, either the topic is whole or its name is free.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if it is open for writing, in this process or another, [`Error::NotFound`].
    /// [`Error::Io`]: if the name is free, the topic is deleted, but not all of its files are removed; the
    /// next opening of the log for writing removes the rest.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        Error::check_name(name)?;
        self.writable()?;
        store::delete_topic(&self.inner, name)
    }

    /// Returns the log's directory as an absolute path: its path when the log was opened.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Returns whether the log was opened read-only.
    pub fn is_read_only(&self) -> bool {
        self.inner.read_only
    }

    pub(crate) fn writable(&self) -> Result<()> {
        if self.inner.made_in.is_parents() {
            return Err(Error::Forked);
        }
        if self.inner.read_only {
            return Err(Error::ReadOnly { path: self.inner.dir.clone() });
        }
        Ok(())
    }

    pub(crate) fn of(inner: &Arc<LogInner>) -> Log {
        Log { inner: Arc::clone(inner) }
    }

    pub(crate) fn inner(&self) -> &Arc<LogInner> {
        &self.inner
    }
}

impl Topic {
    /// Returns the log that contains the topic.
    pub(crate) fn log(&self) -> Log {
        Log::of(&self.inner().log)
    }
}

/// Returns the error of a log that cannot be opened for reading.
fn cannot_open(dir: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::NotALog {
            path: dir.to_owned(),
            why: "there is no such directory: check the path".into(),
        },
        _ => Error::io("opening the directory", dir, error),
    }
}

/// Checks that a directory is a log; makes it one if it is empty and `create` is set.
fn check_marker(files: &dyn Directory, create: bool) -> Result<()> {
    let dir = files.path();
    let path = dir.join(MARKER);
    let not_a_log = |why: &str| Err(Error::NotALog { path: dir.to_owned(), why: why.into() });
    for _ in 0..100 {
        let file = files.open(&path, Access::Read).not_found_is_none().at("opening", &path)?;
        if let Some(file) = file {
            let bytes = sys::read_start(&*file, marker::LEN).at("reading", &path)?;
            return match marker::decode(&bytes) {
                Ok(()) => Ok(()),
                Err(crate::format::Malformed::Version { found }) => {
                    Err(Error::Version { path, found, known: crate::format::VERSION })
                }
                Err(_) => not_a_log("its file `deaddrop` is not that of a log: check the path"),
            };
        }
        if !create {
            return not_a_log("it has no file `deaddrop`: check the path");
        }
        let names = files.list(dir).at("listing", dir)?;
        let foreign = names.iter().find(|name| {
            let is_own = name.starts_with(MARKER) || name.as_str() == TOPICS;
            !is_own && !LEFT_BY_DESKTOPS.contains(&name.as_str())
        });
        if let Some(foreign) = foreign {
            return not_a_log(&format!(
                "it is not empty ({foreign:?}): name a new or empty directory"
            ));
        }
        match sys::create_durably(files, &path, &marker::encode(), sys::random()) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("creating", &path, error)),
        }
    }
    not_a_log("its file `deaddrop` keeps disappearing: stop the program that removes it")
}
