//! Opening a log and appending the first record, after a clean close and after `kill -9`; seeking.
//!
//! `DEADDROP_BENCH_LARGE=1` adds a log of 10 GiB.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use deaddrop::{Durability, Log, Record, Start, Topic};
use support::child::{self, Role};
use support::{options, timed, Run};

/// Payload of the records that fill the log.
const SIZE: usize = 4000;

fn main() {
    if let Some((role, args)) = child::role() {
        assert_eq!(role, "writer");
        return writer(Path::new(&args[0]));
    }
    let mut run = Run::new();
    let large = std::env::var_os("DEADDROP_BENCH_LARGE").is_some();
    let sizes: &[(u64, &str)] = match (run.quick, large) {
        (true, _) => &[(4 << 20, "4 MiB")],
        (_, false) => &[(64 << 20, "64 MiB"), (1 << 30, "1 GiB")],
        (_, true) => &[(64 << 20, "64 MiB"), (1 << 30, "1 GiB"), (10 << 30, "10 GiB")],
    };
    run.table(
        "Opening, and a look at any place: median (worst)",
        &[
            "log",
            "open and append, closed ms",
            "the same, killed ms",
            "figure ms",
            "seek by offset us",
            "seek by time us",
            "figure us",
        ],
    );
    for &(len, name) in sizes {
        if run.wants(&format!("reopen/{name}")) {
            measure(&mut run, len, name);
        }
    }
    run.finish();
}

fn open(dir: &Path) -> (Log, Topic) {
    let log = Log::open_or_create(dir).unwrap();
    let topic = log.topic_with("t", options(Durability::ProcessCrash, 16 << 20)).unwrap();
    (log, topic)
}

/// Appends until it is killed; reports when it has begun.
fn writer(dir: &Path) {
    let (_log, topic) = open(dir);
    let record = Record::new(vec![1; 100]);
    topic.append(&record).unwrap();
    child::say("begun");
    loop {
        topic.append(&record).unwrap();
        std::thread::sleep(Duration::from_micros(50));
    }
}

fn measure(run: &mut Run, len: u64, name: &str) {
    let dir = run.path("log");
    let times = fill(&dir, len);
    let rounds = run.choose(15, 1);
    let mut closed = Vec::new();
    let mut killed = Vec::new();
    for _ in 0..rounds {
        closed.push(opening(&dir));
        let mut role = Role::start("writer", &[dir.to_str().expect("a path in UTF-8")]);
        assert_eq!(role.hear(), "begun");
        role.child.kill().unwrap();
        role.child.wait().unwrap();
        killed.push(opening(&dir));
    }
    let (log, topic) = open(&dir);
    let (by_offset, by_time) = seeks(&topic, &times, run.choose(200, 2));
    run.row(&[
        name.to_owned(),
        spread(closed, 1e3),
        spread(killed, 1e3),
        "10".into(),
        spread(by_offset, 1e6),
        spread(by_time, 1e6),
        "100".into(),
    ]);
    support::remove(log, topic);
}

/// Makes a log of this many bytes; returns an instant before each hundredth part.
fn fill(dir: &Path, len: u64) -> Vec<SystemTime> {
    let (_log, topic) = open(dir);
    let records = vec![Record::new(support::payload(SIZE)); 50];
    let batches = len / (50 * SIZE as u64);
    let part = (batches / 100).max(1);
    let mut times = Vec::new();
    for batch in 0..batches {
        if batch % part == 0 {
            times.push(SystemTime::now());
        }
        topic.append_batch(&records).unwrap();
    }
    topic.wait_durable(batches * 50 - 1).unwrap();
    times
}

/// Opening and one append; the cost of closing is not included.
fn opening(dir: &Path) -> f64 {
    let record = Record::new(vec![2; 100]);
    let begun = Instant::now();
    let (log, topic) = open(dir);
    topic.append(&record).unwrap();
    let elapsed = begun.elapsed();
    drop((topic, log));
    elapsed.as_secs_f64()
}

/// Seconds that a seek and the read of one record take, by offset and by time, at spread positions.
fn seeks(topic: &Topic, times: &[SystemTime], count: u64) -> (Vec<f64>, Vec<f64>) {
    let end = topic.high_watermark().unwrap();
    let mut reader = topic.reader(Start::First).unwrap();
    let mut seek = |start| {
        let elapsed = timed(|| {
            reader.seek(start).unwrap();
            assert!(reader.next().unwrap().is_some());
        });
        elapsed.as_secs_f64()
    };
    // A stride that visits positions far from each other.
    let place = |n: u64| n * 7919 * 104_729 % end;
    let by_offset = (0..count).map(|n| seek(Start::Offset(place(n)))).collect();
    let by_time =
        (0..count).map(|n| seek(Start::Time(times[(n * 37) as usize % times.len()]))).collect();
    (by_offset, by_time)
}

fn spread(mut seconds: Vec<f64>, scale: f64) -> String {
    seconds.sort_by(f64::total_cmp);
    let worst = seconds[seconds.len() - 1];
    format!("{:.2} ({:.2})", seconds[seconds.len() / 2] * scale, worst * scale)
}
