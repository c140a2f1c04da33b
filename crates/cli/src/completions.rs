//! `completions`: prints the completions of a shell, which the build script has generated.

use std::io::Write;

use crate::args::completions::{Completions, Shell};
use crate::failure::{Exit, Failure};
use crate::output::Out;

macro_rules! script {
    ($shell:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/completions/", $shell))
    };
}

impl Completions {
    pub(crate) fn run(&self, out: &mut Out) -> Result<Exit, Failure> {
        let script: &[u8] = match self.shell {
            Shell::Bash => script!("bash"),
            Shell::Elvish => script!("elvish"),
            Shell::Fish => script!("fish"),
            Shell::Powershell => script!("powershell"),
            Shell::Zsh => script!("zsh"),
        };
        out.write_all(script)?;
        Ok(Exit::Ok)
    }
}
