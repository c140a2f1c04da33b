//! Real file systems on a disk that fails, lies and loses its power: the promises of the simulated
//! disk are checked against ext4, xfs and btrfs.

use std::path::Path;

use deaddrop::{Durability, Error, Log, Record, Start, Topic, TopicOptions};
use deaddrop_disk::{Disk, FileSystem};

use crate::child::Child;

/// Not a test: the server of every disk here.
#[test]
fn server() {
    deaddrop_disk::serve_if_asked();
}

/// Runs a test on a new disk with each file system, and prints which ones are not available.
pub(crate) fn on_every_file_system(test: impl Fn(FileSystem, Disk)) {
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

pub(crate) const DURABILITIES: [Durability; 3] = [
    Durability::PowerLoss,
    Durability::PowerLossWithin(std::time::Duration::from_millis(20)),
    Durability::ProcessCrash,
];

fn options(durability: Durability) -> TopicOptions {
    TopicOptions::default().with_durability(durability).with_segment_len(256 << 10)
}

/// Returns every record that a reader gets from the first one on.
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
fn a_sync_that_fails_once_and_leaves_clean_pages_costs_no_record_that_is_shown_afterwards() {
    on_every_file_system(|file_system, mut disk| {
        for (index, durability) in DURABILITIES.into_iter().enumerate() {
            let dir = disk.path().join(format!("log{index}"));
            let about = format!("{file_system:?}, {durability:?}");
            let log = Log::open_or_create(&dir).unwrap();
            let topic = log.topic_with("t", options(durability)).unwrap();
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

            let log = Log::open_or_create(&dir).unwrap();
            let topic = log.topic("t").unwrap();
            let last = append(&topic, "after the recovery").unwrap();
            topic.wait_durable(last).unwrap();
            let shown = everything(&topic);
            assert!(shown.len() > 50, "{about}");
            drop((topic, log));
            disk.cut(None);
            disk.restart();

            let log = Log::open_or_create(&dir).unwrap();
            let topic = log.topic("t").unwrap();
            assert_eq!(everything(&topic), shown, "{about}: durable, but gone after a power cut");
        }
    });
}

#[test]
fn writes_that_fail_for_a_while_cost_no_record_that_is_shown_after_the_recovery() {
    on_every_file_system(|file_system, disk| {
        for (index, durability) in DURABILITIES.into_iter().enumerate() {
            let dir = disk.path().join(format!("log{index}"));
            let about = format!("{file_system:?}, {durability:?}");
            let log = Log::open_or_create(&dir).unwrap();
            let topic = log.topic_with("t", options(durability)).unwrap();
            // Into the third segment: if the topic does not sync, nothing of it is on the disk yet,
            // and ext4 forgets that its blocks are in use unless they are written in another way.
            for _ in 0..1200 {
                append(&topic, "before").unwrap();
            }
            // More than one write-back, and more than one attempt at each.
            disk.tell("fail writes 20 victim");
            let victim = Record::new(format!("victim {}", "-".repeat(20_000)));
            let failed = (0..4).find_map(|_| {
                let offset = topic.append(&victim);
                offset.and_then(|offset| topic.wait_durable(offset)).err()
            });
            assert!(failed.is_some(), "{about}");
            disk.tell("resume");
            drop((topic, log));

            let log = Log::open_or_create(&dir).unwrap();
            let topic = log.topic("t").unwrap();
            let last = append(&topic, "after the recovery").unwrap();
            topic.wait_durable(last).unwrap();
            let shown = everything(&topic);
            assert!(shown.len() > 1200, "{about}");
            drop((topic, log));
            // Only the page cache is lost.
            disk.unmount();
            disk.mount("");
            let log = Log::open_or_create(&dir).unwrap();
            let found = everything(&log.topic("t").unwrap());
            assert_eq!(found, shown, "{about}: records were only in the page cache");
        }
    });
}

#[test]
fn a_lost_flush_is_the_disks_lie_and_costs_the_end_of_the_log_and_no_more() {
    on_every_file_system(|file_system, mut disk| {
        let dir = disk.path().join("log");
        let log = Log::open_or_create(&dir).unwrap();
        let topic = log.topic_with("t", options(Durability::PowerLoss)).unwrap();
        let sent: Vec<_> = (0..40)
            .map(|number| {
                if number == 20 {
                    disk.tell("lose flushes 1000000");
                }
                let text = format!("record {number}");
                (append(&topic, &text).unwrap(), format!("{text} {}", "-".repeat(500)))
            })
            .collect();
        drop((topic, log));
        disk.tell("resume");
        disk.cut(None);
        disk.restart();
        let log = Log::open_or_create(&dir).unwrap();
        let topic = log.topic("t").unwrap();
        let found = everything(&topic);
        assert!(found.len() >= 20 && sent.starts_with(&found), "{file_system:?}: {}", found.len());
        assert_eq!(append(&topic, "more").unwrap(), found.len() as u64);
    });
}

#[test]
fn a_file_system_that_turns_read_only_refuses_appends_until_it_is_writable_again() {
    on_every_file_system(|file_system, disk| {
        for (index, durability) in DURABILITIES.into_iter().enumerate() {
            let dir = disk.path().join(format!("log{index}"));
            let about = format!("{file_system:?}, {durability:?}");
            let log = Log::open_or_create(&dir).unwrap();
            let topic = log.topic_with("t", options(durability)).unwrap();
            for number in 0..30 {
                append(&topic, &format!("before {number}")).unwrap();
            }
            topic.wait_durable(29).unwrap();
            let before = everything(&topic);
            drop((topic, log));

            disk.change("ro");
            let refused = Log::open_or_create(&dir).and_then(|log| {
                let topic = log.topic("t")?;
                append(&topic, "refused")
            });
            assert!(matches!(refused, Err(Error::Io { .. })), "{about}: {refused:?}");
            let log = Log::open_read_only(&dir).unwrap();
            let topic = log.open_topic("t").unwrap();
            assert_eq!(everything(&topic), before, "{about}");
            drop((topic, log));

            disk.change("rw");
            let log = Log::open_or_create(&dir).unwrap();
            let topic = log.topic("t").unwrap();
            assert_eq!(append(&topic, "after").unwrap(), 30, "{about}");
            assert_eq!(everything(&topic)[..30], before, "{about}");
        }
    });
}

#[test]
fn a_copy_of_a_log_whose_processes_were_killed_holds_all_that_was_acknowledged() {
    on_every_file_system(|file_system, disk| {
        for durability in crate::ledger::DURABILITIES {
            let dir = disk.path().join(durability);
            let copy = disk.path().join(format!("{durability}.copy"));
            let mut children: Vec<Child> = (0..3)
                .map(|_| Child::spawn(&["appends-on", dir.to_str().unwrap(), durability]))
                .collect();
            let acknowledged: Vec<u64> = (0..150)
                .map(|index| {
                    let said = children[index % 3].hear().expect("it lives");
                    said.parse().unwrap()
                })
                .collect();
            children.into_iter().for_each(Child::kill);
            // With reflinks where the file system supports them.
            let copied = std::process::Command::new("cp").arg("-r").args([&dir, &copy]).status();
            assert!(copied.unwrap().success());
            for dir in [copy, dir] {
                let log = Log::open_or_create(&dir).unwrap();
                let topic = log.topic("t").unwrap();
                let found = everything(&topic);
                let about = format!("{file_system:?}, {durability}, {}", dir.display());
                for (index, (offset, _)) in found.iter().enumerate() {
                    assert_eq!(*offset, index as u64, "{about}");
                }
                let most = acknowledged.iter().max().unwrap();
                assert!(found.len() as u64 > *most, "{about}: {most} was acknowledged");
                append(&topic, "after").unwrap();
            }
        }
    });
}

/// Role: appends, and reports each offset.
pub(crate) fn appends_on(words: &[&str]) {
    let [dir, durability] = words else { panic!("{words:?}") };
    let log = Log::open_or_create(dir).unwrap();
    let options = crate::ledger::options(durability, 64 << 10).with_segment_len(64 << 10);
    let topic = match log.topic_with("t", options) {
        Err(_) => log.topic("t").unwrap(),
        made => made.unwrap(),
    };
    loop {
        crate::child::say(&append(&topic, "a record").unwrap().to_string());
    }
}
