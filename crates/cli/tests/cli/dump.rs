//! `dump`: every whole frame is shown, whatever is around it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{copy_dir, feed, flip, payload, snapshot, Random, Scratch};

fn of_kind<'a>(lines: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    lines.iter().filter(move |line| line["kind"] == kind)
}

fn offsets(lines: &[Value]) -> Vec<u64> {
    of_kind(lines, "record").map(|frame| frame["offset"].as_u64().unwrap()).collect()
}

fn dump(scratch: &Scratch, path: &Path, code: i32) -> Vec<Value> {
    scratch.run(&["dump", "--json", path.to_str().unwrap()]).expect(code).json()
}

#[test]
fn a_segment_without_records_before_it_has_no_newest_time() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..2_000));
    let segments = scratch.segments("t");
    let newest = |at: usize| dump(&scratch, &segments[at], 0)[0]["max_timestamp"].clone();
    assert_eq!(newest(0), Value::Null);
    assert!(newest(1).as_str().unwrap().ends_with('Z'), "{}", newest(1));
}

#[test]
fn frames_are_shown_with_all_their_parts() {
    let scratch = Scratch::new();
    let args = ["append", "t", "-q", "--key", "k\u{1b}", "-H", "a=1"];
    scratch.run_with(&args, b"one\nt\xffwo\n").expect(0);
    let lines = scratch.run(&["dump", "t", "--json"]).expect(0).json();
    assert_eq!(of_kind(&lines, "segment").next().unwrap()["base"], 0);
    let frames: Vec<&Value> = of_kind(&lines, "record").collect();
    assert_eq!(frames.len(), 2);
    assert_eq!((&frames[0]["position"], &frames[0]["offset"]), (&4096.into(), &0.into()));
    assert_eq!(frames[0]["flags"], serde_json::json!(["key", "continues"]));
    assert_eq!(frames[1]["flags"], serde_json::json!(["key"]));
    assert_eq!(frames[0]["headers"][0]["name"], "a");
    assert_eq!(frames[0]["checksum"], frames[0]["computed"]);
    assert_eq!(
        (&frames[0]["payload"], &frames[1]["payload_base64"]),
        (&"one".into(), &"dP93bw==".into())
    );
    assert_eq!(of_kind(&lines, "zeros").count(), 1);
    let text = scratch.run(&["dump", "t", "--hex"]).expect(0).text();
    assert!(text.contains("74 ff 77 6f") && text.contains("|t.wo|"), "{text}");
    assert!(!text.contains('\x1b'), "control characters are escaped");
    let text = scratch.run(&["dump", "t"]).expect(0).text();
    assert!(text.contains(r#"key "k\u{1b}""#) && text.contains("t\\xffwo"), "{text}");
    assert!(text.ends_with("2 frames, 0 void frames, 7 B of payload\n"), "{text}");
}

#[test]
fn long_payloads_are_shown_whole_on_demand() {
    let scratch = Scratch::new();
    scratch.append("t", &"z".repeat(5000));
    let text = scratch.run(&["dump", "t"]).expect(0).text();
    assert!(text.contains("and 4840 more bytes") && !text.contains(&"z".repeat(161)), "{text}");
    assert!(scratch.run(&["dump", "t", "--full"]).expect(0).text().contains(&"z".repeat(5000)));
}

#[test]
fn a_segment_with_flipped_bits_shows_all_other_frames() {
    for seed in 0..30 {
        println!("seed {seed}");
        let scratch = Scratch::new();
        drop(scratch.topic_of("t", 0..150));
        let source = scratch.segments("t").swap_remove(0);
        // Alone, in another directory and under another name.
        let path = scratch.path().join("alone.seg");
        std::fs::copy(&source, &path).unwrap();
        let whole = dump(&scratch, &path, 0);
        let frames: Vec<(u64, u64, u64)> = of_kind(&whole, "record")
            .map(|frame| {
                let number = |name: &str| frame[name].as_u64().unwrap();
                (number("position"), number("position") + number("len"), number("offset"))
            })
            .collect();
        assert!(frames.len() > 50);
        let mut random = Random(seed);
        let mut hit = BTreeSet::new();
        for _ in 0..1 + random.below(12) {
            // Every third time in the header: `dump` then finds the salt from the frames.
            let position = match seed % 3 {
                0 if hit.is_empty() => random.below(68),
                _ => 4096 + random.below(frames.last().unwrap().1 - 4096),
            };
            flip(&path, position, random.below(8) as u8);
            hit.insert(position);
        }
        let damaged = |start: u64, end: u64| {
            // Padding belongs to a frame too.
            hit.range(start..end.next_multiple_of(8)).next().is_some()
        };
        let expected: Vec<u64> = frames
            .iter()
            .filter(|(start, end, _)| !damaged(*start, *end))
            .map(|&(_, _, offset)| offset)
            .collect();
        // Two flips of one bit cancel each other.
        let lost = frames.len() - expected.len();
        let lines = dump(&scratch, &path, if lost > 0 || seed % 3 == 0 { 4 } else { 0 });
        let found = offsets(&lines);
        let missing: Vec<&u64> = expected.iter().filter(|o| !found.contains(o)).collect();
        assert!(missing.is_empty(), "undamaged and not shown: {missing:?}");
        for frame in of_kind(&lines, "record") {
            let offset = frame["offset"].as_u64().unwrap();
            assert_eq!(frame["payload"], payload(offset), "dump shows the appended payload");
        }
    }
}

#[test]
fn garbage_of_any_kind_causes_no_panic_and_no_hang() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..100));
    let whole = std::fs::read(&scratch.segments("t")[0]).unwrap();
    let mut random = Random(7);
    let noise: Vec<u8> = (0..50_000).map(|_| random.below(256) as u8).collect();
    let mut header_and_noise = whole[..4096].to_vec();
    header_and_noise.extend(&noise);
    // Frames with plausible, wrong lengths, everywhere.
    let hostile: Vec<u8> = whole[..4096]
        .iter()
        .copied()
        .chain(whole[4096..4128].iter().copied().cycle().take(500_000))
        .collect();
    for (name, bytes) in [
        ("empty", Vec::new()),
        ("short", whole[..40].to_vec()),
        ("header only", whole[..4096].to_vec()),
        ("cut in a frame", whole[..4096 + 50].to_vec()),
        ("noise", noise),
        ("header and noise", header_and_noise),
        ("hostile", hostile),
        ("zeros", vec![0; 100_000]),
        ("ones", vec![0xff; 100_000]),
    ] {
        let path = scratch.path().join("odd.seg");
        std::fs::write(&path, bytes).unwrap();
        let ran = scratch.run(&["dump", path.to_str().unwrap()]);
        assert!(matches!(ran.code, Some(0 | 4)), "{name}: {:?} {}", ran.code, ran.stderr);
        assert!(ran.stderr.is_empty(), "{name}: {}", ran.stderr);
    }
}

#[test]
fn a_torn_tail_is_distinguished_from_damage_and_from_unused_space() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..20));
    let path = scratch.path().join("torn.seg");
    std::fs::copy(&scratch.segments("t")[0], &path).unwrap();
    let lines = dump(&scratch, &path, 0);
    let end = of_kind(&lines, "zeros").next().unwrap()["position"].as_u64().unwrap();
    flip(&path, end + 4, 5);
    let lines = dump(&scratch, &path, 0);
    let torn = of_kind(&lines, "torn").next().unwrap();
    assert_eq!((&torn["position"], &torn["zeros_from"]), (&end.into(), &(end + 8).into()));
    assert_eq!(lines.last().unwrap()["torn_bytes"], 8);
    flip(&path, 4100, 0);
    let lines = dump(&scratch, &path, 4);
    assert_eq!(of_kind(&lines, "damaged").next().unwrap()["position"], 4096);
    assert_eq!(offsets(&lines), (1..20).collect::<Vec<_>>());
}

#[test]
fn the_small_files_are_shown_by_their_kind() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..1000).consumer("c", deaddrop::Start::Offset(5)).unwrap());
    scratch.store_index("t", |_| {});
    let topic = scratch.log().join("topics/t");
    let settings = &dump(&scratch, &topic.join("settings"), 0)[0];
    assert_eq!((&settings["kind"], &settings["segment_len"]), (&"settings".into(), &16384.into()));
    let index = scratch.segments("t")[0].with_extension("idx");
    let lines = dump(&scratch, &index, 0);
    assert_eq!((&lines[0]["kind"], &lines[1]["position"]), (&"index".into(), &4096.into()));
    let lines = dump(&scratch, &topic.join("consumers/c"), 0);
    assert_eq!((&lines[0]["kind"], &lines[1]["offset"]), (&"consumer".into(), &5.into()));
    assert_eq!(dump(&scratch, &scratch.log().join("deaddrop"), 0)[0]["valid"], true);
    flip(&topic.join("settings"), 24, 1);
    scratch.run(&["dump", topic.join("settings").to_str().unwrap()]).expect(4);
    let lines = dump(&scratch, &topic.join("control"), 0);
    let word = |name: &str| of_kind(&lines, "word").find(|line| line["word"] == name).unwrap();
    assert_eq!(
        (&word("tail.end")["value"], &word("identity.ready")["value"]),
        (&1000.into(), &1.into())
    );
    assert_eq!(of_kind(&lines, "member").next().unwrap()["pid"], std::process::id());
    flip(&topic.join("control"), 0, 1);
    scratch.run(&["dump", topic.join("control").to_str().unwrap()]).expect(4);
    scratch.run(&["dump", topic.join("nothing.seg").to_str().unwrap()]).expect(3);
}

#[test]
fn of_a_thousand_flipped_bits_every_one_is_found_and_every_undamaged_frame_is_shown() {
    let seed = 1_000;
    println!("seed {seed}");
    let scratch = Scratch::new();
    let lines: String = (0..40_000).map(|number| format!("{}\n", payload(number))).collect();
    scratch.run_with(&["append", "t", "-q", "--segment-size", "4MiB"], lines.as_bytes()).expect(0);
    let path = scratch.path().join("flipped.seg");
    std::fs::copy(&scratch.segments("t")[0], &path).unwrap();
    let number = |line: &Value, name: &str| line[name].as_u64().unwrap();
    let frames: Vec<(u64, u64, u64)> = of_kind(&dump(&scratch, &path, 0), "record")
        .map(|frame| {
            let position = number(frame, "position");
            let end = position + number(frame, "len").next_multiple_of(8);
            (position, end, number(frame, "offset"))
        })
        .collect();
    let end = frames.last().unwrap().1;
    let mut random = Random(seed);
    let mut flips = BTreeSet::new();
    while flips.len() < 1_000 {
        let at = (4096 + random.below(end - 4096), random.below(8) as u8);
        if flips.insert(at) {
            flip(&path, at.0, at.1);
        }
    }
    let hit = |start: u64, end: u64| flips.range((start, 0)..(end, 0)).next().is_some();
    let lines = dump(&scratch, &path, 4);
    let shown = offsets(&lines);
    let undamaged: Vec<u64> = frames
        .iter()
        .filter(|(start, end, _)| !hit(*start, *end))
        .map(|&(_, _, offset)| offset)
        .collect();
    assert!(frames.len() - undamaged.len() > 900 && undamaged.len() > 20_000);
    assert_eq!(shown, undamaged, "the undamaged frames, and no others");
    for frame in of_kind(&lines, "record") {
        assert_eq!(frame["payload"], payload(number(frame, "offset")));
    }
    // The last frame may be hit: in the file alone, its bytes then look like a torn tail.
    let named: Vec<(u64, u64)> = of_kind(&lines, "damaged")
        .chain(of_kind(&lines, "torn"))
        .map(|line| (number(line, "position"), number(line, "end")))
        .collect();
    for (at, bit) in &flips {
        let found = named.iter().any(|(start, end)| (start..end).contains(&at));
        assert!(found, "the flipped bit {bit} of position {at} is in no damaged range");
    }
    for (start, end) in &named {
        assert!(hit(*start, *end), "{start}..{end} is intact and was called damaged");
    }
    let summary = lines.last().unwrap();
    assert_eq!(number(summary, "frames"), undamaged.len() as u64);
    assert!(number(summary, "damaged") + 1 >= named.len() as u64);
}

#[test]
fn a_range_shows_its_frames_and_the_damage_that_reaches_into_it() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..1000));
    let ranged =
        |range: &str, code| scratch.run(&["dump", "t", range, "--json"]).expect(code).json();
    assert_eq!(offsets(&ranged("490:510", 0)), (490..510).collect::<Vec<_>>());
    assert_eq!(offsets(&ranged("-3", 0)), [997, 998, 999]);
    let path = scratch.segments("t").swap_remove(0);
    let lines = scratch.run(&["dump", "t", "20:22", "--json"]).expect(0).json();
    let position = of_kind(&lines, "record").next().unwrap()["position"].as_u64().unwrap();
    flip(&path, position + 33, 1);
    let lines = ranged("20:22", 4);
    assert_eq!(offsets(&lines), [21]);
    assert_eq!(of_kind(&lines, "damaged").next().unwrap()["position"], position);
    assert_eq!(offsets(&ranged("19:21", 4)), [19]);
    assert_eq!(offsets(&ranged("21:23", 0)), [21, 22]);
    let alone = path.to_str().unwrap();
    let lines = scratch.run(&["dump", alone, "5:+2", "--json"]).expect(0).json();
    assert_eq!(offsets(&lines), [5, 6]);
    let refused = scratch.run(&["dump", alone, "-1h"]).expect(2);
    assert!(refused.stderr.contains("10:20"), "{}", refused.stderr);
}

#[test]
fn a_payload_that_is_json_is_shown_as_json_on_demand() {
    let scratch = Scratch::new();
    scratch.append("t", "{\"item\": 7}\nplain\n");
    let lines = scratch.run(&["dump", "t", "--json", "--payload-json"]).expect(0).json();
    let frames: Vec<&Value> = of_kind(&lines, "record").collect();
    assert_eq!(frames[0]["payload_json"]["item"], 7);
    assert_eq!(frames[1]["payload"], "plain");
    let lines = scratch.run(&["dump", "t", "--json"]).expect(0).json();
    assert_eq!(of_kind(&lines, "record").next().unwrap()["payload"], "{\"item\": 7}");
}

#[test]
fn a_copy_of_a_crashed_directory_shows_all_that_was_acknowledged() {
    let scratch = Scratch::new();
    scratch.run(&["append", "t", "--durability", "process-crash", "-q"]).expect(0);
    let mut child = scratch
        .command(&["append", "t", "--ack"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        // Ends when the child is killed, because its end of the pipe is closed then.
        while stdin.write_all(b"some record\n").is_ok() {}
    });
    let acks = BufReader::new(child.stdout.take().unwrap()).lines().take(5_000);
    let acknowledged: Vec<u64> = acks.map(|line| line.unwrap().parse().unwrap()).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    feeder.join().unwrap();
    let copy = Scratch::new();
    copy_dir(&scratch.log(), &copy.log());
    let lines = copy.run(&["dump", "t", "--json"]).expect(0).json();
    let shown = offsets(&lines);
    assert_eq!(acknowledged.len(), 5_000);
    assert_eq!(shown[..5_000], acknowledged[..]);
    assert!(shown.windows(2).all(|pair| pair[0] + 1 == pair[1]), "no gap and no repetition");
}

#[test]
fn an_empty_a_missing_and_a_foreign_directory_are_refused_and_not_touched() {
    let scratch = Scratch::new();
    let refused = |code| scratch.run(&["dump", "t"]).expect(code).stderr;
    assert!(refused(3).contains("is not a log"), "missing");
    assert!(!scratch.log().exists());
    std::fs::create_dir(scratch.log()).unwrap();
    assert!(refused(3).contains("is not a log"), "empty");
    assert_eq!(std::fs::read_dir(scratch.log()).unwrap().count(), 0);
    std::fs::write(scratch.log().join("holiday.jpg"), "x").unwrap();
    assert!(refused(3).contains("is not a log"), "foreign");
    assert_eq!(snapshot(&scratch.log()).len(), 1);
    // A directory and a foreign file instead of a segment.
    scratch.run(&["dump", "./drop"]).expect(3);
    let foreign = scratch.log().join("holiday.jpg");
    let ran = scratch.run(&["dump", foreign.to_str().unwrap()]);
    assert!(matches!(ran.code, Some(0 | 4)), "{:?} {}", ran.code, ran.stderr);
}

#[test]
fn beside_three_processes_that_append_at_full_speed_no_frame_is_called_damaged() {
    let scratch = Scratch::new();
    let settings = ["append", "t", "--durability", "process-crash", "--segment-size", "256KiB"];
    scratch.run(&settings).expect(0);
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let mut child =
                scratch.command(&["append", "t", "-q"]).stdin(Stdio::piped()).spawn().unwrap();
            std::thread::spawn(move || {
                let line = format!("{writer} {}\n", "x".repeat(200));
                feed(&mut child, line.repeat(20_000).as_bytes());
                child.wait().unwrap()
            })
        })
        .collect();
    let mut rounds = 0;
    let mut seen = 0;
    while writers.iter().any(|writer| !writer.is_finished()) && rounds < 1_000 {
        let lines = scratch.run(&["dump", "t", "--json"]).expect(0).json();
        let shown = offsets(&lines);
        assert!(shown.iter().enumerate().all(|(index, &offset)| index as u64 == offset));
        assert!(shown.len() >= seen, "every record shown before is shown again");
        seen = shown.len();
        rounds += 1;
    }
    assert!(rounds > 0);
    for writer in writers {
        assert_eq!(writer.join().unwrap().code(), Some(0));
    }
    let lines = scratch.run(&["dump", "t", "--json"]).expect(0).json();
    assert_eq!(offsets(&lines).len(), 60_000);
}

#[test]
fn a_group_is_shown_lane_by_lane_and_a_damaged_lane_hides_no_other() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..10);
    let options = deaddrop::group::GroupOptions::default()
        .with_lanes(4)
        .with_start(deaddrop::Start::Offset(3));
    drop(topic.group("workers", options).unwrap());
    drop(topic);
    let path = scratch.log().join("topics/t/groups/workers");
    let lines = dump(&scratch, &path, 0);
    assert_eq!(of_kind(&lines, "group").next().unwrap()["lanes"], 4);
    let slots: Vec<&Value> = of_kind(&lines, "slot").filter(|slot| slot["slot"] == "a").collect();
    assert_eq!(slots.len(), 4);
    assert!(slots.iter().all(|slot| slot["offset"] == 3));
    flip(&path, 2 * 4096 + 1, 0);
    let lines = dump(&scratch, &path, 4);
    let damaged = of_kind(&lines, "lane").find(|lane| lane["damaged"].is_string()).unwrap();
    assert_eq!((&damaged["lane"], &damaged["position"]), (&1.into(), &8192.into()));
    assert_eq!(of_kind(&lines, "slot").filter(|slot| slot["slot"] == "a").count(), 3);
}

#[test]
fn a_record_that_is_checked_in_pieces_is_checked_to_its_last_byte() {
    const LEN: usize = 20 << 20;
    let scratch = Scratch::new();
    scratch.run_with(&["append", "t", "--whole"], &vec![b'x'; LEN]).expect(0);
    scratch.append("t", "next\n");
    let lines = scratch.run(&["dump", "t", "--json"]).expect(0).json();
    let long = of_kind(&lines, "record").next().unwrap();
    assert_eq!(long["payload_len"], LEN);
    assert_eq!(long["payload"].as_str().unwrap().len(), 1 << 20);
    scratch.run(&["verify"]).expect(0);
    assert_eq!(scratch.run(&["cat", "t", "0"]).expect(0).stdout.len(), LEN + 1);
    let [position, len] = ["position", "len"].map(|name| long[name].as_u64().unwrap());
    for at in [position + 33, position + (19 << 20), position + len - 1] {
        let path = &scratch.segments("t")[0];
        flip(path, at, 0);
        let lines = scratch.run(&["dump", "t", "--json"]).expect(4).json();
        assert_eq!(of_kind(&lines, "damaged").next().unwrap()["position"], position);
        let found = scratch.run(&["verify", "--json"]).expect(4).json();
        assert_eq!((&found[0]["position"], &found[0]["lost_end"]), (&position.into(), &1.into()));
        flip(path, at, 0);
    }
}
