//! Deleting a topic is one step: interrupted at any point, the topic is whole or its name is free.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use deaddrop::sim::{Op, SimDisk};
use deaddrop::{Durability, Error, Log, Record, Start, Topic, TopicOptions};

use crate::child::{self, Child};

const DIR: &str = "/log";
const POINTS: [&str; 3] = ["delete.renamed", "delete.durable", "delete.removed"];
/// The records of a topic of several segments.
const RECORDS: u64 = 12;

fn options() -> TopicOptions {
    TopicOptions::default().with_durability(Durability::PowerLoss).with_segment_len(16 << 10)
}

fn fill(log: &Log) {
    let topic = log.topic_with("t", options()).unwrap();
    for _ in 0..RECORDS {
        topic.append(&Record::new([7; 5_000])).unwrap();
    }
    topic.consumer("c", Start::First).unwrap();
}

fn count(topic: &Topic) -> u64 {
    let mut reader = topic.reader(Start::First).unwrap();
    let mut count = 0;
    while reader.next().unwrap().is_some() {
        count += 1;
    }
    count
}

/// Returns true if the whole topic is there, false if there is none and another one can be made.
fn is_whole(log: &Log) -> bool {
    match log.open_topic("t") {
        Ok(topic) => {
            assert_eq!(log.topics().unwrap(), ["t"]);
            assert_eq!(count(&topic), RECORDS);
            assert_eq!(topic.consumers().unwrap().len(), 1);
            true
        }
        Err(Error::NotFound { .. }) => {
            assert_eq!(log.topics().unwrap(), [""; 0]);
            let other = log.topic_with("t", options()).unwrap();
            assert_eq!(other.append(&Record::new("new")).unwrap(), 0);
            assert_eq!(count(&other), 1);
            drop(other);
            log.delete_topic("t").unwrap();
            false
        }
        Err(error) => panic!("{error}"),
    }
}

/// Role: deletes the topic, and kills itself the n-th time that it reaches a point.
pub(crate) fn deleter(words: &[&str]) {
    let [dir, point, nth] = words else { panic!("{words:?}") };
    let (point, mut left) = ((*point).to_owned(), nth.parse::<u32>().unwrap());
    deaddrop::arm_crash_points(Some(Box::new(move |name| {
        if name == point {
            left -= 1;
            if left == 0 {
                child::raise(libc::SIGKILL);
            }
        }
    })));
    Log::open_or_create(dir).unwrap().delete_topic("t").unwrap();
}

fn names(topics: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(topics).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_killed_delete_leaves_the_name_free_and_its_files_are_removed_later() {
    for point in POINTS {
        for nth in [1, 2, 5] {
            let dir = crate::dir();
            fill(&Log::open_or_create(dir.path()).unwrap());
            let before = Log::open_or_create(dir.path()).unwrap();
            let words = ["deleter", dir.path().to_str().unwrap(), point, &nth.to_string()];
            let status = Child::spawn(&words).wait();
            // Only the removals happen more than once.
            assert_eq!(status.success(), nth > 1 && point != "delete.removed", "{point} {nth}");
            // Even for a process that had the log open, which removes nothing.
            assert!(!is_whole(&before), "{point}: it was renamed");
            let after = Log::open_or_create(dir.path()).unwrap();
            assert!(names(&dir.path().join("topics")).is_empty(), "{point} {nth}");
            assert!(!is_whole(&after));
        }
    }
}

/// Role: takes images of power cuts at each point of a delete on a simulated disk. A process of its
/// own, because it arms crash points.
pub(crate) fn power_cuts(_: &[&str]) {
    let disk = SimDisk::new();
    let log = Log::open_sim(&disk.process(), DIR).unwrap();
    fill(&log);
    let images = Arc::new(Mutex::new(Vec::new()));
    let (taken, origin) = (Arc::clone(&images), disk.clone());
    deaddrop::arm_crash_points(Some(Box::new(move |name| {
        if POINTS.contains(&name) {
            taken.lock().unwrap().extend((0..8).map(|seed| (name, origin.power_cut(seed))));
        }
    })));
    log.delete_topic("t").unwrap();
    deaddrop::arm_crash_points(None);
    let images = std::mem::take(&mut *images.lock().unwrap());
    let mut seen = [false; 2];
    for (point, image) in &images {
        let log = Log::open_sim(image, DIR).unwrap();
        let left = image.paths().iter().any(|path| path.to_str().unwrap().contains("deleted-"));
        assert!(!left, "{point}: {:?}", image.paths());
        let whole = is_whole(&log);
        assert!(!whole || *point == "delete.renamed", "{point}: the delete was durable");
        seen[usize::from(whole)] = true;
    }
    assert_eq!(seen, [true; 2], "of {} images", images.len());
}

#[test]
fn a_power_cut_in_a_delete_leaves_the_whole_topic_or_none() {
    let status = Child::spawn(&["delete-power-cuts"]).wait();
    assert!(status.success(), "{status}");
}

#[test]
fn a_delete_with_any_failing_call_leaves_the_whole_topic_or_none() {
    for op in [Op::Open, Op::Rename, Op::Remove, Op::List, Op::SyncDir, Op::Lock] {
        let mut nth = 0;
        loop {
            let disk = SimDisk::new();
            let log = Log::open_sim(&disk.process(), DIR).unwrap();
            fill(&log);
            let calls = disk.calls(op);
            disk.fail(op, nth, libc::EIO);
            let deleted = log.delete_topic("t");
            let had_all = disk.calls(op) - calls <= nth;
            disk.forget_faults();
            assert!(had_all || deleted.is_err(), "{op:?} {nth}: the error is reported");
            let other = Log::open_sim(&disk.process(), DIR).unwrap();
            let whole = is_whole(&other);
            assert!(!whole || deleted.is_err(), "{op:?} {nth}");
            if had_all {
                break;
            }
            nth += 1;
            assert!(nth < 200, "{op:?}");
        }
        assert!(nth > 0, "{op:?} is called");
    }
}

fn is_told<T: std::fmt::Debug>(what: &str, remade: bool, result: Result<T, Error>) {
    match result {
        Err(error @ Error::NotFound { .. }) => {
            let text = error.to_string();
            assert!(text.contains("its files were removed while it was open"), "{what}: {text}");
            assert_eq!(text.contains("another topic was created under its name"), remade, "{text}");
        }
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn a_deleted_topic_that_is_open_for_reading_is_reported_as_deleted_and_not_as_damaged() {
    for (live, remade) in [(true, true), (true, false), (false, true), (false, false)] {
        let dir = crate::dir();
        let log = Log::open_or_create(dir.path()).unwrap();
        fill(&log);
        let topic = log.topic("t").unwrap();
        let topic = live.then_some(topic);
        let read_only = Log::open_read_only(dir.path()).unwrap();
        let seen = read_only.topic("t").unwrap();
        assert_eq!(seen.is_live(), live);
        let mut at_end = seen.reader(Start::First).unwrap();
        while at_end.next().unwrap().is_some() {}
        let mut behind = seen.reader(Start::First).unwrap();
        behind.next().unwrap().unwrap();
        drop(topic);
        log.delete_topic("t").unwrap();
        if remade {
            // Past the end of the deleted one.
            let other = log.topic_with("t", options()).unwrap();
            for _ in 0..3 * RECORDS {
                other.append(&Record::new([8; 3_000])).unwrap();
            }
        }
        is_told("high watermark", remade, seen.high_watermark());
        is_told("end", remade, seen.end_offset());
        is_told("durable end", remade, seen.durable_end());
        is_told("first", remade, seen.first_offset());
        is_told("consumers", remade, seen.consumers());
        is_told("groups", remade, seen.groups().map(drop));
        is_told("members", remade, seen.members());
        is_told("reader", remade, seen.reader(Start::Last).map(drop));
        is_told("next", remade, at_end.next().map(|record| record.is_some()));
        is_told("wait", remade, at_end.wait_timeout(child::GUARD).map(|record| record.is_some()));
        is_told("lag", remade, at_end.lag());
        let mut more = 0;
        let end = loop {
            match behind.next() {
                Ok(Some(record)) => assert_eq!(record.payload()[0], 7),
                Ok(None) => panic!("the reader waits for more"),
                Err(error) => break error,
            }
            more += 1;
        };
        assert!(more < RECORDS);
        is_told("a reader that is behind", remade, Err::<(), _>(end));
        match read_only.topic("t") {
            Ok(topic) => assert_eq!((count(&topic), remade), (3 * RECORDS, true)),
            Err(error) => assert!(!remade && matches!(error, Error::NotFound { .. }), "{error}"),
        }
    }
}

#[test]
fn a_topic_whose_settings_are_gone_can_be_deleted() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    fill(&log);
    std::fs::remove_file(dir.path().join("topics/t/settings")).unwrap();
    assert!(log.topic("t").unwrap_err().is_corruption());
    log.delete_topic("t").unwrap();
    assert!(!is_whole(&log));
    // A directory that was never a topic is left alone.
    std::fs::create_dir(dir.path().join("topics/mine")).unwrap();
    assert!(matches!(log.delete_topic("mine"), Err(Error::NotFound { .. })));
    assert!(dir.path().join("topics/mine").exists());
}

/// Returns how many descriptors of this process refer to a file.
fn openings_of(path: &Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    links
        .filter(|link| std::fs::read_link(link.as_ref().unwrap().path()).is_ok_and(|to| to == path))
        .count()
}

#[test]
fn a_process_that_waits_to_open_a_topic_while_it_is_deleted_gets_a_new_one() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    fill(&log);
    let topic = log.dir().join("topics/t");
    let lock_path = topic.join("lock");
    let lock_file = std::fs::File::options().read(true).write(true).open(&lock_path).unwrap();
    // SAFETY: an all-zero flock is a valid value of the plain struct.
    let mut gate: libc::flock = unsafe { std::mem::zeroed() };
    gate.l_type = libc::F_WRLCK as libc::c_short;
    gate.l_len = 1;
    // SAFETY: an open descriptor and a live structure.
    let locked = unsafe { libc::fcntl(lock_file.as_raw_fd(), libc::F_OFD_SETLK, &gate) };
    assert_eq!(locked, 0);
    let opener = std::thread::spawn(move || log.topic_with("t", options()).unwrap());
    let started = Instant::now();
    while openings_of(&lock_path) < 2 {
        assert!(started.elapsed() < child::GUARD, "the other thread opens the lock file");
        std::thread::yield_now();
    }
    // What a delete that holds the gate does.
    std::fs::rename(&topic, topic.with_file_name(".t.deleted-0123456789abcdef")).unwrap();
    drop(lock_file);
    let opened = opener.join().unwrap();
    assert_eq!(opened.append(&Record::new("new")).unwrap(), 0);
    assert_eq!(count(&opened), 1);
    assert!(topic.join("00000000000000000000.seg").exists());
}
