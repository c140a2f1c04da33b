//! A directory is read in steps while others name files in it, so a list of segments may have a
//! later one and lack an earlier one. Such a hole is never taken for damage, and no sync skips it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use deaddrop::sim::SimDisk;
use deaddrop::{repair, Durability, Log, Record, Start, Topic, TopicOptions};

use crate::child::{say, Child};

const DIR: &str = "/log";

fn options(durability: Durability) -> TopicOptions {
    TopicOptions::default().with_durability(durability).with_segment_len(16 << 10)
}

fn on_sim(disk: &SimDisk, durability: Durability) -> Topic {
    Log::open_sim(disk, DIR).unwrap().topic_with("t", options(durability)).unwrap()
}

/// A record that fills a segment.
fn record(offset: u64) -> Record {
    Record::new(vec![offset as u8; 9000])
}

fn read_all(topic: &Topic, start: Start, from: u64) -> u64 {
    let mut reader = topic.reader(start).unwrap();
    let mut next = from;
    while let Some(record) = reader.next().unwrap() {
        assert_eq!(record.offset(), next);
        assert!(record.payload() == [next as u8; 9000]);
        next += 1;
    }
    next
}

/// From now on, a writer rolls several times during every listing. Returns the number of records.
fn rolls_during_every_list(disk: &SimDisk, durability: Durability) -> Arc<AtomicU64> {
    let writer = on_sim(&disk.process(), durability);
    let count = Arc::new(AtomicU64::new(0));
    let append = {
        let count = Arc::clone(&count);
        // Bounded, because an image of many segments costs time.
        move || {
            for _ in 0..if count.load(Ordering::Relaxed) < 80 { 4 } else { 0 } {
                let offset = count.fetch_add(1, Ordering::Relaxed);
                assert_eq!(writer.append_unsynced(&record(offset)).unwrap(), offset);
            }
        }
    };
    append();
    disk.during_list(append);
    count
}

#[test]
fn a_writer_that_rolls_while_the_directory_is_read_makes_no_hole_for_later_openers() {
    for durability in [Durability::ProcessCrash, Durability::PowerLoss] {
        let disk = SimDisk::new();
        let count = rolls_during_every_list(&disk, durability);
        for round in 0..3 {
            let story = format!("{durability:?}, round {round}");
            let log = Log::open_sim(&disk.process(), DIR).unwrap();
            let topic = log.open_topic("t").unwrap();
            let end = topic.end_offset().unwrap();
            topic.wait_durable(end - 1).unwrap();
            let image = disk.power_cut(round);
            assert!(read_all(&topic, Start::First, 0) >= end, "{story}");
            assert!(read_all(&topic, Start::Offset(end - 3), end - 3) >= end, "{story}");
            let read_only = Log::open_sim_read_only(&disk.process(), DIR).unwrap();
            let found = repair::plan(&read_only, "t").unwrap().findings;
            assert!(found.is_empty(), "{story}: {found:?}");
            let read_only = read_only.open_topic("t").unwrap();
            assert!(read_all(&read_only, Start::First, 0) >= end, "{story}");
            let recent = SystemTime::now() + Duration::from_secs(60);
            assert!(topic.reader(Start::Time(recent)).unwrap().offset() >= end, "{story}");
            // Durable records are there after a power cut.
            let again = on_sim(&image, durability);
            assert!(again.recovery().is_none_or(|report| report.damage.is_empty()), "{story}");
            assert!(read_all(&again, Start::First, 0) >= end, "{story}");
        }
        assert!(count.load(Ordering::Relaxed) > 8, "it rolled during listings");
    }
}

/// Role: rolls until it is killed.
pub(crate) fn roller(words: &[&str]) {
    let log = Log::open_or_create(Path::new(words[0])).unwrap();
    let topic = log.topic_with("t", options(Durability::ProcessCrash)).unwrap();
    for offset in 0..1_000_000 {
        topic.append(&record(offset)).unwrap();
        if offset == 2000 {
            say("has many");
        }
    }
}

#[test]
fn a_directory_of_thousands_of_names_beside_a_writer_that_rolls_shows_no_damage() {
    let dir = crate::dir();
    let mut child = Child::spawn(&["roller", dir.path().to_str().unwrap()]);
    assert_eq!(child.hear().as_deref(), Some("has many"));
    for _ in 0..60 {
        let log = Log::open_or_create(dir.path()).unwrap();
        let topic = log.open_topic("t").unwrap();
        let from = topic.high_watermark().unwrap().saturating_sub(200);
        let mut reader = topic.reader(Start::Offset(from)).unwrap();
        for offset in from..from + 300 {
            let Some(record) = reader.next().unwrap() else { break };
            assert_eq!(record.offset(), offset);
        }
    }
    child.kill();
}
