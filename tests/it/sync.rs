//! Durability: which thread syncs, how often, what a sync covers, and what a failed one means.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use deaddrop::sim::{Op, SimDisk};
use deaddrop::{Durability, Error, Log, Record, Start, Topic, TopicOptions};

use crate::child::{self, Child, GUARD};
use crate::ledger;

const SEGMENT_LEN: u64 = 64 << 10;
const DIR: &str = "/log";

fn options(durability: Durability) -> TopicOptions {
    TopicOptions::default().with_durability(durability).with_segment_len(SEGMENT_LEN)
}

fn on_sim(disk: &SimDisk, durability: Durability) -> Topic {
    Log::open_sim(disk, DIR).unwrap().topic_with("t", options(durability)).unwrap()
}

fn payloads(topic: &Topic) -> Vec<Vec<u8>> {
    let mut reader = topic.reader(Start::First).unwrap();
    let mut found = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        found.push(record.payload().to_owned());
    }
    found
}

/// Returns the records that are there after the power failed and came back, in several ways.
fn after_power_cuts(disk: &SimDisk) -> impl Iterator<Item = Vec<Vec<u8>>> + '_ {
    (0..20).map(|seed| {
        let image = disk.power_cut(seed);
        payloads(&Log::open_sim(&image, DIR).unwrap().open_topic("t").unwrap())
    })
}

const THREADS: usize = 8;
const APPENDS_EACH: usize = 40;

#[test]
fn threads_and_processes_share_syncs() {
    let dir = crate::dir();
    let path = dir.path().to_str().unwrap();
    let topic = ledger::open(path, "power-loss", SEGMENT_LEN);
    let mut children = [Child::spawn(&["committers", path]), Child::spawn(&["committers", path])];
    for child in &mut children {
        assert_eq!(child.hear().as_deref(), Some("ready"));
    }
    for child in &mut children {
        child.tell("go");
    }
    let mut syncs = 0;
    for child in &mut children {
        let line = child.hear().unwrap();
        syncs += line.strip_prefix("syncs ").unwrap().parse::<usize>().unwrap();
    }
    let appends = 2 * THREADS * APPENDS_EACH;
    assert_eq!(topic.high_watermark().unwrap(), appends as u64);
    println!("{appends} durable appends, {syncs} syncs");
    assert!(syncs > 0 && 2 * syncs < appends, "{syncs} syncs of {appends} appends");
}

/// Role: many threads append durably; reports how many syncs that took.
pub(crate) fn committers(words: &[&str]) {
    let [dir] = words else { panic!("{words:?}") };
    let topic = ledger::open(dir, "power-loss", SEGMENT_LEN);
    let syncs = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&syncs);
    deaddrop::arm_crash_points(Some(Box::new(move |name| {
        counted.fetch_add(u64::from(name == "sync.before"), Ordering::Relaxed);
    })));
    child::say("ready");
    child::listen();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..APPENDS_EACH {
                    let offset = topic.append(&Record::new([7; 100])).unwrap();
                    assert!(topic.durable_end().unwrap() > offset);
                }
            });
        }
    });
    child::say(&format!("syncs {}", syncs.load(Ordering::Relaxed)));
}

fn wait_until_durable(topic: &Topic, end: u64) {
    let started = Instant::now();
    while topic.durable_end().unwrap() < end {
        assert!(started.elapsed() < GUARD, "never became durable");
        std::thread::yield_now();
    }
}

#[test]
fn a_record_becomes_durable_within_its_interval_without_another_append() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let within = Durability::PowerLossWithin(Duration::from_millis(20));
    let topic = log.topic_with("t", options(within)).unwrap();
    for end in 1..=3 {
        assert_eq!(topic.append(&Record::new("x")).unwrap(), end - 1);
        wait_until_durable(&topic, end);
    }
}

#[test]
fn records_that_a_killed_writer_had_not_synced_are_synced_by_an_idle_member() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let within = Durability::PowerLossWithin(Duration::from_millis(200));
    let topic = log.topic_with("t", options(within)).unwrap();
    let mut writer = Child::spawn(&["appends", dir.path().to_str().unwrap()]);
    assert_eq!(writer.hear().as_deref(), Some("appended"));
    writer.kill();
    wait_until_durable(&topic, 10);
}

/// Role: appends ten records to the existing topic, and stays.
pub(crate) fn appends(words: &[&str]) {
    let [dir] = words else { panic!("{words:?}") };
    let topic = Log::open_or_create(dir).unwrap().open_topic("t").unwrap();
    for _ in 0..10 {
        topic.append(&Record::new("x")).unwrap();
    }
    child::say("appended");
    child::listen();
}

#[test]
fn a_waiting_reader_sees_records_that_a_dead_writer_had_not_synced() {
    let dir = crate::dir();
    let path = dir.path().to_str().unwrap();
    let topic = ledger::open(path, "power-loss", SEGMENT_LEN);
    for death in ["append.published", "sync.before", "sync.after"] {
        let mut reader = topic.reader(Start::End).unwrap();
        let mut writer = Child::spawn(&["dies", path, "power-loss", death]);
        let record = reader.wait_timeout(GUARD).unwrap();
        assert!(record.is_some(), "{death}: not shown");
        assert_eq!(writer.hear(), None);
        writer.wait_for_death();
    }
}

#[test]
fn a_clean_close_syncs() {
    let disk = SimDisk::new();
    let topic = on_sim(&disk, Durability::PowerLossWithin(Duration::from_secs(3600)));
    topic.append(&Record::new("x")).unwrap();
    topic.append(&Record::new("y")).unwrap();
    drop(topic);
    for found in after_power_cuts(&disk) {
        assert_eq!(found, [b"x", b"y"]);
    }
}

#[test]
fn waiting_for_durability_works_with_every_durability() {
    let never = Duration::from_secs(3600);
    for durability in [Durability::ProcessCrash, Durability::PowerLossWithin(never)] {
        let disk = SimDisk::new();
        let topic = on_sim(&disk, durability);
        let mut expected = Vec::new();
        for number in 0..100u8 {
            topic.append(&Record::new(vec![number; 2000])).unwrap();
            expected.push(vec![number; 2000]);
        }
        topic.wait_durable(99).unwrap();
        assert_eq!(topic.durable_end().unwrap(), 100);
        for found in after_power_cuts(&disk) {
            assert!(found == expected, "{} of {} records", found.len(), expected.len());
        }
    }
}

#[test]
fn a_sync_by_one_process_covers_unsynced_records_of_another_in_the_previous_segment() {
    let disk = SimDisk::new();
    let one = on_sim(&disk, Durability::PowerLoss);
    let other = on_sim(&disk.process(), Durability::PowerLoss);
    let mut expected = Vec::new();
    for round in 0..5u8 {
        // Up to the point where the next record does not fit: it is the first of a new segment.
        for number in 0..3 {
            let payload = vec![round * 10 + number; 19_000];
            one.append_unsynced(&Record::new(payload.clone())).unwrap();
            expected.push(payload);
        }
        let payload = vec![round; 19_000];
        other.append(&Record::new(payload.clone())).unwrap();
        expected.push(payload);
        for found in after_power_cuts(&disk) {
            assert!(found == expected, "{} of {} records", found.len(), expected.len());
        }
    }
}

#[test]
fn a_failed_sync_stops_all_writers_and_never_turns_into_a_promise() {
    // One record a segment and several a segment; failures of the first and later syncs of an append.
    for len in [100, 30_000] {
        for nth in 0..2 {
            let disk = SimDisk::new();
            let one = on_sim(&disk, Durability::PowerLoss);
            let other = on_sim(&disk.process(), Durability::PowerLoss);
            let mut acked = Vec::new();
            let append = |topic: &Topic, acked: &mut Vec<Vec<u8>>| {
                let payload = vec![acked.len() as u8; len];
                topic.append(&Record::new(payload.clone()))?;
                acked.push(payload);
                Ok::<_, Error>(())
            };
            for _ in 0..5 {
                append(&one, &mut acked).unwrap();
                append(&other, &mut acked).unwrap();
            }
            let failed = (0..20).find_map(|_| {
                disk.fail(Op::SyncData, nth, libc::EIO);
                let failed = (0..10).find_map(|_| append(&one, &mut acked).err());
                match failed {
                    // Of a file that is not a segment yet: it is removed, and nothing was appended.
                    Some(Error::Io { .. }) => {
                        append(&one, &mut acked).unwrap();
                        None
                    }
                    // The same, in the background.
                    None => None,
                    failed => failed,
                }
            });
            let failed = failed.expect("a sync of a segment fails");
            match &failed {
                Error::Unknown { offset, source } => {
                    assert_eq!(*offset, one.end_offset().unwrap() - 1);
                    assert!(matches!(**source, Error::SyncFailed { .. }), "{failed}");
                    assert!(failed.to_string().contains("look for it before appending it again"));
                }
                // The sync that a roll waits for: nothing was appended.
                Error::SyncFailed { .. } => {}
                other => panic!("{other}"),
            }
            for topic in [&one, &other, &on_sim(&disk.process(), Durability::PowerLoss)] {
                let error = append(topic, &mut acked).unwrap_err();
                assert!(matches!(error, Error::SyncFailed { .. }), "{error}");
                assert!(error.to_string().contains("close the topic in every process"), "{error}");
                // The record of unknown durability may be there: another thread's sync covered it.
                let readable = payloads(topic);
                assert!(readable.starts_with(&acked), "durable records stay readable");
                assert!(readable.len() <= acked.len() + 1);
            }
            drop((one, other));
            let again = on_sim(&disk.process(), Durability::PowerLoss);
            let shown = payloads(&again);
            assert!(shown.starts_with(&acked), "{} of {} acked", shown.len(), acked.len());
            // The records that readers see now are as good as acknowledged.
            for found in after_power_cuts(&disk) {
                assert!(found == shown, "{} of {} shown", found.len(), shown.len());
            }
            again.append(&Record::new("on")).unwrap();
            for found in after_power_cuts(&disk) {
                assert_eq!((found.len(), &found[shown.len()][..]), (shown.len() + 1, &b"on"[..]));
            }
        }
    }
}

#[test]
fn a_failure_that_only_a_killed_syncer_saw_is_repaired_by_the_next() {
    for heir in ["member", "successor"] {
        let mut child = Child::spawn(&["sync-death", heir]);
        assert_eq!(child.hear().as_deref(), Some("bye"), "{heir}");
        assert!(child.wait().success());
    }
}

/// Role: on a simulated disk, a process dies between a failed sync and its latch. The page cache
/// takes the pages for written, and no process got the error. Own process: it arms crash points.
pub(crate) fn sync_death(words: &[&str]) {
    let disk = SimDisk::new();
    let doomed = disk.process();
    let topic = on_sim(&doomed, Durability::PowerLoss);
    let member = on_sim(&disk, Durability::PowerLoss);
    topic.append(&Record::new("a")).unwrap();
    let killed = doomed.clone();
    deaddrop::arm_crash_points(Some(Box::new(move |name| {
        if name == "sync.failed" {
            killed.kill();
            // Ends the thread where a signal would: it releases nothing.
            panic!("dies here");
        }
    })));
    disk.fail(Op::SyncData, 0, libc::EIO);
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        // Over several pages: the records stored after it make only the last of them dirty again.
        topic.append(&Record::new(vec![b'b'; 20_000])).map(drop)
    }));
    assert!(died.is_err(), "the sync did not fail");
    deaddrop::arm_crash_points(None);
    let heir = match words {
        ["member"] => member.clone(),
        ["successor"] => on_sim(&disk.process(), Durability::PowerLoss),
        other => panic!("{other:?}"),
    };
    assert_eq!(heir.append(&Record::new("c")).unwrap(), 2);
    for found in after_power_cuts(&disk) {
        let lens: Vec<usize> = found.iter().map(Vec::len).collect();
        assert_eq!(lens, [1, 20_000, 1]);
    }
}

/// A sync whose write fails stalls before the error is reported; another thread overtakes it, and its write
/// fails too.
#[test]
fn a_write_error_is_reported_to_a_stalled_syncer_and_to_the_thread_that_overtakes_it() {
    let disk = SimDisk::new();
    let topic = on_sim(&disk, Durability::PowerLoss);
    topic.append(&Record::new("acknowledged")).unwrap();
    let last = topic.append_unsynced(&Record::new("lost")).unwrap();
    disk.fail(Op::SyncData, 0, libc::EIO);
    disk.fail(Op::SyncData, 1, libc::EIO);
    let overtaker = topic.clone();
    disk.during_sync(move || {
        let error = overtaker.wait_durable(last).unwrap_err();
        assert!(matches!(error, Error::SyncFailed { .. }), "the overtaker: {error}");
    });
    let error = topic.wait_durable(last).expect_err("it reported the record as durable");
    assert!(matches!(error, Error::SyncFailed { .. }), "the stalled syncer: {error}");
    assert_eq!(topic.durable_end().unwrap(), last, "nothing more was promised");
}

/// The write of an overtaker fails, and the stalled syncer asks for errors first.
#[test]
fn a_write_error_of_an_overtaker_is_not_lost_on_the_syncer_that_it_overtakes() {
    let disk = SimDisk::new();
    let topic = on_sim(&disk, Durability::PowerLoss);
    topic.append(&Record::new("acknowledged")).unwrap();
    let first = topic.append_unsynced(&Record::new("of the stalled sync")).unwrap();
    let (stalls, stalled) = std::sync::mpsc::channel();
    let (goes_on, go_on) = std::sync::mpsc::channel::<()>();
    disk.during_sync(move || {
        stalls.send(()).unwrap();
        go_on.recv_timeout(GUARD).unwrap();
    });
    let syncer = {
        let topic = topic.clone();
        std::thread::spawn(move || drop(topic.wait_durable(first)))
    };
    stalled.recv_timeout(GUARD).unwrap();
    // Over several pages, which the stalled sync has not written.
    let last = topic.append_unsynced(&Record::new(vec![7; 20_000])).unwrap();
    disk.fail(Op::SyncData, 0, libc::EIO);
    disk.during_sync(move || {
        goes_on.send(()).unwrap();
        syncer.join().unwrap();
    });
    let waited = topic.wait_durable(last);
    for found in after_power_cuts(&disk) {
        let is_there = found.len() as u64 > last;
        assert!(waited.is_err() || is_there, "acknowledged, and lost in a power cut");
    }
    let error = waited.unwrap_err();
    assert!(matches!(error, Error::SyncFailed { .. }), "{error}");
}

#[test]
fn a_thread_without_a_descriptor_for_overtaking_a_sync_waits_for_it() {
    let disk = SimDisk::new();
    let topic = on_sim(&disk, Durability::PowerLoss);
    let last = topic.append_unsynced(&Record::new("x")).unwrap();
    let overtaker = topic.clone();
    let faulty = disk.clone();
    disk.during_sync(move || {
        for nth in 0..3 {
            faulty.fail(Op::Open, nth, libc::EMFILE);
        }
        let opens = faulty.calls(Op::Open);
        overtaker.wait_durable(last).unwrap();
        assert!(faulty.calls(Op::Open) > opens + 3, "it did not open the segment itself");
    });
    topic.wait_durable(last).unwrap();
    assert!(after_power_cuts(&disk).all(|found| found.len() == 1));
}

#[test]
fn a_sync_right_after_a_failed_one_promises_nothing() {
    let mut child = Child::spawn(&["after-a-failed-sync"]);
    assert_eq!(child.hear().as_deref(), Some("bye"));
    assert!(child.wait().success());
}

/// Role: between the moment at which a thread finds that no sync has failed and the one at which it
/// begins its own, another sync fails. A process of its own, because it arms crash points.
pub(crate) fn after_a_failed_sync(_: &[&str]) {
    let disk = SimDisk::new();
    let topic = on_sim(&disk, Durability::PowerLoss);
    let last = topic.append_unsynced(&Record::new("lost")).unwrap();
    let (other, faulty) = (topic.clone(), disk.clone());
    let is_first = std::sync::atomic::AtomicBool::new(true);
    deaddrop::arm_crash_points(Some(Box::new(move |name| {
        if name == "sync.due" && is_first.swap(false, Ordering::Relaxed) {
            faulty.fail(Op::SyncData, 0, libc::EIO);
            assert!(other.wait_durable(last).is_err());
        }
    })));
    let waited = topic.wait_durable(last);
    deaddrop::arm_crash_points(None);
    assert!(matches!(waited, Err(Error::SyncFailed { .. })), "{waited:?}");
    assert_eq!(topic.durable_end().unwrap(), last);
}

#[test]
fn a_batch_of_unknown_durability_is_named_by_its_first_record() {
    let disk = SimDisk::new();
    let topic = on_sim(&disk, Durability::PowerLoss);
    topic.append(&Record::new("before")).unwrap();
    disk.fail(Op::SyncData, 0, libc::EIO);
    let batch = vec![Record::new("x"); 5];
    let error = topic.append_batch(&batch).unwrap_err();
    assert!(matches!(error, Error::Unknown { offset: 1, .. }), "{error}");
}

#[test]
fn running_out_of_descriptors_in_a_sync_is_not_a_failed_sync() {
    let disk = SimDisk::new();
    let topic = on_sim(&disk, Durability::PowerLoss);
    topic.append(&Record::new(vec![0; 40_000])).unwrap();
    // The next record is in a new segment, which this process has not opened.
    let other = disk.process();
    on_sim(&other, Durability::PowerLoss).append_unsynced(&Record::new(vec![1; 40_000])).unwrap();
    other.kill();
    disk.fail(Op::Open, 0, libc::EMFILE);
    let error = topic.wait_durable(1).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert!(error.to_string().contains("ulimit -n"), "{error}");
    topic.wait_durable(1).unwrap();
    assert_eq!(topic.append(&Record::new("on")).unwrap(), 2);
    assert!(after_power_cuts(&disk).all(|found| found.len() == 3));
}
