//! Generates the manual pages and the shell completions from the description of the command line. They
//! are part of the program: `deaddrop man` and `deaddrop completions` write them out.

use std::fmt::Write;
use std::fs;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, ValueEnum, ValueHint};

use args::completions::Shell;

// Most fields and some parsers are used by the program only.
#[allow(dead_code)]
#[path = "src/args/mod.rs"]
mod args;

// The protocol between a build script and cargo.
#[allow(clippy::print_stdout)]
fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=src/args");
    let out = std::env::var_os("OUT_DIR").ok_or_else(|| Error::other("cargo set no OUT_DIR"))?;
    let out = PathBuf::from(out);
    manual_pages(&out)?;
    completions(&out)
}

/// `man/*.1`, and `man.rs`: an expression with the names and contents of all.
fn manual_pages(out: &Path) -> Result<()> {
    let dir = empty(out.join("man"))?;
    let mut all = args::command().disable_help_subcommand(true);
    all.build();
    manual_page(&all, &dir)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir)? {
        names.push(entry?.file_name().into_string().map_err(|name| {
            Error::other(format!("{name:?} is not a valid name of a manual page"))
        })?);
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

/// The page of a command, and those of its subcommands.
fn manual_page(command: &Command, dir: &Path) -> Result<()> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        manual_page(inner, dir)?;
    }
    let source = concat!("deaddrop ", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(command.clone()).source(source).generate_to(dir).map(drop)
}

/// `completions/SHELL`.
fn completions(out: &Path) -> Result<()> {
    let dir = empty(out.join("completions"))?;
    let command = args::command();
    check_names(&arguments(&command))?;
    let offered = offered(&command).version(env!("CARGO_PKG_VERSION"));
    for shell in Shell::value_variants().iter().filter_map(Shell::to_possible_value) {
        let name = shell.get_name();
        let generator = clap_complete::Shell::from_str(name, false).map_err(Error::other)?;
        let mut bytes = Vec::new();
        clap_complete::generate(generator, &mut offered.clone(), ROOT, &mut bytes);
        let mut script = String::from_utf8(bytes).map_err(Error::other)?;
        match shell.get_name() {
            "zsh" => {
                // With two colons, everything after it is an argument, and options are no longer offered.
                for list in ["files", "topics"] {
                    script = script.replace(&format!("'*::{list}"), &format!("'*:{list}"));
                }
            }
            "fish" => script += &fish_arguments(&offered),
            _ => {}
        }
        fs::write(dir.join(name), script)?;
    }
    Ok(())
}

const ROOT: &str = "deaddrop";
/// Arguments that name a file. For others a shell offers no files.
const PATHS: &[&str] = &["compare", "file", "files", "html", "output", "what"];
/// Arguments that name a directory.
const DIRECTORIES: &[&str] = &["dir", "target"];
/// Arguments that accept more than a few words, and the words.
const WORDS: &[(&str, &[&str])] = &[
    ("durability", &["power-loss", "process-crash", "within:500ms"]),
    ("format", &["json", "text", "raw", "help"]),
];
/// The argument of `serve` that is a command line.
const COMMAND_LINE: &str = "command";

/// The arguments of a command and of its subcommands.
fn arguments(command: &Command) -> Vec<Arg> {
    let own = command.get_arguments().cloned();
    own.chain(command.get_subcommands().flat_map(arguments)).collect()
}

/// Whether the names above are still names of arguments, and include all that name files.
fn check_names(all: &[Arg]) -> Result<()> {
    let words = WORDS.iter().map(|(name, _)| name);
    for name in PATHS.iter().chain(DIRECTORIES).chain(words).chain(&[COMMAND_LINE]) {
        if !all.iter().any(|arg| arg.get_id() == *name) {
            return Err(Error::other(format!("completions: there is no argument {name}")));
        }
    }
    for arg in all {
        let value = arg.get_value_names().map(|names| names[0].to_string()).unwrap_or_default();
        let id = arg.get_id().as_str();
        let names_file = ["FILE", "PATH", "DIR"].contains(&value.as_str());
        if names_file && !PATHS.contains(&id) && !DIRECTORIES.contains(&id) {
            return Err(Error::other(format!("completions: {id} takes a {value}: name it")));
        }
    }
    Ok(())
}

/// Lines that the generator omits for fish, which otherwise offers files for every argument.
fn fish_arguments(command: &Command) -> String {
    let mut lines = String::new();
    for sub in command.get_subcommands().filter(|sub| !sub.has_subcommands()) {
        let takes_files =
            |arg: &Arg| !matches!(arg.get_value_hint(), ValueHint::Other | ValueHint::Unknown);
        if sub.get_positionals().any(takes_files) {
            continue;
        }
        let words = sub.get_positionals().flat_map(Arg::get_possible_values);
        let words: Vec<String> = words.map(|word| word.get_name().to_owned()).collect();
        let name = sub.get_name();
        lines += &format!("complete -c {ROOT} -n \"__fish_{ROOT}_using_subcommand {name}\" -f");
        if !words.is_empty() {
            lines += &format!(" -a \"{}\"", words.join(" "));
        }
        lines.push('\n');
    }
    lines
}

/// A command as shells should see it: hidden commands are not offered.
fn offered(command: &Command) -> Command {
    let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    let subcommands: Vec<Command> = shown.map(offered).collect();
    let mut seen = Command::new(command.get_name().to_owned());
    if subcommands.is_empty() || command.get_name() == ROOT {
        seen = seen.args(command.get_arguments().map(argument));
    } else {
        // Where a word can be a subcommand or a topic, zsh would look for the subcommand after the topic.
        seen = seen.args(command.get_arguments().filter(|arg| !arg.is_positional()).map(unbound));
    }
    if let Some(about) = command.get_about() {
        seen = seen.about(about.clone());
    }
    seen.subcommands(subcommands)
}

/// An option that does not depend on omitted arguments.
fn unbound(arg: &Arg) -> Arg {
    let mut seen = Arg::new(arg.get_id().clone()).action(arg.get_action().clone());
    if let Some(long) = arg.get_long() {
        seen = seen.long(long.to_owned());
    }
    if let Some(short) = arg.get_short() {
        seen = seen.short(short);
    }
    if let Some(help) = arg.get_help() {
        seen = seen.help(help.clone());
    }
    argument(&seen)
}

fn argument(arg: &Arg) -> Arg {
    let id = arg.get_id().as_str();
    let arg = arg.clone();
    if !arg.get_action().takes_values() || !arg.get_possible_values().is_empty() {
        return arg;
    }
    if let Some((_, words)) = WORDS.iter().find(|(name, _)| *name == id) {
        return arg.value_parser(PossibleValuesParser::new(words.iter().copied()));
    }
    if DIRECTORIES.contains(&id) {
        return arg.value_hint(ValueHint::DirPath);
    }
    if id == COMMAND_LINE {
        return arg.value_hint(ValueHint::CommandWithArguments);
    }
    let is_path = PATHS.contains(&id);
    arg.value_hint(if is_path { ValueHint::AnyPath } else { ValueHint::Other })
}

/// The directory without files that an earlier build left in it.
fn empty(dir: PathBuf) -> Result<PathBuf> {
    if dir.is_dir() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir(&dir)?;
    Ok(dir)
}
