//! Which records are dropped, when, in how many steps, and what a power cut leaves of it.

use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use deaddrop::sim::{Op, SimDisk};
use deaddrop::{shift_wall_clock, Durability, Log, Record, Retention, Start, Topic, TopicOptions};

use crate::child::{Child, GUARD};

const SEGMENT_LEN: u64 = 16 << 10;
const HOUR: Duration = Duration::from_secs(3600);

fn options(durability: Durability, retention: Retention) -> TopicOptions {
    TopicOptions::default()
        .with_durability(durability)
        .with_segment_len(SEGMENT_LEN)
        .with_retention(retention)
}

fn by_age(age: Duration) -> TopicOptions {
    let retention = Retention::default().with_age(age);
    options(Durability::ProcessCrash, retention)
}

/// A record that fills a segment.
fn large() -> Record {
    Record::new(vec![7; 10_000])
}

fn names(dir: &Path, end: &str) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    names.filter(|name| name.ends_with(end)).collect()
}

fn wait_until(is: impl Fn() -> bool) {
    let started = Instant::now();
    while !is() {
        assert!(started.elapsed() < GUARD, "the condition never became true");
        std::thread::yield_now();
    }
}

#[test]
fn a_trim_of_many_segments_takes_few_directory_syncs() {
    for durability in [Durability::ProcessCrash, Durability::PowerLoss] {
        let disk = SimDisk::new();
        let log = Log::open_sim(&disk, "/log").unwrap();
        let topic = log.topic_with("t", options(durability, Retention::default())).unwrap();
        for _ in 0..300 {
            topic.append(&large()).unwrap();
        }
        topic.wait_durable(299).unwrap();
        let before = disk.calls(Op::SyncDir);
        assert_eq!(topic.trim_before(290).unwrap(), 290);
        let syncs = disk.calls(Op::SyncDir) - before;
        assert!((1..=4).contains(&syncs), "{syncs} syncs, {durability:?}");
        let left =
            disk.paths().iter().filter(|path| path.extension() == Some("seg".as_ref())).count();
        assert_eq!(left, 10);
    }
}

#[test]
fn a_power_cut_at_any_point_of_a_trim_leaves_no_hole_and_loses_nothing_that_is_kept() {
    for durability in ["process-crash", "power-loss"] {
        let child = Child::spawn(&["cut-in-a-trim", durability]);
        let status = child.wait();
        assert!(status.success(), "{durability}: {status}");
    }
}

/// Role: cuts the power at every crash point of two trims; the second continues where a failure
/// interrupted the first. A process of its own, because it arms crash points.
pub(crate) fn cut_in_a_trim(words: &[&str]) {
    let durability = match words {
        ["power-loss"] => Durability::PowerLoss,
        _ => Durability::ProcessCrash,
    };
    let disk = SimDisk::new();
    let log = Log::open_sim(&disk, "/log").unwrap();
    let topic = log.topic_with("t", options(durability, Retention::default())).unwrap();
    for number in 0..40u8 {
        topic.append(&Record::new(vec![number; 10_000])).unwrap();
    }
    topic.wait_durable(39).unwrap();
    // From then on the background removes nothing.
    let indexes = |disk: &SimDisk| {
        disk.paths().iter().filter(|path| path.extension() == Some("idx".as_ref())).count()
    };
    wait_until(|| indexes(&disk) == 39);
    let images = Arc::new(Mutex::new(Vec::new()));
    let (taken, of) = (Arc::clone(&images), disk.clone());
    deaddrop::arm_crash_points(Some(Box::new(move |name| {
        if name.starts_with("trim.") {
            let mut taken = taken.lock().unwrap();
            for _ in 0..4 {
                let seed = taken.len() as u64;
                taken.push(of.power_cut(seed));
            }
        }
    })));
    disk.fail(Op::Remove, 7, libc::EIO);
    assert!(topic.trim_before(20).is_err(), "it fails halfway");
    disk.forget_faults();
    let interrupted = images.lock().unwrap().len();
    assert_eq!(topic.trim_before(30).unwrap(), 30);
    deaddrop::arm_crash_points(None);
    let mut images = std::mem::take(&mut *images.lock().unwrap());
    assert!(interrupted >= 8 && images.len() >= interrupted + 40, "{} images", images.len());
    images.extend((0..50).map(|seed| disk.power_cut(seed)));
    let mut holes = 0;
    for (number, image) in images.iter().enumerate() {
        let of_segments = |disk: &SimDisk| -> Vec<u64> {
            let names = disk.paths().into_iter();
            names
                .filter_map(|path| {
                    path.to_str()?.strip_suffix(".seg")?.rsplit('/').next()?.parse().ok()
                })
                .collect()
        };
        let bases = of_segments(image);
        holes += usize::from(bases.windows(2).any(|pair| pair[0] + 1 < pair[1]));
        let read_only = Log::open_sim_read_only(image, "/log").unwrap();
        check(&read_only.topic("t").unwrap(), number);
        let log = Log::open_sim(image, "/log").unwrap();
        let topic = log.open_topic("t").unwrap();
        assert!(topic.recovery().is_none_or(|report| report.damage.is_empty()), "{number}");
        let first = check(&topic, number);
        assert_eq!(topic.append(&Record::new("on")).unwrap(), 40);
        assert_eq!(topic.trim_before(first + 1).unwrap(), first + 1, "{number}");
        assert_eq!(of_segments(image)[0], first + 1, "{number}: old segments came back");
    }
    assert!(holes > 0, "no image had a hole in the names");
}

/// Reads everything, without a hole; returns the first offset.
fn check(topic: &Topic, image: usize) -> u64 {
    let first = topic.first_offset().unwrap();
    assert!([0, 20, 30].contains(&first), "image {image}: {first}");
    let mut reader = topic.reader(Start::First).unwrap();
    for offset in first..40 {
        let record = reader.next().unwrap().expect("it is kept");
        assert_eq!((record.offset(), record.payload()[0]), (offset, offset as u8), "image {image}");
    }
    assert!(reader.next().unwrap().is_none());
    first
}

#[test]
fn files_that_a_recovery_set_aside_are_dropped_with_the_segments_beside_them() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let options = options(Durability::ProcessCrash, Retention::default());
    let topic = log.topic_with("t", options).unwrap();
    for _ in 0..5 {
        topic.append(&large()).unwrap();
    }
    let aside = ["00000000000000000002.seg.cut-1", "00000000000000000004.seg.cut-2"];
    for name in aside {
        std::fs::write(topic.dir().join(name), "x").unwrap();
    }
    assert_eq!(topic.trim_before(4).unwrap(), 4);
    assert!(!topic.dir().join(aside[0]).exists());
    assert!(topic.dir().join(aside[1]).exists());
}

#[test]
fn a_topic_stays_close_to_its_limit_of_bytes_while_a_writer_is_fast() {
    let dir = crate::dir();
    let retention = Retention::default().with_bytes(8 * SEGMENT_LEN);
    let log = Log::open_or_create(dir.path()).unwrap();
    let topic = log.topic_with("t", options(Durability::ProcessCrash, retention)).unwrap();
    let mut most = 0;
    for _ in 0..600 {
        topic.append(&large()).unwrap();
        most = most.max(names(topic.dir(), ".seg").len());
    }
    // The limit, nine more, and the newest segment.
    assert!(most <= 8 + 9 + 1, "{most} segments");
    assert!(topic.first_offset().unwrap() > 500);
}

#[test]
fn the_records_of_an_idle_topic_are_dropped_at_their_age() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let topic = log.topic_with("t", by_age(Duration::from_millis(300))).unwrap();
    for _ in 0..3 {
        topic.append(&Record::new("personal")).unwrap();
    }
    wait_until(|| topic.first_offset().unwrap() == 3);
    wait_until(|| names(topic.dir(), ".seg") == ["00000000000000000003.seg"]);
    assert_eq!(topic.append(&Record::new("more")).unwrap(), 3);
    drop((topic, log));
    let topic = Log::open_or_create(dir.path()).unwrap().open_topic("t").unwrap();
    assert_eq!(topic.end_offset().unwrap(), 4);
}

#[test]
fn a_topic_whose_only_segment_was_dropped_for_its_age_keeps_its_offsets_through_a_power_cut() {
    let child = Child::spawn(&["wrong-clocks", "emptied", ""]);
    assert!(child.wait().success());
}

fn run(story: &str) {
    let dir = crate::dir();
    let child = Child::spawn(&["wrong-clocks", story, dir.path().to_str().unwrap()]);
    let status = child.wait();
    assert!(status.success(), "{status}");
}

#[test]
fn one_record_from_a_clock_that_was_ahead_prevents_no_trim_and_hides_no_record() {
    run("one-record");
}

#[test]
fn a_process_whose_clock_was_ahead_prevents_no_trim_and_hides_no_record() {
    run("one-process");
}

#[test]
fn a_wall_clock_that_was_set_pauses_retention_by_age_for_a_while_and_is_reported() {
    run("set");
}

/// Role: one of the stories. A process of its own, whose clock is shifted.
pub(crate) fn wrong_clocks(words: &[&str]) {
    let dir = Path::new(words[1]);
    match words[0] {
        "one-record" => clock_ahead(dir, 1, hours(24 * 365)),
        // Not so far that it drops the records it finds.
        "one-process" => clock_ahead(dir, 30, hours(1)),
        "set" => clock_set(dir),
        "emptied" => emptied(),
        "late" => waits_for_the_lock(dir),
        other => panic!("no story {other}"),
    }
    shift_wall_clock(0);
}

fn hours(count: i64) -> i64 {
    count * HOUR.as_nanos() as i64
}

fn clock_ahead(dir: &Path, count_ahead: u64, ahead: i64) {
    let aged = by_age(5 * HOUR);
    let append = |shift: i64, count: u64| {
        shift_wall_clock(shift);
        let topic = Log::open_or_create(dir).unwrap().topic_with("t", aged).unwrap();
        for _ in 0..count {
            topic.append(&Record::new(vec![7; 4000])).unwrap();
        }
        shift_wall_clock(0);
    };
    append(hours(-3), 20);
    append(ahead, count_ahead);
    append(hours(-1), 60);
    let end = 20 + count_ahead + 60;
    let topic = Log::open_or_create(dir).unwrap().topic_with("t", aged).unwrap();
    let clocks = topic.clocks().unwrap();
    let half = Duration::from_nanos(ahead as u64 / 2);
    assert!(clocks.ahead > half, "{clocks:?}");
    let at = |hours_ago: u32| {
        let time = SystemTime::now() - hours_ago * HOUR;
        topic.reader(Start::Time(time)).unwrap().offset()
    };
    assert_eq!(at(4), 0);
    assert_eq!(at(2), 20, "including those that cannot be older");
    assert_eq!(at(0), end);
    let then = SystemTime::now() + half;
    assert_eq!(topic.reader(Start::Time(then)).unwrap().offset(), 20, "found by its time");
    assert_eq!(topic.trim().unwrap(), 0, "nothing is old enough");
    drop(topic);
    // Two and a half hours later the first ones are old enough, and later all.
    shift_wall_clock(hours(2) + hours(1) / 2);
    let topic = Log::open_or_create(dir).unwrap().topic_with("t", aged).unwrap();
    let first = topic.trim().unwrap();
    assert!((17..=20).contains(&first), "{first}");
    drop(topic);
    shift_wall_clock(hours(7));
    let topic = Log::open_or_create(dir).unwrap().topic_with("t", aged).unwrap();
    assert_eq!(topic.trim().unwrap(), end);
}

fn clock_set(dir: &Path) {
    let age = Duration::from_millis(1500);
    let topic = Log::open_or_create(dir).unwrap().topic_with("t", by_age(age)).unwrap();
    topic.append(&large()).unwrap();
    assert!(!topic.clocks().unwrap().is_age_paused);
    shift_wall_clock(hours(24));
    assert_eq!(topic.trim().unwrap(), 0);
    assert!(topic.clocks().unwrap().is_age_paused);
    wait_until(|| topic.trim().unwrap() == 1);
    assert!(!topic.clocks().unwrap().is_age_paused);
}

#[test]
fn times_rise_with_offsets_even_of_appends_that_waited_for_each_other() {
    run("late");
}

/// One append waits for another, and began with a clock that was an hour slow.
fn waits_for_the_lock(dir: &Path) {
    let options = options(Durability::ProcessCrash, Retention::default());
    let topic = Log::open_or_create(dir).unwrap().topic_with("t", options).unwrap();
    let (reached, at_point) = channel();
    let (go_on, told) = channel::<()>();
    let mut reached = Some(reached);
    deaddrop::arm_crash_points(Some(Box::new(move |name| {
        if name == "append.announced" {
            if let Some(reached) = reached.take() {
                reached.send(()).unwrap();
                told.recv().unwrap();
            }
        }
    })));
    std::thread::scope(|scope| {
        scope.spawn(|| topic.append(&Record::new("first")).unwrap());
        at_point.recv_timeout(GUARD).unwrap();
        shift_wall_clock(hours(-1));
        let (says, id) = channel();
        let topic = &topic;
        scope.spawn(move || {
            // SAFETY: takes nothing.
            says.send(unsafe { libc::gettid() }).unwrap();
            topic.append_batch(&[Record::new("second"), Record::new(vec![7; 9000])]).unwrap();
        });
        let call = format!("/proc/self/task/{}/syscall", id.recv_timeout(GUARD).unwrap());
        let futex = format!("{} ", libc::SYS_futex);
        wait_until(|| std::fs::read_to_string(&call).unwrap().starts_with(&futex));
        shift_wall_clock(0);
        go_on.send(()).unwrap();
    });
    let mut reader = topic.reader(Start::First).unwrap();
    let mut newest = SystemTime::UNIX_EPOCH;
    for offset in 0..3 {
        let record = reader.next().unwrap().unwrap();
        assert!(record.timestamp() >= newest, "offset {offset}");
        newest = record.timestamp();
    }
}

#[test]
fn files_that_were_never_finished_are_removed() {
    let disk = SimDisk::new();
    let options = options(Durability::PowerLoss, Retention::default());
    let log = Log::open_sim(&disk, "/log").unwrap();
    let topic = log.topic_with("t", options).unwrap();
    drop(topic.consumer("c", Start::First).unwrap());
    topic.append(&Record::new("x")).unwrap();
    let unfinished = |disk: &SimDisk, start: &str| {
        let names = disk.paths().into_iter().map(|path| path.to_str().unwrap().to_owned());
        names.filter(|name| name.contains(start) && name.ends_with(".tmp")).count()
    };
    // Larger than the prepared segment, so it gets a file of its own.
    disk.fail(Op::Rename, 0, libc::EIO);
    topic.append(&Record::new(vec![7; 40_000])).unwrap_err();
    assert_eq!(unfinished(&disk, "/roll-"), 0);
    drop((topic, log));
    disk.write("/log/topics/t/consumers/c.00.tmp", b"x");
    let image = disk.reboot();
    let log = Log::open_sim(&image, "/log").unwrap();
    let topic = log.open_topic("t").unwrap();
    assert_eq!(unfinished(&image, "/consumers/"), 0);
    assert_eq!(topic.consumers().unwrap().len(), 1);
}

fn emptied() {
    for durability in [Durability::ProcessCrash, Durability::PowerLoss] {
        let disk = SimDisk::new();
        let retention = Retention::default().with_age(HOUR);
        let open = |disk: &SimDisk| {
            let log = Log::open_sim(disk, "/log").unwrap();
            log.topic_with("t", options(durability, retention)).unwrap()
        };
        shift_wall_clock(hours(-2));
        let topic = open(&disk);
        for _ in 0..3 {
            topic.append(&Record::new("old")).unwrap();
        }
        drop(topic);
        shift_wall_clock(0);
        let topic = open(&disk);
        assert_eq!(topic.trim().unwrap(), 3);
        for seed in 0..50 {
            let topic = open(&disk.power_cut(seed));
            let (first, end) = (topic.first_offset().unwrap(), topic.end_offset().unwrap());
            assert_eq!((first, end), (3, 3), "seed {seed}, {durability:?}");
            assert_eq!(topic.append(&Record::new("new")).unwrap(), 3);
        }
    }
}
