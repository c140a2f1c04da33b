//! A copy of a directory in use, as `cp -r` makes it, opens as a prefix of the log.

use std::collections::HashMap;

use deaddrop::{Log, Start};

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
            // What was acknowledged before the copy was begun is in it.
            for (name, child) in &mut writers {
                for _ in 0..50 {
                    let line = child.hear().expect("a writer");
                    let words = line.split(' ').skip(2);
                    ledger.enter(*name, &ledger::of_words(words));
                }
            }
            let target = dir.path().join(format!("copy-{copy}"));
            let arguments = ["-r", &path, target.to_str().unwrap()];
            let output = std::process::Command::new("cp").args(arguments).output().unwrap();
            // A segment that was prepared when `cp` listed the directory may have its name by now.
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
        // The original went its own way.
        let topic = ledger::open(&path, durability, SEGMENT_LEN);
        ledger.verify(&topic);
    }
}
