//! The acknowledged records, kept outside the log, and checking a log against them.
//!
//! Every record of these tests names its writer, its place among that writer's records, and its
//! batch; the rest of its payload follows from those. So wrong bytes, and missing, doubled,
//! reordered or torn records are found with no other list than that of the acknowledgements.

use std::collections::HashMap;

use deaddrop::{Durability, Log, LogOptions, Record, RecordRef, Start, Topic, TopicOptions};

use crate::random::Random;

/// Writer, sequence, first sequence and count of its batch, number of bytes that follow.
const FIXED_LEN: usize = 28;

pub(crate) const DURABILITIES: [&str; 2] = ["process-crash", "power-loss"];

pub(crate) fn options(durability: &str, segment_len: u64) -> TopicOptions {
    let durability = match durability {
        "power-loss" => Durability::PowerLoss,
        "process-crash" => Durability::ProcessCrash,
        other => panic!("{other}"),
    };
    TopicOptions::default().with_durability(durability).with_segment_len(segment_len)
}

/// Opens the topic `t` of the log in `dir`.
pub(crate) fn open(dir: &str, durability: &str, segment_len: u64) -> Topic {
    open_with(dir, durability, segment_len, LogOptions::default())
}

pub(crate) fn open_with(dir: &str, durability: &str, segment_len: u64, log: LogOptions) -> Topic {
    let log = Log::open_or_create_with(dir, log).unwrap();
    log.topic_with("t", options(durability, segment_len)).unwrap()
}

fn record(writer: u32, sequence: u64, batch: (u64, u32), len: usize) -> Record {
    let mut payload = Vec::with_capacity(FIXED_LEN + len);
    payload.extend(writer.to_le_bytes());
    payload.extend(sequence.to_le_bytes());
    payload.extend(batch.0.to_le_bytes());
    payload.extend(batch.1.to_le_bytes());
    payload.extend((len as u32).to_le_bytes());
    payload.extend(filling(writer, sequence, len));
    Record::new(payload).with_key(writer.to_le_bytes())
}

fn filling(writer: u32, sequence: u64, len: usize) -> Vec<u8> {
    Random(u64::from(writer) << 32 ^ sequence).bytes(len)
}

/// A record that was read.
pub(crate) struct Found {
    pub(crate) writer: u32,
    pub(crate) sequence: u64,
    batch: (u64, u32),
}

/// Checks a record's bytes against the identity that it claims.
pub(crate) fn check(record: &RecordRef<'_>) -> Found {
    let payload = record.payload();
    let word = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().unwrap());
    let half = |at: usize| u32::from_le_bytes(payload[at..at + 4].try_into().unwrap());
    let found = Found { writer: half(0), sequence: word(4), batch: (word(12), half(20)) };
    let expected = filling(found.writer, found.sequence, half(24) as usize);
    assert!(payload[FIXED_LEN..] == expected, "wrong bytes at offset {}", record.offset());
    assert_eq!(record.key(), Some(&found.writer.to_le_bytes()[..]));
    found
}

/// Appends records under one name, and returns their offsets.
pub(crate) struct Writer {
    pub(crate) topic: Topic,
    writer: u32,
    sequence: u64,
}

/// Sequences with their offsets, as acknowledged.
pub(crate) type Acks = Vec<(u64, u64)>;

impl Writer {
    pub(crate) fn new(topic: Topic, writer: u32) -> Writer {
        Writer { topic, writer, sequence: 0 }
    }

    fn records(&mut self, lens: &[usize], batch: bool) -> Vec<Record> {
        let first = self.sequence;
        self.sequence += lens.len() as u64;
        let batch_of = |at| if batch { (first, lens.len() as u32) } else { (at, 1) };
        (first..).zip(lens).map(|(at, &len)| record(self.writer, at, batch_of(at), len)).collect()
    }

    pub(crate) fn append(&mut self, len: usize) -> deaddrop::Result<Acks> {
        let records = self.records(&[len], true);
        Ok(vec![(self.sequence - 1, self.topic.append(&records[0])?)])
    }

    /// Frees the sequence of a record whose append reported that it was not appended.
    pub(crate) fn not_appended(&mut self) {
        self.sequence -= 1;
    }

    pub(crate) fn append_batch(&mut self, lens: &[usize]) -> deaddrop::Result<Acks> {
        let first = self.sequence;
        let records = self.records(lens, true);
        Ok((first..).zip(self.topic.append_batch(&records)?).collect())
    }

    /// Appends without waiting, then waits for all.
    pub(crate) fn append_pipelined(&mut self, lens: &[usize]) -> deaddrop::Result<Acks> {
        let first = self.sequence;
        let mut acks = Vec::new();
        for (sequence, record) in (first..).zip(self.records(lens, false)) {
            acks.push((sequence, self.topic.append_unsynced(&record)?));
        }
        self.topic.wait_durable(acks[acks.len() - 1].1)?;
        Ok(acks)
    }
}

/// Formats acknowledgements as words of a line.
pub(crate) fn to_words(acks: &Acks) -> String {
    let words: Vec<String> = acks.iter().map(|(at, offset)| format!("{at} {offset}")).collect();
    words.join(" ")
}

pub(crate) fn of_words<'a>(words: impl Iterator<Item = &'a str>) -> Acks {
    let numbers: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
    numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

/// A digest of the records that a reader got.
pub(crate) struct Digest(pub(crate) u64);

impl Digest {
    pub(crate) fn new() -> Digest {
        Digest(0xcbf2_9ce4_8422_2325)
    }

    /// As FNV-1a does, in words.
    pub(crate) fn add(&mut self, record: &RecordRef<'_>) {
        for bytes in [&record.offset().to_le_bytes()[..], record.key().unwrap(), record.payload()] {
            for chunk in bytes.chunks(8) {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                self.0 = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x100_0000_01b3);
            }
        }
    }
}

/// (writer, sequence) -> offset, as acknowledged.
#[derive(Default)]
pub(crate) struct Ledger(HashMap<(u32, u64), u64>);

impl Ledger {
    pub(crate) fn enter(&mut self, writer: u32, acks: &Acks) {
        for &(sequence, offset) in acks {
            let before = self.0.insert((writer, sequence), offset);
            assert_eq!(before, None, "acknowledged twice");
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Reads the whole log and checks it: every acknowledged record is there once, at its offset;
    /// of the others, only each writer's next ones; batches are whole. Returns the log's end and
    /// digest.
    pub(crate) fn verify(&self, topic: &Topic) -> (u64, u64) {
        let mut reader = topic.reader(Start::First).unwrap();
        let mut digest = Digest::new();
        let mut next_of: HashMap<u32, u64> = HashMap::new();
        let mut end = 0;
        // The batch that is being read, and how many of its records come after the next one.
        let mut batch: Option<(u32, u64, u32)> = None;
        while let Some(record) = reader.next().unwrap() {
            assert_eq!(record.offset(), end, "offsets are dense");
            end += 1;
            digest.add(&record);
            let found = check(&record);
            let next = next_of.entry(found.writer).or_default();
            assert_eq!(found.sequence, *next, "writer {}: once each, in order", found.writer);
            *next += 1;
            let left = found.batch.1 - 1 - (found.sequence - found.batch.0) as u32;
            match batch {
                Some(batch) => assert_eq!(batch, (found.writer, found.batch.0, left), "torn"),
                None => assert_eq!(found.sequence, found.batch.0, "a batch without its start"),
            }
            batch = (left > 0).then(|| (found.writer, found.batch.0, left - 1));
            if let Some(&offset) = self.0.get(&(found.writer, found.sequence)) {
                assert_eq!(record.offset(), offset, "not where it was acknowledged");
            }
        }
        assert_eq!(batch, None, "the last batch is cut");
        for (writer, sequence) in self.0.keys() {
            let next = next_of.get(writer).copied().unwrap_or(0);
            assert!(*sequence < next, "writer {writer}: {sequence} was acknowledged and is gone");
        }
        (end, digest.0)
    }
}
