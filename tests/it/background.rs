//! Work that happens beside the appends of others: syncs, trims, timers. None of it delays
//! unrelated calls or makes them fail.

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use deaddrop::{Durability, Log, LogOptions, Record, Retention, Start, Topic, TopicOptions};

use crate::child::{Child, Watchdog, GUARD};

const SEGMENT_LEN: u64 = 64 << 10;

fn options(durability: Durability) -> TopicOptions {
    TopicOptions::default().with_durability(durability).with_segment_len(SEGMENT_LEN)
}

/// Three of them fill a segment.
fn large() -> Record {
    Record::new(vec![7; 19_000])
}

#[test]
fn a_sync_whose_segments_were_synced_by_another_and_dropped_has_not_failed() {
    for call in ["append", "wait-durable", "trim-before"] {
        let dir = crate::dir();
        let child = Child::spawn(&["outdone", call, dir.path().to_str().unwrap()]);
        let status = child.wait();
        assert!(status.success(), "{call}: {status}");
    }
}

/// Role: one thread pauses in the middle of a sync that covers two segments, while others sync the
/// same and more, and trim.
pub(crate) fn outdone(words: &[&str]) {
    let [call, dir] = words else { panic!("{words:?}") };
    let log = Log::open_or_create(Path::new(dir)).unwrap();
    // The background may sync the first of the two segments earlier; then another attempt follows.
    assert!((0..200).any(|attempt| is_outdone(&log, call, attempt)), "no sync of two segments");
}

fn is_outdone(log: &Log, call: &str, attempt: u32) -> bool {
    let durability = match call {
        "append" => Durability::PowerLoss,
        _ => Durability::ProcessCrash,
    };
    let topic = log.topic_with(&format!("t{attempt}"), options(durability)).unwrap();
    let (reached, at_point) = channel();
    let (go_on, told) = channel::<()>();
    let mut reached = Some(reached);
    deaddrop::arm_crash_points(Some(Box::new(move |name| {
        if name == "sync.before" && std::thread::current().name() == Some("slow") {
            if let Some(reached) = reached.take() {
                reached.send(()).unwrap();
                told.recv().unwrap();
            }
        }
    })));
    for _ in 0..3 {
        topic.append_unsynced(&large()).unwrap();
    }
    std::thread::scope(|scope| {
        let slow = std::thread::Builder::new().name("slow".into());
        let slow = slow.spawn_scoped(scope, || slow_call(&topic, call)).unwrap();
        while at_point.recv_timeout(Duration::from_millis(1)).is_err() {
            if slow.is_finished() {
                return false;
            }
        }
        let spans_two = topic.durable_end().unwrap() == 0;
        for _ in 0..9 {
            topic.append(&large()).unwrap();
        }
        topic.wait_durable(12).unwrap();
        assert!(topic.trim_before(9).unwrap() >= 9);
        go_on.send(()).unwrap();
        slow.join().unwrap();
        spans_two
    })
}

fn slow_call(topic: &Topic, call: &str) {
    match call {
        "append" => assert_eq!(topic.append(&large()).unwrap(), 3),
        "wait-durable" => {
            topic.append(&large()).unwrap();
            topic.wait_durable(3).unwrap();
        }
        "trim-before" => {
            topic.append(&large()).unwrap();
            assert!(topic.trim_before(3).unwrap() >= 3);
        }
        other => panic!("no call {other}"),
    }
}

fn run_stuck(story: &str) {
    let dir = crate::dir();
    let child = Child::spawn(&["stuck", story, dir.path().to_str().unwrap()]);
    let status = child.wait();
    assert!(status.success(), "{status}");
}

#[test]
fn a_record_becomes_durable_within_its_interval_while_another_topics_trim_does_not_end() {
    run_stuck("trim");
}

#[test]
fn a_record_becomes_durable_within_its_interval_while_another_topics_sync_does_not_end() {
    run_stuck("sync");
}

#[test]
fn the_drop_of_a_handle_does_not_wait_for_the_work_of_another_topic() {
    run_stuck("drop");
}

/// Role: the background work of one topic pauses. A process of its own, because it arms crash
/// points and may never end.
pub(crate) fn stuck(words: &[&str]) {
    let [story, dir] = words else { panic!("{words:?}") };
    let _watchdog = Watchdog::new();
    let log = Log::open_or_create(Path::new(dir)).unwrap();
    let within = options(Durability::PowerLossWithin(Duration::from_millis(10)));
    let consumed = Retention::default().with_consumed(true);
    let (point, busy_options) = match *story {
        "sync" => ("sync.before", within),
        _ => ("trim.removed", within.with_retention(consumed)),
    };
    let busy = log.topic_with("busy", busy_options).unwrap();
    let other = log.topic_with("other", within.with_retention(consumed)).unwrap();
    let (reached, at_point) = channel();
    let (go_on, told) = channel::<()>();
    let mut reached = Some(reached);
    deaddrop::arm_crash_points(Some(Box::new(move |name| {
        let in_background =
            std::thread::current().name().is_some_and(|name| name.starts_with("deaddrop"));
        if name == point && in_background {
            if let Some(reached) = reached.take() {
                reached.send(()).unwrap();
                // An error means that the story has ended.
                told.recv().unwrap_or_default();
            }
        }
    })));
    busy.append(&large()).unwrap();
    if *story == "sync" {
        // Until one record is left to the timer.
        for _ in 0..10_000 {
            if busy.append(&Record::new("x")).unwrap() >= busy.durable_end().unwrap() {
                break;
            }
        }
    } else {
        busy.consumer("c", Start::First).unwrap();
        for _ in 0..20 {
            busy.append(&large()).unwrap();
        }
        let mut consumer = busy.consumer("c", Start::First).unwrap();
        consumer.seek(Start::End).unwrap();
        consumer.sync().unwrap();
        drop(consumer);
        for _ in 0..4 {
            busy.append(&large()).unwrap();
        }
    }
    at_point.recv_timeout(GUARD).unwrap();
    let mut end = 0;
    for _ in 0..10_000 {
        end = other.append(&Record::new("x")).unwrap() + 1;
        if other.durable_end().unwrap() < end {
            break;
        }
    }
    wait_until(|| other.durable_end().unwrap() >= end);
    if *story == "drop" {
        // Rolls, so that the background has work for this topic.
        for _ in 0..10 {
            other.append(&large()).unwrap();
        }
        drop(other);
    }
    drop(go_on);
}

fn wait_until(is: impl Fn() -> bool) {
    let started = Instant::now();
    while !is() {
        assert!(started.elapsed() < GUARD, "the condition never became true");
        std::thread::yield_now();
    }
}

#[test]
fn an_endless_lock_timeout_never_expires() {
    let dir = crate::dir();
    let options = LogOptions::default().with_lock_timeout(Duration::MAX);
    let topic = Log::open_or_create_with(dir.path(), options).unwrap().topic("t").unwrap();
    assert_eq!(topic.append(&Record::new("x")).unwrap(), 0);
}
