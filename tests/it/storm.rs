//! Writers that are killed at any instant, over and over, and the records that they leave.
//!
//! Each writer acknowledges an append over its pipe after the call has returned; the log is checked
//! against the list of these acknowledgements, which is kept outside it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;

use deaddrop::{Log, Start, Stop};

use crate::child::{self, Child, GUARD};
use crate::ledger::{self, Acks, Digest, Ledger, Writer};
use crate::random::Random;

const WRITERS: usize = 4;
/// After this many kills a new log is begun, so that long runs do not fill the disk.
const KILLS_PER_LOG: u64 = 25;
const SEGMENT_LEN: u64 = 64 << 10;
fn random_len(random: &mut Random) -> usize {
    match random.below(400) {
        0 => SEGMENT_LEN as usize + random.below(SEGMENT_LEN) as usize,
        1..=99 => random.below(3000) as usize,
        _ => random.below(200) as usize,
    }
}

/// Role: appends until it is killed. Prints `ack TOKEN FIRST COUNT OFFSET` after each append, with
/// the newest token that it had read before the append began.
pub(crate) fn writer(words: &[&str]) {
    let [dir, durability, writer, seed] = words else { panic!("{words:?}") };
    let writer: u32 = writer.parse().unwrap();
    let mut random = Random(seed.parse().unwrap());
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
    let mut writer = Writer::new(ledger::open(dir, durability, SEGMENT_LEN), writer);
    loop {
        let token = token.load(Ordering::SeqCst);
        let count = if random.below(4) == 0 { 1 + random.below(8) } else { 1 };
        let lens: Vec<usize> = (0..count).map(|_| random_len(&mut random)).collect();
        let acks = match random.below(3) {
            0 => writer.append_pipelined(&lens),
            _ if count == 1 => writer.append(lens[0]),
            _ => writer.append_batch(&lens),
        };
        child::say(&format!("ack {token} {}", ledger::to_words(&acks.unwrap())));
    }
}

/// Role: reads from the start, as records come, to the end that the parent sends; reports a digest.
pub(crate) fn tail(words: &[&str]) {
    let [dir, kind] = words else { panic!("{words:?}") };
    let topic = match *kind {
        "member" => Log::open_or_create(dir).unwrap().open_topic("t").unwrap(),
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
        ledger::check(&record);
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
    Ack { writer: u32, token: u64, acks: Acks },
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
    ledger: Ledger,
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
            ledger: Ledger::default(),
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

    /// Waits for one more append, or for a writer's end.
    fn hear(&mut self) -> Heard {
        let heard = self.heard.recv_timeout(GUARD).expect("no writer appends any more");
        match &heard {
            Heard::Ack { writer, acks, .. } => self.ledger.enter(*writer, acks),
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
        // Now and then no writer is left, and the next one finds only the files of dead ones.
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
            // The survivors continue without any new writer.
            self.wait_for_progress();
        }
        for _ in 0..count {
            self.spawn_writer();
        }
        count as u64
    }

    /// Kills every writer and reads its last acknowledgements.
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
    let token = words.next().unwrap().parse().unwrap();
    Heard::Ack { writer, token, acks: ledger::of_words(words) }
}

fn storm(durability: &'static str, kills: u64, seed: u64, read_only_tail: bool) {
    let dir = crate::dir();
    let mut storm = Storm::new(dir.path(), durability, seed);
    // The topic is created before a reader opens it.
    drop(ledger::open(&storm.dir, durability, SEGMENT_LEN));
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
    let topic = ledger::open(&storm.dir, durability, SEGMENT_LEN);
    // Records that were whole, but not synced, when their writer died appear with the next sync.
    let end = topic.end_offset().unwrap();
    topic.wait_durable(end - 1).unwrap();
    assert_eq!(topic.high_watermark().unwrap(), end);
    let (read, digest) = storm.ledger.verify(&topic);
    assert_eq!(read, end);
    let seen = tail.ask(&end.to_string());
    assert_eq!(seen, format!("seen {end} {digest}"), "the tail read other records");
    assert!(tail.wait().success());
    drop(topic);
    let topic = ledger::open(&storm.dir, durability, SEGMENT_LEN);
    assert_eq!(storm.ledger.verify(&topic), (end, digest), "after opening again");
    println!(
        "{durability}: {killed} kills of {} writers, {end} records, {} acknowledged, {kind} tail",
        storm.next_writer,
        storm.ledger.len()
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
