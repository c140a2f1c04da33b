//! Circles among the files of one part: at most two files may import each other, directly or through others.

use std::collections::{BTreeMap, BTreeSet};

use crate::{report, sources, Text};

const FILES_IN_A_CIRCLE_MAX: usize = 2;

/// Maps the names of the files of a part, without folders and extension, to the files that they import.
type Imports = BTreeMap<String, BTreeSet<String>>;

fn module_of(file: &Text) -> &str {
    let name = file.name.trim_end_matches(".rs").trim_end_matches("/mod");
    name.rsplit('/').next().unwrap()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Returns what follows each `super::` up to its `;`, or up to the end of a path.
fn imports_of(code: &str) -> impl Iterator<Item = &str> {
    code.split("super::").skip(1).map(|rest| match rest.starts_with('{') {
        true => rest.split(';').next().unwrap(),
        false => rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap(),
    })
}

fn imports(part: &str, files: &[&Text]) -> Imports {
    let modules: BTreeSet<&str> = files.iter().map(|file| module_of(file)).collect();
    let code = |file: &Text| {
        let code: String = file.code().map(|(_, line)| line.to_owned() + "\n").collect();
        code.replace(&format!("crate::{part}::"), "super::")
    };
    // The names that the root of the part has from its files.
    let root = files.iter().find(|file| module_of(file) == part).map(|file| code(file));
    let mut exports = BTreeMap::new();
    for import in root.iter().flat_map(|root| root.split("use ").skip(1)) {
        let Some((module, names)) = import.split(';').next().unwrap().split_once("::") else {
            continue;
        };
        exports.extend(words(names).map(|name| (name.to_owned(), module.to_owned())));
    }
    let mut found = Imports::new();
    for file in files.iter().filter(|file| module_of(file) != part) {
        let mut names = BTreeSet::new();
        let code = code(file);
        for word in imports_of(&code).flat_map(words) {
            names.insert(exports.get(word).map_or(word, String::as_str).to_owned());
        }
        names.retain(|name| {
            modules.contains(name.as_str()) && name != part && name != module_of(file)
        });
        found.entry(module_of(file).to_owned()).or_default().extend(names);
    }
    found
}

/// Returns the files that a file imports, directly or through others.
fn reach<'a>(imports: &'a Imports, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut left: Vec<&str> = imports[from].iter().map(String::as_str).collect();
    while let Some(next) = left.pop() {
        if reached.insert(next) {
            left.extend(imports[next].iter().map(String::as_str));
        }
    }
    reached
}

fn circles(imports: &Imports) -> BTreeSet<Vec<&str>> {
    let reached: BTreeMap<&str, _> =
        imports.keys().map(|name| (name.as_str(), reach(imports, name))).collect();
    let circle = |name: &&str| -> Vec<&str> {
        reached[name].iter().copied().filter(|other| reached[other].contains(name)).collect()
    };
    reached.keys().map(circle).filter(|circle| circle.len() > FILES_IN_A_CIRCLE_MAX).collect()
}

#[test]
fn no_part_has_a_circle_of_more_than_two_files() {
    let sources = sources();
    let mut parts: BTreeMap<&str, Vec<&Text>> = BTreeMap::new();
    for file in &sources {
        parts.entry(file.part().unwrap_or("lib")).or_default().push(file);
    }
    let mut violations = Vec::new();
    for (part, files) in parts {
        let imports = imports(part, &files);
        let circles = circles(&imports);
        if !circles.is_empty() {
            violations.push(format!("{part}: {circles:?}"));
        }
    }
    report("circles among files", &violations);
}

#[test]
fn a_circle_through_a_third_file_is_found_and_a_pair_is_allowed() {
    let imports = |pairs: &[(&str, &str)]| -> Imports {
        let names = pairs.iter().flat_map(|(from, to)| [*from, *to]);
        let of = |name: &str| {
            let to = pairs.iter().filter(|(from, _)| *from == name);
            to.map(|(_, to)| (*to).to_owned()).collect()
        };
        names.map(|name| (name.to_owned(), of(name))).collect()
    };
    assert!(circles(&imports(&[("a", "b"), ("b", "a"), ("b", "c")])).is_empty());
    let three = imports(&[("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")]);
    assert_eq!(circles(&three), BTreeSet::from([vec!["a", "b", "c"]]));
}
