//! Makes the manual pages and the completions of the shells from the description of the command line.
//! The program carries them: `deaddrop man` and `deaddrop completions` write what was made here.

use std::fmt::Write;
use std::fs;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};

use clap::{Command, ValueEnum};

use args::completions::Shell;

// Most fields and some parsers are of use to the program only.
#[allow(dead_code)]
#[path = "src/args/mod.rs"]
mod args;

// The way to talk to cargo.
#[allow(clippy::print_stdout)]
fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=src/args");
    let out = std::env::var_os("OUT_DIR").ok_or_else(|| Error::other("cargo names no OUT_DIR"))?;
    let out = PathBuf::from(out);
    manual_pages(&out)?;
    completions(&out)
}

/// `man/*.1`, and `man.rs`: an expression with the names and contents of all.
fn manual_pages(out: &Path) -> Result<()> {
    let dir = empty(out.join("man"))?;
    clap_mangen::generate_to(args::command(), &dir)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir)? {
        names.push(
            entry?
                .file_name()
                .into_string()
                .map_err(|name| Error::other(format!("{name:?} is no name of a manual page")))?,
        );
    }
    names.sort();
    let mut pages = String::from("&[\n");
    for name in names {
        writeln!(pages, "    ({name:?}, include_str!({:?})),", format!("man/{name}"))
            .map_err(Error::other)?;
    }
    pages += "]\n";
    fs::write(out.join("man.rs"), pages)
}

/// `completions/SHELL`.
fn completions(out: &Path) -> Result<()> {
    let dir = empty(out.join("completions"))?;
    let all = args::command();
    // What is hidden from people is not offered to them either.
    let shown = all.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned();
    let command = Command::new("deaddrop")
        .version(env!("CARGO_PKG_VERSION"))
        .args(all.get_arguments().cloned())
        .subcommands(shown);
    for shell in Shell::value_variants().iter().filter_map(Shell::to_possible_value) {
        let name = shell.get_name();
        let generator = clap_complete::Shell::from_str(name, false).map_err(Error::other)?;
        let mut script = Vec::new();
        clap_complete::generate(generator, &mut command.clone(), "deaddrop", &mut script);
        fs::write(dir.join(name), script)?;
    }
    Ok(())
}

/// The directory without what an earlier build has left in it.
fn empty(dir: PathBuf) -> Result<PathBuf> {
    if dir.is_dir() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir(&dir)?;
    Ok(dir)
}
