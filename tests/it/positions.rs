//! Positions survive what the records survive: a close, a copy, a reboot, a power cut, and a file
//! system that brings back an older instant of its files on the same boot.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deaddrop::format::cursor;
use deaddrop::group::{GroupOptions, WorkerOptions};
use deaddrop::sim::{Op, SimDisk};
use deaddrop::{Consumer, Durability, Log, Record, Retention, Start, Topic, TopicOptions};

use crate::child::{self, Child};

const DIR: &str = "/log";
const DURABILITIES: [Durability; 3] = [
    Durability::PowerLoss,
    Durability::PowerLossWithin(Duration::from_secs(3600)),
    Durability::ProcessCrash,
];

fn options(durability: Durability) -> TopicOptions {
    TopicOptions::default().with_durability(durability).with_segment_len(16 << 10)
}

fn topic(log: &Log, durability: Durability) -> Topic {
    log.topic_with("orders", options(durability)).unwrap()
}

fn fill(topic: &Topic, count: u64) {
    for number in 0..count {
        topic
            .append(&Record::new(format!("order {number}")).with_key(number.to_le_bytes()))
            .unwrap();
    }
}

fn take(consumer: &mut Consumer, count: u64) {
    for _ in 0..count {
        consumer.next().unwrap().unwrap();
    }
    consumer.commit().unwrap();
}

fn copy_of(dir: &Path) -> (tempfile::TempDir, PathBuf) {
    let holder = crate::dir();
    let copy = holder.path().join("copy");
    let copied = std::process::Command::new("cp").arg("-r").arg(dir).arg(&copy).status().unwrap();
    assert!(copied.success());
    (holder, copy)
}

/// Polls a condition for a minute.
fn wait_until(mut is_so: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if is_so() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    panic!("the condition never became true");
}

#[test]
fn a_closed_consumer_continues_where_it_was_in_a_copy_and_after_a_power_cut() {
    for durability in DURABILITIES {
        let disk = SimDisk::new();
        {
            let orders = topic(&Log::open_sim(&disk.process(), DIR).unwrap(), durability);
            fill(&orders, 5);
            let mut billing = orders.consumer("billing", Start::First).unwrap();
            while billing.next().unwrap().is_some() {
                billing.commit().unwrap();
            }
        }
        let cuts = (0..10).map(|seed| disk.power_cut(seed));
        for found in cuts.chain([disk.copy()]) {
            let orders = topic(&Log::open_sim(&found.process(), DIR).unwrap(), durability);
            let mut billing = orders.consumer("billing", Start::First).unwrap();
            let again = billing.next().unwrap().map(|record| record.offset());
            assert_eq!((again, billing.committed()), (None, 5), "{durability:?}");
        }
    }
}

/// Role: reads ten records one by one, commits each, and waits to be killed.
pub(crate) fn committer(words: &[&str]) {
    let orders = Log::open_or_create(words[0]).unwrap().topic("orders").unwrap();
    let mut billing = orders.consumer("billing", Start::First).unwrap();
    for _ in 0..10 {
        take(&mut billing, 1);
    }
    child::say("committed");
    child::listen();
}

#[test]
fn a_copy_keeps_the_position_that_was_committed_when_it_was_made() {
    for durability in DURABILITIES {
        let dir = crate::dir();
        let orders = topic(&Log::open_or_create(dir.path()).unwrap(), durability);
        fill(&orders, 20);
        let mut owner = Child::spawn(&["committer", dir.path().to_str().unwrap()]);
        assert_eq!(owner.hear().as_deref(), Some("committed"));
        let (_holder, beside_it) = copy_of(dir.path());
        owner.kill();
        let (_holder, after_it) = copy_of(dir.path());
        for copy in [beside_it, after_it] {
            let orders = topic(&Log::open_or_create(&copy).unwrap(), durability);
            assert_eq!(orders.consumers().unwrap()[0].committed.as_ref().unwrap(), &10);
            let billing = orders.consumer("billing", Start::First).unwrap();
            assert_eq!((billing.committed(), billing.clamped_from()), (10, None));
        }
    }
}

#[test]
fn a_torn_position_in_a_copy_is_not_trusted() {
    let dir = crate::dir();
    let orders = topic(&Log::open_or_create(dir.path()).unwrap(), Durability::ProcessCrash);
    fill(&orders, 20);
    let mut billing = orders.consumer("billing", Start::First).unwrap();
    take(&mut billing, 5);
    billing.sync().unwrap();
    take(&mut billing, 5);
    let (_holder, copy) = copy_of(dir.path());
    let path = copy.join("topics/orders/consumers/billing");
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&17_u64.to_le_bytes(), cursor::LIVE_OFFSET_AT as u64).unwrap();
    let orders = topic(&Log::open_or_create(&copy).unwrap(), Durability::ProcessCrash);
    assert_eq!(orders.consumer("billing", Start::First).unwrap().committed(), 5);
}

#[test]
fn a_position_is_durable_soon_while_its_owner_does_nothing() {
    // If a topic survives process crashes only, retention by consumption uses durable positions.
    for durability in &DURABILITIES {
        let disk = SimDisk::new();
        let retention = Retention::default().with_consumed(*durability == Durability::ProcessCrash);
        let log = Log::open_sim(&disk.process(), DIR).unwrap();
        let options = options(*durability).with_retention(retention);
        let orders = log.topic_with("orders", options).unwrap();
        fill(&orders, 30);
        orders.wait_durable(29).unwrap();
        let mut billing = orders.consumer("billing", Start::First).unwrap();
        for count in [10, 20, 30] {
            take(&mut billing, 10);
            wait_until(|| orders.consumers().unwrap()[0].durable == Some(count));
            for seed in 0..20 {
                let log = Log::open_sim(&disk.power_cut(seed).process(), DIR).unwrap();
                let orders = log.open_topic("orders").unwrap();
                let at = orders.consumer("billing", Start::First).unwrap().committed();
                assert_eq!(at, count, "{durability:?}, seed {seed}");
            }
        }
    }
}

#[test]
fn a_position_survives_a_power_cut_when_sync_has_returned_on_every_topic() {
    for durability in DURABILITIES {
        let disk = SimDisk::new();
        let log = Log::open_sim(&disk.process(), DIR).unwrap();
        let orders = topic(&log, durability);
        fill(&orders, 30);
        let mut billing = orders.consumer("billing", Start::First).unwrap();
        take(&mut billing, 20);
        billing.sync().unwrap();
        take(&mut billing, 5);
        for seed in 0..50 {
            let log = Log::open_sim(&disk.power_cut(seed).process(), DIR).unwrap();
            let orders = log.open_topic("orders").unwrap();
            let end = orders.end_offset().unwrap();
            let billing = orders.consumer("billing", Start::First).unwrap();
            let at = billing.committed();
            assert!(at >= end.min(20) && at <= end.min(25), "{durability:?} {seed}: {at} of {end}");
            // The consumer does not skip the records that later take the lost offsets.
            fill(&orders, 30);
            assert_eq!(billing.lag().unwrap(), end + 30 - at);
        }
    }
}

#[test]
fn retention_ignores_a_position_whose_sync_failed() {
    let retention = Retention::default().with_consumed(true);
    let disk = SimDisk::new();
    let log = Log::open_sim(&disk.process(), DIR).unwrap();
    let durability = Durability::PowerLoss;
    let orders = log.topic_with("orders", options(durability).with_retention(retention)).unwrap();
    for _ in 0..100 {
        orders.append(&Record::new(vec![b'x'; 1000])).unwrap();
    }
    let mut billing = orders.consumer("billing", Start::First).unwrap();
    take(&mut billing, 10);
    billing.sync().unwrap();
    take(&mut billing, 80);
    // All syncs fail, because the background tries again.
    for nth in 0..1000 {
        disk.fail(Op::SyncData, nth, libc::EIO);
    }
    billing.sync().unwrap_err();
    assert_eq!(orders.consumers().unwrap()[0].durable, Some(10));
    drop(orders.trim());
    for seed in 0..50 {
        let log = Log::open_sim(&disk.power_cut(seed).process(), DIR).unwrap();
        let orders = log.open_topic("orders").unwrap();
        let mut billing = orders.consumer("billing", Start::First).unwrap();
        match billing.next() {
            Ok(_) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    disk.forget_faults();
}

/// A page as it is now, to bring it back later into the same file on the same boot.
struct Instant {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Instant {
    fn of(path: PathBuf) -> Instant {
        let bytes = std::fs::read(&path).unwrap();
        Instant { path, bytes }
    }

    fn bring_back(&self, range: std::ops::Range<usize>) {
        let file = std::fs::OpenOptions::new().write(true).open(&self.path).unwrap();
        file.write_all_at(&self.bytes[range.clone()], range.start as u64).unwrap();
    }
}

#[test]
fn an_older_instant_of_a_position_only_repeats() {
    let dir = crate::dir();
    let orders = topic(&Log::open_or_create(dir.path()).unwrap(), Durability::PowerLoss);
    fill(&orders, 100);
    let path = orders.dir().join("consumers/billing");
    let mut billing = orders.consumer("billing", Start::First).unwrap();
    take(&mut billing, 20);
    let early = Instant::of(path.clone());
    take(&mut billing, 60);
    let high = Instant::of(path);
    drop(billing);
    early.bring_back(0..4096);
    assert_eq!(orders.consumer("billing", Start::First).unwrap().committed(), 20);
    // The consumer is moved back on purpose; then the live words of the higher position come back.
    high.bring_back(0..4096);
    let mut billing = orders.consumer("billing", Start::First).unwrap();
    assert_eq!(billing.committed(), 80);
    billing.seek(Start::Offset(10)).unwrap();
    take(&mut billing, 5);
    drop(billing);
    high.bring_back(512..1024);
    assert_eq!(orders.consumer("billing", Start::First).unwrap().committed(), 15);
    // Then the slot of that time comes back too, beside the newer one.
    high.bring_back(512..1536);
    let at = orders.consumer("billing", Start::First).unwrap().committed();
    assert!(at <= 15, "{at}");
}

#[test]
fn a_consumer_that_retention_has_overtaken_is_reported_as_such() {
    let dir = crate::dir();
    let orders = topic(&Log::open_or_create(dir.path()).unwrap(), Durability::PowerLoss);
    for _ in 0..100 {
        orders.append(&Record::new(vec![b'x'; 1000])).unwrap();
    }
    let mut billing = orders.consumer("billing", Start::First).unwrap();
    take(&mut billing, 2);
    let group = orders.group("packing", GroupOptions::default()).unwrap();
    let first = orders.trim_before(60).unwrap();
    assert!(first > 2);
    let info = orders.consumers().unwrap().remove(0);
    assert_eq!((info.lag, info.trimmed), (98, first - 2));
    assert_eq!(group.info().unwrap().trimmed, first);
    billing.seek(Start::First).unwrap();
    assert_eq!(orders.consumers().unwrap()[0].trimmed, 0);
}

type Seen = Arc<Mutex<Vec<u64>>>;

fn polled(topic: &Topic, seen: &Seen) -> deaddrop::group::Worker {
    let group = topic.group("packing", GroupOptions::default()).unwrap();
    let seen = Arc::clone(seen);
    let handler = move |job: &deaddrop::group::Job| {
        seen.lock().unwrap().push(job.offset());
        Ok(())
    };
    group.worker(WorkerOptions::default(), handler).unwrap()
}

fn work(worker: &mut deaddrop::group::Worker, count: u64) {
    let mut done = 0;
    while done < count {
        let more = worker.poll(child::GUARD).unwrap();
        assert_ne!(more, 0, "{done} of {count} are done");
        done += more;
    }
}

#[test]
fn positions_of_a_polled_worker_are_durable_when_it_is_closed() {
    for durability in DURABILITIES {
        let disk = SimDisk::new();
        let log = Log::open_sim(&disk.process(), DIR).unwrap();
        let retention = Retention::default().with_consumed(true);
        let orders =
            log.topic_with("orders", options(durability).with_retention(retention)).unwrap();
        for number in 0..100_u64 {
            orders.append(&Record::new(vec![b'x'; 1000]).with_key(number.to_le_bytes())).unwrap();
        }
        let mut worker = polled(&orders, &Seen::default());
        work(&mut worker, 100);
        drop(worker);
        let info = orders.groups().unwrap().remove(0).1.unwrap();
        assert_eq!((info.committed, info.durable), (100, 100), "{durability:?}");
        assert!(orders.trim().unwrap() > 0, "{durability:?}");
        for seed in 0..10 {
            let log = Log::open_sim(&disk.power_cut(seed).process(), DIR).unwrap();
            let orders = log.open_topic("orders").unwrap();
            assert_eq!(
                orders.end_offset().unwrap(),
                100,
                "a position is durable after its records"
            );
            let seen = Seen::default();
            polled(&orders, &seen).poll(Duration::ZERO).unwrap();
            assert_eq!(*seen.lock().unwrap(), [0; 0], "{durability:?}, seed {seed}");
        }
    }
}

#[test]
fn positions_of_a_worker_are_durable_soon_even_if_it_is_no_longer_polled() {
    let disk = SimDisk::new();
    let orders = topic(&Log::open_sim(&disk.process(), DIR).unwrap(), Durability::PowerLoss);
    fill(&orders, 50);
    let mut worker = polled(&orders, &Seen::default());
    work(&mut worker, 50);
    worker.sync().unwrap();
    fill(&orders, 10);
    work(&mut worker, 10);
    let group = orders.group("packing", GroupOptions::default()).unwrap();
    let committed: Vec<u64> =
        group.info().unwrap().lanes.iter().map(|lane| lane.committed).collect();
    wait_until(|| {
        let durable = group.info().unwrap().lanes.into_iter().map(|lane| lane.durable);
        durable.eq(committed.iter().copied())
    });
    let log = Log::open_sim(&disk.power_cut(1).process(), DIR).unwrap();
    let orders = log.open_topic("orders").unwrap();
    let seen = Seen::default();
    polled(&orders, &seen).poll(Duration::ZERO).unwrap();
    assert_eq!(*seen.lock().unwrap(), [0; 0]);
    drop(worker);
}
