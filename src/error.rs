//! The library's one error type.

use std::path::{Path, PathBuf};
use std::{fmt, io};

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and what to do. If an append fails, only [`Error::Unknown`] means that the
/// record is in the log, and leaves open whether it is durable. All other errors, [`Error::SyncFailed`]
/// among them, mean that it was not appended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on a file.
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No room on the disk for a segment or an offset file. Nothing was written; free some space, or
    /// trim, and call again.
    NoSpace {
        /// The file that could not be allocated.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
    },
    /// Stored bytes are damaged below the boundary of what was promised. Nothing is deleted; a reader
    /// can go on behind the damage with [`Reader::skip_damage`](crate::Reader::skip_damage).
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// The position in the file, in bytes.
        position: u64,
        /// The offset of the record that was expected there, if one was.
        offset: Option<u64>,
        /// What was expected and found.
        what: String,
    },
    /// Records were destroyed, and a [repair](crate::repair) gave their offsets up. Whoever reads
    /// stands behind them now: call again to go on. Each reader is told once; a consumer that commits
    /// then is not told again.
    Lost {
        /// The file that states it.
        path: PathBuf,
        /// The offsets that were passed over.
        offsets: std::ops::Range<u64>,
    },
    /// The record was trimmed away by retention.
    Trimmed {
        /// The offset asked for.
        wanted: u64,
        /// The first offset that is still there.
        first: u64,
    },
    /// A process that is alive owns what was asked for.
    Locked {
        /// What is owned: `consumer "billing"`, say.
        what: String,
        /// Its process id, as it gave it; 0 if unknown. For messages only.
        pid: u32,
    },
    /// There is no such topic, consumer or file, or not any more.
    NotFound {
        /// What is missing.
        what: String,
    },
    /// Other files were put in place of those that are open, by a restore into the directory, say. Nothing
    /// was appended to either. Close the topic, and the log, and open them again: that opens what is there
    /// now.
    Replaced {
        /// The directory of the topic or log.
        path: PathBuf,
    },
    /// The topic was created with other settings than those asked for.
    Conflict {
        /// The topic.
        topic: String,
        /// The setting, the stored and the wanted value.
        what: String,
    },
    /// A name that cannot be used.
    InvalidName {
        /// The name.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// An argument out of its range.
    Invalid {
        /// What is wrong with it.
        what: String,
    },
    /// A record, or a batch, over the limit. Nothing was appended.
    TooLarge {
        /// Its size, in bytes.
        len: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// [`append_if_end`](crate::Topic::append_if_end) found the end elsewhere. Nothing was appended.
    EndMoved {
        /// The end that the caller expected.
        expected: u64,
        /// The end as it is.
        end: u64,
    },
    /// The record is in the log, but whether it is durable could not be learned. After a restart it
    /// may be there or not: look for it before appending it again.
    Unknown {
        /// Its offset; of a batch, that of the first record.
        offset: u64,
        /// Why the wait for durability ended.
        source: Box<Error>,
    },
    /// A sync of this topic failed, in this or another process. What was durable before stays so;
    /// nothing is appended until every process has closed the topic and one opened it again. A record
    /// that was in the log when the sync failed is reported as [`Error::Unknown`], with this as its source.
    SyncFailed {
        /// The topic's directory.
        path: PathBuf,
    },
    /// The time given for a wait is over. Nothing was appended.
    TimedOut {
        /// What was waited for.
        what: String,
    },
    /// The process was forked after the log was opened: open it again in the child, which then has its own.
    Forked,
    /// The directory is something else than a log.
    NotALog {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file of a newer or older version of the format.
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u16,
        /// The version that this library reads and writes.
        known: u16,
    },
    /// The file system cannot keep the promise asked for.
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
    /// A payload or context is not what it was read as.
    Decode {
        /// What the decoder said.
        what: String,
    },
}

/// What can be said of the result of an operation on a file.
pub(crate) trait IoResultExt<T> {
    /// Adds to an error what was being done, and to which file.
    fn at(self, doing: &'static str, path: &Path) -> Result<T>;

    /// Takes a file that does not exist for `None`.
    fn not_found_is_none(self) -> io::Result<Option<T>>;
}

impl<T> IoResultExt<T> for io::Result<T> {
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
    /// Whether no descriptor is left, of this process or of the machine.
    pub(crate) fn is_out_of_descriptors(&self) -> bool {
        let Error::Io { source, .. } = self else { return false };
        matches!(source.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
    }

    /// Wraps an error of the operating system; a full disk and a damaged structure get their own
    /// variants.
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::NoSpace { path: path.to_owned(), needed: 0 }
            }
            _ => Error::Io { doing, path: path.to_owned(), source },
        }
    }

    /// Whether it says that a file does not exist.
    pub(crate) fn is_file_not_found(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// The error for a structure in `path` that does not decode.
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

    /// Says which record could not be read because of damage to its file.
    pub(crate) fn at_offset(mut self, wanted: u64) -> Error {
        if let Error::Corrupt { offset, .. } = &mut self {
            *offset = Some(wanted);
        }
        self
    }

    /// Whether the error says that stored bytes are damaged.
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
            Error::NoSpace { path, needed: 0 } => write!(
                f,
                "no space for {}: nothing was written; free some disk space or trim a topic; topics can \
                 be read meanwhile",
                path.display()
            ),
            Error::NoSpace { path, needed } => write!(
                f,
                "no space for {} ({needed} bytes): nothing was written; free some disk space or \
                 trim a topic; topics can be read meanwhile",
                path.display()
            ),
            Error::Corrupt { path, position, offset, what } => {
                write!(f, "corruption in {} at position {position}", path.display())?;
                if let Some(offset) = offset {
                    write!(f, " (offset {offset})")?;
                }
                write!(f, ": {what}; nothing was deleted: look with `deaddrop verify` and ")?;
                write!(f, "`deaddrop dump`, restore the file from a backup, skip the damage, or give it ")?;
                write!(f, "up with `deaddrop repair`")
            }
            Error::Lost { path, offsets } => write!(
                f,
                "offsets {}..{} are lost: their records in {} were destroyed, and a repair gave them \
                 up; read on behind them, what was left is in the topic's directory `quarantine`",
                offsets.start,
                offsets.end,
                path.display()
            ),
            Error::Trimmed { wanted, first } => write!(
                f,
                "offset {wanted} was trimmed, the first one retained is {first}: seek there, or \
                 keep more"
            ),
            Error::Locked { what, pid: 0 } => {
                write!(f, "{what} is in use by another process: stop it, or choose another name")
            }
            Error::Locked { what, pid } => {
                write!(f, "{what} is in use by process {pid}: stop it, or choose another name")
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
                "the end is {end}, not {expected}: nothing was appended; read what came in between"
            ),
            Error::Unknown { offset, source } => write!(
                f,
                "the record at offset {offset} was appended, but it is unknown whether it is \
                 durable ({source}): look for it before appending it again"
            ),
            Error::SyncFailed { path } => write!(
                f,
                "a sync of {} failed: what was acknowledged before is safe, nothing more is \
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
                write!(f, "{} was opened read-only: open it with Log::open", path.display())
            }
            Error::Decode { what } => write!(f, "not decodable: {what}"),
        }
    }
}

/// What a person can do about an error of the operating system.
fn advice(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => "; raise the limit (ulimit -n), or open fewer topics",
        Some(libc::EACCES | libc::EPERM) => "; check who owns the directory and its mode",
        Some(libc::EROFS) => "; open the log read-only, or remount the file system",
        Some(libc::EBUSY) => "; if something is mounted there, unmount it first",
        Some(libc::EFBIG) => "; raise the limit (ulimit -f), or choose smaller segments",
        Some(libc::ENOTDIR | libc::EEXIST) => "; check the path: a file stands in the way",
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
