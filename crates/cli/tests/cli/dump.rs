//! `dump`: every whole frame is shown whatever stands around it.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::support::{flip, payload, Random, Scratch};

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
        // Alone, elsewhere and under another name.
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
            // Every third time in the header: its salt is then found from the frames.
            let position = match seed % 3 {
                0 if hit.is_empty() => random.below(68),
                _ => 4096 + random.below(frames.last().unwrap().1 - 4096),
            };
            flip(&path, position, random.below(8) as u8);
            hit.insert(position);
        }
        let damaged = |start: u64, end: u64| {
            // Padding belongs to a frame as well.
            hit.range(start..end.next_multiple_of(8)).next().is_some()
        };
        let expected: Vec<u64> = frames
            .iter()
            .filter(|(start, end, _)| !damaged(*start, *end))
            .map(|&(_, _, offset)| offset)
            .collect();
        // Two flips of one bit heal each other.
        let lost = frames.len() - expected.len();
        let lines = dump(&scratch, &path, if lost > 0 || seed % 3 == 0 { 4 } else { 0 });
        let found = offsets(&lines);
        let missing: Vec<&u64> = expected.iter().filter(|o| !found.contains(o)).collect();
        assert!(missing.is_empty(), "undamaged and not shown: {missing:?}");
        for frame in of_kind(&lines, "record") {
            let offset = frame["offset"].as_u64().unwrap();
            assert_eq!(frame["payload"], payload(offset), "what is shown is what was appended");
        }
    }
}

#[test]
fn garbage_of_any_kind_is_no_panic_and_no_hang() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..100));
    let whole = std::fs::read(&scratch.segments("t")[0]).unwrap();
    let mut random = Random(7);
    let noise: Vec<u8> = (0..50_000).map(|_| random.below(256) as u8).collect();
    let mut header_and_noise = whole[..4096].to_vec();
    header_and_noise.extend(&noise);
    // Frames whose lengths are plausible and wrong, everywhere.
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
fn a_torn_tail_is_told_from_damage_and_from_unused_space() {
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
    scratch.run(&["dump", topic.join("control").to_str().unwrap()]).expect(2);
    scratch.run(&["dump", topic.join("nothing.seg").to_str().unwrap()]).expect(3);
}
