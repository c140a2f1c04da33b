//! A process dies, or is stopped, at a named point; the others continue.
//!
//! A child arms a crash point and works until it reaches it for the n-th time. Then a process that
//! had the topic open all the time, or one that opens it afterwards, must find every record that
//! the child acknowledged, once, and append. The points are those of the write paths; a point that
//! is missing from the lists fails the test that counts them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use deaddrop::{Error, LogOptions};

use crate::child::{self, Child, Watchdog};
use crate::ledger::{self, Acks, Ledger, Writer, DURABILITIES};
use crate::random::Random;

/// The smallest segment, so that a roll comes every few records.
const SEGMENT_LEN: u64 = 16 << 10;

const UNDER_THE_LOCK: [&str; 10] = [
    "append.announced",
    "append.between-frames",
    "append.half-written",
    "append.written",
    "append.positioned",
    "append.published",
    "roll.announced",
    "roll.headed",
    "roll.named",
    "roll.entered",
];
const BESIDE_THE_LOCK: [&str; 6] = [
    "prepare.claimed",
    "prepare.zeros",
    "prepare.ready",
    "sync.before",
    "sync.after",
    "sync.published",
];
const OPEN: [&str; 5] = [
    "open.unready",
    "open.before-ready",
    "open.slot-taken",
    "open.slot-settled",
    "open.before-gate-is-left",
];
const CREATE: [&str; 3] = ["create.settings", "start.headed", "start.named"];
const SETTLE: [&str; 3] = ["settle.covered", "settle.published", "settle.rolled"];
const RECOVER: [&str; 3] = ["recover.epoch", "recover.set-aside", "recover.synced"];
/// Of a repair, which needs the topic for itself: the tests of repairs interrupt each of its calls.
const REPAIR: [&str; 6] = [
    "repair.given-up",
    "repair.header-kept",
    "repair.header-written",
    "repair.index-removed",
    "repair.kept",
    "repair.synced",
];
/// Reached after a failed sync, beside a failing one, and in a trim: on a simulated disk only.
const ELSEWHERE: [&str; 9] = [
    "append.failed",
    "append.withdrawn",
    "close.promised",
    "recover.copied",
    "sync.due",
    "sync.failed",
    "sync.latched",
    "trim.noted",
    "trim.removed",
];
/// Of a delete, which has its own tests.
const DELETE: [&str; 3] = ["delete.renamed", "delete.durable", "delete.removed"];

#[test]
fn every_crash_point_of_the_log_is_on_a_list_here() {
    let mut found = BTreeSet::new();
    let mut dirs = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            // The layers above the log have their own tests.
            let is_above = path.ends_with("service") || path.ends_with("group");
            if path.is_dir() && !is_above {
                dirs.push(path);
            } else if path.is_file() {
                let text = std::fs::read_to_string(&path).unwrap();
                let points = text.split("crash_point!(\"").skip(1);
                found.extend(points.map(|rest| rest.split('"').next().unwrap().to_owned()));
            }
        }
    }
    let lists: [&[&str]; 9] = [
        &UNDER_THE_LOCK,
        &BESIDE_THE_LOCK,
        &OPEN,
        &CREATE,
        &SETTLE,
        &RECOVER,
        &REPAIR,
        &DELETE,
        &ELSEWHERE,
    ];
    let listed: BTreeSet<String> =
        lists.iter().flat_map(|list| list.iter().map(|&point| point.to_owned())).collect();
    assert_eq!(found, listed);
}

/// Arms a point: at its `nth` arrival (from 1) the process sends `signal` to itself.
pub(crate) fn arm(point: &str, nth: u64, signal: i32) {
    let point = point.to_owned();
    let arrivals = AtomicU64::new(0);
    deaddrop::arm_crash_points(Some(Box::new(move |name| {
        if name == point && arrivals.fetch_add(1, Ordering::SeqCst) + 1 == nth {
            child::raise(signal);
        }
    })));
}

/// Role: opens the topic and obeys commands: `arm POINT NTH SIGNAL`, `watch POINT`, `open`, `work
/// COUNT`.
pub(crate) fn worker(words: &[&str]) {
    let [dir, durability, name] = words else { panic!("{words:?}") };
    let name: u32 = name.parse().unwrap();
    let mut writer = None;
    while let Some(line) = child::listen() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["arm", point, nth, signal] => {
                arm(point, nth.parse().unwrap(), signal.parse().unwrap());
            }
            ["watch", point] => {
                let point = point.to_owned();
                deaddrop::arm_crash_points(Some(Box::new(move |name| {
                    if name == point {
                        child::say(name);
                    }
                })));
            }
            ["open"] => {
                writer = Some(Writer::new(ledger::open(dir, durability, SEGMENT_LEN), name));
            }
            ["work", count] => {
                let writer = writer.as_mut().unwrap();
                let acknowledge =
                    |acks: Acks| child::say(&format!("ack {}", ledger::to_words(&acks)));
                work(writer, count.parse().unwrap(), acknowledge);
            }
            _ => panic!("{line}"),
        }
        child::say("done");
    }
}

/// Appends in every way there is, over several segments.
fn work(writer: &mut Writer, count: u64, mut acknowledge: impl FnMut(Acks)) {
    let mut random = Random(count);
    for step in 0..count {
        let mut len = || random.below(3000) as usize;
        let acks = match step % 8 {
            2 | 5 => writer.append_batch(&[len(), len(), len()]),
            3 => writer.append_pipelined(&[len(), len()]),
            // Longer than a segment, and written by a system call on every topic.
            _ if step % 24 == 7 => writer.append((64 << 10) + len()),
            _ => writer.append(len()),
        };
        acknowledge(acks.unwrap());
    }
}

/// A log under test, with the acknowledgements of its appends.
struct Scene {
    dir: tempfile::TempDir,
    durability: &'static str,
    ledger: Ledger,
    next_writer: u32,
    _watchdog: Watchdog,
}

impl Scene {
    fn new(durability: &'static str) -> Scene {
        Scene {
            dir: crate::dir(),
            durability,
            ledger: Ledger::default(),
            next_writer: 0,
            _watchdog: Watchdog::new(),
        }
    }

    fn path(&self) -> String {
        self.dir.path().to_str().unwrap().to_owned()
    }

    fn name(&mut self) -> u32 {
        self.next_writer += 1;
        self.next_writer - 1
    }

    /// A writer in this process.
    fn writer(&mut self) -> (u32, Writer) {
        let name = self.name();
        (name, Writer::new(ledger::open(&self.path(), self.durability, SEGMENT_LEN), name))
    }

    fn worker(&mut self) -> Worker {
        let name = self.name();
        let child = Child::spawn(&["worker", &self.path(), self.durability, &name.to_string()]);
        Worker { child, name }
    }

    /// Appends enough to go through several rolls, and reads everything.
    fn go_on(&mut self, (name, writer): &mut (u32, Writer)) {
        work(writer, 24, |acks| self.ledger.enter(*name, &acks));
        let end = writer.topic.end_offset().unwrap();
        writer.topic.wait_durable(end - 1).unwrap();
        assert_eq!(self.ledger.verify(&writer.topic).0, end);
    }

    /// Opens the topic when no process has it open, continues, and opens it once more.
    fn open_and_go_on(&mut self) {
        let mut writer = self.writer();
        self.go_on(&mut writer);
        drop(writer);
        let topic = ledger::open(&self.path(), self.durability, SEGMENT_LEN);
        self.ledger.verify(&topic);
    }
}

struct Worker {
    child: Child,
    name: u32,
}

impl Worker {
    fn arm(&mut self, point: &str, nth: u64, signal: i32) {
        assert_eq!(self.child.ask(&format!("arm {point} {nth} {signal}")), "done");
    }

    /// Reads acknowledgements. Returns true when it has done its work, false when it has ended.
    fn finish(&mut self, ledger: &mut Ledger) -> bool {
        while let Some(line) = self.child.hear() {
            match line.strip_prefix("ack ") {
                Some(acks) => ledger.enter(self.name, &ledger::of_words(acks.split(' '))),
                None => {
                    assert_eq!(line, "done");
                    return true;
                }
            }
        }
        false
    }

    fn open(&mut self) {
        assert_eq!(self.child.ask("open"), "done");
    }

    fn work_until_death(mut self, ledger: &mut Ledger, point: &str) {
        // Background work comes when a busy machine lets it, or another process does it.
        for rounds in 0.. {
            // It may have died in the background since it was done.
            if !self.child.try_tell("work 200") || !self.finish(ledger) {
                break;
            }
            assert!(rounds < 100, "{point} was never reached");
        }
        self.child.wait_for_death();
    }
}

/// A worker dies at the n-th arrival at `point`, with or without a survivor that has it open.
fn die_at(point: &str, nth: u64, durability: &'static str, survived: bool) {
    println!("{durability}: death at {point}, arrival {nth}, survivor: {survived}");
    let mut scene = Scene::new(durability);
    let survivor = survived.then(|| {
        let mut survivor = scene.writer();
        work(&mut survivor.1, 5, |acks| scene.ledger.enter(survivor.0, &acks));
        survivor
    });
    let mut worker = scene.worker();
    worker.open();
    worker.arm(point, nth, libc::SIGKILL);
    worker.work_until_death(&mut scene.ledger, point);
    match survivor {
        Some(mut survivor) => scene.go_on(&mut survivor),
        None => scene.open_and_go_on(),
    }
}

fn die_everywhere(points: &[&str], durability: &'static str) {
    for point in points {
        for nth in 1..=3 {
            for survived in [true, false] {
                die_at(point, nth, durability, survived);
            }
        }
    }
}

#[test]
fn a_death_at_any_point_under_the_append_lock_loses_and_doubles_nothing() {
    for durability in DURABILITIES {
        die_everywhere(&UNDER_THE_LOCK, durability);
    }
}

#[test]
fn a_death_while_preparing_a_segment_or_syncing_loses_and_doubles_nothing() {
    for durability in DURABILITIES {
        die_everywhere(&BESIDE_THE_LOCK, durability);
    }
}

#[test]
fn a_death_while_a_topic_is_made_or_opened_leaves_it_to_the_next_to_open_it() {
    for durability in DURABILITIES {
        for point in CREATE.iter().chain(&OPEN) {
            println!("{durability}: death at {point} of a new topic");
            let mut scene = Scene::new(durability);
            let mut worker = scene.worker();
            worker.arm(point, 1, libc::SIGKILL);
            worker.child.tell("open");
            assert!(!worker.finish(&mut scene.ledger), "{point} was never reached");
            scene.open_and_go_on();
            println!("{durability}: death at {point} of a topic that no process has open");
            let mut worker = scene.worker();
            worker.arm(point, 1, libc::SIGKILL);
            worker.child.tell("open");
            assert_eq!(worker.finish(&mut scene.ledger), CREATE.contains(point), "{point}");
            drop(worker);
            scene.open_and_go_on();
        }
    }
}

#[test]
fn a_death_while_a_topic_is_opened_beside_others_does_not_disturb_them() {
    for durability in DURABILITIES {
        for point in &OPEN[2..] {
            let mut scene = Scene::new(durability);
            let mut survivor = scene.writer();
            for _ in 0..3 {
                let mut worker = scene.worker();
                worker.arm(point, 1, libc::SIGKILL);
                worker.child.tell("open");
                assert!(!worker.finish(&mut scene.ledger), "{point} was never reached");
                scene.go_on(&mut survivor);
            }
            let mut late = scene.writer();
            scene.go_on(&mut late);
        }
    }
}

/// Returns the points at which a worker must have died so that settling its work reaches a point.
fn deaths_before(settling: &str) -> &'static [&'static str] {
    match settling {
        "settle.rolled" => &["roll.announced", "roll.headed", "roll.named", "roll.entered"],
        _ => &[
            "append.announced",
            "append.between-frames",
            "append.half-written",
            "append.written",
            "append.published",
        ],
    }
}

/// How the second worker comes to settle the intent of the first one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Heir {
    /// It had the topic open before, and appends.
    Member,
    /// It opens the topic, and gets the slot of the dead one, while another process has it open.
    Successor,
    /// It opens the topic, which no process has open.
    Alone,
}

/// One worker dies under the lock; the heir gets `signal` while it settles.
fn settle_interrupted(
    scene: &mut Scene,
    death: &str,
    point: &str,
    heir: Heir,
    signal: i32,
) -> Worker {
    let mut first = scene.worker();
    first.open();
    first.arm(death, 2, libc::SIGKILL);
    let mut second = scene.worker();
    if heir == Heir::Member {
        second.open();
    }
    first.work_until_death(&mut scene.ledger, death);
    second.arm(point, 1, signal);
    second.child.tell(if heir == Heir::Member { "work 200" } else { "open" });
    second
}

#[test]
fn a_second_death_while_settling_the_first_leaves_it_to_the_third() {
    for durability in DURABILITIES {
        for point in SETTLE {
            for death in deaths_before(point) {
                for heir in [Heir::Member, Heir::Successor, Heir::Alone] {
                    for survivor_appends in [true, false] {
                        if heir == Heir::Alone && survivor_appends {
                            continue;
                        }
                        println!("{durability}: {death}, then {heir:?} at {point}");
                        let mut scene = Scene::new(durability);
                        let mut survivor = (heir != Heir::Alone).then(|| scene.writer());
                        let mut second =
                            settle_interrupted(&mut scene, death, point, heir, libc::SIGKILL);
                        assert!(!second.finish(&mut scene.ledger), "{point} was never reached");
                        second.child.wait_for_death();
                        if let (Some(survivor), true) = (&mut survivor, survivor_appends) {
                            scene.go_on(survivor);
                        }
                        // Opens it with the second one's slot, beside the idle survivor or alone.
                        let mut third = scene.worker();
                        third.open();
                        third.child.tell("work 20");
                        assert!(third.finish(&mut scene.ledger));
                        match &mut survivor {
                            Some(survivor) => scene.go_on(survivor),
                            None => drop(third),
                        }
                        drop(survivor);
                        scene.open_and_go_on();
                    }
                }
            }
        }
    }
}

/// With a stopped process in the lock, a writer with a deadline gets `TimedOut`, and one without
/// waits. When the process is continued, so are they, and nothing is overwritten.
fn waited_for(scene: &mut Scene, survivor: &mut (u32, Writer), mut stopped: Worker) {
    stopped.child.wait_until_stopped();
    let error = survivor.1.append(10).unwrap_err();
    survivor.1.not_appended();
    let Error::TimedOut { what } = &error else { panic!("{error}") };
    assert!(what.contains(&format!("process {}", stopped.child.pid())), "{what}");
    stopped.child.signal(libc::SIGCONT);
    assert!(stopped.finish(&mut scene.ledger));
    scene.go_on(survivor);
}

fn impatient(scene: &mut Scene) -> (u32, Writer) {
    let options = LogOptions::default().with_lock_timeout(Duration::from_millis(20));
    let name = scene.name();
    let topic = ledger::open_with(&scene.path(), scene.durability, SEGMENT_LEN, options);
    (name, Writer::new(topic, name))
}

#[test]
fn a_stopped_owner_of_the_append_lock_is_waited_for_and_never_robbed() {
    for durability in DURABILITIES {
        for point in UNDER_THE_LOCK {
            println!("{durability}: stopped at {point}");
            let mut scene = Scene::new(durability);
            let mut survivor = impatient(&mut scene);
            let mut worker = scene.worker();
            worker.open();
            worker.arm(point, 2, libc::SIGSTOP);
            worker.child.tell("work 40");
            waited_for(&mut scene, &mut survivor, worker);
        }
    }
}

#[test]
fn a_process_stopped_while_it_settles_for_a_dead_one_is_not_robbed_either() {
    for durability in DURABILITIES {
        for point in SETTLE {
            for death in deaths_before(point) {
                for heir in [Heir::Member, Heir::Successor] {
                    println!("{durability}: {death}, then {heir:?} stopped at {point}");
                    let mut scene = Scene::new(durability);
                    let mut survivor = impatient(&mut scene);
                    let second = settle_interrupted(&mut scene, death, point, heir, libc::SIGSTOP);
                    waited_for(&mut scene, &mut survivor, second);
                }
            }
        }
    }
}

/// Starts an append in a thread; the handle returns its writer and its acknowledgements.
fn append_in_a_thread(
    scene: &Scene,
    (name, writer): (u32, Writer),
) -> std::thread::JoinHandle<((u32, Writer), Acks)> {
    let started = Arc::new(std::sync::Barrier::new(2));
    let thread = std::thread::spawn({
        let started = Arc::clone(&started);
        let mut writer = writer;
        move || {
            started.wait();
            let acks = writer.append(100).unwrap();
            ((name, writer), acks)
        }
    });
    started.wait();
    assert!(scene.next_writer > name);
    thread
}

#[test]
fn a_writer_that_waits_for_a_stopped_owner_takes_over_when_that_is_killed() {
    for durability in DURABILITIES {
        for point in UNDER_THE_LOCK.iter().chain(&BESIDE_THE_LOCK[3..]) {
            println!("{durability}: stopped at {point}, then killed");
            let mut scene = Scene::new(durability);
            let survivor = scene.writer();
            let mut worker = scene.worker();
            worker.open();
            worker.arm(point, 2, libc::SIGSTOP);
            worker.child.tell("work 200");
            worker.child.wait_until_stopped();
            let thread = append_in_a_thread(&scene, survivor);
            worker.child.signal(libc::SIGKILL);
            assert!(!worker.finish(&mut scene.ledger));
            let (mut survivor, acks) = thread.join().unwrap();
            scene.ledger.enter(survivor.0, &acks);
            scene.go_on(&mut survivor);
        }
    }
}

#[test]
fn a_process_that_is_stopped_while_it_writes_zeros_ahead_erases_no_record_when_it_continues() {
    for durability in DURABILITIES {
        let mut scene = Scene::new(durability);
        let mut survivor = scene.writer();
        let mut worker = scene.worker();
        worker.open();
        worker.arm("prepare.zeros", 2, libc::SIGSTOP);
        worker.child.tell("work 200");
        worker.child.wait_until_stopped();
        // Through more segments than are ever prepared.
        scene.go_on(&mut survivor);
        worker.child.signal(libc::SIGCONT);
        assert!(worker.finish(&mut scene.ledger));
        scene.go_on(&mut survivor);
    }
}

#[test]
fn a_stopped_syncer_is_overtaken() {
    for point in ["sync.before", "sync.after"] {
        for nth in 1..=3 {
            let mut scene = Scene::new("power-loss");
            let mut survivor = scene.writer();
            let mut worker = scene.worker();
            worker.open();
            worker.arm(point, nth, libc::SIGSTOP);
            worker.child.tell("work 40");
            worker.child.wait_until_stopped();
            // Returns only when all is durable, over several segments, while the syncer is stopped.
            scene.go_on(&mut survivor);
            worker.child.signal(libc::SIGCONT);
            assert!(worker.finish(&mut scene.ledger));
            scene.go_on(&mut survivor);
        }
    }
}

#[test]
fn a_death_in_a_recovery_that_reads_the_disk_leaves_it_to_the_next() {
    for durability in DURABILITIES {
        for death in ["append.between-frames", "append.written", "roll.named"] {
            for point in RECOVER.iter().chain(&CREATE[1..]).chain(&OPEN) {
                println!("{durability}: {death}, no control words, then death at {point}");
                let mut scene = Scene::new(durability);
                let mut first = scene.worker();
                first.open();
                first.arm(death, 2, libc::SIGKILL);
                first.work_until_death(&mut scene.ledger, death);
                // As after a reboot, with everything on the disk.
                std::fs::remove_file(scene.dir.path().join("topics/t/control")).unwrap();
                let mut second = scene.worker();
                second.arm(point, 1, libc::SIGKILL);
                second.child.tell("open");
                let survived = second.finish(&mut scene.ledger);
                // A new segment is begun only after a torn tail.
                assert!(!survived || point.starts_with("start."), "{point} was never reached");
                drop(second);
                scene.open_and_go_on();
            }
        }
    }
}

#[test]
fn segments_are_prepared_again_after_a_roller_died_that_had_entered_a_prepared_one() {
    for point in ["roll.named", "roll.entered"] {
        for survived in [true, false] {
            let mut scene = Scene::new("process-crash");
            let survivor = survived.then(|| scene.writer());
            let mut roller = scene.worker();
            roller.open();
            assert_eq!(roller.child.ask("watch prepare.ready"), "done");
            // More than half a segment, not a whole one.
            roller.child.tell("work 5");
            let mut ready = false;
            let mut done = false;
            while !(ready && done) {
                match roller.child.hear().unwrap().as_str() {
                    "prepare.ready" => ready = true,
                    "done" => done = true,
                    line => {
                        let words = line.strip_prefix("ack ").unwrap().split(' ');
                        scene.ledger.enter(roller.name, &ledger::of_words(words));
                    }
                }
            }
            roller.arm(point, 1, libc::SIGKILL);
            roller.work_until_death(&mut scene.ledger, point);
            let mut next = scene.worker();
            next.open();
            next.arm("prepare.claimed", 1, libc::SIGKILL);
            next.work_until_death(&mut scene.ledger, "prepare.claimed");
            drop(survivor);
            scene.open_and_go_on();
        }
    }
}
