//! The `deaddrop` command: reads a log, appends to it, watches it, checks it.
//!
//! Commands that only read open the log read-only: they take no lock and write nothing, so they work
//! beside live processes, on a copy and on a read-only medium.

mod append;
mod args;
mod bench;
mod cancel;
mod cat;
mod clients;
mod completions;
mod consumers;
mod create;
mod dead;
mod delete;
mod dump;
mod exchange;
mod export;
mod failure;
mod format;
mod groups;
mod hint;
mod import;
mod info;
mod ls;
mod man;
mod missing;
mod new_topic;
mod output;
mod owner;
mod pending;
mod progress;
mod range;
mod record;
mod repair;
mod request;
mod schema;
mod serve;
mod signals;
mod stats;
mod tail;
mod top;
mod trace;
mod trim;
mod units;
mod verify;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, ValueEnum};

use args::format::Format;
use args::{misspelt, Cli, Command, Global, When};
use failure::{note, Exit, Failure};
use output::Out;

impl Global {
    /// Refuses a format that only records can have, and JSON for commands that print none.
    fn check_format(&self, command: &Command) -> Result<(), Failure> {
        let records = matches!(command, Command::Cat(_) | Command::Tail(_));
        let without_json =
            matches!(command, Command::Serve(_) | Command::Completions(_) | Command::Man(_));
        match self.format() {
            Format::Json if without_json => {
                Err(Failure::usage("this command prints no JSON: omit --json"))
            }
            Format::Raw | Format::Line(_) if !records => Err(Failure::usage(
                "only cat and tail accept this --format: other commands accept json, text and help",
            )),
            _ => Ok(()),
        }
    }

    /// Opens the log without writing or locking anything.
    fn open_read_only(&self) -> Result<deaddrop::Log, Failure> {
        let dir = self.dir();
        deaddrop::Log::open_read_only(dir).map_err(|error| match dir.symlink_metadata() {
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Failure::new(
                Exit::Io,
                format_args!(
                    "{} is not a log: it does not exist; check the path, name another one with -d DIR, or \
                     create a log with `deaddrop append TOPIC`",
                    dir.display()
                ),
            ),
            _ => error.into(),
        })
    }

    /// Opens the log, and creates it if it does not exist.
    fn open(&self) -> Result<deaddrop::Log, Failure> {
        let (log, is_new) = self.open_or_make()?;
        if is_new {
            self.say_made();
        }
        Ok(log)
    }

    /// The same; `quiet`: without a message.
    fn open_saying(&self, quiet: bool) -> Result<deaddrop::Log, Failure> {
        match quiet {
            true => Ok(self.open_or_make()?.0),
            false => self.open(),
        }
    }

    /// Opens the log, creates it if it does not exist, and returns whether it did not.
    fn open_or_make(&self) -> Result<(deaddrop::Log, bool), Failure> {
        let is_new = !self.dir().join("deaddrop").exists();
        Ok((deaddrop::Log::open_or_create(self.dir())?, is_new))
    }

    /// Lets the user notice a mistyped directory.
    fn say_made(&self) {
        note(format_args!("created a new log in {}", self.dir().display()));
    }

    /// Opens an existing log: a mistyped directory is not created.
    fn open_existing(&self) -> Result<deaddrop::Log, Failure> {
        self.open_read_only()?;
        self.open()
    }
}

fn main() -> ExitCode {
    if let Some(name) = asked_for_schema() {
        let printed = Out::new(false, When::Never).and_then(|mut out| {
            schema::print(&mut out, &name)?;
            out.flush()
        });
        return printed.map_or_else(|error| Failure::from(error).report(), |()| Exit::Ok.into());
    }
    let matches = args::command().try_get_matches();
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => return usage(&error),
        Err(mut error) => {
            misspelt::suggest_command(&mut error);
            return usage(&unknown_option().unwrap_or(error));
        }
    };
    // Any word is a payload, except a misspelt option.
    if let Command::Request(args::request::Request { payload: Some(payload), .. }) = &cli.command {
        if let Some(error) = payload.starts_with('-').then(unknown_option).flatten() {
            return usage(&error);
        }
    }
    hint::set_dir(cli.global.dir.as_deref());
    let json = *cli.global.format() == Format::Json;
    let outcome = Out::new(json, cli.global.color).map_err(Failure::from).and_then(|mut out| {
        let exit = run(&cli, &mut out)?;
        out.flush()?;
        Ok(exit)
    });
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report(),
    }
}

fn unknown_option() -> Option<clap::Error> {
    misspelt::unknown_option(std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()))
}

/// The command whose schema the user asked for. Its other arguments may be missing.
fn asked_for_schema() -> Option<String> {
    // So that other invocations do not read the arguments twice.
    std::env::args_os().find(|arg| arg == "help" || arg == "--format=help")?;
    let matches = Cli::command().ignore_errors(true).try_get_matches().ok()?;
    let (name, inner) = matches.subcommand()?;
    let format: &Format = inner.try_get_one("format").ok()??;
    (*format == Format::Help).then(|| name.to_owned())
}

fn run(cli: &Cli, out: &mut Out) -> Result<Exit, Failure> {
    let global = &cli.global;
    global.check_format(&cli.command)?;
    match &cli.command {
        Command::Append(command) => command.run(global, out),
        Command::Cat(command) => command.run(global, out),
        Command::Tail(command) => command.run(global, out),
        Command::Export(command) => command.run(global, out),
        Command::Import(command) => command.run(global, out),
        Command::Create(command) => command.run(global, out),
        Command::Trim(command) => command.run(global, out),
        Command::Delete(command) => command.run(global, out),
        Command::Ls(command) => command.run(global, out),
        Command::Info(command) => command.run(global, out),
        Command::Stats(command) => command.run(global, out),
        Command::Dump(command) => command.run(global, out),
        Command::Consumers(command) => command.run(global, out),
        Command::Groups(command) => command.run(global, out),
        Command::Verify(command) => command.run(global, out),
        Command::Repair(command) => command.run(global, out),
        Command::Request(command) => command.run(global, out),
        Command::Serve(command) => command.run(global, out),
        Command::Trace(command) => command.run(global, out),
        Command::Pending(command) => command.run(global, out),
        Command::Cancel(command) => command.run(global, out),
        Command::Clients(command) => command.run(global, out),
        Command::Dead(command) => command.run(global, out),
        Command::Completions(command) => command.run(out),
        Command::Man(command) => command.run(),
        Command::Top(command) => command.run(global, out),
        Command::Bench(command) => command.run(global, out),
        Command::BenchWorker(command) => command.run(global, out),
    }
}

/// Prints help to stdout, and errors in the arguments to stderr.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let text = error.render();
        let mut stdout = std::io::stdout();
        let text = if asked_for_colours().colours(&stdout) {
            text.ansi().to_string()
        } else {
            text.to_string()
        };
        // A closed pipe is not a reason to report an error about help.
        return match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
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

/// The word after --color, for the case in which the arguments as a whole were not parsed.
fn asked_for_colours() -> When {
    let args: Vec<String> = std::env::args().collect();
    let words = args.windows(2).filter(|pair| pair[0] == "--color").map(|pair| pair[1].as_str());
    let word = words.chain(args.iter().filter_map(|arg| arg.strip_prefix("--color="))).next();
    word.and_then(|word| When::from_str(word, false).ok()).unwrap_or(When::Auto)
}
