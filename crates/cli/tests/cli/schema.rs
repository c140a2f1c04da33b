//! `--format help`: what it documents is what is printed, field by field.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;

use deaddrop::format::cursor;
use deaddrop::{Record, Start};
use serde_json::Value;

use crate::support::{flip, Scratch};

/// A documented field.
#[derive(Debug)]
struct Field {
    kinds: Vec<String>,
    is_optional: bool,
    meaning: String,
}

/// One kind of object: its fields by path.
type Object = BTreeMap<String, Field>;
/// What was printed: the paths, each with the kinds that it was seen with.
type Seen = BTreeSet<(String, String)>;

/// The objects that a command documents.
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

/// A line of a schema.
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

/// Checks that a value is of the kind that is documented for its path, has all fields that must be
/// there, and none besides.
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
            let is_word = |text: &str| field.meaning.split([' ', ',', ':']).any(|w| w == text);
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

/// Checks that each printed object is documented, and each documented field was printed, with every
/// kind that it can have.
fn check(scratch: &Scratch, command: &str, printed: &[Value]) {
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

/// A topic `t` whose records have whatever a record can have, and a consumer `c`.
fn rich_topic(scratch: &Scratch) {
    let topic = scratch.topic_of("t", 0..1500);
    topic.append(&Record::new([0xff]).key([0xfe]).header("a", "1").header("b", [0xff])).unwrap();
    topic.append_batch(&[Record::new("x").key("k"), Record::new("y")]).unwrap();
    topic.consumer("c", Start::Offset(3)).unwrap().sync().unwrap();
}

fn json(scratch: &Scratch, code: i32, args: &[&str]) -> Vec<Value> {
    scratch.run(&[args, &["--json"]].concat()).expect(code).json()
}

#[test]
fn commands_that_print_records_print_what_they_document() {
    let scratch = Scratch::new();
    rich_topic(&scratch);
    check(&scratch, "cat", &json(&scratch, 0, &["cat", "t"]));
    check(&scratch, "tail", &json(&scratch, 0, &["tail", "t"]));
    check(&scratch, "export", &scratch.run(&["export", "t"]).expect(0).json());
}

#[test]
fn commands_that_show_topics_print_what_they_document() {
    let scratch = Scratch::new();
    rich_topic(&scratch);
    check(&scratch, "ls", &[json(&scratch, 0, &["ls"]), json(&scratch, 0, &["ls", "-1"])].concat());
    let mut consumers = json(&scratch, 0, &["consumers", "t"]);
    consumers.extend(json(&scratch, 0, &["consumers", "t", "--reset", "c", "--to", "0"]));
    consumers.extend(json(&scratch, 0, &["consumers", "t", "--delete", "c"]));
    check(&scratch, "consumers", &consumers);
    // A torn tail that a later opening finds makes an epoch.
    std::fs::write(scratch.log().join("topics/t/epochs"), epoch_entry()).unwrap();
    check(&scratch, "stats", &json(&scratch, 0, &["stats"]));
    check(&scratch, "info", &json(&scratch, 0, &["info", "t"]));
}

fn epoch_entry() -> Vec<u8> {
    deaddrop::format::epochs::Entry { epoch: 1, start: 0 }.encode().to_vec()
}

#[test]
fn appending_commands_print_what_they_document() {
    let scratch = Scratch::new();
    let mut printed = scratch.run_with(&["append", "t", "--json"], b"a\nb\n").expect(0).json();
    printed.extend(scratch.run_with(&["append", "t", "--json"], b"").expect(0).json());
    printed.extend(scratch.run_with(&["append", "t", "--json", "--ack"], b"a\n").expect(0).json());
    check(&scratch, "append", &printed);
    let exported = scratch.run(&["export", "t"]).expect(0).stdout;
    let printed = scratch.run_with(&["import", "u", "--json"], &exported).expect(0).json();
    check(&scratch, "import", &printed);
}

#[test]
fn commands_that_look_at_files_print_what_they_document() {
    let scratch = Scratch::new();
    rich_topic(&scratch);
    scratch.store_index("t", |entries| entries.truncate(3));
    let dir = scratch.log().join("topics/t");
    std::fs::write(dir.join("epochs"), epoch_entry()).unwrap();
    scratch.run(&["request", "echo", "x", "--no-wait"]).expect(0);
    // A frame behind those that count is one that a recovery cut.
    scratch.topic_of("s", 0..10).append(&Record::new([b'x'; 14 << 10])).unwrap();
    scratch.repeat_frame("s", 0);
    let segments = scratch.segments("t");
    flip(&segments[1], 5000, 3);
    flip(&segments[2], 20, 0);
    let mut damaged = json(&scratch, 4, &["dump", "t"]);
    for topic in ["s", "echo.requests"] {
        damaged.extend(json(&scratch, 0, &["dump", topic]));
    }
    damaged.extend(json(&scratch, 4, &["dump", "t", "--hex"]));
    // An attempt at offset 0, and one of the two slots not written yet.
    let consumer = std::fs::File::options().write(true).open(dir.join("consumers/c")).unwrap();
    consumer.write_all_at(&[1], cursor::ATTEMPT_AT as u64).unwrap();
    consumer.write_all_at(&[0; cursor::SLOT_LEN], cursor::SLOT_B_AT as u64).unwrap();
    for file in ["deaddrop", "topics/t/epochs", "topics/t/settings", "topics/t/consumers/c"] {
        damaged.extend(json(&scratch, 0, &["dump", scratch.log().join(file).to_str().unwrap()]));
    }
    let index = segments[0].with_extension("idx");
    damaged.extend(json(&scratch, 0, &["dump", index.to_str().unwrap()]));
    check(&scratch, "dump", &damaged);
    // What a process leaves that was killed while it wrote an index.
    std::fs::write(scratch.segments("s").swap_remove(0).with_extension("idx"), []).unwrap();
    check(&scratch, "verify", &json(&scratch, 4, &["verify"]));
}

#[test]
fn requests_print_what_they_document() {
    let scratch = Scratch::new();
    let mut printed = json(&scratch, 0, &["request", "echo", "x", "--no-wait"]);
    let bytes = scratch.run_with(&["request", "echo", "--no-wait", "--json"], b"\xff").json();
    let ids = [&printed[0], &bytes[0]].map(|sent| sent["id"].as_str().unwrap().to_owned());
    printed.extend(json(&scratch, 1, &["request", "--attach", &ids[0], "--timeout", "1ms"]));
    scratch.run(&["serve", "echo", "-n", "2", "--", "cat"]).expect(0);
    for id in &ids {
        printed.extend(json(&scratch, 0, &["request", "--attach", id]));
    }
    printed.extend(json(&scratch, 1, &["request", "echo", "x", "--deadline", "1ms"]));
    check(&scratch, "request", &printed);
}

#[test]
fn commands_about_requests_print_what_they_document() {
    let scratch = Scratch::new();
    let args = ["serve", "echo", "--max-attempts", "1", "--retry-first", "1ms", "--", "false"];
    let mut server = scratch.command(&args).spawn().unwrap();
    json(&scratch, 1, &["request", "echo", "given up"]);
    server.kill().unwrap();
    server.wait().unwrap();
    json(&scratch, 0, &["request", "echo", "waits", "--no-wait"]);
    check(&scratch, "pending", &json(&scratch, 0, &["pending"]));
    check(&scratch, "trace", &json(&scratch, 0, &["trace", "--last", "2"]));
    let mut dead = json(&scratch, 0, &["dead", "echo.dead"]);
    dead.extend(json(&scratch, 0, &["dead", "redrive", "echo.dead"]));
    check(&scratch, "dead", &dead);
}

#[test]
fn the_demo_prints_what_it_documents() {
    let scratch = Scratch::new();
    let orders = scratch.path().join("orders");
    let order = r#"{"order":"O-1","items":[{"sku":"S-1","quantity":3}]}"#;
    std::fs::write(&orders, order).unwrap();
    let args = ["demo", "--over", "0s", "--orders", orders.to_str().unwrap()];
    check(&scratch, "demo", &json(&scratch, 0, &args));
}

#[test]
fn help_needs_no_other_argument_and_stands_behind_none_of_a_command_of_yours() {
    let scratch = Scratch::new();
    let help = scratch.run(&["cat", "--format", "help"]).expect(0).text();
    assert!(help.contains("Escapes of --format") && help.contains("%o offset"), "{help}");
    assert_eq!(scratch.run(&["cat", "--format=help"]).expect(0).text(), help);
    let ran = scratch.run(&["serve", "echo", "--format", "help"]).expect(0);
    assert_eq!(ran.text(), "serve prints no JSON.\n");
    scratch.append("t", "a\n");
    assert_eq!(scratch.run(&["cat", "t", "--format", "json"]).text().lines().count(), 1);
    for args in [vec!["ls", "--format", "%o"], vec!["info", "t", "--format", "raw"]] {
        let ran = scratch.run(&args).expect(2);
        assert!(ran.stderr.contains("only cat and tail"), "{}", ran.stderr);
    }
    scratch.run(&["ls", "--json", "--format", "text"]).expect(2);
}
