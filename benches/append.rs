//! Appending on `ProcessCrash` topics, beside CRC-32 and a copy into resident memory.
#![allow(clippy::unwrap_used)]
mod support;

use std::time::{Duration, Instant};

use deaddrop::{Durability, Log, Record, Retention, TopicOptions};
use support::child::{self, Role};
use support::limit::Resident;
use support::{frame_len, payload, Fresh, Pair, Run};

const SEGMENT_LEN: u64 = 256 << 20;

fn main() {
    if let Some((role, args)) = child::role() {
        assert_eq!(role, "appender");
        return appender(&args[0], args[1].parse().expect("threads"));
    }
    let mut run = Run::new();
    run.table_of_pairs("Appends into resident pages, beside CRC and copy of the same bytes");
    one_by_one(&mut run);
    batches(&mut run);
    run.table_of_pairs("The same with rolls, allocation and page faults of 64 MiB segments inside");
    steady(&mut run);
    run.table(
        "Two writers of 256 B against one, million records a second",
        &["writers", "one", "two", "ratio", "smaller share", "figure"],
    );
    two_writers(&mut run);
    run.finish();
}

fn segment_len(run: &Run) -> u64 {
    run.choose(SEGMENT_LEN, 4 << 20)
}

fn one_by_one(run: &mut Run) {
    let mut fresh = Fresh::new(run.path("log"), Durability::ProcessCrash, segment_len(run));
    let mut limit = Resident::new(&run.path("limit"), segment_len(run) as usize);
    let sizes = [(64, "64 B"), (256, "256 B"), (1 << 10, "1 KiB"), (16 << 10, "16 KiB")];
    for (size, name) in sizes.into_iter().chain([(64 << 10, "64 KiB")]) {
        let record = Record::new(payload(size));
        let frame = payload(frame_len(size) as usize);
        let pair = Pair {
            name: name.into(),
            bytes: size as u64,
            round: ((8 << 20) / size as u64).min(40_000),
            figure: Some(if size >= 64 << 10 { 0.5 } else { 1.0 / 3.0 }),
        };
        run.pair(
            "append",
            pair,
            &mut |count| {
                fresh.run(count, frame_len(size), |topic| {
                    topic.append(&record).unwrap();
                })
            },
            &mut |count| limit.append(count, &frame),
        );
    }
}

fn batches(run: &mut Run) {
    const LEN: usize = 100;
    let mut fresh = Fresh::new(run.path("log"), Durability::ProcessCrash, segment_len(run));
    let mut limit = Resident::new(&run.path("limit-of-batches"), segment_len(run) as usize);
    for (size, name) in [(64, "100 x 64 B"), (256, "100 x 256 B")] {
        let records = vec![Record::new(payload(size)); LEN];
        let frame = payload(frame_len(size) as usize);
        let pair = Pair {
            name: name.into(),
            bytes: (LEN * size) as u64,
            round: ((8 << 20) / (LEN * size) as u64).min(400),
            figure: Some(0.5),
        };
        run.pair(
            "append",
            pair,
            &mut |count| {
                fresh.run(count, LEN as u64 * frame_len(size), |topic| {
                    topic.append_batch(&records).unwrap();
                })
            },
            &mut |count| limit.append(count * LEN as u64, &frame),
        );
    }
}

/// One topic, appended to for the whole run, with the retention that bounds it.
fn steady(run: &mut Run) {
    let segment_len = run.choose(64 << 20, 1 << 20);
    let mut limit = Resident::new(&run.path("limit-of-steady"), segment_len as usize);
    for (size, name) in [(64, "64 B"), (256, "256 B"), (1 << 10, "1 KiB"), (64 << 10, "64 KiB")] {
        let options = TopicOptions::default()
            .with_durability(Durability::ProcessCrash)
            .with_segment_len(segment_len)
            .with_retention(Retention::default().with_bytes(2 * segment_len));
        let log = Log::open_or_create(run.path("steady")).unwrap();
        let topic = log.topic_with("steady", options).unwrap();
        let record = Record::new(payload(size));
        let frame = payload(frame_len(size) as usize);
        let pair = Pair {
            name: name.into(),
            bytes: 16 << 10,
            // A segment and a half in every round: each has one or two rolls.
            round: segment_len * 3 / 2 / frame_len(size),
            figure: Some(if size >= 64 << 10 { 0.5 } else { 1.0 / 3.0 }),
        };
        if run.wants(&format!("steady/{name}")) {
            let rounds = run.choose(9, 1);
            let compared = support::in_turns(
                rounds,
                || {
                    support::timed(|| {
                        (0..pair.round).for_each(|_| {
                            topic.append(&record).unwrap();
                        });
                    })
                },
                || limit.append(pair.round, &frame),
            );
            run.pair_row(&pair, pair.round, &compared);
        }
        support::remove(log, topic);
    }
}

/// How long the writers append.
const WINDOW: Duration = Duration::from_millis(60);

/// Appends at the parent's request, with this many threads; reports how many records each appended.
fn appender(dir: &str, threads: usize) {
    let log = Log::open_or_create(dir).unwrap();
    let topic = log.open_topic("shared").unwrap();
    topic.populate(SEGMENT_LEN).unwrap();
    child::say("ready");
    child::hear();
    let begun = Instant::now();
    let counts: Vec<u64> = std::thread::scope(|scope| {
        let run = || {
            let record = Record::new(payload(256));
            let mut count = 0;
            while begun.elapsed() < WINDOW {
                for _ in 0..32 {
                    topic.append(&record).unwrap();
                }
                count += 32;
            }
            count
        };
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let counts: Vec<String> = counts.iter().map(u64::to_string).collect();
    child::say(&counts.join(" "));
}

/// Records appended by each of `threads` threads in each of `processes` processes.
fn appended(run: &Run, processes: usize, threads: usize) -> Vec<f64> {
    let dir = run.path("shared");
    let log = Log::open_or_create(&dir).unwrap();
    let options = support::options(Durability::ProcessCrash, SEGMENT_LEN);
    let topic = log.topic_with("shared", options).unwrap();
    let dir_name = dir.to_str().unwrap();
    let mut roles: Vec<Role> = (0..processes)
        .map(|_| Role::start("appender", &[dir_name, &threads.to_string()]))
        .collect();
    roles.iter_mut().for_each(|role| assert_eq!(role.hear(), "ready"));
    roles.iter_mut().for_each(|role| role.say("go"));
    let mut counts = Vec::new();
    for role in &mut roles {
        counts.extend(role.hear().split(' ').map(|count| count.parse::<f64>().unwrap()));
    }
    roles.into_iter().for_each(Role::end);
    support::remove(log, topic);
    counts
}

fn two_writers(run: &mut Run) {
    for (who, processes, threads) in [("processes", 2, 1), ("threads", 1, 2)] {
        if !run.wants(&format!("two {who}")) {
            continue;
        }
        let (mut ones, mut twos, mut ratios, mut shares) = (vec![], vec![], vec![], vec![]);
        for _ in 0..run.choose(11, 1) {
            let one = appended(run, 1, 1)[0];
            let two = appended(run, processes, threads);
            let total = two[0] + two[1];
            ratios.push(total / one);
            shares.push(two[0].min(two[1]) / total);
            ones.push(one);
            twos.push(total);
        }
        let rate = |counts| support::median(counts) / WINDOW.as_micros() as f64;
        run.row(&[
            format!("two {who}"),
            format!("{:.2}", rate(ones)),
            format!("{:.2}", rate(twos)),
            format!("{:.2}", support::median(ratios)),
            format!("{:.2}", support::median(shares)),
            "0.80".into(),
        ]);
    }
}
