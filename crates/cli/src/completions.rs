//! `completions`: what a shell completes.

use std::io::Write;

use clap_complete::Shell;

use crate::failure::{Exit, Failure};
use crate::output::Out;

/// Print the completions of a shell, to be put where it looks for them
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self, out: &mut Out) -> Result<Exit, Failure> {
        let all = crate::command();
        // What is hidden from people is not offered to them either.
        let shown = all.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned();
        let mut command = clap::Command::new("deaddrop")
            .version(env!("CARGO_PKG_VERSION"))
            .args(all.get_arguments().cloned())
            .subcommands(shown);
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "deaddrop", &mut script);
        out.write_all(&script)?;
        Ok(Exit::Ok)
    }
}
