//! A system call writes only a part of an append, and then fails: nothing of it is in the log, and no record is
//! lost or doubled.

use deaddrop::sim::{Op, SimDisk};
use deaddrop::{Durability, Error, Log, Record, Start, Topic, TopicOptions};

const DIR: &str = "/log";

/// Appends by system calls: on a topic that survives power loss, and of many bytes on every topic.
const WAYS: [(Durability, usize); 3] = [
    (Durability::PowerLoss, 700),
    (Durability::PowerLoss, 40 << 10),
    (Durability::ProcessCrash, 40 << 10),
];

fn batch(number: u8, len: usize) -> Vec<Record> {
    (0..3).map(|index| Record::new(vec![number + index; len])).collect()
}

fn firsts(topic: &Topic) -> Vec<u8> {
    let mut reader = topic.reader(Start::First).unwrap();
    let mut found = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        found.push(record.payload()[0]);
    }
    found
}

fn open(disk: &SimDisk, durability: Durability) -> Topic {
    let options = TopicOptions::default().with_durability(durability).with_segment_len(1 << 20);
    Log::open_sim(disk, DIR).unwrap().topic_with("t", options).unwrap()
}

#[test]
fn an_append_of_which_half_was_written_when_the_disk_was_full_leaves_no_trace() {
    for (durability, len) in WAYS {
        for errno in [libc::ENOSPC, libc::EIO] {
            let about = format!("{durability:?}, {len}, {errno}");
            let disk = SimDisk::new();
            let process = disk.process();
            let topic = open(&process, durability);
            topic.append_batch(&batch(1, len)).unwrap();
            // Of long records, the second one: it is written by itself.
            disk.fail(Op::Write, u64::from(len > 10_000), errno);
            let refused = topic.append_batch(&batch(10, len)).unwrap_err();
            match errno {
                libc::ENOSPC => assert!(matches!(refused, Error::NoSpace { .. }), "{about}"),
                _ => assert!(matches!(refused, Error::Io { .. }), "{about}: {refused}"),
            }
            assert_eq!(firsts(&topic), [1, 2, 3], "{about}");
            process.kill();
            drop(topic);
            let check = |disk: &SimDisk, about: &str| {
                let topic = open(&disk.process(), durability);
                let report = topic.recovery();
                assert!(report.is_none_or(|report| !report.cut), "{about}: {report:?}");
                assert_eq!(firsts(&topic), [1, 2, 3], "{about}");
                assert_eq!(topic.append(&Record::new([20; 700])).unwrap(), 3, "{about}");
                assert_eq!(firsts(&topic), [1, 2, 3, 20], "{about}");
            };
            check(&disk.reboot(), &format!("{about}, after a reboot"));
            check(&disk, &about);
        }
    }
}

#[test]
fn an_append_that_cannot_be_taken_back_is_unknown_and_settled_by_the_next() {
    for (durability, len) in WAYS {
        let about = format!("{durability:?}, {len}");
        let disk = SimDisk::new();
        let process = disk.process();
        let (topic, other) = (open(&process, durability), open(&disk.process(), durability));
        topic.append_batch(&batch(1, len)).unwrap();
        disk.fail(Op::Write, 0, libc::ENOSPC);
        disk.fail(Op::Write, 1, libc::ENOSPC);
        let unknown = topic.append_batch(&batch(10, len)).unwrap_err();
        assert!(matches!(unknown, Error::Unknown { offset: 3, .. }), "{about}: {unknown}");
        assert_eq!(firsts(&topic), [1, 2, 3], "{about}");
        // The disk is still full: nothing can be settled, and nothing is appended.
        disk.fail(Op::Write, 0, libc::ENOSPC);
        let refused = other.append(&Record::new([20; 700])).unwrap_err();
        assert!(matches!(refused, Error::NoSpace { .. }), "{about}: {refused}");
        assert_eq!(other.append(&Record::new([21; 700])).unwrap(), 3, "{about}");
        assert_eq!(topic.append(&Record::new([22; 700])).unwrap(), 4, "{about}");
        process.kill();
        drop((topic, other));
        for disk in [disk.reboot(), disk] {
            assert_eq!(firsts(&open(&disk.process(), durability)), [1, 2, 3, 21, 22], "{about}");
        }
    }
}
