//! Writers that are killed at any instant, over and over, and what is left of their work.
//!
//! Each writer acknowledges an append over its pipe after the call returned; the list of these
//! acknowledgements, kept outside the log, is what the log is checked against.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;

use deaddrop::{Durability, Log, Record, RecordRef, Start, Stop, Topic, TopicOptions};

use crate::child::{self, Child, GUARD};
use crate::random::Random;

const WRITERS: usize = 4;
/// After so many kills a new log is begun, so that long runs do not fill the disk.
const KILLS_PER_LOG: u64 = 25;
const SEGMENT_LEN: u64 = 64 << 10;
/// Writer, sequence, first sequence and count of its batch, bytes that follow.
const FIXED_LEN: usize = 28;

fn options(durability: &str) -> TopicOptions {
    let durability = match durability {
        "power-loss" => Durability::PowerLoss,
        "process-crash" => Durability::ProcessCrash,
        other => panic!("{other}"),
    };
    TopicOptions { segment_len: SEGMENT_LEN, ..TopicOptions::durability(durability) }
}

fn open(dir: &str, durability: &str) -> Topic {
    Log::open(dir).unwrap().create_topic("t", options(durability)).unwrap()
}

/// The record that a writer appends under a sequence number: everyone can tell what it must hold.
fn record(writer: u32, sequence: u64, batch: (u64, u32), len: usize) -> Record {
    let mut payload = Vec::with_capacity(FIXED_LEN + len);
    payload.extend(writer.to_le_bytes());
    payload.extend(sequence.to_le_bytes());
    payload.extend(batch.0.to_le_bytes());
    payload.extend(batch.1.to_le_bytes());
    payload.extend((len as u32).to_le_bytes());
    payload.extend(filling(writer, sequence, len));
    Record::new(payload).key(writer.to_le_bytes())
}

fn filling(writer: u32, sequence: u64, len: usize) -> Vec<u8> {
    Random(u64::from(writer) << 32 ^ sequence).bytes(len)
}

/// A record as found.
struct Found {
    writer: u32,
    sequence: u64,
    batch: (u64, u32),
}

fn check(record: &RecordRef<'_>) -> Found {
    let payload = record.payload();
    let word = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().unwrap());
    let half = |at: usize| u32::from_le_bytes(payload[at..at + 4].try_into().unwrap());
    let found = Found { writer: half(0), sequence: word(4), batch: (word(12), half(20)) };
    let expected = filling(found.writer, found.sequence, half(24) as usize);
    assert!(payload[FIXED_LEN..] == expected, "wrong bytes at offset {}", record.offset());
    assert_eq!(record.key(), Some(&found.writer.to_le_bytes()[..]));
    found
}

fn random_len(random: &mut Random) -> usize {
    match random.below(400) {
        0 => SEGMENT_LEN as usize + random.below(SEGMENT_LEN) as usize,
        1..=99 => random.below(3000) as usize,
        _ => random.below(200) as usize,
    }
}

/// Role: appends until it is killed. Says `ack TOKEN FIRST COUNT OFFSET` after each append, with the
/// newest token that it was told before it began.
pub(crate) fn writer(words: &[&str]) {
    let [dir, durability, writer, seed] = words else { panic!("{words:?}") };
    let writer: u32 = writer.parse().unwrap();
    let mut random = Random(seed.parse().unwrap());
    let topic = open(dir, durability);
    let token = Arc::new(AtomicU64::new(0));
    std::thread::spawn({
        let token = Arc::clone(&token);
        move || {
            while let Some(line) = child::listen() {
                token.store(line.parse().unwrap(), Ordering::SeqCst);
            }
            // The parent is gone.
            std::process::exit(1);
        }
    });
    let mut sequence = 0;
    loop {
        let token = token.load(Ordering::SeqCst);
        let count = match random.below(4) {
            0 => 1 + random.below(8),
            _ => 1,
        };
        let unsynced = random.below(3) == 0;
        let batch = if unsynced { (sequence, 1) } else { (sequence, count as u32) };
        let records: Vec<Record> = (sequence..sequence + count)
            .map(|at| {
                let batch = if unsynced { (at, 1) } else { batch };
                record(writer, at, batch, random_len(&mut random))
            })
            .collect();
        let mut offsets = Vec::new();
        if unsynced {
            offsets.extend(records.iter().map(|record| topic.append_unsynced(record).unwrap()));
            topic.wait_durable(*offsets.last().unwrap()).unwrap();
        } else if count == 1 {
            offsets.push(topic.append(&records[0]).unwrap());
        } else {
            offsets.extend(topic.append_batch(&records).unwrap());
        }
        let mut text = String::new();
        for (index, offset) in offsets.iter().enumerate() {
            text += &format!(" {} {offset}", sequence + index as u64);
        }
        child::say(&format!("ack {token}{text}"));
        sequence += count;
    }
}

/// FNV-1a over what a reader saw.
struct Digest(u64);

impl Digest {
    fn new() -> Digest {
        Digest(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, record: &RecordRef<'_>) {
        for bytes in [&record.offset().to_le_bytes()[..], record.key().unwrap(), record.payload()] {
            for chunk in bytes.chunks(8) {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                self.0 = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x100_0000_01b3);
            }
        }
    }
}

/// Role: reads from the start, as records come, to the end that it is told; says what it saw.
pub(crate) fn tail(words: &[&str]) {
    let [dir, kind] = words else { panic!("{words:?}") };
    let topic = match *kind {
        "member" => Log::open(dir).unwrap().existing_topic("t").unwrap(),
        _ => Log::open_read_only(dir).unwrap().topic("t").unwrap(),
    };
    let mut reader = topic.reader(Start::First).unwrap();
    child::say("ready");
    let stop = Stop::new();
    let end = Arc::new(AtomicU64::new(u64::MAX));
    let told = Arc::new(AtomicBool::new(false));
    std::thread::spawn({
        let (stop, end, told) = (stop.clone(), Arc::clone(&end), Arc::clone(&told));
        move || {
            let Some(line) = child::listen() else { std::process::exit(1) };
            end.store(line.parse().unwrap(), Ordering::SeqCst);
            told.store(true, Ordering::SeqCst);
            stop.stop();
        }
    });
    let mut digest = Digest::new();
    let mut next = 0;
    while let Some(record) = reader.wait(&stop).unwrap() {
        assert_eq!(record.offset(), next);
        check(&record);
        digest.add(&record);
        next += 1;
    }
    assert!(told.load(Ordering::SeqCst), "a wait ended before it was stopped");
    while next < end.load(Ordering::SeqCst) {
        let record = reader.wait_timeout(GUARD).unwrap().expect("records up to the end");
        assert_eq!(record.offset(), next);
        digest.add(&record);
        next += 1;
    }
    child::say(&format!("seen {next} {}", digest.0));
}

/// What the parent hears of its writers.
enum Heard {
    Ack { writer: u32, token: u64, records: Vec<(u64, u64)> },
    Gone { writer: u32 },
}

struct Storm {
    dir: String,
    durability: &'static str,
    random: Random,
    sender: Sender<Heard>,
    heard: Receiver<Heard>,
    writers: HashMap<u32, Child>,
    next_writer: u32,
    gone: u32,
    token: u64,
    /// (writer, sequence) -> offset, as acknowledged.
    acks: HashMap<(u32, u64), u64>,
}

impl Storm {
    fn new(dir: &Path, durability: &'static str, seed: u64) -> Storm {
        let (sender, heard) = channel();
        Storm {
            dir: dir.to_str().unwrap().to_owned(),
            durability,
            random: Random(seed),
            sender,
            heard,
            writers: HashMap::new(),
            next_writer: 0,
            gone: 0,
            token: 0,
            acks: HashMap::new(),
        }
    }

    fn spawn_writer(&mut self) {
        let writer = self.next_writer;
        self.next_writer += 1;
        let (name, seed) = (writer.to_string(), self.random.next().to_string());
        let sender = self.sender.clone();
        let hear = move |line: Option<String>| {
            let heard = match line {
                Some(line) => parse(writer, &line),
                None => Heard::Gone { writer },
            };
            // The storm is over.
            drop(sender.send(heard));
        };
        let role = ["writer", &self.dir, self.durability, &name, &seed];
        self.writers.insert(writer, Child::spawn_with(&role, None, hear));
    }

    /// Hears of one more append, or of a writer's end.
    fn hear(&mut self) -> Heard {
        let heard = self.heard.recv_timeout(GUARD).expect("nobody appends any more");
        match &heard {
            Heard::Ack { writer, records, .. } => {
                for &(sequence, offset) in records {
                    let before = self.acks.insert((*writer, sequence), offset);
                    assert_eq!(before, None, "acknowledged twice");
                }
            }
            Heard::Gone { writer } => {
                assert!(!self.writers.contains_key(writer), "writer {writer} ended by itself");
                self.gone += 1;
            }
        }
        heard
    }

    /// Waits until some writer has begun and finished an append from now on.
    fn wait_for_progress(&mut self) {
        self.token += 1;
        let token = self.token;
        for child in self.writers.values_mut() {
            child.tell(&token.to_string());
        }
        while !matches!(self.hear(), Heard::Ack { token: seen, .. } if seen >= token) {}
    }

    fn kill_some(&mut self) -> u64 {
        // Now and then nobody is left, and the next writer finds only what the dead left.
        let count = if self.random.below(10) == 0 { WRITERS } else { 1 };
        for _ in 0..self.random.below(100) {
            self.hear();
        }
        for _ in 0..self.random.below(100_000) {
            std::hint::spin_loop();
        }
        for _ in 0..count {
            let mut alive: Vec<u32> = self.writers.keys().copied().collect();
            alive.sort_unstable();
            let chosen = alive[self.random.below(alive.len() as u64) as usize];
            self.writers.remove(&chosen).unwrap().kill();
        }
        if !self.writers.is_empty() {
            // The survivors go on without anybody new.
            self.wait_for_progress();
        }
        for _ in 0..count {
            self.spawn_writer();
        }
        count as u64
    }

    /// Kills everybody and takes in what they had still acknowledged.
    fn end(&mut self) {
        for (_, child) in self.writers.drain() {
            child.kill();
        }
        while self.gone < self.next_writer {
            self.hear();
        }
    }
}

fn parse(writer: u32, line: &str) -> Heard {
    let mut words = line.split(' ');
    assert_eq!(words.next(), Some("ack"), "{line}");
    let mut number = || words.next().map(|word| word.parse::<u64>().unwrap());
    let token = number().unwrap();
    let mut records = Vec::new();
    while let (Some(sequence), Some(offset)) = (number(), number()) {
        records.push((sequence, offset));
    }
    Heard::Ack { writer, token, records }
}

/// Reads the whole log and checks it against what was acknowledged. Returns its end and digest.
fn verify(topic: &Topic, acks: &HashMap<(u32, u64), u64>) -> (u64, u64) {
    let mut reader = topic.reader(Start::First).unwrap();
    let mut digest = Digest::new();
    let mut next_of: HashMap<u32, u64> = HashMap::new();
    let mut end = 0;
    // The batch that is being read, and how many of its records are still to come.
    let mut open_batch: Option<(u32, u64, u32)> = None;
    while let Some(record) = reader.next().unwrap() {
        assert_eq!(record.offset(), end, "offsets are dense");
        end += 1;
        digest.add(&record);
        let found = check(&record);
        let next = next_of.entry(found.writer).or_default();
        assert_eq!(found.sequence, *next, "writer {}: once each, in order", found.writer);
        *next += 1;
        let left = found.batch.1 - 1 - (found.sequence - found.batch.0) as u32;
        if let Some(open) = open_batch {
            assert_eq!(open, (found.writer, found.batch.0, left), "a batch was torn");
        } else {
            assert_eq!(found.sequence, found.batch.0, "a batch without its start");
        }
        open_batch = (left > 0).then(|| (found.writer, found.batch.0, left - 1));
        if let Some(&offset) = acks.get(&(found.writer, found.sequence)) {
            assert_eq!(record.offset(), offset, "not where it was acknowledged");
        }
    }
    assert_eq!(open_batch, None, "the last batch is cut");
    for (writer, sequence) in acks.keys() {
        let next = next_of.get(writer).copied().unwrap_or(0);
        assert!(*sequence < next, "writer {writer}: {sequence} was acknowledged and is gone");
    }
    (end, digest.0)
}

fn storm(durability: &'static str, kills: u64, seed: u64, read_only_tail: bool) {
    let dir = crate::dir();
    let mut storm = Storm::new(dir.path(), durability, seed);
    // The topic is made before a reader asks for it.
    drop(open(&storm.dir, durability));
    let kind = if read_only_tail { "read-only" } else { "member" };
    let mut tail = Child::spawn(&["tail", &storm.dir, kind]);
    assert_eq!(tail.hear().as_deref(), Some("ready"));
    for _ in 0..WRITERS {
        storm.spawn_writer();
    }
    storm.wait_for_progress();
    let mut killed = 0;
    while killed < kills {
        killed += storm.kill_some();
    }
    storm.wait_for_progress();
    storm.end();
    let topic = open(&storm.dir, durability);
    // What was whole when its writer died, and not yet synced, is shown with the next sync.
    let end = topic.end_offset().unwrap();
    topic.wait_durable(end - 1).unwrap();
    assert_eq!(topic.high_watermark().unwrap(), end);
    let (read, digest) = verify(&topic, &storm.acks);
    assert_eq!(read, end);
    let seen = tail.ask(&end.to_string());
    assert_eq!(seen, format!("seen {end} {digest}"), "the tail saw something else");
    assert!(tail.wait().success());
    drop(topic);
    let topic = open(&storm.dir, durability);
    assert_eq!(verify(&topic, &storm.acks), (end, digest), "after opening again");
    println!(
        "{durability}: {killed} kills of {} writers, {end} records, {} acknowledged, {kind} tail",
        storm.next_writer,
        storm.acks.len()
    );
}

fn kills() -> u64 {
    std::env::var("DEADDROP_KILLS").map_or(100, |kills| kills.parse().unwrap())
}

fn storms(durability: &'static str) {
    let mut random = Random(crate::random::seed(durability));
    let mut left = kills() / 2;
    let mut read_only_tail = false;
    while left > 0 {
        let now = left.min(KILLS_PER_LOG);
        storm(durability, now, random.next(), read_only_tail);
        left -= now;
        read_only_tail = !read_only_tail;
    }
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_when_writers_of_a_process_crash_topic_are_killed() {
    storms("process-crash");
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_when_writers_of_a_power_loss_topic_are_killed() {
    storms("power-loss");
}
