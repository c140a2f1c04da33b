//! What a disk must hold after a power cut, and the comparison with what it holds.

use std::sync::Arc;

use deaddrop::sim::SimDisk;
use deaddrop::{Error, Log, Record, Start, Topic};

pub const DIR: &str = "/log";
pub const TOPIC: &str = "t";

/// An appended record. Its payload differs from that of any other record ever appended.
#[derive(Debug)]
pub struct Entry {
    pub payload: Vec<u8>,
    pub key: Option<Vec<u8>>,
    /// Another record of the same batch follows.
    pub continues: bool,
}

impl Entry {
    pub fn record(&self) -> Record {
        let record = Record::new(&self.payload[..]);
        match &self.key {
            Some(key) => record.with_key(key),
            None => record,
        }
    }
}

/// The positions that a consumer may have.
#[derive(Debug, Clone)]
pub struct Position {
    pub name: String,
    /// Synced, or its first position: a lower bound, unless the log ends before it.
    pub synced: u64,
    /// The last committed position.
    pub committed: u64,
    /// The highest offset ever committed, less what recoveries cut below it: an upper bound.
    pub highest: u64,
    /// The highest offset ever stored in its file.
    pub stored: u64,
    /// Its creation was acknowledged.
    pub exists: bool,
}

impl Position {
    /// Called before `to` is committed.
    pub fn raise(&mut self, to: u64) {
        self.highest = self.highest.max(to);
        self.stored = self.stored.max(to);
    }
}

/// The state of the log, as far as it is known at one instant.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// All records, including those of an append that has not returned.
    pub records: Vec<Arc<Entry>>,
    /// Everything below it was acknowledged as durable.
    pub durable: u64,
    /// The first retained offset is at most this, the highest one that a trim was asked for.
    pub first_most: u64,
    /// The first retained offset is at least this, because a trim to it has returned.
    pub first_least: u64,
    pub consumers: Vec<Position>,
}

/// The contents of an image.
pub struct Found {
    pub end: u64,
    pub log: Log,
    pub topic: Topic,
}

impl Expected {
    /// Returns the state after a recovery that found `end`: all records below it are durable.
    pub fn after(&self, end: u64) -> Expected {
        let mut after = self.clone();
        after.records.truncate(end as usize);
        after.durable = end;
        for consumer in &mut after.consumers {
            consumer.highest = consumer.highest.min(end);
            consumer.synced = consumer.synced.min(end);
        }
        after
    }

    /// Opens an image and compares all of it. Panics with the difference.
    pub fn check(&self, image: &SimDisk) -> Found {
        let found = self.open_and_compare(image, true);
        let topic = &found.topic;
        assert_eq!(topic.durable_end().unwrap(), found.end, "every record found is durable");
        found
    }

    /// Does the same in the same boot, where the records found need not be durable yet.
    pub fn check_in_same_boot(&self, image: &SimDisk) -> Found {
        self.open_and_compare(image, false)
    }

    fn open_and_compare(&self, image: &SimDisk, was_cut: bool) -> Found {
        let log = Log::open_sim(image, DIR).unwrap();
        let topic = log.open_topic(TOPIC).unwrap();
        let end = topic.end_offset().unwrap();
        if let (false, Some(last)) = (was_cut, end.checked_sub(1)) {
            // A background job of the last life may still be a member; then nothing was recovered.
            topic.wait_durable(last).unwrap();
        }
        assert!(
            (self.durable..=self.records.len() as u64).contains(&end),
            "the end is {end}; durable are {}, appended {}",
            self.durable,
            self.records.len()
        );
        assert_eq!(topic.high_watermark().unwrap(), end, "every record found is visible");
        let report = topic.recovery();
        assert!(report.is_none_or(|report| report.damage.is_empty()), "{report:?}");
        if let Some(last) = (end as usize).checked_sub(1) {
            assert!(!self.records[last].continues, "half a batch ends at {end}");
        }
        let first = topic.first_offset().unwrap();
        assert!(
            (self.first_least..=self.first_most).contains(&first) && first <= end,
            "the first offset is {first}, the end {end}; trims were to {}..={}",
            self.first_least,
            self.first_most
        );
        self.compare_records(&topic, first, end);
        for consumer in &self.consumers {
            check_consumer(&topic, consumer, first, end);
        }
        Found { end, log, topic }
    }

    fn compare_records(&self, topic: &Topic, first: u64, end: u64) {
        let mut reader = topic.reader(Start::First).unwrap();
        for offset in first..end {
            let record = reader.next().unwrap().expect("a record below the end");
            let entry = &self.records[offset as usize];
            assert_eq!(record.offset(), offset);
            assert!(record.payload() == entry.payload, "offset {offset} has another payload");
            assert_eq!(record.key(), entry.key.as_deref(), "offset {offset}");
        }
        assert!(reader.next().unwrap().is_none(), "a record at the end, {end}");
    }
}

fn check_consumer(topic: &Topic, expected: &Position, first: u64, end: u64) {
    let listed = topic.consumers().unwrap().into_iter().any(|info| info.name == expected.name);
    assert!(listed || !expected.exists, "consumer {} is gone", expected.name);
    if !listed {
        return;
    }
    let consumer = topic.consumer(&expected.name, Start::First);
    let mut consumer = consumer.unwrap_or_else(|error| panic!("{}: {error}", expected.name));
    let at = consumer.committed();
    assert!(
        (expected.synced.min(end)..=expected.highest.min(end)).contains(&at),
        "consumer {} is at {at}, synced was {}, committed {}, the end is {end}",
        expected.name,
        expected.synced,
        expected.highest,
    );
    if let Some(from) = consumer.clamped_from() {
        assert!(from > at, "clamped from {from} to {at}");
        assert!(from <= expected.stored, "{from} was never committed");
    }
    match consumer.next() {
        Ok(None) => assert_eq!(at, end),
        Ok(Some(record)) => assert_eq!(record.offset(), at),
        Err(Error::Trimmed { wanted, first: found }) => {
            assert_eq!((wanted, found), (at, first));
            assert!(at < first);
        }
        Err(error) => panic!("{}: {error}", expected.name),
    }
}
