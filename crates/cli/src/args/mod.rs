//! The command line: the arguments of every command, and their notation.
//!
//! Compiled twice: into the program, and into its build script, which generates the manual pages and the
//! completions from it. So this module does not know the library, or what a command does: that is in the
//! file with the command's name beside this directory.

pub(crate) mod append;
pub(crate) mod bench;
pub(crate) mod cancel;
pub(crate) mod cat;
pub(crate) mod clients;
pub(crate) mod completions;
pub(crate) mod consumers;
pub(crate) mod create;
pub(crate) mod dead;
pub(crate) mod delete;
pub(crate) mod dump;
pub(crate) mod durability;
mod examples;
pub(crate) mod export;
pub(crate) mod format;
pub(crate) mod groups;
pub(crate) mod import;
pub(crate) mod info;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod misspelt;
pub(crate) mod new_topic;
pub(crate) mod pending;
pub(crate) mod range;
pub(crate) mod repair;
pub(crate) mod request;
pub(crate) mod serve;
pub(crate) mod size;
pub(crate) mod stats;
pub(crate) mod tail;
pub(crate) mod time;
pub(crate) mod top;
pub(crate) mod trace;
pub(crate) mod trim;
pub(crate) mod verify;

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser, Subcommand};

use format::Format;

/// Read a deaddrop log, append to it, watch it, check it.
///
/// Exit codes: 0 done; 1 the answer is no (no such topic, offset trimmed, request failed); 2 wrong usage;
/// 3 the system refused a file operation; 4 corruption found; 5 in use by another process; 124 timed out
/// (no outcome within --timeout, or a lock that another process did not release).
#[derive(Debug, Parser)]
#[command(name = "deaddrop", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Set apart from the options of a command.
const GLOBAL: &str = "Global options";

/// Options of every command.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Global {
    /// The log's directory [default: ./drop; bench chooses its own]
    #[arg(short = 'd', long = "dir", global = true, help_heading = GLOBAL, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print one JSON object per line
    #[arg(long, global = true, help_heading = GLOBAL, conflicts_with = "format")]
    pub(crate) json: bool,
    /// Print as json or text, or print help: the fields of a command's JSON; for cat and tail also raw,
    /// or a line with escapes: '%o %v\n'
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FORMAT")]
    pub(crate) format: Option<Format>,
    /// Use colours: auto (on a terminal without NO_COLOR), always or never
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "WHEN", value_enum, default_value = "auto", hide_possible_values = true)]
    pub(crate) color: When,
}

/// Whether to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum When {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Even into a file or a pipe
    Always,
    /// Not even on a terminal
    Never,
}

impl Global {
    /// How to print.
    pub(crate) fn format(&self) -> &Format {
        match &self.format {
            _ if self.json => &Format::Json,
            Some(format) => format,
            None => &Format::Text,
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.as_deref().unwrap_or(Path::new("./drop"))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Append(append::Append),
    Cat(cat::Cat),
    Tail(tail::Tail),
    Export(export::Export),
    Import(import::Import),
    Create(create::Create),
    Trim(trim::Trim),
    Delete(delete::Delete),
    Ls(ls::Ls),
    Info(info::Info),
    Stats(stats::Stats),
    Dump(dump::Dump),
    Consumers(consumers::Consumers),
    Groups(groups::Groups),
    Verify(verify::Verify),
    Repair(repair::Repair),
    Request(request::Request),
    Serve(serve::Serve),
    Trace(trace::Trace),
    Pending(pending::Pending),
    Cancel(cancel::Cancel),
    Clients(clients::Clients),
    Dead(dead::Dead),
    Completions(completions::Completions),
    Man(man::Man),
    Top(top::Top),
    Bench(bench::Bench),
    #[command(hide = true)]
    BenchWorker(bench::Worker),
}

/// The command line, with the examples.
pub(crate) fn command() -> clap::Command {
    examples::add(Cli::command())
}
