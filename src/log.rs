//! A log: one directory of topics.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::format::{marker, names};
use crate::housekeeper::Housekeeper;
use crate::sys::real::RealDisk;
use crate::sys::{self, Access, Disk, Medium};
use crate::topic::{Backlog, Open, Topic, TopicInner, TopicOptions};

/// The marker file's name.
const MARKER: &str = "deaddrop";
const TOPICS: &str = "topics";

/// How to open a log.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Mode of the files of a new log, less the umask; directories get the search bits as well. 0600:
    /// the owner alone. With 0640 a group may read, with 0660 it may append; users of several groups need
    /// a directory with the setgid bit (`chmod g+s`), so that new files get its group. Files that are
    /// added to a log later, by whichever process, get the mode of its file `deaddrop`: `chmod -R`
    /// changes it.
    pub mode: u32,
    /// Opens on a network file system. Locks and mappings are not shared between its machines: all
    /// processes must run on one, and a power loss there is outside the promises.
    pub allow_network_file_system: bool,
    /// Longest wait for a process that is just opening the same topic, or is stopped inside an
    /// append; `None`: wait as long as it lives.
    pub lock_timeout: Option<Duration>,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions { mode: 0o600, allow_network_file_system: false, lock_timeout: None }
    }
}

/// A directory of topics, open. Clones share it; any number of threads and processes may use it.
///
/// ```
/// # fn main() -> deaddrop::Result<()> {
/// # let dir = deaddrop::doc_dir();
/// use deaddrop::{Log, Record, Start};
/// let log = Log::open(&dir)?;
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

#[derive(Debug)]
pub(crate) struct LogInner {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) options: LogOptions,
    pub(crate) read_only: bool,
    pub(crate) boot: [u64; 2],
    pub(crate) medium: Medium,
    pub(crate) housekeeper: Housekeeper,
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) made_in: sys::fork::Generation,
    topics: Mutex<HashMap<String, Weak<Open>>>,
}

impl Log {
    /// Opens the log in `dir`; makes the directory and the log if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::NotALog`] if the directory has other files in it, [`Error::Unsupported`] on a network
    /// file system, [`Error::Version`] if another version wrote it, [`Error::Io`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Log> {
        Log::open_with(dir, LogOptions::default())
    }

    /// Opens the log in `dir` with these options.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(dir: impl AsRef<Path>, options: LogOptions) -> Result<Log> {
        let disk = Arc::new(RealDisk::like(&dir.as_ref().join(MARKER), options.mode));
        Log::on_disk(disk, dir.as_ref(), options, false)
    }

    /// Opens the log in `dir` without writing or locking anything: on a read-only medium, as a user
    /// who may only read, or beside live processes. Readers see what is appended when they look
    /// again; consumers and appends are refused.
    ///
    /// # Errors
    ///
    /// [`Error::NotALog`] if there is no log, and as [`open`](Self::open).
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<Log> {
        let disk = Arc::new(RealDisk::with_mode(0));
        Log::on_disk(disk, dir.as_ref(), LogOptions::default(), true)
    }

    /// Opens a log on a simulated disk.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    #[cfg(feature = "sim")]
    pub fn open_sim(disk: &crate::sys::sim::SimDisk, dir: impl AsRef<Path>) -> Result<Log> {
        Log::on_disk(disk.handle(), dir.as_ref(), LogOptions::default(), false)
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
        Log::on_disk(disk.handle(), dir.as_ref(), LogOptions::default(), true)
    }

    fn on_disk(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
        read_only: bool,
    ) -> Result<Log> {
        sys::fork::begin_generation();
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |error| Error::io(doing, &path, error)
        };
        if read_only {
            check_marker(&*disk, dir, false)?;
        } else {
            disk.create_dir_all(dir).map_err(io("creating the directory", dir))?;
        }
        let medium = disk.medium(dir).map_err(io("asking the file system of", dir))?;
        if let (Medium::Network(name), false) = (&medium, options.allow_network_file_system) {
            let why = format!(
                "{name} is a network or user-space file system, whose locks and mappings may not be \
                 shared: put the log on a local disk, or set allow_network_file_system"
            );
            return Err(Error::Unsupported { path: dir.to_owned(), why });
        }
        if !read_only {
            check_marker(&*disk, dir, true)?;
            let topics = dir.join(TOPICS);
            disk.create_dir_all(&topics).map_err(io("creating", &topics))?;
        }
        let boot = disk.boot_id().map_err(io("reading the boot id for", dir))?;
        let inner = LogInner {
            disk,
            dir: dir.to_owned(),
            options,
            read_only,
            boot,
            medium,
            housekeeper: Housekeeper::default(),
            backlog: Arc::default(),
            made_in: sys::fork::Generation::default(),
            topics: Mutex::new(HashMap::new()),
        };
        Ok(Log { inner: Arc::new(inner) })
    }

    /// The topic of this name; made with the default options if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], [`Error::Corrupt`] if its files are damaged beyond what a recovery can
    /// pass over, [`Error::NotFound`] if the log is read-only and there is none, [`Error::Io`].
    pub fn topic(&self, name: &str) -> Result<Topic> {
        self.open_topic(name, None, true)
    }

    /// The topic of this name, if there is one.
    ///
    /// # Errors
    ///
    /// As [`topic`](Self::topic); [`Error::NotFound`] if there is none.
    pub fn existing_topic(&self, name: &str) -> Result<Topic> {
        self.open_topic(name, None, false)
    }

    /// The topic of this name, made with these options if there is none.
    ///
    /// # Errors
    ///
    /// As [`topic`](Self::topic); [`Error::Conflict`] if it has other settings than these, with both.
    pub fn create_topic(&self, name: &str, options: TopicOptions) -> Result<Topic> {
        self.open_topic(name, Some(options), true)
    }

    fn open_topic(&self, name: &str, wanted: Option<TopicOptions>, create: bool) -> Result<Topic> {
        names::check(name).map_err(|why| Error::InvalidName { name: name.to_owned(), why })?;
        if self.inner.made_in.is_parents() {
            return Err(Error::Forked);
        }
        let mut topics = self.inner.topics.lock();
        topics.retain(|_, topic| topic.strong_count() > 0);
        if let Some(inner) = topics.get(name).and_then(Weak::upgrade) {
            let topic = Topic::new(inner);
            if let Some(wanted) = wanted {
                topic.check_options(&wanted)?;
            }
            return Ok(topic);
        }
        let inner = if self.inner.read_only {
            TopicInner::open_read_only(&self.inner, name)?
        } else {
            TopicInner::open(&self.inner, name, wanted, create)?
        };
        let inner = Open::new(inner);
        topics.insert(name.to_owned(), Arc::downgrade(&inner));
        Ok(Topic::new(inner))
    }

    /// The names of all topics, sorted.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn topics(&self) -> Result<Vec<String>> {
        let dir = self.inner.dir.join(TOPICS);
        let mut found = names_in(&*self.inner.disk, &dir)?;
        // One that cannot be looked at is listed: opening it says why.
        found.retain(|name| TopicInner::exists(&*self.inner.disk, &dir.join(name)).unwrap_or(true));
        Ok(found)
    }

    /// Deletes a topic with all its records and consumers.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if it is open for writing, in this process or another,
    /// [`Error::NotFound`], [`Error::Io`].
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        names::check(name).map_err(|why| Error::InvalidName { name: name.to_owned(), why })?;
        self.writable()?;
        TopicInner::delete(&self.inner, name)
    }

    /// The log's directory.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Whether it was opened read-only.
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

impl LogInner {
    /// The directory of a topic whose name was checked.
    pub(crate) fn topic_dir(&self, name: &str) -> PathBuf {
        self.dir.join(TOPICS).join(name)
    }
}

/// The files or folders of `dir` whose names users may give, sorted; none if it is not there.
pub(crate) fn names_in(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>> {
    let mut found = match disk.list(dir) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("listing", dir, error)),
    };
    found.retain(|name| names::check(name).is_ok());
    found.sort();
    Ok(found)
}

/// Checks that `dir` is a log; makes it one if it is empty and `create` is set.
fn check_marker(disk: &dyn Disk, dir: &Path, create: bool) -> Result<()> {
    let path = dir.join(MARKER);
    let not_a_log = |why: &str| Err(Error::NotALog { path: dir.to_owned(), why: why.into() });
    for _ in 0..100 {
        match disk.open(&path, Access::Read) {
            Ok(file) => {
                let bytes = sys::read_start(&*file, marker::LEN)
                    .map_err(|error| Error::io("reading", &path, error))?;
                return match marker::decode(&bytes) {
                    Ok(()) => Ok(()),
                    Err(crate::format::Malformed::Version { found }) => {
                        Err(Error::Version { path, found, known: crate::format::VERSION })
                    }
                    Err(_) => not_a_log("its file `deaddrop` is not a log's: check the path"),
                };
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("opening", &path, error)),
        }
        if !create {
            return not_a_log("it has no file `deaddrop`: check the path");
        }
        let names = disk.list(dir).map_err(|error| Error::io("listing", dir, error))?;
        let foreign = names.iter().find(|name| {
            !name.starts_with(MARKER) && !matches!(name.as_str(), "lost+found" | TOPICS)
        });
        if let Some(foreign) = foreign {
            return not_a_log(&format!(
                "it is not empty ({foreign:?}): name a new or empty directory"
            ));
        }
        match sys::create_durably(disk, &path, &marker::encode(), sys::random()) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("creating", &path, error)),
        }
    }
    not_a_log("its file `deaddrop` comes and goes: something else writes here")
}
