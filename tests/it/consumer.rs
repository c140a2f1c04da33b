//! Consumers: named positions that survive their owners, and retention that respects them.

use std::sync::Barrier;
use std::time::Duration;

use deaddrop::{
    Consumer, Durability, Error, Log, OwnedRecord, Record, Retention, Start, Stop, Topic,
    TopicOptions,
};

use crate::child::{self, Child};

fn options(retention: Retention) -> TopicOptions {
    TopicOptions::default()
        .with_durability(Durability::ProcessCrash)
        .with_segment_len(16 << 10)
        .with_retention(retention)
}

fn topic(dir: &std::path::Path, retention: Retention) -> Topic {
    Log::open_or_create(dir).unwrap().topic_with("t", options(retention)).unwrap()
}

/// Appends records of 1000 bytes; twelve fill a segment.
fn fill(topic: &Topic, count: u64) {
    for _ in 0..count {
        topic.append(&Record::new(vec![b'x'; 1000])).unwrap();
    }
}

fn take(consumer: &mut Consumer, count: u64) {
    for _ in 0..count {
        consumer.next().unwrap().unwrap();
    }
}

/// Role: reads three records, commits two, and waits to be killed.
pub(crate) fn killed_consumer(words: &[&str]) {
    let topic = topic(std::path::Path::new(words[0]), Retention::default());
    let mut consumer = topic.consumer("billing", Start::First).unwrap();
    take(&mut consumer, 2);
    consumer.commit().unwrap();
    take(&mut consumer, 1);
    child::say("read");
    child::listen();
}

#[test]
fn a_commit_survives_kill_9_and_the_name_is_free_at_once() {
    let dir = crate::dir();
    let topic = topic(dir.path(), Retention::default());
    fill(&topic, 5);
    let mut owner = Child::spawn(&["killed-consumer", dir.path().to_str().unwrap()]);
    assert_eq!(owner.hear().as_deref(), Some("read"));
    let pid = owner.pid();
    let locked = topic.consumer("billing", Start::First).unwrap_err();
    assert!(matches!(&locked, Error::Locked { pid: owner, .. } if *owner == Some(pid)), "{locked}");
    assert_eq!(topic.consumers().unwrap()[0].owner, Some(pid));
    assert!(matches!(topic.delete_consumer("billing"), Err(Error::Locked { .. })));
    owner.kill();
    // The start position counts only for a new consumer.
    let mut consumer = topic.consumer("billing", Start::End).unwrap();
    assert_eq!(consumer.committed(), 2);
    assert_eq!(consumer.lag().unwrap(), 3);
    assert_eq!(consumer.next().unwrap().unwrap().offset(), 2, "delivered again");
}

#[test]
fn a_consumer_is_listed_moved_and_deleted() {
    let dir = crate::dir();
    let topic = topic(dir.path(), Retention::default());
    fill(&topic, 5);
    let mut consumer = topic.consumer("billing", Start::Offset(1)).unwrap();
    assert!(matches!(consumer.commit_to(4), Err(Error::Invalid { .. })), "not read yet");
    take(&mut consumer, 2);
    consumer.commit_to(2).unwrap();
    assert_eq!(consumer.committed(), 2);
    consumer.seek(Start::LastN(1)).unwrap();
    assert_eq!(consumer.committed(), 4);
    consumer.sync().unwrap();
    let listed = topic.consumers().unwrap();
    assert_eq!((listed[0].name.as_str(), listed[0].lag), ("billing", 1));
    assert_eq!((listed[0].committed.as_ref().unwrap(), &listed[0].durable), (&4, &Some(4)));
    drop(consumer);
    topic.delete_consumer("billing").unwrap();
    assert!(topic.consumers().unwrap().is_empty());
    assert!(matches!(topic.delete_consumer("billing"), Err(Error::NotFound { .. })));
    assert_eq!(topic.consumer("billing", Start::First).unwrap().committed(), 0);
    for bad in ["", "../billing", "a/b", ".x"] {
        let refused = topic.consumer(bad, Start::First);
        assert!(matches!(refused, Err(Error::InvalidName { .. })), "{bad}");
    }
}

#[test]
fn an_unreadable_offset_file_is_an_error_and_never_a_reset() {
    let dir = crate::dir();
    let topic = topic(dir.path(), Retention::default());
    fill(&topic, 3);
    let mut consumer = topic.consumer("billing", Start::First).unwrap();
    take(&mut consumer, 2);
    consumer.commit().unwrap();
    drop(consumer);
    let path = topic.dir().join("consumers/billing");
    let whole = std::fs::read(&path).unwrap();
    for bad in [vec![], vec![0; whole.len()], vec![0xff; whole.len()], whole[..600].to_vec()] {
        std::fs::write(&path, &bad).unwrap();
        let refused = topic.consumer("billing", Start::First).unwrap_err();
        assert!(matches!(refused, Error::Corrupt { .. }), "{refused}");
        assert!(refused.to_string().contains("delete and recreate it"), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), bad, "left as it was found");
        assert!(topic.consumers().unwrap()[0].committed.is_err());
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(topic.consumer("billing", Start::First).unwrap().committed(), 2);
}

#[test]
fn a_consumer_before_the_first_record_gets_an_error_and_is_never_moved() {
    let dir = crate::dir();
    let topic = topic(dir.path(), Retention::default());
    fill(&topic, 40);
    let mut consumer = topic.consumer("slow", Start::First).unwrap();
    take(&mut consumer, 1);
    consumer.commit().unwrap();
    topic.wait_durable(39).unwrap();
    let first = topic.trim_before(30).unwrap();
    assert!((13..=30).contains(&first), "{first}");
    assert_eq!(topic.first_offset().unwrap(), first);
    consumer.seek(Start::First).unwrap();
    drop(consumer);
    let mut behind = topic.consumer("behind", Start::First).unwrap();
    take(&mut behind, 1);
    fill(&topic, 40);
    topic.wait_durable(79).unwrap();
    let second = topic.trim_before(70).unwrap();
    // Records that were read ahead may still come; then the error, at every call.
    let trimmed = loop {
        match behind.next() {
            Ok(record) => assert!(record.unwrap().offset() < second),
            Err(error) => break error,
        }
    };
    let Error::Trimmed { wanted, first } = trimmed else { panic!("{trimmed}") };
    assert!(wanted < first && first == second);
    assert!(matches!(behind.next(), Err(Error::Trimmed { .. })));
    assert!(matches!(behind.seek(Start::Offset(0)), Err(Error::Trimmed { .. })));
    behind.seek(Start::First).unwrap();
    assert_eq!(behind.next().unwrap().unwrap().offset(), second);
    assert!(matches!(topic.reader(Start::Offset(0)), Err(Error::Trimmed { .. })));
}

#[test]
fn nothing_is_trimmed_before_every_consumer_has_durably_committed_it() {
    let dir = crate::dir();
    let retention = Retention::default().with_consumed(true);
    let topic = topic(dir.path(), retention);
    fill(&topic, 60);
    topic.wait_durable(59).unwrap();
    assert_eq!(topic.trim().unwrap(), 0, "without a consumer nothing is consumed");
    let mut fast = topic.consumer("fast", Start::First).unwrap();
    let mut slow = topic.consumer("slow", Start::First).unwrap();
    take(&mut fast, 60);
    fast.commit().unwrap();
    fast.sync().unwrap();
    assert_eq!(topic.trim().unwrap(), 0);
    take(&mut slow, 40);
    slow.commit().unwrap();
    slow.sync().unwrap();
    let first = topic.trim().unwrap();
    assert!((25..=40).contains(&first), "{first}");
    assert_eq!(slow.next().unwrap().unwrap().offset(), 40);
}

#[test]
fn the_oldest_segments_go_by_size_and_by_age() {
    let dir = crate::dir();
    let by_size = Retention::default().with_bytes(40 << 10);
    let sized = topic(dir.path(), by_size);
    fill(&sized, 100);
    sized.wait_durable(99).unwrap();
    let first = sized.trim().unwrap();
    assert!(first > 50, "{first}");
    let mut reader = sized.reader(Start::First).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().offset(), first);

    let dir = crate::dir();
    let by_age = Retention::default().with_age(Duration::from_nanos(1));
    let aged = topic(dir.path(), by_age);
    fill(&aged, 100);
    aged.wait_durable(99).unwrap();
    assert!(aged.trim().unwrap() > 80, "all but the newest segments");
    assert_eq!(aged.high_watermark().unwrap(), 100);

    let dir = crate::dir();
    let kept = topic(dir.path(), by_age.with_age(Duration::from_secs(3600)));
    fill(&kept, 100);
    kept.wait_durable(99).unwrap();
    assert_eq!(kept.trim().unwrap(), 0);
}

#[test]
fn a_trim_accepts_segments_that_another_trim_drops_meanwhile() {
    let kept = Retention::default().with_consumed(true);
    for retention in [kept.with_age(Duration::from_nanos(1)), kept.with_bytes(1 << 30)] {
        let dir = crate::dir();
        let topic = topic(dir.path(), retention);
        // Keeps all records from `trim`, which therefore examines every segment.
        let _slow = topic.consumer("slow", Start::First).unwrap();
        fill(&topic, 1000);
        topic.wait_durable(999).unwrap();
        let begun = Barrier::new(2);
        std::thread::scope(|scope| {
            let drops = scope.spawn(|| {
                begun.wait();
                for offset in (0..1000).step_by(11) {
                    topic.trim_before(offset).unwrap();
                }
            });
            begun.wait();
            while !drops.is_finished() {
                topic.trim().unwrap();
            }
        });
        assert!(topic.first_offset().unwrap() > 900);
    }
}

/// Role: waits for records, and reports each.
pub(crate) fn waiter(words: &[&str]) {
    let topic = topic(std::path::Path::new(words[0]), Retention::default());
    let mut consumer = topic.consumer("waiter", Start::First).unwrap();
    child::say("waiting");
    let stop = Stop::new();
    for _ in 0..3 {
        let record: OwnedRecord = consumer.wait(&stop).unwrap().unwrap().to_owned();
        child::say(&format!("got {}", record.offset()));
    }
}

#[test]
fn a_waiter_in_another_process_gets_each_record_and_a_stop_ends_a_wait() {
    let dir = crate::dir();
    let topic = topic(dir.path(), Retention::default());
    let mut waiter = Child::spawn(&["waiter", dir.path().to_str().unwrap()]);
    assert_eq!(waiter.hear().as_deref(), Some("waiting"));
    for offset in 0..3 {
        fill(&topic, 1);
        assert_eq!(waiter.hear(), Some(format!("got {offset}")));
    }
    let mut reader = topic.reader(Start::End).unwrap();
    assert!(reader.wait_timeout(Duration::from_millis(1)).unwrap().is_none());
    let stop = Stop::new();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| reader.wait(&stop).unwrap().is_none());
        stop.stop();
        assert!(waiting.join().unwrap());
    });
}
