//! Work that happens beside the appends of others: syncs, trims, timers. None of it holds up, or fails,
//! what it has nothing to do with.

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use deaddrop::{Durability, Log, Record, Topic, TopicOptions};

use crate::child::Child;

const SEGMENT_LEN: u64 = 64 << 10;

fn options(durability: Durability) -> TopicOptions {
    TopicOptions { segment_len: SEGMENT_LEN, ..TopicOptions::durability(durability) }
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

/// Role: one thread stands still in the middle of a sync that covers two segments, while others sync
/// the same and more, and trim.
pub(crate) fn outdone(words: &[&str]) {
    let [call, dir] = words else { panic!("{words:?}") };
    let log = Log::open(Path::new(dir)).unwrap();
    // The background may sync the first of the two segments before.
    assert!((0..200).any(|attempt| is_outdone(&log, call, attempt)), "no sync of two segments");
}

fn is_outdone(log: &Log, call: &str, attempt: u32) -> bool {
    let durability = match call {
        "append" => Durability::PowerLoss,
        _ => Durability::ProcessCrash,
    };
    let topic = log.create_topic(&format!("t{attempt}"), options(durability)).unwrap();
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
