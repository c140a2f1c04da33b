//! Why nothing was measured.

use std::fmt;
use std::path::Path;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why nothing was measured. The message says what to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A case, a task or a report is not valid.
    Invalid(String),
    /// The operating system refused an operation, or a process did not do what it had to.
    Failed(String),
    /// The log refused an operation.
    Log(deaddrop::Error),
    /// A process of a case ended early: its exit code, if it had one, and what it wrote to its stderr.
    Process(Option<i32>, String),
    /// The caller stopped the run.
    Interrupted,
}

impl Error {
    pub(crate) fn io(doing: &str, path: &Path, error: &std::io::Error) -> Error {
        Error::Failed(format!("{doing} {}: {error}", path.display()))
    }
}

/// Adds to an error of the operating system the operation and the file.
pub(crate) trait At<T> {
    fn at(self, doing: &str, path: &Path) -> Result<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, doing: &str, path: &Path) -> Result<T> {
        self.map_err(|error| Error::io(doing, path, &error))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Invalid(message) | Error::Failed(message) | Error::Process(_, message) => {
                f.write_str(message)
            }
            Error::Log(error) => error.fmt(f),
            Error::Interrupted => f.write_str("interrupted: nothing is reported"),
        }
    }
}

impl std::error::Error for Error {}

impl From<deaddrop::Error> for Error {
    fn from(error: deaddrop::Error) -> Error {
        Error::Log(error)
    }
}
