//! The arguments of `man`.

use std::path::PathBuf;

/// Write the manual pages into a directory: deaddrop.1, and one for each command
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// The directory; created if it does not exist
    pub(crate) target: PathBuf,
}
