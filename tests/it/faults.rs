//! The n-th call fails, once, for every n and every kind of call: acknowledged records stay, and a
//! later open works.

use std::time::Duration;

use deaddrop::sim::{Op, SimDisk};
use deaddrop::{Durability, Error, Log, Record, Result, Start, TopicOptions};

use crate::settle::settle;

const DIR: &str = "/log";
const OPS: [Op; 12] = [
    Op::Open,
    Op::Rename,
    Op::Remove,
    Op::List,
    Op::SyncDir,
    Op::Read,
    Op::Write,
    Op::Allocate,
    Op::SyncData,
    Op::Map,
    Op::Redirty,
    Op::Lock,
];
const ERRNOS: [i32; 3] = [libc::EIO, libc::ENOSPC, libc::EMFILE];

/// The results that the user of a log got.
#[derive(Debug, Default)]
struct Told {
    /// Appended at these offsets, and acknowledged.
    acknowledged: Vec<(u64, Vec<u8>)>,
    /// In the log, durable or not.
    unknown: Vec<Vec<u8>>,
    synced_position: u64,
    trimmed_to: u64,
    errors: u64,
}

impl Told {
    fn append(&mut self, number: u64, appended: Result<u64>, payload: Vec<u8>) {
        match appended {
            Ok(offset) => self.acknowledged.push((offset, payload)),
            Err(Error::Unknown { .. }) => self.unknown.push(payload),
            Err(error) => {
                assert!(!error.to_string().is_empty(), "{number}");
                self.errors += 1;
            }
        }
    }
}

fn payload(number: u64) -> Vec<u8> {
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(700, number as u8);
    payload
}

/// Opens a log and uses each of its parts a little; it survives every error.
fn use_log(disk: &SimDisk, durability: Durability, from: u64, told: &mut Told) -> Result<()> {
    let log = Log::open_sim(disk, DIR)?;
    let options = TopicOptions::default().with_durability(durability).with_segment_len(16 << 10);
    let topic = log.topic_with("t", options)?;
    for number in from..from + 30 {
        let payload = payload(number);
        let record = Record::new(&payload[..]);
        told.append(number, topic.append(&record), payload);
        if number % 7 == 0 {
            told.errors += u64::from(topic.wait_durable(topic.end_offset()? - 1).is_err());
        }
    }
    let mut consumer = topic.consumer("c", Start::First)?;
    let mut at = consumer.committed();
    loop {
        match consumer.next() {
            Ok(Some(record)) => at = record.offset() + 1,
            Ok(None) => break,
            Err(error) => {
                told.errors += 1;
                drop(error);
                break;
            }
        }
    }
    if consumer.commit().is_ok() {
        let durable = topic.durable_end()?;
        if consumer.sync().is_ok() {
            told.synced_position = told.synced_position.max(at.min(durable));
        }
    }
    // A trim that failed may have been done in part.
    let to = from / 40;
    told.trimmed_to = told.trimmed_to.max(to);
    match topic.trim_before(to) {
        Ok(_) => {}
        Err(error) => {
            told.errors += 1;
            drop(error);
        }
    }
    Ok(())
}

/// Every acknowledged record is there, once, at its offset; no refused record is there.
fn check(disk: &SimDisk, told: &Told, was_cut: bool, durable: bool, story: &str) {
    let log = Log::open_sim(disk, DIR).unwrap_or_else(|error| panic!("{story}: {error}"));
    let topic = match log.open_topic("t") {
        Ok(topic) => topic,
        Err(Error::NotFound { .. }) if told.acknowledged.is_empty() => return,
        Err(error) => panic!("{story}: {error}"),
    };
    let first = topic.first_offset().unwrap();
    assert!(first <= told.trimmed_to, "{story}: first is {first}, {}", told.trimmed_to);
    let mut reader = topic.reader(Start::First).unwrap();
    let mut found = Vec::new();
    while let Some(record) = reader.next().unwrap_or_else(|error| panic!("{story}: {error}")) {
        found.push((record.offset(), record.payload().to_owned()));
    }
    for (offset, payload) in &found {
        let known = told.acknowledged.iter().find(|(_, known)| known == payload);
        let right = match known {
            Some((acknowledged, _)) => acknowledged == offset,
            None => told.unknown.contains(payload),
        };
        assert!(right, "{story}: offset {offset} was not appended with this payload");
    }
    if !was_cut || durable {
        for (offset, payload) in told.acknowledged.iter().filter(|(offset, _)| *offset >= first) {
            let there = found.iter().any(|found| found.0 == *offset && found.1 == *payload);
            assert!(there, "{story}: offset {offset} is lost");
        }
    }
    assert!(topic.recovery().is_none_or(|report| report.damage.is_empty()), "{story}");
    topic.append(&Record::new("after")).unwrap_or_else(|error| panic!("{story}: {error}"));
    if let Ok(consumer) = topic.consumer("c", Start::First) {
        assert!(consumer.committed() >= told.synced_position, "{story}");
    }
}

/// Returns the number of calls made, and whether any call reported the failure.
fn one_failure(durability: Durability, op: Op, errno: i32, nth: u64) -> (u64, bool) {
    let story = format!("{durability:?} {op:?} {errno} at call {nth}");
    let disk = SimDisk::new();
    let mut told = Told::default();
    use_log(&disk.process(), durability, 0, &mut told).unwrap();
    assert_eq!(told.errors, 0);
    settle(&disk, format!("{DIR}/topics/t"));
    let before = disk.calls(op);
    disk.fail(op, nth, errno);
    let used = use_log(&disk.process(), durability, 1000, &mut told);
    settle(&disk, format!("{DIR}/topics/t"));
    told.errors += u64::from(used.is_err());
    let calls = disk.calls(op) - before;
    let durable = durability == Durability::PowerLoss;
    // First the power fails, on a copy of the disk; then the original continues.
    for seed in [nth, nth + 1] {
        check(&disk.power_cut(seed), &told, true, durable, &format!("{story}, cut {seed}"));
    }
    if nth >= calls {
        disk.forget_faults();
    }
    check(&disk.process(), &told, false, durable, &story);
    (calls, told.errors > 0 || !told.unknown.is_empty())
}

fn every_call_of(durability: Durability) {
    let (mut failures, mut told) = (0, 0);
    for op in OPS {
        for errno in ERRNOS {
            let mut nth = 0;
            loop {
                let (calls, was_told) = one_failure(durability, op, errno, nth);
                failures += 1;
                told += u64::from(was_told);
                if nth >= calls {
                    break;
                }
                // All of the first calls, then in wider steps: there are hundreds of reads.
                nth += 1 + nth / 12;
            }
        }
    }
    println!("{failures} failures of {durability:?}, {told} reported");
    assert!(failures > 200 && told > failures / 3, "{failures}, {told} reported");
}

#[test]
fn any_call_may_fail_once_on_a_topic_that_survives_power_loss() {
    every_call_of(Durability::PowerLoss);
}

#[test]
fn any_call_may_fail_once_on_a_topic_that_syncs_now_and_then() {
    every_call_of(Durability::PowerLossWithin(Duration::from_secs(3600)));
}

#[test]
fn any_call_may_fail_once_on_a_topic_that_survives_process_crashes() {
    every_call_of(Durability::ProcessCrash);
}

#[test]
fn a_full_disk_refuses_appends_until_there_is_room_and_loses_nothing() {
    for durability in [Durability::PowerLoss, Durability::ProcessCrash] {
        let disk = SimDisk::new();
        disk.set_capacity(150 << 10);
        let log = Log::open_sim(&disk.process(), DIR).unwrap();
        let options =
            TopicOptions::default().with_durability(durability).with_segment_len(16 << 10);
        let topic = log.topic_with("t", options).unwrap();
        let mut appended = 0;
        let error = loop {
            match topic.append(&Record::new(payload(appended))) {
                Ok(offset) => assert_eq!(offset, appended),
                Err(error) => break error,
            }
            appended += 1;
            assert!(appended < 1000, "the disk never fills up");
        };
        assert!(matches!(error, Error::NoSpace { .. }), "{error}");
        assert_eq!(topic.end_offset().unwrap(), appended);
        let first = topic.trim_before(appended / 2).unwrap();
        assert!(first > 0);
        assert_eq!(topic.append(&Record::new(payload(appended))).unwrap(), appended);
        let mut reader = topic.reader(Start::First).unwrap();
        for offset in first..=appended {
            assert_eq!(reader.next().unwrap().unwrap().payload(), payload(offset));
        }
        assert!(reader.next().unwrap().is_none());
    }
}

#[test]
fn the_first_opening_after_a_writer_was_killed_recovers_from_a_sync_that_fails_once() {
    let disk = SimDisk::new();
    let process = disk.process();
    let options = TopicOptions::default().with_segment_len(16 << 10);
    let topic = Log::open_sim(&process, DIR).unwrap().topic_with("t", options).unwrap();
    for number in 0..20 {
        topic.append_unsynced(&Record::new(payload(number))).unwrap();
    }
    process.kill();
    drop(topic);
    // The kernel takes the pages for clean afterwards.
    disk.fail(Op::SyncData, 0, libc::EIO);
    let topic = Log::open_sim(&disk.process(), DIR).unwrap().topic("t").unwrap();
    for seed in 0..10 {
        let image = disk.power_cut(seed);
        let found = Log::open_sim(&image.process(), DIR).unwrap().topic("t").unwrap();
        assert_eq!(found.end_offset().unwrap(), 20, "seed {seed}");
    }
    let mut reader = topic.reader(Start::First).unwrap();
    for number in 0..20 {
        assert_eq!(reader.next().unwrap().unwrap().payload(), payload(number));
    }
    assert_eq!(topic.append(&Record::new("after")).unwrap(), 20);
}
