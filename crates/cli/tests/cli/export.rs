//! `export` and `import`: nothing is lost on the way, and identities come back only on request.

use deaddrop::{Durability, Log, OwnedRecord, Record, Start, TopicOptions};

use crate::support::{flip, Random, Scratch};

/// Returns any bytes, often none.
fn any_bytes(random: &mut Random, most: u64) -> Vec<u8> {
    let len = random.below(most) as usize;
    let text = random.below(2) == 0;
    (0..len)
        .map(|_| if text { b' ' + random.below(90) as u8 } else { random.below(256) as u8 })
        .collect()
}

fn all(scratch: &Scratch, topic: &str) -> Vec<OwnedRecord> {
    let log = Log::open_read_only(scratch.log()).unwrap();
    let mut reader = log.open_topic(topic).unwrap().reader(Start::First).unwrap();
    let mut records = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        records.push(record.to_owned());
    }
    records
}

type Parts = (Option<Vec<u8>>, Vec<(String, Vec<u8>)>, Vec<u8>);

fn parts(record: &OwnedRecord) -> Parts {
    let record = record.as_ref();
    let headers = record.headers().map(|(name, value)| (name.to_owned(), value.to_owned()));
    (record.key().map(<[u8]>::to_owned), headers.collect(), record.payload().to_owned())
}

#[test]
fn any_record_comes_back_as_it_was_in_the_same_order() {
    let (from, to) = (Scratch::new(), Scratch::new());
    let log = Log::open_or_create(from.log()).unwrap();
    let options = TopicOptions::default().with_durability(Durability::ProcessCrash);
    let topic = log.topic_with("t", options).unwrap();
    for seed in 0..400 {
        let mut random = Random(seed);
        let mut record = Record::new(any_bytes(&mut random, 2000));
        if random.below(3) > 0 {
            record = record.with_key(any_bytes(&mut random, 20));
        }
        for index in 0..random.below(4) {
            // Names repeat, and can be any text.
            record = record
                .with_header(["a", "", "grün\n\"", "a"][index as usize], any_bytes(&mut random, 9));
        }
        topic.append(&record).unwrap();
    }
    topic.append(&Record::new(vec![0xfe; 3 << 20])).unwrap();
    let exported = from.run(&["export", "t"]).expect(0);
    let ran = to.run_with(&["import", "t", "--json"], &exported.stdout).expect(0);
    assert_eq!(ran.json()[0]["records"], 401);
    let (given, got) = (all(&from, "t"), all(&to, "t"));
    assert_eq!(given.len(), got.len());
    for (given, got) in given.iter().zip(&got) {
        assert!(parts(given) == parts(got), "offset {}", given.offset());
        assert_eq!(given.offset(), got.offset());
    }
    // Times are part of the export, to the nanosecond.
    for (line, record) in exported.json().iter().zip(&given) {
        let time = humantime::parse_rfc3339(line["timestamp"].as_str().unwrap()).unwrap();
        assert_eq!(time, record.as_ref().timestamp());
        assert_eq!(line["offset"], record.offset());
    }
    // A record that is imported again names its origin.
    let args = ["import", "again", "--origin"];
    to.run_with(&args, &exported.stdout).expect(0);
    let first = &to.run(&["cat", "again", "7", "--json"]).json()[0];
    let headers = first["headers"].as_array().unwrap();
    let origin: Vec<&serde_json::Value> = headers.iter().rev().take(3).rev().collect();
    assert_eq!(origin[0]["name"], "origin-topic");
    assert_eq!((&origin[1]["name"], &origin[1]["value"]), (&"origin-offset".into(), &"7".into()));
    assert_eq!(origin[2]["value"], exported.json()[7]["timestamp"]);
}

#[test]
fn a_request_is_a_request_again_only_with_the_flag() {
    let from = Scratch::new();
    let id = from.run(&["request", "echo", "hello", "--no-wait"]).expect(0).text();
    let id = id.trim();
    let exported = from.run(&["export", "echo.requests"]).expect(0);
    assert_eq!(exported.json()[0]["headers"][0]["name"], "deaddrop.service");

    let plain = Scratch::new();
    let ran = plain.run_with(&["import", "echo.requests"], &exported.stdout).expect(0);
    assert!(ran.stderr.contains("1 header of requests and replies left out"), "{}", ran.stderr);
    assert!(plain.run(&["cat", "echo.requests", "--json"]).json()[0].get("headers").is_none());
    plain.run(&["request", "--attach", id, "--timeout", "10ms"]).expect(1);

    let restored = Scratch::new();
    let args = ["import", "echo.requests", "--reserved", "--json"];
    let ran = restored.run_with(&args, &exported.stdout).expect(0);
    assert_eq!(ran.json()[0]["reserved_left"], 0);
    assert!(parts(&all(&from, "echo.requests")[0]) == parts(&all(&restored, "echo.requests")[0]));
    restored.run(&["serve", "echo", "-n", "1", "--", "cat"]).expect(0);
    let replies = restored.run(&["dump", "echo.replies"]).expect(0).text();
    assert!(replies.contains(&format!("reply {id}")), "{replies}");
    // `append` has no such flag, and refuses a header of this name.
    restored.run_with(&["append", "t", "--ndjson"], &exported.stdout).expect(2);
}

#[test]
fn ranges_are_exported_and_files_imported_one_after_the_other() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..20));
    for (range, name) in [("10:15", "b"), (":2", "a")] {
        let exported = scratch.run(&["export", "t", range]).expect(0);
        std::fs::write(scratch.path().join(name), exported.stdout).unwrap();
    }
    scratch.run(&["import", "copy", "a", "b", "-q"]).expect(0);
    let seen = scratch.run(&["cat", "copy", "--format", "%V "]).expect(0).text();
    let expected =
        [0, 1, 10, 11, 12, 13, 14].map(|i| format!("{} ", crate::support::payload(i).len()));
    assert_eq!(seen, expected.concat());
}

#[test]
fn what_is_not_an_export_is_refused_with_its_line_and_earlier_lines_are_kept() {
    for (bad, why) in [
        (r#"{"v":2,"payload":"x"}"#, "version 2"),
        (r#"{"v":1}"#, "no payload"),
        (r#"{"payload":"a","payload_base64":"YQ=="}"#, "give only one"),
        (r#"{"payload_base64":"%"}"#, "payload"),
        (r#"{"payload":"cut"#, "its JSON is cut off"),
        ("[]", "line 2"),
    ] {
        let scratch = Scratch::new();
        let input = format!("{{\"v\":1,\"payload\":\"good\"}}\n{bad}\n{{\"payload\":\"later\"}}\n");
        let ran = scratch.run_with(&["import", "t"], input.as_bytes()).expect(2);
        assert!(ran.stderr.contains("line 2 of standard input"), "{}", ran.stderr);
        assert!(ran.stderr.contains(why), "{bad}: {}", ran.stderr);
        assert_eq!(scratch.run(&["cat", "t"]).text(), "good\n");
    }
}

#[test]
fn damage_ends_an_export_with_code_4_unless_it_is_skipped() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..1000));
    flip(&scratch.segments("t")[1], 5000, 3);
    let before = scratch.run(&["export", "t"]).expect(4).json().len();
    assert!(before > 100 && before < 999);
    assert_eq!(scratch.run(&["export", "t", "--skip-damage"]).expect(4).json().len(), 999);
}
