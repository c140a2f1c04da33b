//! How a command ends: the exit codes, and messages on stderr.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use deaddrop::Error;

use crate::hint;

/// The exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// The answer is no.
    No = 1,
    /// Wrong arguments or input.
    Usage = 2,
    /// The system refused something.
    Io = 3,
    /// Stored bytes are damaged.
    Corruption = 4,
    /// In use by another process.
    Locked = 5,
    /// A time limit passed. `timeout` of coreutils uses the same code.
    TimedOut = 124,
}

impl Exit {
    /// The one with this code, with which a child of this program exited.
    pub(crate) fn of_code(code: i32) -> Option<Exit> {
        let all = [
            Exit::Ok,
            Exit::No,
            Exit::Usage,
            Exit::Io,
            Exit::Corruption,
            Exit::Locked,
            Exit::TimedOut,
        ];
        all.into_iter().find(|exit| *exit as i32 == code)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command ends early. Its message says what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Display) -> Failure {
        Failure { exit, message: message.to_string() }
    }

    pub(crate) fn usage(message: impl Display) -> Failure {
        Failure::new(Exit::Usage, message)
    }

    /// The message for an invalid value, worded as the parser words it, for values that are read later.
    pub(crate) fn invalid(value: &str, argument: &str, why: impl Display) -> Failure {
        Failure::usage(format_args!(
            "invalid value '{value}' for '{argument}': {why}\n\nFor more information, try '--help'."
        ))
    }

    pub(crate) fn no(message: impl Display) -> Failure {
        Failure::new(Exit::No, message)
    }

    pub(crate) fn io(doing: &str, path: &Path, error: &io::Error) -> Failure {
        Failure::new(Exit::Io, format!("{doing} {}: {error}", path.display()))
    }

    /// How the command ends.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// The same with a hint added, unless the message is empty.
    pub(crate) fn and(mut self, more: impl Display) -> Failure {
        if self.message.is_empty() {
            return self;
        }
        self.message = format!("{}; {more}", self.message);
        self
    }

    /// Prints it on stderr; nothing if the reader of stdout has gone.
    pub(crate) fn report(self) -> ExitCode {
        if !self.message.is_empty() {
            note(format_args!("{}", self.message));
        }
        self.exit.into()
    }
}

/// Adds to an error of the operating system the operation and the file.
pub(crate) trait At<T> {
    fn at(self, doing: &str, path: &Path) -> Result<T, Failure>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, doing: &str, path: &Path) -> Result<T, Failure> {
        self.map_err(|error| Failure::io(doing, path, &error))
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let exit = match &error {
            Error::Corrupt { .. } => Exit::Corruption,
            Error::Locked { .. } => Exit::Locked,
            Error::TimedOut { .. } => Exit::TimedOut,
            Error::NotFound { .. }
            | Error::Lost { .. }
            | Error::Trimmed { .. }
            | Error::EndMoved { .. } => Exit::No,
            Error::Invalid { .. }
            | Error::InvalidName { .. }
            | Error::Conflict { .. }
            | Error::TooLarge { .. }
            | Error::Decode { .. } => Exit::Usage,
            _ => Exit::Io,
        };
        let failure = Failure::new(exit, &error);
        match error {
            Error::NotFound { what } if what.starts_with("topic") => {
                failure.and("`deaddrop ls` lists the topics")
            }
            Error::Unsupported { why, .. } if why.contains("Durability::ProcessCrash") => {
                failure.and("on the command line: --durability process-crash")
            }
            _ => failure,
        }
    }
}

/// An error of standard output. A reader that has closed the pipe is not an error.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::new(Exit::Ok, "");
        }
        Failure::new(Exit::Io, format!("writing to standard output: {error}"))
    }
}

/// Prints one line on stderr.
pub(crate) fn note(message: impl Display) {
    let message = hint::with_dir(&message.to_string());
    // If stderr is closed, there is no place left to report it.
    drop(writeln!(io::stderr(), "deaddrop: {message}"));
}
