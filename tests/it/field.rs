//! Real file systems on a disk that fails, lies and loses its power: what a simulated disk promises is
//! checked against ext4, xfs and btrfs.

use std::path::Path;

use deaddrop::{Durability, Error, Log, Record, Start, Topic, TopicOptions};
use deaddrop_disk::{Disk, FileSystem};

/// Not a test: the server of every disk here.
#[test]
fn server() {
    deaddrop_disk::serve_if_asked();
}

/// Runs a test on a new disk with each file system, and says which ones cannot be had.
fn on_every_file_system(test: impl Fn(FileSystem, Disk)) {
    for file_system in FileSystem::ALL {
        match file_system.missing() {
            Some(reason) => eprintln!("skipped on {file_system:?}: {reason}"),
            None => {
                let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
                test(file_system, Disk::new(parent, file_system, "field::server"));
            }
        }
    }
}

const DURABILITIES: [Durability; 3] = [
    Durability::PowerLoss,
    Durability::PowerLossWithin(std::time::Duration::from_millis(20)),
    Durability::ProcessCrash,
];

fn options(durability: Durability) -> TopicOptions {
    TopicOptions { segment_len: 256 << 10, ..TopicOptions::durability(durability) }
}

/// Everything that a reader from the first record on gets.
fn everything(topic: &Topic) -> Vec<(u64, String)> {
    let mut reader = topic.reader(Start::First).unwrap();
    let mut found = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        found.push((record.offset(), String::from_utf8_lossy(record.payload()).into_owned()));
    }
    found
}

fn append(topic: &Topic, text: &str) -> deaddrop::Result<u64> {
    topic.append(&Record::new(format!("{text} {}", "-".repeat(500))))
}

#[test]
fn a_sync_that_fails_once_with_its_pages_called_clean_costs_nothing_that_is_shown_afterwards() {
    on_every_file_system(|file_system, mut disk| {
        for (index, durability) in DURABILITIES.into_iter().enumerate() {
            let dir = disk.path().join(format!("log{index}"));
            let about = format!("{file_system:?}, {durability:?}");
            let log = Log::open(&dir).unwrap();
            let topic = log.create_topic("t", options(durability)).unwrap();
            for number in 0..50 {
                append(&topic, &format!("before {number}")).unwrap();
            }
            topic.wait_durable(49).unwrap();
            disk.tell("fail writes 1 victim");
            // Many pages, so that no later record marks them all as changed.
            let appended = topic.append(&Record::new(format!("victim {}", "-".repeat(50_000))));
            let failed = appended.and_then(|offset| topic.wait_durable(offset)).unwrap_err();
            let told = matches!(failed, Error::SyncFailed { .. } | Error::Unknown { .. });
            assert!(told, "{about}: {failed:?}");
            assert!(append(&topic, "after the failure").is_err(), "{about}");
            drop((topic, log));

            let log = Log::open(&dir).unwrap();
            let topic = log.topic("t").unwrap();
            let last = append(&topic, "after the recovery").unwrap();
            topic.wait_durable(last).unwrap();
            let shown = everything(&topic);
            assert!(shown.len() > 50, "{about}");
            drop((topic, log));
            disk.cut(None);
            disk.restart();

            let log = Log::open(&dir).unwrap();
            let topic = log.topic("t").unwrap();
            assert_eq!(everything(&topic), shown, "{about}: durable, and gone after a power cut");
        }
    });
}
