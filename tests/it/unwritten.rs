//! Blocks that were allocated and never written, and whose first write fails: ext4 leaves them marked as
//! unwritten, and writing the same bytes again to the same file with success does not bring them back.

use std::os::fd::AsRawFd;
use std::path::Path;

use deaddrop::group::{GroupOptions, Job, WorkerOptions};
use deaddrop::{Durability, Error, Log, Record, Start, Topic, TopicOptions};
use deaddrop_disk::Disk;

use crate::child::{self, Child, GUARD};
use crate::field::on_every_file_system;

fn payload(offset: u64) -> String {
    format!("record {offset} {}", "-".repeat(500))
}

fn open(dir: &Path, durability: Durability) -> Topic {
    let options = TopicOptions::default().with_durability(durability).with_segment_len(256 << 10);
    Log::open_or_create(dir).unwrap().topic_with("t", options).unwrap()
}

fn append(topic: &Topic, offsets: std::ops::Range<u64>) {
    for offset in offsets {
        assert_eq!(topic.append(&Record::new(payload(offset))).unwrap(), offset);
    }
}

/// Exactly `count` records are there.
fn check(topic: &Topic, count: u64, about: &str) {
    let mut reader = topic.reader(Start::First).unwrap();
    for offset in 0..count {
        let record = reader.next().unwrap_or_else(|error| panic!("{about}: {error}"));
        let record = record.unwrap_or_else(|| panic!("{about}: no offset {offset}"));
        assert_eq!(record.payload(), payload(offset).as_bytes(), "{about}");
    }
    assert!(reader.next().unwrap().is_none(), "{about}");
}

/// Its sync fails; then it is opened again.
fn open_after_failed_sync(dir: &Path, topic: Topic, durability: Durability, about: &str) -> Topic {
    let failed = topic.wait_durable(199).unwrap_err();
    assert!(matches!(failed, Error::SyncFailed { .. }), "{about}: {failed}");
    drop(topic);
    open(dir, durability)
}

fn check_after_cut(disk: &mut Disk, durability: Durability, about: &str) {
    disk.cut(None);
    disk.restart();
    check(&open(&disk.path().join("log"), durability), 201, about);
}

#[test]
fn records_in_blocks_that_were_only_allocated_survive_a_write_error_and_a_power_cut() {
    on_every_file_system(|file_system, mut disk| {
        let dir = disk.path().join("log");
        let about = format!("{file_system:?}");
        let topic = open(&dir, Durability::ProcessCrash);
        append(&topic, 0..200);
        disk.tell("fail writes 1 record");
        let topic = open_after_failed_sync(&dir, topic, Durability::ProcessCrash, &about);
        append(&topic, 200..201);
        topic.wait_durable(200).unwrap();
        drop(topic);
        check_after_cut(&mut disk, Durability::ProcessCrash, &about);
    });
}

/// Role: its sync fails, and it dies before it can latch the topic.
pub(crate) fn dies_in_a_sync(words: &[&str]) {
    let [dir, survives] = words else { panic!("{words:?}") };
    let durability = match *survives {
        "power-loss" => Durability::PowerLoss,
        _ => Durability::ProcessCrash,
    };
    let topic = open(Path::new(dir), durability);
    for offset in 0..200 {
        topic.append_unsynced(&Record::new(payload(offset))).unwrap();
    }
    child::say("appended");
    child::listen();
    deaddrop::arm_crash_points(Some(Box::new(|name| {
        if name == "sync.failed" {
            child::raise(libc::SIGKILL);
        }
    })));
    drop(topic.wait_durable(199));
    panic!("the sync did not fail");
}

/// Has a child append 200 records, and die in the sync that the disk was set to fail.
fn die_in_a_sync(words: &[&str], disk: &Disk, failure: &str) {
    let mut child = Child::spawn(words);
    assert_eq!(child.hear().as_deref(), Some("appended"));
    disk.tell(failure);
    child.tell("sync");
    child.wait_for_death();
}

#[test]
fn a_write_error_that_died_with_the_syncer_that_saw_it_costs_nothing_that_is_durable_afterwards() {
    for has_member in [true, false] {
        on_every_file_system(|file_system, mut disk| {
            let dir = disk.path().join("log");
            let about = format!("{file_system:?}, a living member: {has_member}");
            let member = has_member.then(|| open(&dir, Durability::ProcessCrash));
            let in_child = ["dies-in-a-sync", dir.to_str().unwrap(), "process-crash"];
            die_in_a_sync(&in_child, &disk, "fail writes 1 record");
            let mut topic = member.unwrap_or_else(|| open(&dir, Durability::ProcessCrash));
            check(&topic, 200, &about);
            if let Err(failed) = topic.wait_durable(199) {
                // The record cannot be made durable where it is.
                assert!(matches!(failed, Error::SyncFailed { .. }), "{about}: {failed}");
                drop(topic);
                topic = open(&dir, Durability::ProcessCrash);
            }
            check(&topic, 200, &about);
            append(&topic, 200..201);
            topic.wait_durable(200).unwrap();
            drop(topic);
            check_after_cut(&mut disk, Durability::ProcessCrash, &about);
        });
    }
}

#[test]
fn the_first_opening_after_a_write_error_that_died_with_its_syncer_recovers() {
    on_every_file_system(|file_system, mut disk| {
        let dir = disk.path().join("log");
        let about = format!("{file_system:?}");
        // Sparse files: the records are in blocks that were only allocated.
        drop(open(&dir, Durability::PowerLoss));
        let path = dir.join("topics/t/00000000000000000000.seg");
        punch(&path, 16 << 10, 240 << 10);
        let in_child = ["dies-in-a-sync", dir.to_str().unwrap(), "power-loss"];
        die_in_a_sync(&in_child, &disk, "fail writes 1 record 150");
        let topic = open(&dir, Durability::PowerLoss);
        check(&topic, 200, &about);
        append(&topic, 200..201);
        drop(topic);
        check_after_cut(&mut disk, Durability::PowerLoss, &about);
    });
}

/// Makes a hole in a file.
fn punch(path: &Path, start: i64, len: i64) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: an open descriptor and plain integers.
    assert_eq!(unsafe { libc::fallocate(file.as_raw_fd(), mode, start, len) }, 0);
}

/// Puts a copy in the place of a file, as a restore does. No sync has reached it: a rename over the file would be
/// one on ext4.
fn restore(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Calls until there is no error, which is at most once.
fn twice<T>(about: &str, mut call: impl FnMut() -> deaddrop::Result<T>) -> T {
    match call() {
        Ok(done) => done,
        Err(Error::Io { .. }) => call().unwrap_or_else(|error| panic!("{about}: {error}")),
        Err(error) => panic!("{about}: {error}"),
    }
}

#[test]
fn positions_in_restored_files_survive_a_write_error_and_a_power_cut() {
    on_every_file_system(|file_system, mut disk| {
        let dir = disk.path().join("log");
        let about = format!("{file_system:?}");
        let topic = open(&dir, Durability::PowerLoss);
        append(&topic, 0..20);
        let options = GroupOptions::default().with_lanes(1);
        drop(topic.consumer("c", Start::First).unwrap());
        drop(topic.group("g", options).unwrap());
        drop(topic);
        restore(&dir.join("topics/t/consumers/c"));
        restore(&dir.join("topics/t/groups/g"));

        let topic = open(&dir, Durability::PowerLoss);
        // Whatever is written first of either file.
        disk.tell("fail writes 1 ddropOFF");
        let mut consumer = twice(&about, || topic.consumer("c", Start::First));
        for _ in 0..10 {
            consumer.next().unwrap().unwrap();
        }
        consumer.commit().unwrap();
        twice(&about, || consumer.sync());
        disk.tell("resume");
        disk.tell("fail writes 1 ddropOFF");
        let group = twice(&about, || topic.group("g", options));
        let mut worker = group.worker(WorkerOptions::default(), |_: &Job| Ok(())).unwrap();
        let mut done = 0;
        while done < 20 {
            done += worker.poll(GUARD).unwrap();
        }
        twice(&about, || worker.sync());
        disk.cut(None);
        drop((worker, group, consumer, topic));
        disk.restart();
        let topic = open(&dir, Durability::PowerLoss);
        let committed = topic.consumer("c", Start::First).map(|consumer| consumer.committed());
        assert_eq!(committed.unwrap_or_else(|error| panic!("{about}: {error}")), 10, "{about}");
        let info = topic.group("g", options).unwrap().info().unwrap();
        assert_eq!(info.lanes[0].committed, 20, "{about}");
    });
}

/// A restored sparse copy of a log: where a segment was zero, its file has a hole.
#[test]
fn records_in_the_holes_of_a_restored_log_survive_a_write_error_and_a_power_cut() {
    on_every_file_system(|file_system, mut disk| {
        let dir = disk.path().join("log");
        let about = format!("{file_system:?}");
        let topic = open(&dir, Durability::PowerLoss);
        append(&topic, 0..10);
        let path = topic.dir().join("00000000000000000000.seg");
        drop(topic);
        punch(&path, 16 << 10, 240 << 10);

        let topic = open(&dir, Durability::PowerLoss);
        for offset in 10..200 {
            topic.append_unsynced(&Record::new(payload(offset))).unwrap();
        }
        // This record is in the hole.
        disk.tell("fail writes 1 record 150");
        let topic = open_after_failed_sync(&dir, topic, Durability::PowerLoss, &about);
        append(&topic, 200..201);
        drop(topic);
        check_after_cut(&mut disk, Durability::PowerLoss, &about);
    });
}

#[test]
fn a_record_for_which_a_segment_was_extended_survives_a_write_error_and_a_power_cut() {
    for durability in crate::field::DURABILITIES {
        on_every_file_system(|file_system, mut disk| {
            let dir = disk.path().join("log");
            let about = format!("{file_system:?}, {durability:?}");
            // Larger than a segment: it extends the first one, which is empty. The write fails.
            let large = format!("{}victim", "-".repeat(600_000));
            let topic = open(&dir, durability);
            disk.tell("fail writes 1 victim");
            let appended = topic.append(&Record::new(large.as_str()));
            assert!(appended.and_then(|offset| topic.wait_durable(offset)).is_err(), "{about}");
            drop(topic);
            disk.tell("resume");
            let topic = open(&dir, durability);
            assert_eq!(topic.append(&Record::new("after")).unwrap(), 1, "{about}");
            topic.wait_durable(1).unwrap();
            drop(topic);
            disk.cut(None);
            disk.restart();
            let topic = open(&dir, durability);
            let mut reader = topic.reader(Start::First).unwrap();
            for payload in [large.as_str(), "after"] {
                let record = reader.next().unwrap_or_else(|error| panic!("{about}: {error}"));
                assert!(record.unwrap().payload() == payload.as_bytes(), "{about}");
            }
        });
    }
}
