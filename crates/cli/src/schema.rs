//! The fields of each command's JSON objects, derived from the types of the objects, as text that users read and
//! tests check.

use std::io::Write;

use deaddrop_bench::{CaseReport, ComparedCase};
use schemars::generate::SchemaSettings;
use schemars::JsonSchema;
use serde_json::Value;

use crate::args::format::ESCAPES;
use crate::output::{Out, VERSION};
use crate::record::JsonRecord;
use crate::{
    append, cancel, clients, consumers, create, dead, delete, dump, groups, import, info, ls,
};
use crate::{pending, repair, request, stats, top, trace, trim, verify};

/// The schemas of the kinds of objects of a command.
type Objects = fn() -> Vec<Value>;

/// The schemas of the objects of each command; the other commands print none.
const SCHEMAS: &[(&str, Objects)] = &[
    ("append", || vec![of::<append::Summary>(), of::<append::Acknowledged>()]),
    ("cat", || vec![of::<JsonRecord<'_>>()]),
    ("tail", || vec![of::<JsonRecord<'_>>()]),
    ("export", || vec![of::<JsonRecord<'_>>()]),
    ("import", || vec![of::<import::Imported<'_>>()]),
    ("create", || vec![of::<create::Created<'_>>()]),
    ("trim", || vec![of::<trim::Change<'_>>()]),
    ("delete", || vec![of::<delete::Contents>()]),
    ("ls", || vec![of::<ls::Row>(), of::<ls::Name<'_>>()]),
    ("info", || vec![of::<info::JsonInfo>()]),
    ("stats", || vec![of::<stats::Numbers>()]),
    ("dump", || {
        let of_segments = [
            of::<dump::JsonSegment<'_>>(),
            of::<dump::JsonDamaged<'_>>(),
            of::<dump::JsonFrame<'_>>(),
            of::<dump::JsonStretch<'_>>(),
            of::<dump::Counts>(),
        ];
        let small = of::<dump::Object>()["oneOf"].as_array().cloned().unwrap_or_default();
        of_segments.into_iter().chain(small).collect()
    }),
    ("consumers", || vec![of::<consumers::Row>(), of::<consumers::Change<'_>>()]),
    ("groups", || {
        vec![of::<groups::Row<'_>>(), of::<groups::LaneRow>(), of::<groups::Change<'_>>()]
    }),
    ("verify", || vec![of::<verify::Damage>(), of::<verify::Note>(), of::<verify::Verdict>()]),
    ("repair", || {
        vec![
            of::<repair::JsonFinding<'_>>(),
            of::<repair::JsonConsumer<'_>>(),
            of::<repair::JsonTopic<'_>>(),
        ]
    }),
    ("request", || {
        vec![
            of::<request::Replied<'_>>(),
            of::<request::Ended<'_>>(),
            of::<request::Unanswered>(),
            of::<request::Sent>(),
        ]
    }),
    ("trace", || vec![of::<trace::Row<'_>>()]),
    ("pending", || vec![of::<pending::JsonRow<'_>>()]),
    ("cancel", || vec![of::<cancel::Cancelled>()]),
    ("clients", || vec![of::<clients::Row<'_>>(), of::<clients::Retired<'_>>()]),
    ("dead", || vec![of::<dead::JsonLetter<'_>>(), of::<dead::JsonDone<'_>>()]),
    ("bench", || vec![of::<CaseReport>(), of::<ComparedCase>()]),
    ("top", || vec![of::<top::View>()]),
];

/// The schema of a type, as it is written.
fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let settings = settings.with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// A line of the text: the path of a field, its types, and its meaning.
type Line = [String; 3];

/// What the comment of a type or a field says, on one line; or the one value that it has.
fn meaning(schema: &Value) -> String {
    let text = schema["description"].as_str().or(schema["const"].as_str());
    text.unwrap_or_default().replace('\n', " ")
}

/// The schemas of which one fits.
fn alternatives(schema: &Value) -> impl Iterator<Item = &Value> {
    ["anyOf", "oneOf"].iter().filter_map(|name| schema[*name].as_array()).flatten()
}

/// Adds the lines of a field, and of those below it.
fn field(path: &str, schema: &Value, is_optional: bool, lines: &mut Vec<Line>) {
    let mut kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        Value::String(kind) => vec![kind.as_str()],
        _ => alternatives(schema).filter_map(|one| one["type"].as_str()).collect(),
    };
    kinds.dedup();
    if is_optional {
        kinds.retain(|kind| *kind != "null");
    }
    let is_container = matches!(kinds[..], ["object" | "array"]);
    if !is_container || is_optional {
        let known = kinds.iter().map(|kind| match *kind {
            "integer" | "number" => "number",
            "boolean" => "bool",
            "array" => "list",
            other => other,
        });
        let mut known = known.collect::<Vec<_>>().join("|");
        if known.is_empty() {
            known.push_str("any");
        }
        if is_optional {
            known.push('?');
        }
        lines.push([path.to_owned(), known, meaning(schema)]);
    }
    let is_inner = |one: &&Value| one["items"].is_object() || one["properties"].is_object();
    let inner = alternatives(schema).find(is_inner).unwrap_or(schema);
    if let Some(items) = inner["items"].as_object() {
        let mut items = Value::Object(items.clone());
        if items["description"].is_null() {
            items["description"] = schema["description"].clone();
        }
        field(&format!("{path}[]"), &items, false, lines);
    }
    fields(path, inner, lines);
}

/// Adds the lines of the fields of an object.
fn fields(path: &str, schema: &Value, lines: &mut Vec<Line>) {
    let required = schema["required"].as_array();
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let is_required = required.is_some_and(|names| names.iter().any(|one| one == name));
        field(&path, inner, !is_required, lines);
    }
}

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
        Some((_, schemas)) => {
            writeln!(out, "{command} --json {HEAD}")?;
            let v = "the version of this schema. Fields may be added to it.";
            writeln!(out, "  v  number  {VERSION}: {v}")?;
            for schema in schemas() {
                writeln!(out, "\nobject: {}", meaning(&schema))?;
                let mut lines = Vec::new();
                fields("", &schema, &mut lines);
                let width = |column: usize| lines.iter().map(|line| line[column].len()).max();
                let [first, second] = [0, 1].map(|column| width(column).unwrap_or(0));
                for [path, kinds, meaning] in &lines {
                    writeln!(out, "  {path:<first$}  {kinds:<second$}  {meaning}")?;
                }
            }
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
