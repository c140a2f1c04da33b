//! `man`: the manual pages.

use std::path::PathBuf;

use crate::failure::{Exit, Failure};

/// Write the manual pages into a directory: deaddrop.1, and one for each command
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// The directory; made if there is none
    target: PathBuf,
}

impl Man {
    pub(crate) fn run(&self) -> Result<Exit, Failure> {
        std::fs::create_dir_all(&self.target)
            .and_then(|()| clap_mangen::generate_to(crate::command(), &self.target))
            .map_err(|error| Failure::io("writing manual pages to", &self.target, &error))?;
        Ok(Exit::Ok)
    }
}
