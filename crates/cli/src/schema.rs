//! What the JSON objects of each command hold, as text that people read and tests check.

use std::io::Write;

use crate::args::format::ESCAPES;
use crate::output::{Out, VERSION};

const RECORD: &str = include_str!("schema/record.txt");

/// Commands that print no objects.
const WITHOUT_JSON: &[&str] = &["completions", "man", "serve"];

/// The objects of each command whose fields are listed.
const SCHEMAS: &[(&str, &str)] = &[
    ("append", include_str!("schema/append.txt")),
    ("cat", RECORD),
    ("tail", RECORD),
    ("export", RECORD),
    ("import", include_str!("schema/import.txt")),
    ("create", include_str!("schema/create.txt")),
    ("trim", include_str!("schema/trim.txt")),
    ("delete", include_str!("schema/delete.txt")),
    ("ls", include_str!("schema/ls.txt")),
    ("info", include_str!("schema/info.txt")),
    ("stats", include_str!("schema/stats.txt")),
    ("dump", include_str!("schema/dump.txt")),
    ("consumers", include_str!("schema/consumers.txt")),
    ("verify", include_str!("schema/verify.txt")),
    ("request", include_str!("schema/request.txt")),
    ("trace", include_str!("schema/trace.txt")),
    ("pending", include_str!("schema/pending.txt")),
    ("dead", include_str!("schema/dead.txt")),
    ("demo", include_str!("schema/demo.txt")),
];

/// Prints the schema of a command, for `--format help`.
pub(crate) fn print(out: &mut Out, command: &str) -> std::io::Result<()> {
    let schema = SCHEMAS.iter().find(|(name, _)| *name == command);
    match schema {
        Some((_, schema)) => {
            writeln!(
                out,
                "{command} --json prints one object a line. A field of type \"T?\" may be absent, \
                 one of type\n\"T|null\" may be null; a[].b is the field b of the objects in the \
                 list a. In all objects:\n\n  v  number  {VERSION}: the version of this schema. \
                 Fields may be added to it.\n"
            )?;
            out.write_all(schema.as_bytes())?;
        }
        None if WITHOUT_JSON.contains(&command) => writeln!(out, "{command} prints no JSON.")?,
        None => writeln!(out, "The fields that {command} --json prints are not listed.")?,
    }
    if matches!(command, "cat" | "tail") {
        writeln!(out, "\nEscapes of --format:\n\n{ESCAPES}")?;
    }
    Ok(())
}
