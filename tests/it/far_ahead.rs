//! A writer that rolls faster than the background syncs, indexes and drops: its open files and the
//! files on the disk stay bounded.

use std::path::Path;
use std::time::Instant;

use deaddrop::sim::{Op, SimDisk};
use deaddrop::{Durability, Log, Record, Retention, Start, TopicOptions};

use crate::child::{Child, GUARD};

const SEGMENT_LEN: u64 = 16 << 10;
const KEPT_BYTES: u64 = 128 << 10;
const RECORDS: u64 = 40_000;
/// Few, compared with the 2,800 segments that are written, but enough for everything else.
const OPEN_FILES: u64 = 48;

fn files(dir: &Path, extension: &str) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let stem = |name: String| name.strip_suffix(extension).map(str::to_owned);
    let mut found: Vec<String> = names.filter_map(stem).collect();
    found.sort();
    found
}

#[test]
fn a_writer_far_ahead_of_the_disk_runs_out_of_nothing() {
    let dir = crate::dir();
    let log = dir.path().join("log");
    let mut child = Child::spawn(&["far-ahead", log.to_str().unwrap(), "limited"]);
    assert_eq!(child.hear().as_deref(), Some("bye"));
    assert!(child.wait().success());
    let topic = Log::open_or_create(&log).unwrap().topic("t").unwrap();
    let first = topic.first_offset().unwrap();
    assert!(first > 0, "retention keeps up");
    let segments = files(topic.dir(), ".seg");
    // The newest segment, and those by which a writer may be ahead of retention.
    let kept = KEPT_BYTES / SEGMENT_LEN + 1 + 9;
    assert!(segments.len() as u64 <= kept, "{segments:?}");
    let indexes = files(topic.dir(), ".idx");
    assert!(indexes.iter().all(|index| segments.contains(index)), "{indexes:?}, {segments:?}");
    let mut reader = topic.reader(Start::First).unwrap();
    for offset in first..RECORDS {
        assert_eq!(reader.next().unwrap().unwrap().offset(), offset);
    }
}

#[test]
fn full_segments_that_wait_for_the_disk_take_no_descriptors_from_the_writer() {
    let dir = crate::dir();
    let log = dir.path().join("log");
    let mut child = Child::spawn(&["far-ahead", log.to_str().unwrap(), "unlimited"]);
    assert_eq!(child.hear().as_deref(), Some("bye"));
    assert!(child.wait().success());
    let topic = Log::open_or_create(&log).unwrap().topic("t").unwrap();
    assert_eq!((topic.first_offset().unwrap(), topic.end_offset().unwrap()), (0, RECORDS));
}

/// Role: appends as fast as it can, with a low limit of open files.
pub(crate) fn writer(words: &[&str]) {
    let [dir, limit] = words else { panic!("{words:?}") };
    let files = libc::rlimit { rlim_cur: OPEN_FILES, rlim_max: OPEN_FILES };
    // SAFETY: `files` is live for the call.
    let done = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &files) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    let kept = (*limit == "limited").then_some(KEPT_BYTES);
    let options = TopicOptions::default()
        .with_durability(Durability::ProcessCrash)
        .with_segment_len(SEGMENT_LEN)
        .with_retention(Retention::default().with_bytes(kept));
    let topic = Log::open_or_create(dir).unwrap().topic_with("t", options).unwrap();
    let record = Record::new(vec![7; 1000]);
    for _ in 0..RECORDS {
        topic.append(&record).unwrap();
    }
    drop(topic);
    crate::child::say("bye");
}

#[test]
fn only_a_topic_that_fills_segments_fast_has_the_next_ones_written_ahead() {
    for pace in ["slow", "fast"] {
        let dir = crate::dir();
        let mut child = Child::spawn(&["zeros-ahead", dir.path().to_str().unwrap(), pace]);
        let written: u64 = child.hear().unwrap().parse().unwrap();
        assert!(child.wait().success());
        println!("{pace}: {written} bytes");
        assert_eq!(written >= ZEROED_LEN, pace == "fast");
    }
}

const ZEROED_LEN: u64 = 1 << 20;

/// Role: fills segments, slowly or fast by its clock, and reports how many bytes it has written with system
/// calls. A fast one appends until they are those of a segment.
pub(crate) fn zeros(words: &[&str]) {
    let [dir, pace] = words else { panic!("{words:?}") };
    let options = TopicOptions::default()
        .with_durability(Durability::ProcessCrash)
        .with_segment_len(ZEROED_LEN);
    let topic = Log::open_or_create(dir).unwrap().topic_with("t", options).unwrap();
    let written = || {
        let text = std::fs::read_to_string("/proc/self/io").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
        line.parse::<u64>().unwrap()
    };
    let before = written();
    let record = Record::new(vec![7; 60_000]);
    let mut count = 0;
    while count < 200 || (*pace == "fast" && written() - before < ZEROED_LEN && count < 20_000) {
        // A clock that goes back shows no time at all.
        let seconds = if *pace == "fast" { -1 } else { 10 };
        deaddrop::shift_wall_clock(seconds * count * 1_000_000_000);
        topic.append(&record).unwrap();
        count += 1;
    }
    let written = written() - before;
    drop(topic);
    crate::child::say(&written.to_string());
}

#[test]
fn full_segments_of_a_topic_that_does_not_sync_are_synced_late_and_at_the_close() {
    const DIR: &str = "/log";
    let options = TopicOptions::default()
        .with_durability(Durability::ProcessCrash)
        .with_segment_len(SEGMENT_LEN);
    let disk = SimDisk::new();
    let topic = Log::open_sim(&disk, DIR).unwrap().topic_with("t", options).unwrap();
    // A segment for each record.
    let large = Record::new(vec![7; 12_000]);
    let syncs = disk.calls(Op::SyncData);
    for _ in 0..100 {
        topic.append(&large).unwrap();
    }
    // The background is idle once all have an index.
    let count = |extension: &str| {
        let paths = disk.paths();
        paths.iter().filter(|path| path.extension().is_some_and(|e| e == extension)).count()
    };
    let started = Instant::now();
    while count("idx") < 99 {
        assert!(started.elapsed() < GUARD, "{} indexes", count("idx"));
        std::thread::yield_now();
    }
    assert_eq!(disk.calls(Op::SyncData), syncs);
    // The most that are left unsynced are 256.
    for _ in 0..300 {
        topic.append(&large).unwrap();
    }
    while topic.durable_end().unwrap() < 100 {
        assert!(started.elapsed() < GUARD, "{} of 400", topic.durable_end().unwrap());
        std::thread::yield_now();
    }
    assert!(topic.durable_end().unwrap() < 400, "half of them stay");
    drop(topic);
    let disk = disk.power_cut(1);
    let topic = Log::open_sim(&disk, DIR).unwrap().open_topic("t").unwrap();
    assert_eq!(topic.end_offset().unwrap(), 400);
}

#[test]
fn a_trim_removes_indexes_whose_segments_are_gone() {
    let dir = crate::dir();
    let options = TopicOptions::default()
        .with_durability(Durability::ProcessCrash)
        .with_segment_len(SEGMENT_LEN);
    let topic = Log::open_or_create(dir.path()).unwrap().topic_with("t", options).unwrap();
    for _ in 0..100 {
        topic.append(&Record::new(vec![7; 1000])).unwrap();
    }
    // As stored by a process that was reading the segment while it was dropped.
    let orphan = topic.dir().join("00000000000000000003.idx");
    std::fs::write(&orphan, "x").unwrap();
    assert!(topic.trim_before(50).unwrap() > 3);
    assert!(!orphan.exists());
}

/// A directory of this many files is read in several steps, between which new segments appear.
const SEGMENTS_BEFORE: usize = 2_000;

#[test]
fn readers_that_closely_follow_a_writer_see_no_hole_in_a_large_directory() {
    let dir = crate::dir();
    let options = TopicOptions::default()
        .with_durability(Durability::ProcessCrash)
        .with_segment_len(SEGMENT_LEN);
    let topic = Log::open_or_create(dir.path()).unwrap().topic_with("t", options).unwrap();
    // A segment for each record.
    let large = Record::new(vec![7; 12_000]);
    for _ in 0..SEGMENTS_BEFORE {
        topic.append(&large).unwrap();
    }
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..SEGMENTS_BEFORE {
                topic.append(&large).unwrap();
            }
        });
        while !writer.is_finished() {
            // A handle that knows nothing of the directory yet.
            let topic = Log::open_read_only(dir.path()).unwrap().topic("t").unwrap();
            let from = topic.high_watermark().unwrap() - 3;
            let mut reader = topic.reader(Start::Offset(from)).unwrap();
            for offset in from..from + 6 {
                match reader.next().unwrap() {
                    Some(record) => assert_eq!(record.offset(), offset),
                    None => break,
                }
            }
        }
    });
}
