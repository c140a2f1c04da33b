//! The attempts at a record that failed, or died with its process: they are remembered over
//! restarts, boots and copies, delay no other record, and blame no bystander.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deaddrop::format::group::lane_of;
use deaddrop::group::{
    DeadLetter, Group, GroupOptions, HandlerError, InHand, Job, Poison, Worker, WorkerOptions,
};
use deaddrop::{Durability, Error, Log, Record, Start, Topic, TopicOptions};

use crate::child::{self, Child, Watchdog, GUARD};

const NOW: Duration = Duration::ZERO;

fn open(dir: &Path) -> (Log, Topic, Group) {
    let log = Log::open_or_create(dir).unwrap();
    let options = TopicOptions::default().with_durability(Durability::ProcessCrash);
    let topic = log.topic_with("orders", options.with_segment_len(16 << 20)).unwrap();
    let group = topic.group("g", GroupOptions::default()).unwrap();
    (log, topic, group)
}

fn append(topic: &Topic, payload: &str, key: &str) -> u64 {
    topic.append(&Record::new(payload).with_key(key)).unwrap()
}

fn in_hand(group: &Group) -> Vec<(u32, InHand)> {
    let lanes = group.info().unwrap().lanes;
    (0..).zip(lanes).filter_map(|(number, lane)| Some((number, lane.in_hand?))).collect()
}

fn state_of(group: &Group, offset: u64) -> Option<&'static str> {
    in_hand(group)
        .into_iter()
        .find(|(_, hand)| hand.offset == offset)
        .map(|(_, hand)| hand.state.name())
}

fn failing(group: &Group, options: WorkerOptions, attempts: &Arc<AtomicU64>) -> Worker {
    let attempts = Arc::clone(attempts);
    group
        .worker(options, move |_| {
            attempts.fetch_add(1, Ordering::SeqCst);
            Err(HandlerError::retry("no"))
        })
        .unwrap()
}

fn stops() -> WorkerOptions {
    WorkerOptions::default().with_max_attempts(1).with_poison(Poison::StopLane)
}

fn copy_of(dir: &Path) -> tempfile::TempDir {
    let copy = crate::dir();
    let from = format!("{}/.", dir.display());
    let copied = std::process::Command::new("cp").arg("-r").arg(from).arg(copy.path()).status();
    assert!(copied.unwrap().success());
    copy
}

#[test]
fn a_stopped_lane_stays_stopped_in_a_copy_until_it_is_resumed_or_skipped() {
    let dir = crate::dir();
    let attempts = Arc::<AtomicU64>::default();
    {
        let (_log, topic, group) = open(dir.path());
        append(&topic, "pay", "k");
        let mut worker = failing(&group, stops(), &attempts);
        worker.poll(NOW).unwrap();
        assert_eq!(state_of(&group, 0), Some("stopped"));
        assert_eq!(worker.stats().stopped, 1);
    }
    assert_eq!(attempts.load(Ordering::SeqCst), 1);
    let copy = copy_of(dir.path());
    let (log, topic, group) = open(copy.path());
    assert_eq!(state_of(&group, 0), Some("stopped"), "before any worker begins");
    let second = append(&topic, "behind", "k");
    let mut worker = failing(&group, stops(), &attempts);
    worker.poll(Duration::from_millis(50)).unwrap();
    assert_eq!(attempts.load(Ordering::SeqCst), 1, "it is not tried again");
    let lane = in_hand(&group)[0].0;

    // Resumed, even if nothing else happens before the next copy.
    assert!(group.resume(lane).unwrap());
    drop(worker);
    let resumed = copy_of(copy.path());
    let (_log2, _topic2, group2) = open(resumed.path());
    failing(&group2, stops(), &attempts).poll(NOW).unwrap();
    assert_eq!(attempts.load(Ordering::SeqCst), 2);

    // In the first copy the record fails once more, and is then skipped.
    let mut worker = failing(&group, stops(), &attempts);
    worker.poll(NOW).unwrap();
    assert_eq!((attempts.load(Ordering::SeqCst), state_of(&group, 0)), (3, Some("stopped")));
    assert!(group.skip_stopped(lane).unwrap());
    assert!(!group.skip_stopped(lane).unwrap(), "it is no longer stopped");
    drop(worker);
    let handled = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&handled);
    let mut worker = group
        .worker(stops(), move |job| {
            noted.lock().unwrap().push(job.offset());
            Ok(())
        })
        .unwrap();
    while !group.wait_for(second, NOW).unwrap() {
        worker.poll(GUARD).unwrap();
    }
    assert_eq!(*handled.lock().unwrap(), [second], "no other attempt at the skipped record");
    let dead = log.open_topic("orders.g.dead").unwrap();
    let mut reader = dead.reader(Start::First).unwrap();
    let letter = DeadLetter::of(&reader.next().unwrap().unwrap()).unwrap();
    assert_eq!((letter.offset, letter.attempts), (0, 3), "{letter:?}");
    assert!(letter.reason.contains("skip"), "{letter:?}");
}

#[test]
fn a_stopped_lane_can_be_resumed_in_a_copy_before_any_worker_begins() {
    for skips in [false, true] {
        let dir = crate::dir();
        let attempts = Arc::<AtomicU64>::default();
        {
            let (_log, topic, group) = open(dir.path());
            append(&topic, "pay", "k");
            failing(&group, stops(), &attempts).poll(NOW).unwrap();
        }
        let copy = copy_of(dir.path());
        let (_log, _topic, group) = open(copy.path());
        let lane = in_hand(&group)[0].0;
        let ended = if skips { group.skip_stopped(lane) } else { group.resume(lane) };
        assert!(ended.unwrap());
        let mut worker = failing(&group, stops(), &attempts);
        worker.poll(NOW).unwrap();
        assert_eq!(worker.stats().dead, u64::from(skips));
        assert_eq!(attempts.load(Ordering::SeqCst), 2 - u64::from(skips));
    }
}

#[test]
fn a_record_that_waits_for_its_next_attempt_keeps_waiting_when_workers_come_and_go() {
    let dir = crate::dir();
    let (log, topic, group) = open(dir.path());
    append(&topic, "x", "k");
    let options = WorkerOptions::default()
        .with_max_attempts(10)
        .with_retry_first(Duration::from_secs(3600))
        .with_retry_most(Duration::from_secs(3600));
    let attempts = Arc::<AtomicU64>::default();
    for _ in 0..20 {
        failing(&group, options.clone(), &attempts).poll(Duration::from_millis(5)).unwrap();
    }
    assert_eq!(attempts.load(Ordering::SeqCst), 1, "other records come before it is due");
    assert!(log.open_topic("orders.g.dead").is_err());
    let patient = options.with_retry_most(NOW);
    failing(&group, patient, &attempts).poll(NOW).unwrap();
    assert_ne!(attempts.load(Ordering::SeqCst), 1, "it waits at most a worker's longest wait");
}

/// Role: reports how its handler runs, according to its page, and waits in it to be killed.
pub(crate) fn tells_state(words: &[&str]) {
    let (_log, _topic, group) = open(Path::new(words[0]));
    let looks = group.clone();
    let mut worker = group
        .worker(WorkerOptions::default(), move |job: &Job| {
            let state = state_of(&looks, job.offset()).unwrap();
            child::say(&format!("attempt {}, {state}", job.attempt()));
            child::listen();
            Ok(())
        })
        .unwrap();
    worker.poll(GUARD).unwrap();
}

#[test]
fn records_in_flight_at_a_crash_run_again_beside_others_and_alone_only_after_a_second_crash() {
    let dir = crate::dir();
    let (_log, topic, _group) = open(dir.path());
    append(&topic, "x", "k");
    let states = ["attempt 1, running", "attempt 2, running", "attempt 3, running alone"];
    for state in states {
        let mut child = Child::spawn(&["tells-state", dir.path().to_str().unwrap()]);
        assert_eq!(child.hear().as_deref(), Some(state));
        child.kill();
    }
}

/// Returns a key with an even or an odd lane: of two workers, the first one's or the second one's.
fn key_of(is_odd: bool) -> String {
    let is_so = |key: &String| lane_of(Some(key.as_bytes()), 0, 64) % 2 == u32::from(is_odd);
    (0..100).map(|number| format!("key-{number}")).find(is_so).unwrap()
}

#[test]
fn a_suspect_is_marked_as_not_alone_when_a_neighbour_begins_beside_it() {
    let _watchdog = Watchdog::new();
    let dir = crate::dir();
    let (_log, topic, group) = open(dir.path());
    let suspect = append(&topic, "suspect", &key_of(false));
    for _ in 0..2 {
        let mut child = Child::spawn(&["tells-state", dir.path().to_str().unwrap()]);
        child.hear().unwrap();
        child.kill();
    }
    let (begun, is_begun) = channel();
    let (end, may_end) = channel::<()>();
    let may_end = Arc::new(Mutex::new(may_end));
    let open = || {
        let (begun, may_end, looks) = (begun.clone(), Arc::clone(&may_end), group.clone());
        let worker = group.worker(WorkerOptions::default(), move |job: &Job| {
            begun.send((job.offset(), state_of(&looks, suspect))).unwrap();
            if job.offset() == suspect {
                may_end.lock().unwrap().recv().unwrap();
            }
            Ok(())
        });
        worker.unwrap()
    };
    let (mut first, mut second) = (open(), open());
    // Takes its half of the lanes, which have no records.
    assert_eq!(second.poll(NOW).unwrap(), 0);
    std::thread::scope(|scope| {
        let alone = scope.spawn(move || first.poll(GUARD).unwrap());
        assert_eq!(is_begun.recv_timeout(GUARD).unwrap(), (suspect, Some("running alone")));
        let neighbour = append(&topic, "neighbour", &key_of(true));
        let beside = scope.spawn(move || second.poll(GUARD).unwrap());
        let (offset, state) = is_begun.recv_timeout(GUARD).unwrap();
        assert_eq!((offset, state), (neighbour, Some("running")), "its crash would not count");
        end.send(()).unwrap();
        assert_eq!((alone.join().unwrap(), beside.join().unwrap()), (1, 1));
    });
}

#[test]
fn a_record_that_fails_all_the_time_delays_no_other_lane_and_no_end_of_a_poll() {
    let _watchdog = Watchdog::new();
    const BETWEEN: u64 = 20_000;
    const FAILURES: u64 = 20;
    let dir = crate::dir();
    let (_log, topic, group) = open(dir.path());
    append(&topic, "poison", "a");
    let batch: Vec<Record> = (0..1000_u64)
        .map(|number| Record::new("x").with_key((number * 7919).to_le_bytes()))
        .collect();
    for _ in 0..BETWEEN / 1000 {
        topic.append_batch(&batch).unwrap();
    }
    let options = WorkerOptions::default()
        .with_max_attempts(None::<u32>)
        .with_retry_first(Duration::from_millis(1))
        .with_retry_most(Duration::from_millis(1));
    let tries = Arc::<AtomicU64>::default();
    let counted = Arc::clone(&tries);
    let mut worker = group
        .worker(options, move |job: &Job| match job.payload() {
            b"poison" => Err(HandlerError::retry("always")),
            b"later" if counted.fetch_add(1, Ordering::SeqCst) < FAILURES => {
                Err(HandlerError::retry("a few times"))
            }
            _ => Ok(()),
        })
        .unwrap();
    let poll = |worker: &mut Worker| worker.poll(Duration::from_millis(10)).unwrap();
    let end = topic.high_watermark().unwrap();
    let behind = |group: &Group| {
        group.info().unwrap().lanes.iter().filter(|lane| lane.committed < end).count()
    };
    while behind(&group) > 1 {
        poll(&mut worker);
    }
    // A key of a lane other than the poison record's.
    let later = append(&topic, "later", "b");
    for polls in 0.. {
        poll(&mut worker);
        if group.wait_for(later, NOW).unwrap() {
            break;
        }
        assert!(polls < 5_000, "{} of {FAILURES} attempts", tries.load(Ordering::SeqCst));
    }
    assert_eq!(tries.load(Ordering::SeqCst), FAILURES + 1);
    assert_eq!(state_of(&group, 0), Some("failed"), "it is still retried");
}

#[test]
fn an_endless_wait_does_not_overflow() {
    let dir = crate::dir();
    let (_log, topic, group) = open(dir.path());
    let offset = append(&topic, "x", "k");
    let options =
        WorkerOptions::default().with_retry_first(Duration::MAX).with_retry_most(Duration::MAX);
    let fails = Arc::<AtomicU64>::default();
    failing(&group, options, &fails).poll(NOW).unwrap();
    assert_eq!(fails.load(Ordering::SeqCst), 1);
    let mut worker =
        group.worker(WorkerOptions::default().with_retry_most(NOW), |_| Ok(())).unwrap();
    assert_eq!(worker.poll(Duration::MAX).unwrap(), 1);
    assert!(group.wait_for(offset, Duration::MAX).unwrap());
}

/// Returns a key of this lane.
fn key_in(lane: u32) -> String {
    let mut keys = (0..).map(|number| format!("key-{number}"));
    keys.find(|key| lane_of(Some(key.as_bytes()), 0, 64) == lane).unwrap()
}

/// Works until each record is done or waits for its next attempt, an hour later; then the lanes of
/// the waiting records lag all others.
fn leave_behind(topic: &Topic, group: &Group, waits: &'static [u64]) {
    let options = WorkerOptions::default()
        .with_max_attempts(None::<u32>)
        .with_retry_first(Duration::from_secs(3600))
        .with_retry_most(Duration::from_secs(3600));
    let mut worker = group
        .worker(options, move |job: &Job| match waits.contains(&job.offset()) {
            true => Err(HandlerError::retry("not yet")),
            false => Ok(()),
        })
        .unwrap();
    let end = topic.high_watermark().unwrap();
    for polls in 0.. {
        worker.poll(Duration::from_millis(1)).unwrap();
        let lanes = group.info().unwrap().lanes;
        if lanes.iter().filter(|lane| lane.committed < end).count() == waits.len()
            && in_hand(group).len() == waits.len()
        {
            return;
        }
        assert!(polls < 30_000, "{lanes:?}");
    }
}

#[test]
fn a_lane_whose_records_were_read_past_while_it_waited_gets_all_of_them_in_order() {
    let dir = crate::dir();
    let (_log, topic, group) = open(dir.path());
    // The first lane does not lag: the worker begins at its position, ahead of the other lane.
    let (a, b) = (key_in(1), key_in(2));
    for key in [&a, &b, &a, &b, &b, &b, &a] {
        append(&topic, "x", key);
    }
    leave_behind(&topic, &group, &[0, 1]);
    let done = Arc::new(Mutex::new(Vec::new()));
    let (noted, mut failures) = (Arc::clone(&done), 3);
    let options = WorkerOptions::default().with_retry_first(NOW).with_retry_most(NOW);
    let mut worker = group
        .worker(options, move |job: &Job| {
            // Records of the other lane are handled between its attempts.
            if job.offset() == 0 && failures > 0 {
                failures -= 1;
                return Err(HandlerError::retry("not yet"));
            }
            noted.lock().unwrap().push(job.offset());
            Ok(())
        })
        .unwrap();
    for polls in 0.. {
        worker.poll(Duration::from_millis(1)).unwrap();
        if group.info().unwrap().lag == 0 {
            break;
        }
        assert!(polls < 30_000, "{:?}", done.lock().unwrap());
    }
    let done = done.lock().unwrap();
    let of = |lane: &[u64]| -> Vec<u64> {
        done.iter().copied().filter(|offset| lane.contains(offset)).collect()
    };
    assert_eq!((of(&[0, 2, 6]), of(&[1, 3, 4, 5])), (vec![0, 2, 6], vec![1, 3, 4, 5]));
    assert_eq!(done.len(), 7);
}

#[test]
fn a_poll_ends_when_its_time_is_over_even_if_a_lane_lags_far() {
    let dir = crate::dir();
    let (_log, topic, group) = open(dir.path());
    let far = key_in(1);
    append(&topic, "x", &far);
    let others: Vec<_> = (0..64).filter(|lane| *lane != 1).map(key_in).collect();
    let batch: Vec<_> = others.iter().map(|key| Record::new("x").with_key(key)).collect();
    // Many turns of a reader.
    for _ in 0..500 {
        topic.append_batch(&batch).unwrap();
    }
    let last = append(&topic, "x", &far);
    leave_behind(&topic, &group, &[0]);
    let options = WorkerOptions::default().with_retry_most(NOW);
    let mut worker = group.worker(options, |_: &Job| Ok(())).unwrap();
    assert_eq!(worker.poll(NOW).unwrap(), 1, "the second one is far away");
    for polls in 0.. {
        worker.poll(Duration::from_millis(1)).unwrap();
        if group.wait_for(last, NOW).unwrap() {
            break;
        }
        assert!(polls < 30_000, "{:?}", worker.stats());
    }
}

#[test]
fn a_worker_without_a_single_attempt_is_refused() {
    let dir = crate::dir();
    let topic = Log::open_or_create(dir.path()).unwrap().topic("t").unwrap();
    let group = topic.group("g", GroupOptions::default()).unwrap();
    let options = WorkerOptions::default().with_max_attempts(0);
    assert!(matches!(group.worker(options, |_| Ok(())), Err(Error::Invalid { .. })));
}
