//! The `deaddrop` command: looks inside a log, appends to it, watches it, checks it.
//!
//! Commands that only read open the log read-only: they take no lock and write nothing, so they work
//! beside live processes, on a copy and on a read-only medium.

mod append;
mod cat;
mod consumers;
mod dead;
mod demo;
mod dump;
mod exchange;
mod failure;
mod frames;
mod info;
mod ls;
mod output;
mod pending;
mod range;
mod record;
mod repair;
mod request;
mod serve;
mod tail;
mod trace;
mod units;
mod verify;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::{Exit, Failure};
use output::Out;

/// Look inside a deaddrop log, append to it, watch it, check it.
///
/// Exit codes: 0 done; 1 the answer is no (no such topic, offset trimmed, no reply yet); 2 wrong
/// usage; 3 the system refused a file operation; 4 corruption found; 5 in use by another process.
#[derive(Debug, Parser)]
#[command(name = "deaddrop", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command knows.
#[derive(Debug, Clone, clap::Args)]
struct Global {
    /// The log's directory [default: ./drop]
    #[arg(short = 'd', long = "dir", global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print one JSON object a line
    #[arg(long, global = true)]
    json: bool,
}

impl Global {
    fn dir(&self) -> &Path {
        self.dir.as_deref().unwrap_or(Path::new("./drop"))
    }

    /// The log, without writing or locking anything.
    fn open_read_only(&self) -> Result<deaddrop::Log, Failure> {
        Ok(deaddrop::Log::open_read_only(self.dir())?)
    }

    /// The log, if there is one: a mistyped directory is not made.
    fn open_existing(&self) -> Result<deaddrop::Log, Failure> {
        deaddrop::Log::open_read_only(self.dir())?;
        Ok(deaddrop::Log::open(self.dir())?)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Append(append::Append),
    Cat(cat::Cat),
    Tail(tail::Tail),
    Ls(ls::Ls),
    Info(info::Info),
    Dump(dump::Dump),
    Consumers(consumers::Consumers),
    Verify(verify::Verify),
    Repair(repair::Repair),
    Request(request::Request),
    Serve(serve::Serve),
    Trace(trace::Trace),
    Pending(pending::Pending),
    Dead(dead::Dead),
    Demo(demo::Demo),
    #[command(hide = true)]
    DemoOrderService(demo::OrderService),
    #[command(hide = true)]
    DemoInventoryService(demo::InventoryService),
    #[command(hide = true)]
    DemoVerify(demo::Proof),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let outcome = Out::new(cli.global.json).map_err(Failure::from).and_then(|mut out| {
        let exit = run(&cli, &mut out)?;
        out.flush()?;
        Ok(exit)
    });
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report(),
    }
}

fn run(cli: &Cli, out: &mut Out) -> Result<Exit, Failure> {
    let global = &cli.global;
    match &cli.command {
        Command::Append(command) => command.run(global, out),
        Command::Cat(command) => command.run(global, out),
        Command::Tail(command) => command.run(global, out),
        Command::Ls(command) => command.run(global, out),
        Command::Info(command) => command.run(global, out),
        Command::Dump(command) => command.run(global, out),
        Command::Consumers(command) => command.run(global, out),
        Command::Verify(command) => command.run(global, out),
        Command::Repair(command) => command.run(global, out),
        Command::Request(command) => command.run(global, out),
        Command::Serve(command) => command.run(global, out),
        Command::Trace(command) => command.run(global, out),
        Command::Pending(command) => command.run(global, out),
        Command::Dead(command) => command.run(global, out),
        Command::Demo(command) => command.run(global, out),
        Command::DemoOrderService(command) => command.run(global),
        Command::DemoInventoryService(command) => command.run(global),
        Command::DemoVerify(command) => command.run(global, out),
    }
}

/// Prints help to stdout, and what is wrong with the arguments to stderr.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // A closed pipe is no reason to complain about help.
        return match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(failed) => Failure::from(failed).report(),
        };
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    match write!(std::io::stderr(), "deaddrop: {text}") {
        Ok(()) | Err(_) => ExitCode::from(Exit::Usage as u8),
    }
}
