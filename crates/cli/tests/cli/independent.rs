//! An independent reader of the format, in Python, written from `docs/format.md` alone, agrees with
//! the tool about everything in a log.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use base64::prelude::{Engine, BASE64_STANDARD};
use deaddrop::service::Envelope;
use deaddrop::{Durability, Log, Record, Start, TopicOptions};
use serde_json::{json, Map, Value};

use crate::support::{copy_dir, flip, Random, Scratch};

const READER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reader/deaddrop_reader.py");
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/log");

/// Returns whether the tests can run, and prints a note if not. In CI they must.
#[allow(clippy::print_stdout)]
fn has_python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok();
    assert!(found || std::env::var("CI").as_deref() != Ok("true"), "python3 is needed");
    if !found {
        println!("skipped: python3 is not installed");
    }
    found
}

/// Returns what the reader reports about a log.
fn read_by_python(dir: &Path) -> Vec<Value> {
    let output = Command::new("python3").arg(READER).arg(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of_kind<'a>(lines: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    lines.iter().filter(move |line| line["kind"] == kind)
}

/// Inserts bytes as the tool shows them: under `name` if they are text, else under `name_base64`.
fn shown(object: &mut Map<String, Value>, name: &str, base64: &Value) {
    let bytes = BASE64_STANDARD.decode(base64.as_str().unwrap()).unwrap();
    match String::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_base64"), base64.clone()),
    };
}

/// Returns a record of the reader as `export` writes it.
fn as_exported(topic: &str, record: &Value) -> Value {
    let since = Duration::from_nanos(record["timestamp_nanos"].as_u64().unwrap());
    let timestamp = humantime::format_rfc3339_nanos(UNIX_EPOCH + since).to_string();
    let mut object = Map::new();
    object.insert("v".to_owned(), 1.into());
    object.insert("topic".to_owned(), topic.into());
    object.insert("offset".to_owned(), record["offset"].clone());
    object.insert("timestamp".to_owned(), timestamp.into());
    if !record["key"].is_null() {
        shown(&mut object, "key", &record["key"]);
    }
    let headers = record["headers"].as_array().unwrap();
    if !headers.is_empty() {
        let each = headers.iter().map(|header| {
            let mut object = Map::from_iter([("name".to_owned(), header[0].clone())]);
            shown(&mut object, "value", &header[1]);
            Value::Object(object)
        });
        object.insert("headers".to_owned(), each.collect());
    }
    shown(&mut object, "payload", &record["payload"]);
    Value::Object(object)
}

/// Checks that reader and tool report the same about a topic, if the reader can run.
pub(crate) fn agrees(scratch: &Scratch, topic: &str) {
    if has_python() {
        agree(scratch, topic);
    }
}

/// Checks that reader and tool report the same about a topic; returns the reader's lines.
#[track_caller]
fn agree(scratch: &Scratch, topic: &str) -> Vec<Value> {
    let mut lines = read_by_python(&scratch.log());
    let from = lines.iter().position(|line| line["topic"] == topic && line["kind"] == "topic");
    lines.drain(..from.unwrap());
    let to = lines.iter().skip(1).position(|line| line["kind"] == "topic");
    lines.truncate(to.map_or(usize::MAX, |to| to + 1));
    records_agree(scratch, topic, &lines);
    frames_agree(scratch, topic, &lines);
    files_agree(scratch, topic, &lines);
    lines
}

/// Compares records, lost ranges, the end, settings and epochs.
fn records_agree(scratch: &Scratch, topic: &str, lines: &[Value]) {
    let exported = scratch.run(&["export", topic, "--skip-damage"]).json();
    let read: Vec<Value> =
        of_kind(lines, "record").map(|record| as_exported(topic, record)).collect();
    for (read, exported) in read.iter().zip(&exported) {
        assert_eq!(read, exported);
    }
    assert_eq!(read.len(), exported.len());
    let info = &scratch.run(&["info", topic, "--json"]).json()[0];
    assert_eq!(lines[0]["settings"]["segment_len"], info["segment_size"]);
    let epochs = info["epochs"].as_array().unwrap();
    let epochs: Vec<Value> = epochs.iter().map(|e| json!([e["epoch"], e["start"]])).collect();
    assert_eq!(lines[0]["epochs"], Value::Array(epochs));
    let end = of_kind(lines, "end").next().unwrap()["offset"].as_u64().unwrap();
    assert_eq!(end, info["high_watermark"]);
    // Every offset without a record is lost, and no other.
    let mut next = info["first"].as_u64().unwrap();
    let mut there = lines.iter().filter(|line| line["kind"] == "record" || line["kind"] == "lost");
    for line in &mut there {
        let offset = |name: &str| line[name].as_u64().unwrap();
        let (from, to) = match line["kind"] == "record" {
            true => (offset("offset"), offset("offset") + 1),
            false => (offset("from"), offset("to")),
        };
        assert_eq!(from, next, "{line}");
        next = to;
    }
    assert_eq!(next, end);
}

/// Compares positions, batches and void frames with those that `dump` shows.
fn frames_agree(scratch: &Scratch, topic: &str, lines: &[Value]) {
    let read: BTreeMap<u64, &Value> = of_kind(lines, "record")
        .map(|record| (record["offset"].as_u64().unwrap(), record))
        .collect();
    let given_up: Vec<(u64, u64)> = of_kind(lines, "lost")
        .filter(|lost| lost["why"] == "given up")
        .map(|lost| (lost["from"].as_u64().unwrap(), lost["to"].as_u64().unwrap()))
        .collect();
    let mut dumped = Vec::new();
    let mut seen = 0;
    for path in scratch.segments(topic) {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let base: u64 = name.parse().unwrap();
        let mut batch: Option<u64> = None;
        for frame in scratch.run(&["dump", "--json", path.to_str().unwrap()]).json() {
            match frame["kind"].as_str().unwrap() {
                "record" if frame.get("state").is_none() => {
                    let offset = frame["offset"].as_u64().unwrap();
                    let Some(record) = read.get(&offset) else { continue };
                    if record["segment"] != base {
                        // Cut off there, and appended again.
                        continue;
                    }
                    assert_eq!(record["position"], frame["position"]);
                    let first = *batch.get_or_insert(offset);
                    assert_eq!(record["batch"].as_u64(), Some(first), "{frame}");
                    let continues =
                        frame["flags"].as_array().unwrap().contains(&"continues".into());
                    batch = batch.filter(|_| continues);
                    seen += 1;
                }
                "void" => {
                    if let Some(range) = frame["gives_up"].as_array() {
                        dumped.push((range[0].as_u64().unwrap(), range[1].as_u64().unwrap()));
                        batch = None;
                    }
                }
                "damaged" => batch = None,
                _ => {}
            }
        }
    }
    assert_eq!(seen, read.len());
    assert_eq!(given_up, dumped);
}

/// Compares indexes, offset files and group files.
fn files_agree(scratch: &Scratch, topic: &str, lines: &[Value]) {
    let dir = scratch.log().join("topics").join(topic);
    for index in of_kind(lines, "index") {
        let path = dir.join(format!("{:020}.idx", index["base"].as_u64().unwrap()));
        let dumped = scratch.run(&["dump", "--json", path.to_str().unwrap()]).json();
        let entries = index["entries"].as_array().unwrap();
        assert_eq!(dumped.len(), 1 + entries.len());
        for (entry, dumped) in entries.iter().zip(&dumped[1..]) {
            assert_eq!(entry[0], dumped["offset"]);
            assert_eq!(entry[2], dumped["position"]);
        }
    }
    let shown = scratch.run(&["consumers", topic, "--json"]).json();
    let read: Vec<&Value> = of_kind(lines, "consumer").collect();
    assert_eq!(read.len(), shown.len());
    for (read, shown) in read.iter().zip(&shown) {
        assert_eq!(read["consumer"], shown["consumer"]);
        assert_eq!(read["durable"], shown["durable"]);
        assert_eq!(read["committed"], shown["committed"], "{read}");
    }
    for group in of_kind(lines, "group") {
        let path = dir.join("groups").join(group["group"].as_str().unwrap());
        let dumped = scratch.run(&["dump", "--json", path.to_str().unwrap()]).json();
        let lanes = group["lanes"].as_array().unwrap();
        assert_eq!(dumped[0]["lanes"], lanes.len());
        for (number, lane) in lanes.iter().enumerate() {
            let slots = of_kind(&dumped, "slot").filter(|slot| slot["lane"] == number);
            let newest = slots.max_by_key(|slot| slot["sequence"].as_u64()).unwrap();
            assert_eq!(lane["durable"], newest["offset"], "{lane}");
        }
    }
}

fn any_record(random: &mut Random) -> Record {
    let mut bytes = |most: u64| -> Vec<u8> {
        (0..random.below(most)).map(|_| random.below(256) as u8).collect()
    };
    let (payload, key, value) = (bytes(400), bytes(20), bytes(9));
    let mut record = Record::new(payload);
    if random.below(3) > 0 {
        record = record.with_key(key);
    }
    for index in 0..random.below(4) {
        record = record.with_header(["a", "", "grün\n\"", "a"][index as usize], &value);
    }
    record
}

/// Fills a topic with random records, alone and in batches, in several lives and segments.
fn fresh(scratch: &Scratch, seed: u64, durability: Durability) {
    let mut random = Random(seed);
    let options = TopicOptions::default().with_durability(durability).with_segment_len(128 << 10);
    for life in 0..3 {
        let log = Log::open_or_create(scratch.log()).unwrap();
        let topic = match life {
            0 => log.topic_with("t", options).unwrap(),
            _ => log.topic("t").unwrap(),
        };
        for _ in 0..100 {
            let batch: Vec<Record> =
                (0..1 + random.below(9)).map(|_| any_record(&mut random)).collect();
            topic.append_batch(&batch).unwrap();
        }
        for name in ["often", "once"] {
            let mut consumer = topic.consumer(name, Start::First).unwrap();
            for _ in 0..1 + random.below(40) {
                consumer.next().unwrap();
                consumer.commit().unwrap();
            }
            if name == "often" {
                consumer.sync().unwrap();
            }
        }
        // Reading from offsets makes the indexes.
        for offset in (0..topic.end_offset().unwrap()).step_by(100) {
            topic.reader(Start::Offset(offset)).unwrap().next().unwrap();
        }
    }
}

/// Returns a copy of the log without the files that belong to this boot only.
fn elsewhere(scratch: &Scratch) -> Scratch {
    let copy = copy_of(scratch);
    std::fs::remove_file(copy.log().join("topics/t/control")).unwrap();
    copy
}

#[test]
fn the_golden_log_is_read_the_same_by_an_independent_reader() {
    if has_python() {
        let copy = Scratch::new();
        copy_dir(Path::new(GOLDEN), &copy.log());
        let lines = agree(&copy, "orders");
        assert_eq!(of_kind(&lines, "record").count(), 44);
        assert_eq!(of_kind(&lines, "index").count(), 2);
        assert_eq!(of_kind(&lines, "group").count(), 1);
    }
}

#[test]
fn a_fresh_log_of_random_records_is_read_the_same_by_an_independent_reader() {
    if !has_python() {
        return;
    }
    let durabilities = [
        Durability::PowerLoss,
        Durability::PowerLossWithin(Duration::from_millis(20)),
        Durability::ProcessCrash,
    ];
    for (seed, durability) in durabilities.into_iter().enumerate() {
        let scratch = Scratch::new();
        fresh(&scratch, seed as u64, durability);
        let lines = agree(&scratch, "t");
        assert!(of_kind(&lines, "record").count() > 800);
        assert!(of_kind(&lines, "index").count() > 1, "{durability:?}");
        let consumers: Vec<&Value> = of_kind(&lines, "consumer").collect();
        assert_eq!(consumers.len(), 2);
        assert!(consumers.iter().all(|consumer| consumer["committed"].as_u64() > Some(0)));
        agree(&elsewhere(&scratch), "t");
    }
}

#[test]
fn a_log_with_damage_and_its_repair_are_read_the_same_by_an_independent_reader() {
    if !has_python() {
        return;
    }
    for seed in 0..4 {
        let scratch = Scratch::new();
        fresh(&scratch, seed, Durability::PowerLoss);
        let mut random = Random(seed);
        let segments = scratch.segments("t");
        let sealed: Range<usize> = 0..segments.len() - 1;
        for path in &segments[sealed] {
            let len = std::fs::metadata(path).unwrap().len();
            for _ in 0..random.below(4) {
                flip(path, 4096 + random.below(len - 4096), random.below(8) as u8);
            }
        }
        // Without a valid copy of its header, all of a segment is lost.
        if seed == 3 {
            flip(&segments[1], 20, 1);
            flip(&segments[1], 7 * 512 + 20, 1);
        }
        let lines = agree(&scratch, "t");
        assert!(of_kind(&lines, "lost").count() > 0, "seed {seed} damaged no record");
        scratch.run(&["repair", "t", "--execute"]);
        let lines = agree(&scratch, "t");
        let given_up = of_kind(&lines, "lost").filter(|lost| lost["why"] == "given up");
        assert!(given_up.count() > 0);
    }
}

/// Writes sectors of zeros, as a power cut leaves them, or flips single bits.
fn spoil(random: &mut Random, path: &Path) {
    let len = std::fs::metadata(path).unwrap().len();
    let at = 4096 + random.below(len - 4096);
    if random.below(2) == 0 {
        flip(path, at, random.below(8) as u8);
        return;
    }
    let file = std::fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 512], at / 512 * 512).unwrap();
}

#[test]
fn torn_and_rotten_records_past_the_boundary_are_read_the_same_by_an_independent_reader() {
    if !has_python() {
        return;
    }
    let (mut torn, mut rotten) = (0, 0);
    for seed in 0..12 {
        let scratch = Scratch::new();
        let mut random = Random(seed);
        let options = TopicOptions::default()
            .with_durability(Durability::ProcessCrash)
            .with_segment_len(64 << 10);
        let topic = Log::open_or_create(scratch.log()).unwrap().topic_with("t", options).unwrap();
        for _ in 0..80 + random.below(40) {
            let batch: Vec<Record> =
                (0..1 + random.below(9)).map(|_| any_record(&mut random)).collect();
            topic.append_batch(&batch).unwrap();
        }
        let end = topic.end_offset().unwrap();
        // It is copied while it is open, so little of it is promised.
        let copy = elsewhere(&scratch);
        for path in copy.segments("t") {
            for _ in 0..random.below(3) {
                spoil(&mut random, &path);
            }
        }
        let lines = agree(&copy, "t");
        let reached = of_kind(&lines, "end").next().unwrap()["offset"].as_u64().unwrap();
        torn += usize::from(reached < end);
        rotten += of_kind(&lines, "lost").count();
    }
    assert!(torn > 2 && rotten > 2, "{torn} torn, {rotten} rotten");
}

#[test]
fn a_newest_segment_whose_header_was_never_written_is_read_the_same_by_an_independent_reader() {
    if !has_python() {
        return;
    }
    let scratch = Scratch::new();
    fresh(&scratch, 1, Durability::PowerLoss);
    let copy = elsewhere(&scratch);
    let newest = copy.segments("t").pop().unwrap();
    let file = std::fs::File::options().write(true).open(newest).unwrap();
    for sector in [0, 7 * 512] {
        std::os::unix::fs::FileExt::write_all_at(&file, &[0; 512], sector).unwrap();
    }
    let lines = agree(&copy, "t");
    assert!(of_kind(&lines, "record").count() > 100);
}

#[test]
fn segments_that_come_back_after_a_trim_are_read_the_same_by_an_independent_reader() {
    if !has_python() {
        return;
    }
    let scratch = Scratch::new();
    fresh(&scratch, 5, Durability::PowerLoss);
    let oldest = scratch.segments("t").swap_remove(0);
    let bytes = std::fs::read(&oldest).unwrap();
    let before = scratch.segments("t").len();
    scratch.run(&["trim", "t", "--before", "end", "--execute"]).expect(0);
    assert!(scratch.segments("t").len() < before && !oldest.exists());
    std::fs::write(&oldest, bytes).unwrap();
    let copy = elsewhere(&scratch);
    let notes = std::fs::read_dir(copy.log().join("topics/t")).unwrap();
    let is_note = |name: &str| name.ends_with(".first");
    assert!(notes
        .map(|note| note.unwrap().file_name())
        .any(|name| is_note(name.to_str().unwrap())));
    let lines = agree(&copy, "t");
    let first = of_kind(&lines, "record").next().map(|record| record["segment"].as_u64().unwrap());
    assert!(first != Some(0), "the segment that came back does not belong to the log");
}

#[test]
fn positions_that_no_sync_reached_are_read_the_same_by_an_independent_reader() {
    if !has_python() {
        return;
    }
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..50);
    let mut consumers = Vec::new();
    for (name, moves) in [("forwards", &[10, 30][..]), ("back", &[30, 5]), ("fresh", &[])] {
        let mut consumer = topic.consumer(name, Start::First).unwrap();
        for &to in moves {
            consumer.seek(Start::Offset(to)).unwrap();
            consumer.next().unwrap();
            consumer.commit().unwrap();
        }
        consumers.push(consumer);
    }
    for log in [copy_of(&scratch), elsewhere(&scratch)] {
        let lines = agree(&log, "t");
        let committed: Vec<u64> = of_kind(&lines, "consumer")
            .map(|consumer| consumer["committed"].as_u64().unwrap())
            .collect();
        assert_eq!(committed.len(), 3);
        assert!(committed.contains(&31), "a position that was only in memory: {committed:?}");
    }
    // Half of a page was written back: the check fails, and the slot counts.
    let copy = elsewhere(&scratch);
    flip(&copy.log().join("topics/t/consumers/forwards"), 560, 1);
    agree(&copy, "t");
}

fn copy_of(scratch: &Scratch) -> Scratch {
    let copy = Scratch::new();
    copy_dir(&scratch.log(), &copy.log());
    copy
}

#[test]
fn requests_and_outcomes_are_read_the_same_by_an_independent_reader() {
    if !has_python() {
        return;
    }
    let scratch = Scratch::new();
    let mut serve = scratch.command(&["serve", "echo", "--", "cat"]).spawn().unwrap();
    for number in 0..5 {
        let payload = format!("request {number}");
        scratch.run(&["request", "echo", &payload, "--timeout", "30s"]).expect(0);
    }
    serve.kill().unwrap();
    serve.wait().unwrap();
    let log = Log::open_read_only(scratch.log()).unwrap();
    for topic in ["echo.requests", "echo.replies"] {
        let lines = agree(&scratch, topic);
        assert_eq!(of_kind(&lines, "record").count(), 5);
        let mut reader = log.open_topic(topic).unwrap().reader(Start::First).unwrap();
        for read in of_kind(&lines, "record") {
            let record = reader.next().unwrap().unwrap();
            let envelope = Envelope::of(&record).unwrap().unwrap();
            let read = &read["service"];
            assert_eq!(read["kind"], envelope.kind.to_string());
            assert_eq!(read["id"], envelope.id.to_string());
            assert_eq!(read["deadline"].as_u64(), envelope.deadline);
            assert_eq!(read["attempt"].as_u64(), envelope.attempt.map(u64::from));
            assert_eq!(read["request_offset"].as_u64(), envelope.request_offset);
            assert_eq!(read["begun_at"].as_u64(), envelope.begun_at);
            assert_eq!(read["handler_nanos"].as_u64(), envelope.handler_nanos);
            let conversation = envelope.conversation.map(|id| id.to_string());
            assert_eq!(read["conversation"].as_str(), conversation.as_deref());
        }
    }
}
