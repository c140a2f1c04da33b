//! A schema as `--format help` prints it, compared with the objects that were printed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::Scratch;

/// A documented field.
#[derive(Debug)]
struct Field {
    kinds: Vec<String>,
    is_optional: bool,
    meaning: String,
}

/// One kind of object: its fields by path.
type Object = BTreeMap<String, Field>;
/// The printed paths, each with the kinds that it was seen with.
type Seen = BTreeSet<(String, String)>;

/// Returns the objects that a command documents.
fn documented(scratch: &Scratch, command: &str) -> Vec<Object> {
    let text = scratch.run(&[command, "--format", "help"]).expect(0).text();
    let common = text.lines().find(|line| line.starts_with("  v ")).unwrap();
    assert!(common.contains(" 1: ") && text.contains("2^53"), "{text}");
    let mut objects: Vec<Object> = Vec::new();
    for line in text.lines().skip_while(|line| !line.starts_with("object: ")) {
        if line.starts_with("object: ") {
            objects.push(Object::from([field(common)]));
        } else if line.starts_with("  ") {
            let (path, field) = field(line);
            let object = objects.last_mut().unwrap();
            assert!(object.insert(path, field).is_none(), "{command} has it twice: {line}");
        } else if !line.is_empty() {
            break;
        }
    }
    assert!(!objects.is_empty(), "{text}");
    objects
}

/// Parses a line of a schema.
fn field(line: &str) -> (String, Field) {
    let columns: Vec<&str> =
        line.trim().split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
    let [path, kinds, meaning] = columns[..] else { panic!("{line:?}") };
    let is_optional = kinds.ends_with('?');
    let kinds = kinds.trim_end_matches('?').split('|').map(str::to_owned).collect();
    (path.to_owned(), Field { kinds, is_optional, meaning: meaning.to_owned() })
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// Checks that a value is of the kind that is documented for its path, has all required fields, and
/// no others.
fn check_value(path: &str, value: &Value, object: &Object, seen: &mut Seen) -> Result<(), String> {
    let kind = kind_of(value);
    let below = |rest: &str| {
        let prefix = format!("{path}{rest}");
        object.keys().any(|key| path.is_empty() || key.starts_with(&prefix))
    };
    match object.get(path) {
        Some(field) if field.kinds == ["any"] => {
            seen.insert((path.to_owned(), "any".to_owned()));
            return Ok(());
        }
        Some(field) if field.kinds.iter().any(|known| known == kind) => {
            let is_word = |text: &str| field.meaning.split([' ', ',', ':', '.']).any(|w| w == text);
            if path == "kind" && !is_word(value.as_str().unwrap()) {
                return Err(format!("kind {value}"));
            }
        }
        // A list or an object that is always there has no line of its own.
        None if kind == "list" && below("[]") || kind == "object" && below(".") => {}
        _ => return Err(format!("{path} is of kind {kind}: {value}")),
    }
    seen.insert((path.to_owned(), kind.to_owned()));
    let inner = |name: &str| match path {
        "" => name.to_owned(),
        _ => format!("{path}.{name}"),
    };
    match value {
        Value::Array(list) => {
            list.iter().try_for_each(|one| check_value(&format!("{path}[]"), one, object, seen))
        }
        Value::Object(map) => {
            for (name, value) in map {
                check_value(&inner(name), value, object, seen)?;
            }
            let start = inner("");
            let children = object.keys().filter_map(|key| key.strip_prefix(&start));
            let names: BTreeSet<&str> =
                children.filter_map(|rest| rest.split(['.', '[']).next()).collect();
            let is_missing = |name: &&&str| {
                let is_optional = object.get(&inner(name)).is_some_and(|field| field.is_optional);
                !is_optional && !map.contains_key(**name)
            };
            let missing = names.iter().find(is_missing);
            missing.map_or(Ok(()), |name| Err(format!("{} is missing", inner(name))))
        }
        _ => Ok(()),
    }
}

/// Checks that each printed object is documented, and that each documented field was printed, with
/// every kind that it can have.
pub(super) fn check(scratch: &Scratch, command: &str, printed: &[Value]) {
    let objects = documented(scratch, command);
    let mut seen = vec![Seen::new(); objects.len()];
    for value in printed {
        let mut why = Vec::new();
        for (object, seen) in objects.iter().zip(&mut seen) {
            let mut own = Seen::new();
            match check_value("", value, object, &mut own) {
                Ok(()) => seen.extend(own),
                Err(reason) => why.push(reason),
            }
        }
        let fitting = objects.len() - why.len();
        assert_eq!(fitting, 1, "{command} documents {fitting} objects like {value}\n{why:#?}");
    }
    for (object, seen) in objects.iter().zip(&seen) {
        let all = object.iter().flat_map(|(path, field)| {
            field.kinds.iter().map(move |kind| (path.clone(), kind.clone()))
        });
        let missing: Vec<_> = all.filter(|one| !seen.contains(one)).collect();
        let name = object.keys().cloned().collect::<Vec<_>>().join(" ");
        assert!(missing.is_empty(), "{command} never prints {missing:?} of {name}");
    }
}
