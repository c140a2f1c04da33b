//! Readers against a model: any mix of seeks finds what a plain list of records would give.

use std::time::{Duration, SystemTime};

use deaddrop::sim::SimDisk;
use deaddrop::{
    Durability, Error, Log, OwnedRecord, Reader, Record, Start, Stop, Topic, TopicOptions,
};

use crate::random::{number_from_env, Random};

const DIR: &str = "/log";

fn open(disk: &SimDisk, durability: Durability) -> Topic {
    let log = Log::open_sim(&disk.process(), DIR).unwrap();
    let options = TopicOptions::default().with_durability(durability).with_segment_len(16 << 10);
    log.topic_with("t", options).unwrap()
}

/// Returns where `start` must begin, given all records and the first retained offset.
fn expected_at(all: &[OwnedRecord], first: u64, start: Start) -> Result<u64, ()> {
    let end = all.len() as u64;
    match start {
        Start::First => Ok(first),
        Start::End => Ok(end),
        Start::Last => Ok(end.saturating_sub(1).max(first)),
        Start::LastN(count) => Ok(end.saturating_sub(count).max(first)),
        Start::Offset(offset) if offset < first || offset > end => Err(()),
        Start::Offset(offset) => Ok(offset),
        Start::Time(time) => {
            let kept = &all[first as usize..];
            let found = kept.iter().find(|record| record.as_ref().timestamp() >= time);
            Ok(found.map_or(end, OwnedRecord::offset))
        }
    }
}

fn draw_start(random: &mut Random, all: &[OwnedRecord]) -> Start {
    let end = all.len() as u64;
    match random.below(8) {
        0 => Start::First,
        1 => Start::End,
        2 => Start::Last,
        3 => Start::LastN(random.below(end + 3)),
        4 | 5 => Start::Offset(random.below(end + 2)),
        _ if all.is_empty() => Start::Time(SystemTime::UNIX_EPOCH),
        _ => {
            let near = all[random.below(end) as usize].as_ref().timestamp();
            let ticks = Duration::from_nanos(random.below(3));
            Start::Time(if random.one_in(2) { near + ticks } else { near - ticks })
        }
    }
}

/// Reads `count` records and compares them; returns the offset after them.
fn read_some(reader: &mut Reader, all: &[OwnedRecord], at: u64, count: u64) -> u64 {
    for offset in at..at + count {
        let expected = all.get(offset as usize);
        let got = reader.next().unwrap();
        assert_eq!(got.map(|record| record.offset()), expected.map(OwnedRecord::offset));
        let Some((got, expected)) = got.zip(expected) else { return offset };
        assert_eq!(got.payload(), expected.payload());
        assert_eq!(got.timestamp(), expected.as_ref().timestamp());
    }
    at + count
}

#[test]
fn any_mix_of_seeks_reads_what_a_plain_list_would_give() {
    for seed in 0..number_from_env("DEADDROP_SEEKS", 40) {
        println!("seed {seed}");
        let mut random = Random(seed);
        let disk = SimDisk::new();
        let durability =
            if random.one_in(2) { Durability::PowerLoss } else { Durability::ProcessCrash };
        let mut topic = open(&disk, durability);
        let mut readers: Vec<(Reader, u64)> = Vec::new();
        let mut all: Vec<OwnedRecord> = Vec::new();
        for _ in 0..60 {
            match random.below(10) {
                0..4 => append_some(&mut random, &topic, &mut all),
                4 if readers.len() < 4 => {
                    let first = topic.first_offset().unwrap();
                    let start = draw_start(&mut random, &all);
                    if let Ok(at) = expected_at(&all, first, start) {
                        readers.push((topic.reader(start).unwrap(), at));
                    }
                }
                5 if random.one_in(6) => {
                    let first = topic.trim_before(random.below(all.len() as u64 + 1)).unwrap();
                    readers.retain(|(_, at)| *at >= first);
                }
                6 if random.one_in(4) => {
                    readers.clear();
                    topic = open(&disk, durability);
                }
                _ => {
                    let first = topic.first_offset().unwrap();
                    let start = draw_start(&mut random, &all);
                    let count = random.below(40);
                    if let Some((reader, at)) = readers.last_mut() {
                        if random.one_in(2) {
                            match expected_at(&all, first, start) {
                                Ok(expected) => {
                                    reader.seek(start).unwrap();
                                    assert_eq!(reader.offset(), expected, "{start:?}");
                                    *at = expected;
                                }
                                Err(()) => assert!(reader.seek(start).is_err(), "{start:?}"),
                            }
                        }
                        *at = read_some(reader, &all, *at, count);
                    }
                    let turn = usize::from(!readers.is_empty());
                    readers.rotate_left(turn);
                }
            }
        }
    }
}

fn append_some(random: &mut Random, topic: &Topic, all: &mut Vec<OwnedRecord>) {
    let from = all.len() as u64;
    for _ in 0..random.below(30) {
        let end = topic.end_offset().unwrap();
        let len = random.below(700) as usize;
        let record = Record::new(random.bytes(len));
        if random.one_in(5) {
            let stale = topic.append_if_end(end + 1 + random.below(3), &record);
            assert!(matches!(stale, Err(Error::EndMoved { end: found, .. }) if found == end));
            assert_eq!(topic.append_if_end(end, &record).unwrap(), end);
        } else {
            assert_eq!(topic.append(&record).unwrap(), end);
        }
    }
    let mut reader = topic.reader(Start::Offset(from)).unwrap();
    while let Some(record) = reader.next().unwrap() {
        all.push(record.to_owned());
    }
    assert_eq!(all.len() as u64, topic.end_offset().unwrap());
}

/// A record larger than a segment extends the newest segment while it is empty; other handles know
/// the shorter file.
#[test]
fn a_segment_that_another_process_extended_is_read_and_appended_to() {
    let disk = SimDisk::new();
    let (one, other) = (open(&disk, Durability::PowerLoss), open(&disk, Durability::PowerLoss));
    // Opens the segment and appends nothing.
    assert!(other.append_if_end(7, &Record::new("no")).is_err());
    let mut reader = other.reader(Start::First).unwrap();
    assert!(reader.next().unwrap().is_none());
    let big = vec![7; 20_000];
    assert_eq!(one.append(&Record::new(&big[..])).unwrap(), 0);
    assert_eq!(other.append(&Record::new("small")).unwrap(), 1);
    assert_eq!(reader.next().unwrap().unwrap().payload(), big);
    assert_eq!(reader.next().unwrap().unwrap().payload(), b"small");
}

#[test]
fn a_reader_that_has_read_nothing_begins_at_the_first_record_that_retention_has_left() {
    let disk = SimDisk::new();
    let topic = open(&disk, Durability::ProcessCrash);
    // Two or three records fill a segment.
    for _ in 0..30 {
        topic.append(&Record::new(vec![7; 5000])).unwrap();
    }
    for start in
        [Start::Time(SystemTime::UNIX_EPOCH), Start::First, Start::LastN(30), Start::Offset(0)]
    {
        let disk = disk.copy();
        let topic = open(&disk, Durability::ProcessCrash);
        let mut reader = topic.reader(start).unwrap();
        assert_eq!(reader.offset(), 0);
        let first = topic.trim_before(20).unwrap();
        assert!(first > 10);
        let read = reader.next().map(|record| record.map(|record| record.offset()));
        match start {
            // Exactly that record was requested.
            Start::Offset(_) => assert!(matches!(read, Err(Error::Trimmed { .. })), "{read:?}"),
            _ => assert_eq!(read.unwrap(), Some(first), "{start:?}"),
        }
        // Once it has read, it skips nothing silently.
        let first = topic.trim_before(28).unwrap();
        assert!(first > 20);
        let next = loop {
            match reader.next() {
                Ok(Some(record)) => assert!(record.offset() < first, "it continued at {first}"),
                other => break other.map(drop),
            }
        };
        assert!(matches!(next, Err(Error::Trimmed { .. })), "{start:?}: {next:?}");
    }
}

#[test]
fn a_reader_opened_by_time_while_retention_moves_never_finds_its_start_trimmed() {
    let disk = SimDisk::new();
    let topic = open(&disk, Durability::ProcessCrash);
    topic.append(&Record::new(vec![7; 5000])).unwrap();
    let is_done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let topic = &topic;
        let is_done = &is_done;
        scope.spawn(move || {
            for offset in 0..1000 {
                topic.append(&Record::new(vec![7; 5000])).unwrap();
                topic.trim_before(offset).unwrap();
            }
            is_done.store(true, std::sync::atomic::Ordering::Release);
        });
        let mut opened = 0;
        while !is_done.load(std::sync::atomic::Ordering::Acquire) || opened == 0 {
            let ago = Duration::from_millis(opened % 20);
            let mut reader = topic.reader(Start::Time(SystemTime::now() - ago)).unwrap();
            // It may be at the end.
            reader.next().unwrap();
            opened += 1;
        }
        println!("{opened} readers");
    });
}

#[test]
fn an_iterator_over_records_ends_at_the_end_and_after_an_error() {
    let topic = open(&SimDisk::new(), Durability::ProcessCrash);
    let append = |count: u64| {
        for _ in 0..count {
            topic.append(&Record::new("x")).unwrap();
        }
    };
    append(3);
    let mut reader = topic.reader(Start::First).unwrap();
    let read = |reader: &mut Reader| {
        reader.records().map(|record| record.unwrap().offset()).collect::<Vec<_>>()
    };
    assert_eq!(read(&mut reader), [0, 1, 2]);
    assert!(read(&mut reader).is_empty());
    append(2);
    assert_eq!(read(&mut reader), [3, 4]);

    let mut late = topic.reader(Start::Offset(0)).unwrap();
    append(1000);
    assert!(topic.trim_before(u64::MAX).unwrap() > 0);
    for _ in 0..2 {
        let mut records = late.records();
        assert!(matches!(records.next(), Some(Err(Error::Trimmed { .. }))));
        assert!(records.next().is_none());
    }
}

#[test]
fn a_wait_ends_with_a_record_after_its_timeout_or_when_it_is_stopped() {
    let topic = open(&SimDisk::new(), Durability::ProcessCrash);
    let mut reader = topic.reader(Start::First).unwrap();
    let mut consumer = topic.consumer("c", Start::First).unwrap();
    let (stop, long) = (Stop::new(), Duration::from_secs(600));
    assert!(reader.wait_for(Duration::from_millis(2), &stop).unwrap().is_none());
    assert!(consumer.wait_for(Duration::ZERO, &stop).unwrap().is_none());
    std::thread::scope(|scope| {
        scope.spawn(|| topic.append(&Record::new("x")).unwrap());
        assert_eq!(reader.wait_for(long, &stop).unwrap().unwrap().offset(), 0);
        assert_eq!(consumer.wait_for(long, &stop).unwrap().unwrap().offset(), 0);
    });
    std::thread::scope(|scope| {
        scope.spawn(|| stop.stop());
        assert!(reader.wait_for(long, &stop).unwrap().is_none());
        assert!(consumer.wait_for(long, &stop).unwrap().is_none());
    });
}
