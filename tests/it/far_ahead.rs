//! A writer that rolls faster than the background syncs, indexes and drops: its open files and the
//! files on the disk stay bounded.

use std::path::Path;

use deaddrop::{Durability, Log, Record, Retention, Start, TopicOptions};

use crate::child::Child;

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
