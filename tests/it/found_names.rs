//! Names that a process created and did not make durable before it failed or died. Another process
//! finds them in the page cache, and makes them durable before it builds on them.

use std::time::{Duration, Instant};

use deaddrop::group::GroupOptions;
use deaddrop::sim::{Op, SimDisk};
use deaddrop::{Durability, Log, Record, Start, Topic, TopicOptions};

const DIR: &str = "/log";
const RECORDS: u64 = 40;
const SEEDS: u64 = 100;

fn open(disk: &SimDisk) -> Log {
    Log::open_sim(disk, DIR).unwrap()
}

/// A topic of seven segments, all of whose records are durable.
fn fill(log: &Log, durability: Durability) -> Topic {
    let options = TopicOptions::default().with_durability(durability).with_segment_len(64 << 10);
    let topic = log.topic_with("t", options).unwrap();
    for number in 0..RECORDS as u8 {
        topic.append(&Record::new(vec![number; 10_000])).unwrap();
    }
    topic.wait_durable(RECORDS - 1).unwrap();
    topic
}

/// Returns the first offset; all records from it on must be there.
fn first_of_whole(topic: &Topic, about: &str) -> u64 {
    let first = topic.first_offset().unwrap();
    let mut reader = topic.reader(Start::First).unwrap();
    for offset in first..RECORDS {
        let record = reader.next().unwrap_or_else(|error| panic!("{about}: {error}"));
        let record = record.unwrap_or_else(|| panic!("{about}: {first}.., no offset {offset}"));
        assert_eq!(record.payload(), vec![offset as u8; 10_000], "{about}");
    }
    first
}

/// Waits until all full segments have indexes: after that the background makes no name durable.
fn wait_for_indexes(disk: &SimDisk) {
    let started = Instant::now();
    let is_index = |path: &std::path::PathBuf| path.extension() == Some("idx".as_ref());
    while disk.paths().iter().filter(|path| is_index(path)).count() < 6 {
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", disk.paths());
        std::thread::yield_now();
    }
}

#[test]
fn the_note_of_a_failed_trim_is_durable_before_another_removes_segments() {
    for durability in [Durability::PowerLoss, Durability::ProcessCrash] {
        for how in ["reopened", "trimmed again", "trimmed by another member"] {
            let disk = SimDisk::new();
            let log = open(&disk.process());
            let topic = fill(&log, durability);
            wait_for_indexes(&disk);
            disk.fail(Op::SyncDir, 0, libc::EIO);
            assert!(topic.trim_before(30).is_err());
            let open_log = match how {
                "reopened" => {
                    drop((topic, log));
                    let log = open(&disk.process());
                    vec![log.open_topic("t").unwrap()]
                }
                "trimmed again" => {
                    topic.trim_before(0).unwrap();
                    vec![topic]
                }
                _ => {
                    let other = open(&disk.process()).open_topic("t").unwrap();
                    other.trim_before(0).unwrap();
                    vec![topic, other]
                }
            };
            for seed in 0..SEEDS {
                let about = format!("{durability:?}, {how}, seed {seed}");
                let image = disk.power_cut(seed);
                let found = open(&image).open_topic("t").unwrap();
                assert_eq!(first_of_whole(&found, &about), 30, "{about}");
            }
            drop(open_log);
        }
    }
}

#[test]
fn a_rename_of_a_failed_delete_is_durable_before_another_process_removes_the_files() {
    let disk = SimDisk::new();
    let log = open(&disk.process());
    drop(fill(&log, Durability::PowerLoss));
    disk.fail(Op::SyncDir, 0, libc::EIO);
    assert!(log.delete_topic("t").is_err());
    drop(open(&disk.process()));
    for seed in 0..SEEDS {
        let found = open(&disk.power_cut(seed));
        if !found.topics().unwrap().is_empty() {
            let about = format!("seed {seed}");
            assert_eq!(first_of_whole(&found.open_topic("t").unwrap(), &about), 0, "{about}");
        }
    }
}

#[test]
fn a_consumer_or_group_whose_maker_failed_keeps_its_name_once_another_process_has_used_it() {
    for nth in 0..8 {
        let disk = SimDisk::new();
        drop(fill(&open(&disk.process()), Durability::PowerLoss));
        let make = |disk: &SimDisk| -> deaddrop::Result<()> {
            let topic = open(disk).open_topic("t")?;
            let mut consumer = topic.consumer("c", Start::First)?;
            consumer.next()?.expect("a record");
            consumer.commit()?;
            consumer.sync()?;
            topic.group("g", GroupOptions::default())?;
            Ok(())
        };
        let maker = disk.process();
        disk.fail(Op::SyncDir, nth, libc::EIO);
        let made = make(&maker);
        maker.kill();
        if made.is_ok() {
            continue;
        }
        disk.forget_faults();
        let other = disk.process();
        make(&other).unwrap();
        other.kill();
        for seed in 0..SEEDS {
            let topic = open(&disk.power_cut(seed)).open_topic("t").unwrap();
            let about = format!("call {nth}, seed {seed}");
            let consumers = topic.consumers().unwrap();
            assert_eq!(consumers.len(), 1, "{about}");
            assert!(*consumers[0].committed.as_ref().unwrap() >= 1, "{about}");
            assert_eq!(topic.groups().unwrap().len(), 1, "{about}");
        }
    }
}
