//! Private memory of a process that has 100 topics and 100 consumers open, without mappings of files.
#![allow(clippy::unwrap_used)]

mod support;

use deaddrop::{Consumer, Durability, Log, Record, Start, Topic};
use support::child::{self, Role};
use support::Run;

fn main() {
    if let Some((role, args)) = child::role() {
        assert_eq!(role, "holder");
        return holder(&args[0], args[1].parse().expect("a count"));
    }
    let mut run = Run::new();
    let figure = "figure KiB";
    run.table(
        "Private memory, mappings of files excepted",
        &["what", "before KiB", "open KiB", "after appends and reads KiB", figure],
    );
    let count = run.choose(100, 3);
    if run.wants("memory") {
        let dir = run.path("log");
        let mut role =
            Role::start("holder", &[dir.to_str().expect("a path in UTF-8"), &count.to_string()]);
        let said = role.hear();
        role.end();
        let mut cells = vec![format!("{count} topics, {count} consumers")];
        cells.extend(said.split(' ').map(str::to_owned));
        cells.push((32 << 10).to_string());
        run.row(&cells);
    }
    run.finish();
}

/// Opens this many topics and consumers; reports its private memory before, after, and in use.
fn holder(dir: &str, count: usize) {
    let before = private_kib();
    let log = Log::open_or_create(dir).unwrap();
    let options = support::options(Durability::ProcessCrash, 1 << 20);
    let topics: Vec<Topic> =
        (0..count).map(|n| log.topic_with(&format!("t{n}"), options).unwrap()).collect();
    let mut consumers: Vec<Consumer> =
        topics.iter().map(|topic| topic.consumer("c", Start::First).unwrap()).collect();
    let open = private_kib();
    let record = Record::new(support::payload(256));
    for (topic, consumer) in topics.iter().zip(&mut consumers) {
        for _ in 0..100 {
            topic.append(&record).unwrap();
        }
        while consumer.next().unwrap().is_some() {}
        consumer.commit().unwrap();
    }
    child::say(&format!("{before} {open} {}", private_kib()));
}

/// Private pages of mappings that have no file, as the kernel counts them.
fn private_kib() -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut total, mut anonymous) = (0, false);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if !first.ends_with(':') {
            // address perms offset device inode [path]
            anonymous = words.nth(3) == Some("0");
        } else if anonymous && (first == "Private_Clean:" || first == "Private_Dirty:") {
            total += words.next().and_then(|kib| kib.parse::<u64>().ok()).unwrap();
        }
    }
    total
}
