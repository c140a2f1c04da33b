//! A copy of a directory in use, as `cp -r` makes it, opens as a prefix of the log.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use deaddrop::{Durability, Error, Log, Record, Start, TopicOptions};

use crate::child::Child;
use crate::ledger::{self, Ledger, Writer};

const SEGMENT_LEN: u64 = 64 << 10;
const COPIES: usize = 4;

#[test]
fn a_copy_of_a_directory_that_processes_write_to_is_a_prefix() {
    for durability in ledger::DURABILITIES {
        let dir = crate::dir();
        let path = dir.path().join("log").to_str().unwrap().to_owned();
        drop(ledger::open(&path, durability, SEGMENT_LEN));
        let mut writers: Vec<(u32, Child)> = (0..2)
            .map(|name: u32| {
                let seed = name.to_string();
                (name, Child::spawn(&["writer", &path, durability, &seed, &seed]))
            })
            .collect();
        let mut ledger = Ledger::default();
        for copy in 0..COPIES {
            // Records that were acknowledged before the copy began are in it.
            for (name, child) in &mut writers {
                for _ in 0..50 {
                    let line = child.hear().expect("a writer");
                    let words = line.split(' ').skip(2);
                    ledger.enter(*name, &ledger::of_words(words));
                }
            }
            let target = dir.path().join(format!("copy-{copy}"));
            let arguments = ["-r", &path, target.to_str().unwrap()];
            let output = Command::new("cp").args(arguments).output().unwrap();
            // A segment that was in preparation when `cp` listed the directory may be renamed now.
            let complaints = String::from_utf8(output.stderr).unwrap();
            let about_others = |line: &&str| !line.contains(".tmp': No such file or directory");
            assert_eq!(complaints.lines().find(about_others), None);
            let target = target.to_str().unwrap();
            let still = Log::open_read_only(target).unwrap().topic("t").unwrap();
            let seen = ledger.verify(&still);
            drop(still);
            let topic = ledger::open(target, durability, SEGMENT_LEN);
            let report = topic.recovery().expect("a copy is recovered");
            assert!(report.damage.is_empty(), "{report:?}");
            assert_eq!(ledger.verify(&topic), seen);
            let mut writer = Writer::new(topic.clone(), 100);
            let mut of_copy = HashMap::new();
            for len in [10, 5000, 100_000, 20] {
                of_copy.extend(writer.append(len).unwrap());
            }
            let mut reader = topic.reader(Start::Offset(seen.0)).unwrap();
            for offset in seen.0..seen.0 + 4 {
                assert_eq!(ledger::check(&reader.next().unwrap().unwrap()).writer, 100);
                assert!(of_copy.values().any(|at| *at == offset));
            }
        }
        for (_, child) in writers {
            child.kill();
        }
        // The original was appended to in the meantime.
        let topic = ledger::open(&path, durability, SEGMENT_LEN);
        ledger.verify(&topic);
    }
}

#[test]
fn a_copy_of_hard_links_is_refused_so_that_two_directories_do_not_share_their_segments() {
    for durability in [Durability::PowerLoss, Durability::ProcessCrash] {
        for is_live in [true, false] {
            let dir = crate::dir();
            let (path, copy) = (dir.path().join("log"), dir.path().join("copy"));
            let options =
                TopicOptions::default().with_durability(durability).with_segment_len(SEGMENT_LEN);
            let open = |path: &Path| Log::open_or_create(path).unwrap().topic_with("t", options);
            let record = Record::new(vec![7; 20_000]);
            let topic = open(&path).unwrap();
            topic.append(&record).unwrap();
            let live = Some(topic).filter(|_| is_live);
            let linked = Command::new("cp").arg("-al").args([&path, &copy]).status();
            assert!(linked.unwrap().success());
            let refused = open(&copy).unwrap_err();
            assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
            assert!(refused.to_string().contains("hard links"), "{refused}");
            let still = Log::open_read_only(&copy).unwrap().topic("t").unwrap();
            assert_eq!(still.end_offset().unwrap(), 1);
            drop(still);
            if let Some(topic) = live {
                // The process that has it open continues, into other segments.
                for offset in 1..6 {
                    assert_eq!(topic.append(&record).unwrap(), offset);
                }
            } else {
                assert!(open(&path).is_err(), "its files are those of the copy");
            }
            std::fs::remove_dir_all(&copy).unwrap();
            let topic = open(&path).unwrap();
            let end = if is_live { 6 } else { 1 };
            assert_eq!(topic.append(&record).unwrap(), end);
        }
    }
}
