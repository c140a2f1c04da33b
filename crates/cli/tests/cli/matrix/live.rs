//! Commands beside processes that write at full speed.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

use deaddrop::{Durability, Log, Record, Retention, TopicOptions};

use super::load::{check, make_topics, Load};
use super::{lines, Does, Line};
use crate::support::{Ran, Scratch};

/// The log stays smaller than this.
const DISK_MAX: u64 = 256 << 20;
/// How often each command is run where segments come and go.
const ROUNDS: u32 = 50;

/// Returns the possible codes of a command while records come and old ones go.
fn codes(line: &Line, ran: &Ran) -> &'static [i32] {
    let is_dropped = ran.stderr.contains("trimmed");
    match line.command {
        // Retention overtakes a command that reads a topic from its start.
        "cat" | "tail" | "export" if is_dropped => &[1],
        // The request of a dead letter may have gone long ago.
        "dead" if line.is("dead", "redrive") => &[0, 1],
        // There is no such request; that client is alive.
        "cancel" => &[1],
        "clients" if line.is("clients", "retire") => &[1, 5],
        _ => &[0],
    }
}

fn disk_bytes(dir: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let bytes = |path: std::path::PathBuf| match path.is_dir() {
        true => disk_bytes(&path),
        false => std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
    };
    entries.map(bytes).sum()
}

#[test]
fn every_command_works_beside_writers_at_full_speed_and_does_not_disturb_them() {
    let scratch = Scratch::new();
    make_topics(&scratch, 0o600);
    let load = Load::start(&scratch);
    let before = load.counts();
    let mut most = 0;
    for (topic, json) in [("t", true), ("safe", false)] {
        for line in lines(&scratch, topic).iter().filter(|line| line.does != Does::Nothing) {
            let ran = line.run(&scratch, json);
            let (words, said) = (&line.words, &ran.stderr);
            let code = ran.code.unwrap();
            assert!(codes(line, &ran).contains(&code), "{words:?}: {code} {said}\n{}", ran.text());
            for wrong in ["corrupt", "damage"] {
                assert!(!said.contains(wrong), "{words:?}: {said}");
            }
            if line.command == "top" && json {
                let look = ran.json().pop().unwrap();
                let topics = look["topics"].as_array().unwrap();
                assert!(topics.iter().all(|topic| topic["problem"].is_null()), "{look}");
            }
            most = most.max(disk_bytes(&scratch.log()));
        }
    }
    load.wait_for_more(&before);
    let (acknowledged, answered) = load.stop();
    assert!(answered > 0);
    assert!(most < DISK_MAX, "{most} bytes");
    check(&Log::open_read_only(scratch.log()).unwrap(), &acknowledged, true);
    scratch.run(&["verify"]).expect(0);
}

#[test]
fn segments_that_are_dropped_during_a_dump_are_skipped() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..5_000);
    let mut child = scratch.command(&["dump", "t", "--json"]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // It has listed the files when it prints, and its output does not fit into a pipe.
    stdout.read_exact(&mut [0; 16]).unwrap();
    let first = topic.trim_before(4_500).unwrap();
    assert!(first > 4_000);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let ran = Ran::of(&child.wait_with_output().unwrap()).expect(0);
    assert!(ran.stderr.is_empty(), "{}", ran.stderr);
    let offset = |line: &str| {
        let frame: serde_json::Value = serde_json::from_str(line).ok()?;
        frame["offset"].as_u64()
    };
    let shown: Vec<u64> = rest.lines().filter_map(offset).collect();
    assert!(shown.contains(&4_999) && !shown.contains(&3_999));
}

#[test]
fn commands_that_list_segments_work_while_retention_drops_one_every_millisecond() {
    let scratch = Scratch::new();
    let options = TopicOptions::default()
        .with_durability(Durability::ProcessCrash)
        .with_segment_len(16 << 10)
        .with_retention(Retention::default().with_bytes(256 << 10));
    let topic = Log::open_or_create(scratch.log()).unwrap().topic_with("t", options).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let record = Record::new([7; 1000]);
            while !stop.load(Ordering::Relaxed) {
                topic.append(&record).unwrap();
            }
        });
        let _stops = Stops(&stop);
        for _ in 0..ROUNDS {
            for args in [&["info", "t"][..], &["stats"], &["verify"], &["repair", "t"], &["ls"]] {
                let ran = scratch.run(args);
                assert_eq!(ran.code, Some(0), "{args:?}: {}{}", ran.stderr, ran.text());
            }
        }
    });
    assert!(topic.first_offset().unwrap() > 0);
}

/// Stops the writer even if an assertion fails: it would continue forever.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
