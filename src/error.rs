//! The library's one error type.

use std::path::{Path, PathBuf};
use std::{fmt, io};

/// The result of the library's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What failed, where, and what to do. If an append fails, only [`Error::Unknown`] leaves open whether the
/// record is in the log. All other errors, [`Error::SyncFailed`] among them, mean that it was not appended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on a file.
    Io {
        /// The operation.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// No room on the disk for a segment or an offset file. Nothing was written; free some space, or trim,
    /// and call again.
    NoSpace {
        /// The file that could not be allocated.
        path: PathBuf,
        /// Bytes needed, if that is known.
        needed: Option<u64>,
    },
    /// Stored bytes are damaged below the promised boundary. Nothing is deleted; a reader can continue after
    /// the damage with [`Reader::skip_damage`](crate::Reader::skip_damage).
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// The position in the file, in bytes.
        position: u64,
        /// The offset of the record that was expected there, if a record was.
        offset: Option<u64>,
        /// The bytes that were expected and found.
        what: String,
    },
    /// Records were destroyed, and a [repair](crate::repair) marked their offsets lost. The reader has
    /// already moved past them; call again to continue. Each reader reports a gap once, and a consumer that
    /// commits afterwards does not report it again.
    Lost {
        /// The file whose void frame marks them lost.
        path: PathBuf,
        /// The lost offsets.
        offsets: std::ops::Range<u64>,
    },
    /// Retention has dropped the record.
    Trimmed {
        /// The offset asked for.
        wanted: u64,
        /// The first offset that is retained.
        first: u64,
    },
    /// A living process owns the name or file.
    Locked {
        /// What it owns, such as `consumer "billing"`.
        what: String,
        /// Its process id, as it stored it, if it did. For messages only.
        pid: Option<u32>,
    },
    /// There is no such topic, consumer or file, or there is none any more.
    NotFound {
        /// The missing topic, consumer or file.
        what: String,
    },
    /// The files that are open were replaced by others, for example by a restore into the directory. Nothing
    /// was appended to either. Close the topic, and the log, and open them again: that opens the new files.
    Replaced {
        /// The directory of the topic or log.
        path: PathBuf,
    },
    /// The topic was created with other settings than those asked for.
    Conflict {
        /// The topic.
        topic: String,
        /// The setting, with its stored and its requested value.
        what: String,
    },
    /// The name is not allowed.
    InvalidName {
        /// The name.
        name: String,
        /// The reason.
        why: &'static str,
    },
    /// An argument is out of its range.
    Invalid {
        /// The argument, and its range.
        what: String,
    },
    /// A record, or a batch, is over the limit. Nothing was appended.
    TooLarge {
        /// Its size, in bytes.
        len: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// [`append_if_end`](crate::Topic::append_if_end) found another end than expected. Nothing was appended.
    EndMoved {
        /// The end that the caller expected.
        expected: u64,
        /// The actual end.
        end: u64,
    },
    /// The record is in the log, but it is unknown whether it is durable; or writing it failed, and so did taking
    /// back the part that was written. Later it may or may not be there: look for it before appending it
    /// again.
    Unknown {
        /// Its offset; for a batch, that of the first record.
        offset: u64,
        /// Why the wait for durability, or the write, ended.
        source: Box<Error>,
    },
    /// A sync of this topic failed, in this or another process. Everything that was durable before stays
    /// durable; nothing is appended until every process has closed the topic and one has opened it again. A
    /// record that was in the log when the sync failed is reported as [`Error::Unknown`], with this as its
    /// source.
    SyncFailed {
        /// The topic's directory.
        path: PathBuf,
    },
    /// The timeout of a wait has passed. Nothing was appended.
    TimedOut {
        /// The lock or event that the call waited for.
        what: String,
    },
    /// The process was forked after the log was opened. Open the log again in the child, which then has its
    /// own.
    Forked,
    /// The directory is not a log.
    NotALog {
        /// The directory.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The file has a newer or older version of the format.
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u16,
        /// The version that this library reads and writes.
        known: u16,
    },
    /// The file system cannot keep the promise that was requested.
    Unsupported {
        /// The directory.
        path: PathBuf,
        /// Why, and what to choose.
        why: String,
    },
    /// The log was opened read-only.
    ReadOnly {
        /// The log's directory.
        path: PathBuf,
    },
    /// A payload or context does not have the requested type.
    Decode {
        /// The decoder's message.
        what: String,
    },
}

/// Turns results of file operations into the library's.
pub(crate) trait IoResultExt<T> {
    /// Adds to an error the operation and the file.
    fn at(self, doing: &'static str, path: &Path) -> Result<T>;

    /// Turns the error that a file does not exist into `None`.
    fn not_found_is_none(self) -> io::Result<Option<T>>;
}

impl<T> IoResultExt<T> for io::Result<T> {
    #[inline]
    fn at(self, doing: &'static str, path: &Path) -> Result<T> {
        self.map_err(|error| Error::io(doing, path, error))
    }

    fn not_found_is_none(self) -> io::Result<Option<T>> {
        match self {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }
}

impl Error {
    /// Returns whether the process or the machine has run out of file descriptors.
    pub(crate) fn is_out_of_descriptors(&self) -> bool {
        let Error::Io { source, .. } = self else { return false };
        matches!(source.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
    }

    /// Refuses a name that is not valid.
    pub(crate) fn check_name(name: &str) -> Result<()> {
        let checked = crate::format::names::check(name);
        checked.map_err(|why| Error::InvalidName { name: name.to_owned(), why })
    }

    /// Wraps an error of the operating system; a full disk gets its own variant.
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::NoSpace { path: path.to_owned(), needed: None }
            }
            _ => Error::Io { doing, path: path.to_owned(), source },
        }
    }

    /// Wraps an error of allocating `len` bytes for a file.
    pub(crate) fn allocating(path: &Path, len: u64, source: io::Error) -> Error {
        match Error::io("allocating", path, source) {
            Error::NoSpace { path, .. } => Error::NoSpace { path, needed: Some(len) },
            other => other,
        }
    }

    /// Returns whether the error says that a file does not exist.
    pub(crate) fn is_file_not_found(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Returns the error for a structure in `path` that does not decode.
    pub(crate) fn malformed(path: &Path, position: u64, what: crate::format::Malformed) -> Error {
        match what {
            crate::format::Malformed::Version { found } => {
                Error::Version { path: path.to_owned(), found, known: crate::format::VERSION }
            }
            what => Error::Corrupt {
                path: path.to_owned(),
                position,
                offset: None,
                what: what.to_string(),
            },
        }
    }

    /// Adds the offset of the record that could not be read because its file is damaged.
    pub(crate) fn at_offset(mut self, wanted: u64) -> Error {
        if let Error::Corrupt { offset, .. } = &mut self {
            *offset = Some(wanted);
        }
        self
    }

    /// Returns whether the error says that stored bytes are damaged.
    pub fn is_corruption(&self) -> bool {
        matches!(self, Error::Corrupt { .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { doing, path, source } => {
                write!(f, "{doing} {}: {source}{}", path.display(), advice(source))
            }
            Error::NoSpace { path, needed } => {
                write!(f, "no space for {}", path.display())?;
                if let Some(needed) = needed {
                    write!(f, " ({needed} bytes)")?;
                }
                write!(f, ": nothing was written; free some disk space or trim a topic; topics ")?;
                write!(f, "can be read meanwhile")
            }
            Error::Corrupt { path, position, offset, what } => {
                write!(f, "corruption in {} at position {position}", path.display())?;
                if let Some(offset) = offset {
                    write!(f, " (offset {offset})")?;
                }
                write!(f, ": {what}; nothing was deleted: look with `deaddrop verify` and ")?;
                write!(f, "`deaddrop dump`, restore the file from a backup, skip the damage, or mark it ")?;
                write!(f, "lost with `deaddrop repair`")
            }
            Error::Lost { path, offsets } => write!(
                f,
                "offsets {}..{} are lost: their records in {} were destroyed, and a repair marked them \
                 lost; continue after them; their remaining bytes are in the topic's directory `quarantine`",
                offsets.start,
                offsets.end,
                path.display()
            ),
            Error::Trimmed { wanted, first } => write!(
                f,
                "offset {wanted} was trimmed, the first one retained is {first}: seek there, or \
                 keep more"
            ),
            Error::Locked { what, pid } => {
                match pid {
                    Some(pid) => write!(f, "{what} is in use by process {pid}")?,
                    None => write!(f, "{what} is in use by another process")?,
                }
                write!(f, ": stop it, or choose another name")
            }
            Error::NotFound { what } => write!(f, "there is no {what}"),
            Error::Replaced { path } => write!(
                f,
                "the files in {} were replaced while they were open (restored from a backup?): nothing \
                 was appended; close the topic and open it again",
                path.display()
            ),
            Error::Conflict { topic, what } => write!(
                f,
                "topic {topic} was created with other settings: {what}; ask for the stored ones, or \
                 use another topic"
            ),
            Error::InvalidName { name, why } => write!(f, "{name:?} cannot be a name: {why}"),
            Error::Invalid { what } => write!(f, "{what}"),
            Error::TooLarge { len, limit } => {
                write!(f, "{len} bytes are over the limit of {limit}: nothing was appended")
            }
            Error::EndMoved { expected, end } => write!(
                f,
                "the end is {end}, not {expected}: nothing was appended; read the records in between"
            ),
            Error::Unknown { offset, source } => write!(
                f,
                "it is unknown whether the record at offset {offset} stays in the log ({source}): \
                 look for it before appending it again"
            ),
            Error::SyncFailed { path } => write!(
                f,
                "a sync of {} failed: records acknowledged before are safe, and nothing more is \
                 appended; check the disk, then close the topic in every process and open it again",
                path.display()
            ),
            Error::TimedOut { what } => write!(f, "timed out waiting for {what}"),
            Error::Forked => {
                write!(f, "this process was forked after the log was opened: open it in the child")
            }
            Error::NotALog { path, why } => write!(f, "{} is not a log: {why}", path.display()),
            Error::Version { path, found, known } => write!(
                f,
                "{} has format version {found}, this library knows version {known}: use the \
                 release that wrote it",
                path.display()
            ),
            Error::Unsupported { path, why } => write!(f, "{}: {why}", path.display()),
            Error::ReadOnly { path } => {
                write!(f, "{} was opened read-only: open it with Log::open_or_create", path.display())
            }
            Error::Decode { what } => write!(f, "not decodable: {what}"),
        }
    }
}

/// Returns a hint for the operator about an error of the operating system.
fn advice(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => "; raise the limit (ulimit -n), or open fewer topics",
        Some(libc::EACCES | libc::EPERM) => "; check who owns the directory and its mode",
        Some(libc::EROFS) => "; open the log read-only, or remount the file system",
        Some(libc::EBUSY) => "; if something is mounted there, unmount it first",
        Some(libc::EFBIG) => "; raise the limit (ulimit -f), or choose smaller segments",
        Some(libc::ENOTDIR | libc::EEXIST) => "; check the path: a file is in the way",
        Some(libc::ELOOP) => {
            "; a log has no symbolic links inside it: remove the link, or mount the directory there"
        }
        _ => match source.kind() {
            io::ErrorKind::FileTooLarge => {
                "; raise the limit (ulimit -f), or choose smaller segments"
            }
            _ => "",
        },
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            Error::Unknown { source, .. } => Some(source),
            _ => None,
        }
    }
}
