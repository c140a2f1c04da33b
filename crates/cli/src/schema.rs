//! The fields of each command's JSON objects, as text that users read and tests check.

use std::io::Write;

use crate::args::format::ESCAPES;
use crate::output::{Out, VERSION};

const RECORD: &str = include_str!("schema/record.txt");

/// The objects of each command; the other commands print none.
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
    ("groups", include_str!("schema/groups.txt")),
    ("verify", include_str!("schema/verify.txt")),
    ("repair", include_str!("schema/repair.txt")),
    ("request", include_str!("schema/request.txt")),
    ("trace", include_str!("schema/trace.txt")),
    ("pending", include_str!("schema/pending.txt")),
    ("cancel", include_str!("schema/cancel.txt")),
    ("clients", include_str!("schema/clients.txt")),
    ("dead", include_str!("schema/dead.txt")),
    ("bench", include_str!("schema/bench.txt")),
    ("top", include_str!("schema/top.txt")),
];

/// The text that all schemas share.
const HEAD: &str = "\
prints one object per line: results on stdout, errors on stderr only. A
field of type \"T?\" may be absent, one of type \"A|B\" is an A or a B. a.b is the field b of the
object a, a[].b that of the objects in the list a; a is present, unless its own line says otherwise.

Numbers without a fraction are whole and below 2^64. A reader that takes them for floating point
(JavaScript, jq before 1.7) rounds those above 2^53: stored words that dump shows can be that large,
and so can offsets and counts where a file is damaged.

In all objects:
";

/// Prints the schema of a command, for `--format help`.
pub(crate) fn print(out: &mut Out, command: &str) -> std::io::Result<()> {
    match SCHEMAS.iter().find(|(name, _)| *name == command) {
        Some((_, schema)) => {
            writeln!(out, "{command} --json {HEAD}")?;
            let v = "the version of this schema. Fields may be added to it.";
            writeln!(out, "  v  number  {VERSION}: {v}\n")?;
            out.write_all(schema.as_bytes())?;
        }
        None => writeln!(out, "{command} prints no JSON.")?,
    }
    if matches!(command, "cat" | "tail") {
        writeln!(out, "\nEscapes of --format:\n\n{ESCAPES}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Commands that print no objects.
    const WITHOUT_JSON: &[&str] = &["completions", "man", "serve"];

    #[test]
    fn every_command_that_people_see_has_a_schema_or_prints_no_json() {
        let whole = crate::args::command();
        let shown = whole.get_subcommands().filter(|sub| !sub.is_hide_set());
        let mut shown: Vec<&str> = shown.map(clap::Command::get_name).collect();
        let known = SCHEMAS.iter().map(|(name, _)| *name);
        let mut known: Vec<&str> = known.chain(WITHOUT_JSON.iter().copied()).collect();
        shown.sort_unstable();
        known.sort_unstable();
        assert_eq!(known, shown, "each once, and none besides");
    }
}
