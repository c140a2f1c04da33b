//! `--format help`: what it documents is what is printed, field by field.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;

use deaddrop::format::cursor;
use deaddrop::{Record, Start};
use serde_json::Value;

use crate::support::{flip, Scratch};

/// One kind of object: the documented types by path.
type Object = BTreeMap<String, String>;

/// The objects that a command documents.
fn documented(scratch: &Scratch, command: &str) -> Vec<Object> {
    let text = scratch.run(&[command, "--format", "help"]).expect(0).text();
    let common = text.lines().find(|line| line.starts_with("  v ")).unwrap();
    assert!(common.contains("number") && common.contains(" 1: "), "{common}");
    let mut objects: Vec<Object> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with("object: ") {
            objects.push(Object::from([("v".to_owned(), "number".to_owned())]));
            inside = true;
        } else if line.is_empty() {
            inside = false;
        } else if inside {
            let columns: Vec<&str> =
                line.trim().split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
            let [path, kind, meaning] = columns[..] else { panic!("{command}: {line:?}") };
            assert!(!meaning.is_empty());
            objects.last_mut().unwrap().insert(path.to_owned(), kind.to_owned());
        }
    }
    objects
}

/// All paths of a value with the values there: `a`, `a.b`, `a[].b`.
fn flatten(path: &str, value: &Value, kinds: &Object, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(map) if kinds.get(path).is_none_or(|kind| kind != "any") => {
            for (name, value) in map {
                let dot = if path.is_empty() { "" } else { "." };
                flatten(&format!("{path}{dot}{name}"), value, kinds, found);
            }
        }
        Value::Array(list) if kinds.get(path).is_none_or(|kind| kind != "any") => {
            for value in list {
                flatten(&format!("{path}[]"), value, kinds, found);
            }
        }
        other => found.push((path.to_owned(), other.clone())),
    }
}

fn is_of(value: &Value, kind: &str) -> bool {
    kind.trim_end_matches('?').split('|').any(|kind| match kind {
        "string" => value.is_string(),
        "number" => value.is_number(),
        "bool" => value.is_boolean(),
        "null" => value.is_null(),
        "any" => true,
        other => panic!("no type {other}"),
    })
}

/// Whether `value` has exactly these fields: all that must be there, and none besides.
fn matches(value: &Value, object: &Object, seen: &mut BTreeSet<String>) -> bool {
    let mut found = Vec::new();
    flatten("", value, object, &mut found);
    let known =
        found.iter().all(|(path, value)| object.get(path).is_some_and(|kind| is_of(value, kind)));
    // In a list, what must be there is so if the list has anything.
    let paths: BTreeSet<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
    let whole = object.iter().filter(|(_, kind)| !kind.ends_with('?')).all(|(path, _)| {
        let empty = |list: &str| !paths.iter().any(|found| found.starts_with(list));
        paths.contains(path.as_str())
            || path.split_once("[]").is_some_and(|(list, _)| empty(&format!("{list}[]")))
    });
    if known && whole {
        seen.extend(found.into_iter().map(|(path, _)| path));
    }
    known && whole
}

/// Checks that each printed object is documented, and each documented field was printed.
fn check(scratch: &Scratch, command: &str, printed: &[Value]) {
    let objects = documented(scratch, command);
    let mut seen = vec![BTreeSet::new(); objects.len()];
    for value in printed {
        let mut fits =
            objects.iter().zip(&mut seen).map(|(object, seen)| matches(value, object, seen));
        assert!(fits.any(|fits| fits), "{command} prints what it does not document: {value}");
    }
    for (object, seen) in objects.iter().zip(&seen) {
        let missing: Vec<&String> = object.keys().filter(|path| !seen.contains(*path)).collect();
        assert!(missing.is_empty(), "{command} never prints {missing:?} of {object:#?}");
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
