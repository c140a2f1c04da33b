//! Rules of this repository that a compiler does not check. `CONTRIBUTING.md` and `ARCHITECTURE.md`
//! give the reasons; a rule that turns out wrong is changed here, in the same commit.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/prose.rs"]
mod prose;

/// The parts of `src/` as a staircase, from the bottom up. A part names only parts of lower steps:
/// none above it, and none beside it.
const STAIRCASE: &[&[&str]] = &[
    &["sys", "format", "recovery", "stop"],
    &["control", "error", "housekeeper"],
    &["segment", "record", "events"],
    &["index"],
    &["store"],
    &["topic"],
    &["log", "reader", "cursor"],
    &["consumer", "ownership"],
    &["group", "repair"],
    &["service", "inspect"],
];

/// The parts of lower steps that each part names. Exact: a name that is not used leaves the table.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("sys", &[]),
    ("format", &[]),
    ("recovery", &[]),
    ("stop", &[]),
    ("control", &["sys"]),
    ("error", &["format"]),
    ("housekeeper", &["sys"]),
    ("segment", &["error", "format", "sys"]),
    ("record", &["error", "format"]),
    ("events", &["error", "recovery"]),
    ("index", &["error", "format", "segment", "sys"]),
    (
        "store",
        &[
            "control",
            "error",
            "events",
            "format",
            "housekeeper",
            "index",
            "record",
            "recovery",
            "segment",
            "stop",
            "sys",
        ],
    ),
    ("topic", &["error", "record", "recovery", "store"]),
    ("log", &["error", "format", "store", "sys", "topic"]),
    ("reader", &["error", "format", "record", "segment", "stop", "store", "sys", "topic"]),
    ("cursor", &["error", "format", "store", "sys"]),
    (
        "consumer",
        &[
            "cursor", "error", "events", "format", "reader", "record", "stop", "store", "sys",
            "topic",
        ],
    ),
    ("ownership", &["error", "store", "sys"]),
    (
        "group",
        &[
            "cursor", "error", "events", "format", "log", "reader", "record", "stop", "store",
            "sys", "topic",
        ],
    ),
    ("repair", &["consumer", "error", "format", "log", "recovery", "segment", "store", "sys"]),
    ("inspect", &["error", "format", "repair", "segment", "sys", "topic"]),
    (
        "service",
        &[
            "consumer",
            "error",
            "format",
            "group",
            "log",
            "ownership",
            "reader",
            "record",
            "stop",
            "sys",
            "topic",
        ],
    ),
];

/// The request/reply layer may name only these of the two parts: it is written against topics,
/// readers and consumers, and a log without it is complete.
const SERVICE_MAY_NAME: &[(&str, &[&str])] =
    &[("format", &["names"]), ("sys", &["clock", "crash_point", "random"])];

const FILE_LINES_MAX: usize = 500;

/// Shipped functions over 70 lines, with the reason. Exact: a function that shrinks below the limit leaves
/// the list.
const LONG_FUNCTIONS: &[(&str, &str)] = &[("src/error.rs: fmt", "one arm for each variant")];
const FUNCTION_LINES_MAX: usize = 70;

/// One text file of the repository.
struct Text {
    /// The path relative to the repository, with `/`.
    name: String,
    text: String,
}

impl Text {
    /// Returns the lines with their numbers, without comments. (No string has `//` except a URL.)
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate();
        lines.map(|(index, line)| (index + 1, line.split("//").next().unwrap()))
    }

    /// Returns the part of `src/` that it belongs to: `topic` for `src/topic/roll.rs`.
    fn part(&self) -> Option<&str> {
        let path = self.name.strip_prefix("src/")?;
        let part = path.split('/').next().unwrap().trim_end_matches(".rs");
        (part != "lib").then_some(part)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn collect(dir: &Path, extension: &str, found: &mut Vec<Text>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if name != "target" && (!name.starts_with('.') || name == ".ci") {
                collect(&path, extension, found);
            }
        } else if path.extension().is_some_and(|found| found == extension) {
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            found.push(Text { name, text: fs::read_to_string(&path).unwrap() });
        }
    }
}

/// Returns all files of this extension in the repository.
fn files(extension: &str) -> Vec<Text> {
    let mut found = Vec::new();
    collect(root(), extension, &mut found);
    found
}

fn sources() -> Vec<Text> {
    let mut found = files("rs");
    found.retain(|file| file.name.starts_with("src/"));
    assert!(found.len() > 30, "the sources were not found");
    found
}

/// Returns the files of everything that is shipped: the library and the tool.
fn shipped() -> Vec<Text> {
    let mut found = files("rs");
    found.retain(|file| file.name.starts_with("src/") || file.name.starts_with("crates/"));
    found
}

fn report(rule: &str, violations: &[String]) {
    assert!(violations.is_empty(), "{rule}:\n{}", violations.join("\n"));
}

/// Returns the names that follow `crate::` in a line: modules, or items that `lib.rs` exports.
fn crate_names(line: &str) -> Vec<&str> {
    let starts = line.match_indices("crate::").filter(|(at, _)| !line[..*at].ends_with('$'));
    starts
        .map(|(at, found)| {
            let rest = &line[at + found.len()..];
            &rest[..rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())]
        })
        .collect()
}

#[test]
fn every_import_leads_down_the_staircase() {
    let step_of = |part: &str| STAIRCASE.iter().position(|step| step.contains(&part));
    let mut violations = Vec::new();
    let mut seen = BTreeSet::new();
    for file in &sources() {
        let Some(part) = file.part() else { continue };
        seen.insert(part.to_owned());
        let Some(step) = step_of(part) else {
            violations.push(format!("{}: part `{part}` is on no step", file.name));
            continue;
        };
        for (line, code) in file.code() {
            let above = |name: &&str| *name != part && step_of(name) >= Some(step);
            for name in crate_names(code).into_iter().filter(above) {
                violations.push(format!("{}:{line}: {part} names {name}", file.name));
            }
        }
    }
    for part in STAIRCASE.iter().flat_map(|step| step.iter()) {
        if !seen.contains(*part) {
            violations.push(format!("the staircase has a part `{part}`, which does not exist"));
        }
    }
    report("the staircase", &violations);
}

#[test]
fn imports_point_down_as_the_table_says() {
    let files = sources();
    let mut violations = Vec::new();
    let mut used = BTreeSet::new();
    for file in &files {
        let Some(part) = file.part() else { continue };
        let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == part) else {
            violations.push(format!("{}: part `{part}` is not in the table", file.name));
            continue;
        };
        for (line, code) in file.code() {
            for name in crate_names(code) {
                used.insert((part, name));
                if name != part && !allowed.contains(&name) {
                    violations.push(format!("{}:{line}: {part} names {name:?}", file.name));
                }
            }
        }
    }
    for (part, allowed) in MAY_NAME {
        for name in allowed.iter().filter(|name| !used.contains(&(*part, **name))) {
            if name != part {
                violations.push(format!("the table lets {part} name {name}, which it does not"));
            }
        }
    }
    report("imports", &violations);
}

#[test]
fn the_service_layer_knows_topics_and_no_files() {
    let mut violations = Vec::new();
    for file in sources().iter().filter(|file| file.part() == Some("service")) {
        for (line, code) in file.code() {
            for (part, allowed) in SERVICE_MAY_NAME {
                let path = format!("crate::{part}::");
                let Some((_, rest)) = code.split_once(&path) else { continue };
                let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
                if !allowed.contains(&name) {
                    violations.push(format!("{}:{line}: {path}{name}", file.name));
                }
            }
            for inner in ["Store", "LogInner", "Membership", "Segment", "Words"] {
                if code.split(|c: char| !c.is_alphanumeric()).any(|word| word == inner) {
                    violations.push(format!("{}:{line}: {inner}", file.name));
                }
            }
        }
    }
    report("the service layer", &violations);
}

/// The types that have the store's interface, and the fields of `Store` that are of these types.
const STORE_PARTS: &[(&str, &str)] =
    &[("Store", ""), ("Location", "location."), ("Segments", "segments."), ("Epochs", "epochs.")];

/// The most methods that a type has.
const METHODS_MAX: usize = 35;

#[test]
fn no_type_has_too_many_methods() {
    let mut counts = BTreeMap::new();
    for file in shipped() {
        let mut of = None;
        for line in file.text.lines() {
            if let Some(rest) = line.strip_prefix("impl") {
                // `Topic` in `impl Topic {` and in `impl<'a> Topic<'a> {`.
                let rest = match rest.strip_prefix('<') {
                    Some(rest) => rest.split_once("> ").map_or("", |(_, rest)| rest),
                    None => rest.trim_start(),
                };
                let name = rest.split(['<', ' ']).next().unwrap();
                let part = file.part().unwrap_or("tool");
                of = (!line.contains(" for ")).then(|| format!("{part}: {name}"));
            } else if line == "}" {
                of = None;
            }
            let indented = line.strip_prefix("    ").filter(|line| !line.starts_with(' '));
            if let (Some(of), true) =
                (&of, indented.is_some_and(|line| line.split(' ').any(|word| word == "fn")))
            {
                *counts.entry(of.clone()).or_insert(0) += 1;
            }
        }
    }
    counts.retain(|_, count| *count > METHODS_MAX);
    let many: Vec<String> = counts.iter().map(|(of, count)| format!("{of}: {count}")).collect();
    report("types with too many methods", &many);
}

#[test]
fn the_interface_of_the_store_is_what_its_table_says() {
    let mut asked = BTreeSet::new();
    let mut written = BTreeSet::new();
    for file in sources().iter().filter(|file| file.part() == Some("store")) {
        let mut part = None;
        for line in file.text.lines() {
            if line.starts_with("impl") || line == "}" {
                let found = STORE_PARTS.iter().find(|(name, _)| line == format!("impl {name} {{"));
                part = found.map(|(_, field)| field);
            }
            let function = line.strip_prefix("    pub(crate) fn ");
            let name = function.map(|rest| rest.split(['(', '<']).next().unwrap());
            asked.extend(part.zip(name).map(|(field, name)| format!("{field}{name}")));
        }
        if file.name == "src/store/mod.rs" {
            let (_, table) = file.text.split_once("# Interface").unwrap();
            let rows = table.lines().skip(1).take_while(|line| line.starts_with("//!"));
            let cells = rows.filter_map(|row| row.split('|').nth(2));
            let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
            written.extend(names.map(str::to_owned));
        }
    }
    assert!(asked.len() > 20, "only {} methods were found", asked.len());
    let differences: Vec<String> = asked.symmetric_difference(&written).cloned().collect();
    report("in the code or in the table of src/store/mod.rs, not in both", &differences);
}

/// The opt-in to lend records from a mapping, whose caller makes a promise, and the calls under it.
const PROMISED: [&str; 6] = [
    "pub unsafe fn next_in_place",
    "unsafe { walk.step_in_place(limit) }",
    "unsafe { walk.step_in_entered(limit, is_record(next)) }",
    "unsafe { walk.frame_in_place(&fixed)? }",
    "pub(crate) unsafe fn",
    "slice(",
];

#[test]
fn unsafe_code_lives_in_sys_and_control_and_in_the_reader_that_opts_in() {
    let mut violations = Vec::new();
    for file in sources() {
        if matches!(file.part(), Some("sys" | "control")) {
            continue;
        }
        let opts_in = matches!(file.name.as_str(), "src/reader.rs" | "src/segment/walk.rs");
        for (line, code) in file.code() {
            if opts_in && PROMISED.iter().any(|promised| code.contains(promised)) {
                continue;
            }
            let words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
            if words.into_iter().any(|word| word == "unsafe") {
                violations.push(format!("{}:{line}", file.name));
            }
        }
    }
    report("unsafe outside src/sys and src/control", &violations);
}

#[test]
fn the_operating_system_is_named_in_sys_only() {
    let mut violations = Vec::new();
    for file in sources() {
        if file.part() == Some("sys") {
            continue;
        }
        for (line, code) in file.code() {
            // The errno constants: advice for a person depends on them, and they name nothing else.
            let errno_only = file.name == "src/error.rs" && code.contains("libc::E");
            for name in ["std::fs", "std::os", "memmap2", "libc::"] {
                if code.contains(name) && !(name == "libc::" && errno_only) {
                    violations.push(format!("{}:{line}: {name}", file.name));
                }
            }
        }
    }
    report("the operating system outside src/sys", &violations);
}

#[test]
fn the_seam_to_the_system_knows_no_format_and_the_format_no_system() {
    let mut violations = Vec::new();
    for file in sources() {
        let foreign: &[&str] = match file.part() {
            Some("sys") => &["format"],
            Some("format" | "recovery") => &["std::io", "std::fs", "std::thread", "std::time"],
            _ => continue,
        };
        for (line, code) in file.code() {
            let words: Vec<&str> =
                code.split(|c: char| !c.is_alphanumeric() && !"_:".contains(c)).collect();
            for name in foreign {
                let named = words.iter().any(|word| {
                    word == name
                        || word.starts_with(&format!("{name}::"))
                        || word.contains(&format!("::{name}"))
                });
                // `format` is also a macro of the standard library.
                if named && !code.contains("format!") {
                    violations.push(format!("{}:{line}: {name}", file.name));
                }
            }
        }
    }
    report("a layer that knows what it should not", &violations);
}

#[test]
fn no_file_is_long() {
    let mut violations = Vec::new();
    for file in shipped() {
        let lines = file.text.lines().count();
        if lines > FILE_LINES_MAX {
            violations.push(format!("{}: {lines} lines", file.name));
        }
    }
    report("long files", &violations);
}

/// Returns the functions of a file that rustfmt has formatted, with the lines of their bodies.
/// Macros and strings are ignored.
fn functions(file: &Text) -> Vec<(String, usize)> {
    let lines: Vec<&str> = file.text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        let words: Vec<&str> = code.split_whitespace().collect();
        let Some(at) = words.iter().position(|word| *word == "fn") else { continue };
        let modifier = |word: &&str| {
            word.starts_with("pub") || matches!(*word, "const" | "unsafe" | "extern" | "\"C\"")
        };
        if !words[..at].iter().all(modifier) || line.ends_with(['}', ';']) {
            continue;
        }
        let close = format!("{indent}}}");
        let end = lines[start..].iter().position(|line| *line == close);
        let name = words[at + 1].split(['(', '<']).next().unwrap();
        found.push((format!("{}: {name}", file.name), end.unwrap_or(0)));
    }
    found
}

#[test]
fn every_long_function_is_listed_and_every_listed_function_is_long() {
    let mut violations = Vec::new();
    let mut seen = BTreeSet::new();
    for file in shipped() {
        for (name, lines) in functions(&file) {
            let listed = LONG_FUNCTIONS.iter().any(|(listed, _)| *listed == name);
            if (lines > FUNCTION_LINES_MAX) != listed {
                violations.push(format!("{name}: {lines} lines, listed: {listed}"));
            }
            seen.insert(name);
        }
    }
    assert!(seen.len() > 200, "only {} functions were found", seen.len());
    for (name, reason) in LONG_FUNCTIONS {
        if !seen.contains(*name) {
            violations.push(format!("{name} ({reason}) does not exist"));
        }
    }
    report("the list of long functions", &violations);
}

#[test]
fn nothing_is_left_to_do_and_nothing_is_printed() {
    let mut violations = Vec::new();
    // In two parts, so that this file does not name them.
    let unfinished =
        [("TO", "DO"), ("FIX", "ME"), ("XX", "X"), ("unimplemen", "ted!"), ("to", "do!")];
    for file in files("rs").iter().chain(&files("md")) {
        for (line, text) in file.text.lines().enumerate() {
            for (start, end) in unfinished {
                if text.contains(&format!("{start}{end}")) {
                    violations.push(format!("{}:{}: {start}{end}", file.name, line + 1));
                }
            }
        }
    }
    for file in sources() {
        for (line, code) in file.code() {
            for name in ["println!", "print!", "dbg!"] {
                if code.contains(name) {
                    violations.push(format!("{}:{line}: {name}", file.name));
                }
            }
        }
    }
    report("unfinished, or printing", &violations);
}

/// Returns the names of all crash points in `src/`.
fn crash_points() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in sources() {
        for (_, code) in file.code() {
            for (at, start) in code.match_indices("crash_point!(\"") {
                let rest = &code[at + start.len()..];
                found.insert(rest[..rest.find('"').unwrap()].to_owned());
            }
        }
    }
    found
}

#[test]
fn every_crash_point_is_in_the_failure_model() {
    let points = crash_points();
    assert!(points.len() > 20, "only {} crash points were found", points.len());
    // A package from the registry has no docs directory but has this test.
    let Ok(text) = fs::read_to_string(root().join("docs/failure-model.md")) else { return };
    let missing: Vec<String> =
        points.into_iter().filter(|name| !text.contains(&format!("`{name}`"))).collect();
    report("crash points missing in docs/failure-model.md", &missing);
}

/// Returns the targets of `[text](target)` in a Markdown file, without code blocks.
fn links(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let rest = &line[at + 2..];
            found.extend(rest.find(')').map(|end| &rest[..end]));
        }
    }
    found
}

/// Returns the anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}

#[test]
fn relative_links_lead_somewhere() {
    let mut violations = Vec::new();
    for file in files("md") {
        let here = root().join(&file.name);
        for link in links(&file.text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => here.clone(),
                path => here.parent().unwrap().join(path),
            };
            if !target.exists() {
                violations.push(format!("{}: {link} does not exist", file.name));
            } else if !fragment.is_empty() && target.extension().is_some_and(|e| e == "md") {
                let text = fs::read_to_string(&target).unwrap();
                let headings = text.lines().filter(|line| line.starts_with('#'));
                if !headings.into_iter().any(|heading| anchor(heading) == fragment) {
                    violations.push(format!("{}: {link}: no such heading", file.name));
                }
            }
        }
    }
    report("links", &violations);
}

#[test]
fn every_command_of_the_tool_is_in_its_document() {
    // A package from the registry does not have the tool.
    let Ok(main) = fs::read_to_string(root().join("crates/cli/src/main.rs")) else { return };
    let Some((_, rest)) = main.split_once("\nenum Command {") else { return };
    let body = &rest[..rest.find("\n}").unwrap()];
    let lines: Vec<&str> = body.lines().map(str::trim).collect();
    let shown = lines.iter().enumerate().filter(|(index, line)| {
        let hidden = *index > 0 && lines[index - 1].contains("hide = true");
        line.starts_with(char::is_uppercase) && !hidden
    });
    let variants: Vec<&str> = shown.map(|(_, line)| *line).collect();
    assert!(variants.len() > 5, "the commands were not found");
    let document = fs::read_to_string(root().join("docs/tool.md")).unwrap();
    let mut missing = Vec::new();
    for variant in variants {
        let name = variant.split(['(', ' ', ',', '{']).next().unwrap().to_lowercase();
        if !document.lines().any(|line| line.starts_with(&format!("| `{name}"))) {
            missing.push(name);
        }
    }
    report("commands that are not in the table of docs/tool.md", &missing);
}

#[test]
fn every_source_file_is_in_the_code_map() {
    // A package from the registry has no code map.
    let Ok(map) = fs::read_to_string(root().join("ARCHITECTURE.md")) else { return };
    let mut missing = Vec::new();
    for file in sources() {
        let name = file.name.strip_prefix("src/").unwrap();
        if !map.contains(&format!("`{name}`")) {
            missing.push(file.name);
        }
    }
    report("files that are not in the code map of ARCHITECTURE.md", &missing);
}

#[test]
fn every_document_has_one_title() {
    let mut violations = Vec::new();
    for file in files("md") {
        let mut in_code = false;
        let titles = file.text.lines().filter(|line| {
            in_code ^= line.starts_with("```");
            !in_code && line.starts_with("# ")
        });
        let count = titles.count();
        if count != 1 {
            violations.push(format!("{}: {count} titles", file.name));
        }
    }
    report("titles", &violations);
}
