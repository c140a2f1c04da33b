//! Worker groups: order per key, fair shares, retries that delay no other record, poison, suspects.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deaddrop::group::{
    AttemptState, DeadLetter, GroupOptions, HandlerError, Job, Poison, Worker, WorkerOptions,
};
use deaddrop::{Durability, Error, Log, Record, Retention, Start, Topic, TopicOptions};

use crate::child::{self, Child, Watchdog};

const LONG: Duration = Duration::from_secs(30);
/// Polls of a worker, a millisecond each, before a test fails: far more than a busy machine needs.
const ROUNDS: u32 = 30_000;

fn options() -> TopicOptions {
    TopicOptions::default().with_durability(Durability::ProcessCrash).with_segment_len(16 << 10)
}

fn topic(log: &Log) -> Topic {
    log.topic_with("orders", options()).unwrap()
}

/// Appends `count` records whose keys take turns.
fn append(topic: &Topic, keys: u64, count: u64) {
    for number in 0..count {
        let record = Record::new(number.to_string()).with_key(format!("key-{}", number % keys));
        topic.append(&record).unwrap();
    }
}

type Handled = Arc<Mutex<Vec<(Vec<u8>, u64)>>>;

fn noting(handled: &Handled) -> impl FnMut(&Job) -> Result<(), HandlerError> + Send + 'static {
    let handled = Arc::clone(handled);
    move |job| {
        handled.lock().unwrap().push((job.key().unwrap_or_default().to_owned(), job.offset()));
        Ok(())
    }
}

fn lanes_of(topic: &Topic) -> Vec<Option<u32>> {
    let (_, info) = topic.groups().unwrap().remove(0);
    info.unwrap().lanes.iter().map(|lane| lane.owner).collect()
}

#[test]
fn workers_share_the_records_and_keep_the_order_of_each_key() {
    let _watchdog = Watchdog::new();
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let topic = topic(&log);
    append(&topic, 20, 500);
    let group = topic.group("g", GroupOptions::default()).unwrap();
    let handled = Handled::default();
    let workers: Vec<_> = (0..4)
        .map(|_| group.worker(WorkerOptions::default(), noting(&handled)).unwrap().spawn().unwrap())
        .collect();
    append(&topic, 20, 500);
    for offset in 0..1000 {
        assert!(group.wait_for(offset, LONG).unwrap(), "{offset} is not handled");
    }
    for worker in workers {
        worker.stop().unwrap();
    }
    let handled = handled.lock().unwrap();
    assert_eq!(handled.len(), 1000, "each once");
    let mut last: HashMap<&[u8], u64> = HashMap::new();
    for (key, offset) in handled.iter() {
        if let Some(before) = last.insert(key, *offset) {
            assert!(before < *offset, "{key:?}: {offset} after {before}");
        }
    }
    let info = group.info().unwrap();
    assert_eq!((info.committed, info.lag), (1000, 0), "lanes without a record follow too");
    assert_eq!(info.durable, 1000, "a graceful end makes positions durable");
}

#[test]
fn shares_are_fair_and_follow_workers_that_come_and_go() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let topic = topic(&log);
    let group =
        topic.group("g", GroupOptions::default().with_lanes(10).with_start(Start::First)).unwrap();
    let taken = |worker: &deaddrop::group::Worker| {
        let stats = worker.stats();
        stats.lanes_taken - stats.lanes_released
    };
    let open = || group.worker(WorkerOptions::default(), |_| Ok(())).unwrap();
    let mut first = open();
    first.poll(Duration::ZERO).unwrap();
    assert_eq!(taken(&first), 10);
    let (mut second, mut third) = (open(), open());
    for round in 0.. {
        for worker in [&mut first, &mut second, &mut third] {
            worker.poll(Duration::from_millis(1)).unwrap();
        }
        let mut shares = [taken(&first), taken(&second), taken(&third)];
        shares.sort_unstable();
        if shares == [3, 3, 4] {
            break;
        }
        assert!(round < ROUNDS, "{shares:?}");
    }
    drop((first, third));
    for round in 0.. {
        second.poll(Duration::from_millis(1)).unwrap();
        if taken(&second) == 10 {
            break;
        }
        assert!(round < ROUNDS, "{}", taken(&second));
    }
}

#[test]
fn records_without_a_key_go_to_one_worker_after_the_other() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let topic = topic(&log);
    let group =
        topic.group("g", GroupOptions::default().with_lanes(10).with_start(Start::First)).unwrap();
    let handled: Vec<Handled> = (0..3).map(|_| Handled::default()).collect();
    let open = |handled| group.worker(WorkerOptions::default(), noting(handled)).unwrap();
    // The first worker has all lanes before the others come.
    let mut workers = vec![open(&handled[0])];
    workers[0].poll(Duration::ZERO).unwrap();
    workers.extend(handled[1..].iter().map(open));
    let is_fair = |workers: &[Worker]| {
        let held = workers.iter().map(|worker| {
            let stats = worker.stats();
            stats.lanes_taken - stats.lanes_released
        });
        held.eq([4, 3, 3])
    };
    for round in 0.. {
        for worker in &mut workers {
            worker.poll(Duration::from_millis(1)).unwrap();
        }
        if is_fair(&workers) {
            break;
        }
        assert!(round < ROUNDS, "the lanes are not shared");
    }
    for _ in 0..10 {
        topic.append(&Record::new("x")).unwrap();
    }
    for worker in &mut workers {
        worker.poll(Duration::ZERO).unwrap();
    }
    for (rank, handled) in handled.iter().enumerate() {
        let offsets: Vec<u64> = handled.lock().unwrap().iter().map(|(_, at)| *at).collect();
        assert_eq!(offsets, (rank as u64..10).step_by(3).collect::<Vec<_>>());
    }
}

#[test]
fn lanes_that_a_stopped_worker_does_not_take_are_taken_by_others() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let topic = topic(&log);
    let group =
        topic.group("g", GroupOptions::default().with_lanes(10).with_start(Start::First)).unwrap();
    let open = || group.worker(WorkerOptions::default(), |_| Ok(())).unwrap();
    let (mut first, _never_works) = (open(), open());
    for round in 0.. {
        first.poll(Duration::from_millis(1)).unwrap();
        if first.stats().lanes_taken == 10 {
            break;
        }
        assert!(round < ROUNDS, "{:?}", first.stats());
    }
    assert_eq!(first.stats().lanes_released, 0, "no other worker needs them");
}

#[test]
fn a_record_that_fails_delays_its_own_lane_only_and_becomes_a_dead_letter() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let topic = topic(&log);
    topic.append(&Record::new("bad").with_key("a").with_header("h", "1")).unwrap();
    for number in 0..10 {
        topic.append(&Record::new(number.to_string()).with_key(format!("other-{number}"))).unwrap();
    }
    topic.append(&Record::new("behind").with_key("a")).unwrap();
    let group = topic.group("g", GroupOptions::default()).unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&order);
    let options =
        WorkerOptions::default().with_max_attempts(3).with_retry_first(Duration::from_millis(30));
    let mut worker = group
        .worker(options, move |job| {
            let text = String::from_utf8_lossy(job.payload()).into_owned();
            noted.lock().unwrap().push((text.clone(), job.attempt()));
            assert_eq!(job.is_last_attempt(), job.attempt() == 3);
            if text == "bad" {
                return Err(HandlerError::retry("out of order"));
            }
            Ok(())
        })
        .unwrap();
    let mut done = 0;
    while done < 12 {
        let more = worker.poll(LONG).unwrap();
        assert_ne!(more, 0);
        done += more;
    }
    let order = order.lock().unwrap();
    let at = |text: &str, attempt| order.iter().position(|one| *one == (text.into(), attempt));
    assert!(at("9", 1) < at("bad", 2), "other keys continue while it waits: {order:?}");
    assert!(at("bad", 3) < at("behind", 1), "its own key waits: {order:?}");
    let dead = log.open_topic("orders.g.dead").unwrap();
    let mut reader = dead.reader(Start::First).unwrap();
    let record = reader.next().unwrap().unwrap();
    let letter = DeadLetter::of(&record).unwrap();
    assert_eq!((letter.topic.as_str(), letter.offset, letter.attempts), ("orders", 0, 3));
    assert_eq!((letter.group.as_str(), letter.reason.as_str()), ("g", "out of order"));
    assert_eq!((record.key(), record.header("h")), (Some(&b"a"[..]), Some(&b"1"[..])));
    assert!(reader.next().unwrap().is_none());
}

#[test]
fn a_lane_that_stops_at_poison_continues_when_it_is_resumed() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let topic = topic(&log);
    topic.append(&Record::new("bad").with_key("a")).unwrap();
    topic.append(&Record::new("good").with_key("b")).unwrap();
    let lanes = GroupOptions::default().with_lanes(64).with_start(Start::First);
    let group = topic.group("g", lanes).unwrap();
    let fails = Arc::new(AtomicU64::new(2));
    let left = Arc::clone(&fails);
    let options = WorkerOptions::default().with_max_attempts(1).with_poison(Poison::StopLane);
    let open = |left: Arc<AtomicU64>| {
        let handler = move |job: &Job| match job.payload() {
            b"bad" if left.load(Ordering::Relaxed) > 0 => {
                left.fetch_sub(1, Ordering::Relaxed);
                Err(HandlerError::retry("no"))
            }
            _ => Ok(()),
        };
        group.worker(options.clone(), handler).unwrap()
    };
    let mut worker = open(Arc::clone(&left));
    assert_eq!(worker.poll(LONG).unwrap(), 1);
    let stopped = |group: &deaddrop::group::Group| {
        let lanes = group.info().unwrap().lanes;
        lanes.iter().position(|lane| {
            lane.in_hand.as_ref().is_some_and(|hand| hand.state == AttemptState::Stopped)
        })
    };
    let lane = stopped(&group).unwrap() as u32;
    drop(worker);
    let mut worker = open(left);
    assert_eq!(worker.poll(Duration::from_millis(60)).unwrap(), 0, "still stopped after a restart");
    assert!(group.resume(lane).unwrap());
    assert!(!group.resume(lane).unwrap(), "it is no longer stopped");
    assert_eq!(worker.poll(Duration::from_millis(200)).unwrap(), 0, "it fails once more");
    assert_eq!(stopped(&group), Some(lane as usize));
    assert!(group.resume(lane).unwrap());
    assert_eq!(worker.poll(LONG).unwrap(), 1);
    assert_eq!(stopped(&group), None);
    assert!(group.resume(64).is_err());
    assert!(log.open_topic("orders.g.dead").is_err());
}

/// Role: works; dies of every record whose payload starts with "deadly", and reports the others.
pub(crate) fn mortal(words: &[&str]) {
    let log = Log::open_or_create(words[0]).unwrap();
    let group = log.topic("orders").unwrap().group("g", GroupOptions::default()).unwrap();
    let options = WorkerOptions::default().with_max_attempts(3);
    let work = || {
        let worker = group.worker(options.clone(), |job| {
            let text = String::from_utf8_lossy(job.payload()).into_owned();
            child::say(&format!("begin {text} {}", job.attempt()));
            if text.starts_with("deadly") {
                // The other handlers of this process are running.
                std::thread::yield_now();
                child::raise(libc::SIGKILL);
            }
            child::say(&format!("done {text}"));
            Ok(())
        });
        worker.unwrap().spawn().unwrap()
    };
    let workers: Vec<_> = (0..3).map(|_| work()).collect();
    child::listen();
    drop(workers);
}

#[test]
fn a_record_that_kills_its_process_is_dead_lettered_and_no_bystander_is() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let topic = topic(&log);
    let count = 300;
    for number in 0..count {
        let kind = if number % 100 == 50 { "deadly" } else { "good" };
        let record = Record::new(format!("{kind}-{number}")).with_key(format!("key-{number}"));
        topic.append(&record).unwrap();
    }
    let group = topic.group("g", GroupOptions::default()).unwrap();
    let mut deaths = 0;
    let mut begun: BTreeMap<String, u32> = BTreeMap::new();
    let mut done: BTreeMap<String, u32> = BTreeMap::new();
    while group.info().unwrap().lag > 0 {
        let mut child = Child::spawn(&["mortal", dir.path().to_str().unwrap()]);
        let mut left = true;
        while left {
            // Reads its lines until it dies, or until all is done, as the lanes report.
            if group.wait_for(count - 1, Duration::ZERO).unwrap() && group.info().unwrap().lag == 0
            {
                break;
            }
            match child.hear_for(Duration::from_millis(100)) {
                Ok(Some(line)) => {
                    let words: Vec<_> = line.split(' ').collect();
                    let counts = if words[0] == "begin" { &mut begun } else { &mut done };
                    *counts.entry(words[1].to_owned()).or_default() += 1;
                }
                Ok(None) => left = false,
                Err(()) => {}
            }
        }
        deaths += u32::from(!left);
        assert!(deaths < 60, "deadly records are still retried: {begun:?}");
    }
    let dead = log.open_topic("orders.g.dead").unwrap();
    let mut reader = dead.reader(Start::First).unwrap();
    let mut letters = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        let letter = DeadLetter::of(&record).unwrap();
        assert_eq!(letter.reason, "its handler died with the process");
        letters.push(String::from_utf8_lossy(record.payload()).into_owned());
    }
    letters.sort();
    assert_eq!(letters, ["deadly-150", "deadly-250", "deadly-50"], "and nothing else");
    for letter in letters {
        assert!(begun[&letter] >= 3, "{letter}: dead after {} attempts", begun[&letter]);
    }
}

#[test]
fn the_lanes_of_a_killed_worker_are_taken_by_another() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let topic = topic(&log);
    append(&topic, 30, 30);
    let child = Child::spawn(&["mortal", dir.path().to_str().unwrap()]);
    let group = topic.group("g", GroupOptions::default()).unwrap();
    for offset in 0..30 {
        assert!(group.wait_for(offset, LONG).unwrap());
    }
    // Its three workers share them; a lane that moves between two of them is free for a moment.
    for look in 0.. {
        if lanes_of(&topic).iter().all(|owner| *owner == Some(child.pid())) {
            break;
        }
        assert!(look < 60_000, "{:?}", lanes_of(&topic));
        std::thread::park_timeout(Duration::from_millis(1));
    }
    let mut worker = group.worker(WorkerOptions::default(), |_| Ok(())).unwrap();
    child.kill();
    append(&topic, 30, 30);
    let mut done = 0;
    while done < 30 {
        let more = worker.poll(LONG).unwrap();
        assert_ne!(more, 0);
        done += more;
    }
    assert!(lanes_of(&topic).iter().all(|owner| *owner == Some(std::process::id())));
}

#[test]
fn records_that_a_lane_needs_are_kept_and_those_that_all_have_done_are_dropped() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let retention = Retention::default().with_consumed(true);
    let topic = log.topic_with("orders", options().with_retention(retention)).unwrap();
    let group = topic.group("g", GroupOptions::default()).unwrap();
    for number in 0..500u32 {
        topic.append(&Record::new(vec![7; 200]).with_key(number.to_le_bytes())).unwrap();
    }
    topic.wait_durable(499).unwrap();
    // A consumer that has read everything.
    drop(topic.consumer("other", Start::End).unwrap());
    assert_eq!(topic.trim().unwrap(), 0, "no worker has begun");
    let mut worker = group.worker(WorkerOptions::default(), |_| Ok(())).unwrap();
    while group.info().unwrap().lag > 0 {
        worker.poll(Duration::ZERO).unwrap();
    }
    let stop = deaddrop::Stop::new();
    stop.stop();
    worker.run(&stop).unwrap();
    assert!(topic.trim().unwrap() > 0);
}

#[test]
fn a_worker_whose_records_are_trimmed_or_damaged_reports_that_and_skips_on_request() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let topic = topic(&log);
    let group = topic.group("g", GroupOptions::default()).unwrap();
    for number in 0..500u32 {
        topic.append(&Record::new(vec![7; 200]).with_key(number.to_le_bytes())).unwrap();
    }
    let first = topic.trim_before(400).unwrap();
    assert!(first > 0);
    let handled = Handled::default();
    let mut worker = group.worker(WorkerOptions::default(), noting(&handled)).unwrap();
    for _ in 0..2 {
        let error = worker.poll(LONG).unwrap_err();
        assert!(matches!(error, Error::Trimmed { first: at, .. } if at == first), "{error}");
    }
    assert_eq!(worker.skip().unwrap(), 0..first);
    while group.info().unwrap().lag > 0 {
        worker.poll(Duration::ZERO).unwrap();
    }
    assert_eq!(handled.lock().unwrap().len() as u64, 500 - first);
}

#[test]
fn other_lanes_than_it_has_and_a_damaged_file_are_refused() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let topic = topic(&log);
    let lanes = |lanes| GroupOptions::default().with_lanes(lanes).with_start(Start::First);
    let group = topic.group("g", lanes(4)).unwrap();
    assert!(matches!(topic.group("g", lanes(5)), Err(Error::Conflict { .. })));
    assert!(matches!(topic.group("h", lanes(0)), Err(Error::Invalid { .. })));
    assert!(matches!(topic.group("../h", lanes(1)), Err(Error::InvalidName { .. })));
    let worker = group.worker(WorkerOptions::default(), |_| Ok(())).unwrap();
    assert!(matches!(topic.delete_group("g"), Err(Error::Locked { .. })));
    drop((worker, group));
    let path = topic.dir().join("groups/g");
    let bytes = std::fs::read(&path).unwrap();
    for at in [0, 24, 4096, 4096 + 1024] {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        let refused = topic.group("g", GroupOptions::default()).and_then(|group| {
            group
                .worker(WorkerOptions::default(), |_| Ok(()))
                .and_then(|mut worker| worker.poll(Duration::ZERO).map(drop))
        });
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{at}: {error}");
    }
    std::fs::write(&path, &bytes).unwrap();
    topic.delete_group("g").unwrap();
    assert!(matches!(topic.delete_group("g"), Err(Error::NotFound { .. })));
}

#[test]
fn attempts_at_a_trimmed_record_do_not_count_against_the_next_one() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let topic = topic(&log);
    let group =
        topic.group("g", GroupOptions::default().with_lanes(1).with_start(Start::First)).unwrap();
    for _ in 0..500 {
        topic.append(&Record::new(vec![7; 200]).with_key("k")).unwrap();
    }
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let open = |retry_first| {
        let (noted, trimmed) = (Arc::clone(&attempts), topic.clone());
        let options = WorkerOptions::default().with_max_attempts(3).with_retry_first(retry_first);
        let handler = move |job: &Job| {
            noted.lock().unwrap().push((job.offset(), job.attempt()));
            if job.offset() == 0 {
                trimmed.trim_before(400).unwrap();
            }
            match job.attempt() {
                1 | 2 => Err(HandlerError::retry("not yet")),
                _ => Ok(()),
            }
        };
        group.worker(options, handler).unwrap()
    };
    // Fails, and is trimmed while it waits for its second attempt.
    let failed = open(LONG).poll(Duration::ZERO);
    assert!(matches!(failed, Ok(0) | Err(Error::Trimmed { .. })), "{failed:?}");
    let mut worker = open(Duration::ZERO);
    assert!(matches!(worker.poll(LONG), Err(Error::Trimmed { .. })));
    let first = topic.first_offset().unwrap();
    assert_eq!(worker.skip().unwrap().end, first);
    assert_ne!(worker.poll(LONG).unwrap(), 0);
    let expected = [(0, 1), (first, 1), (first, 2), (first, 3)];
    assert_eq!(attempts.lock().unwrap()[..4], expected);
    assert!(log.open_topic("orders.g.dead").is_err(), "it was handled at its third attempt");
}
