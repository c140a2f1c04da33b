//! Which processes are alive: threads and handles of one process, forked children, reused slots.

use std::sync::mpsc::channel;
use std::time::Duration;

use deaddrop::{Error, Log, LogOptions, Record, Result, Start, Topic};

use crate::child::{self, Child};
use crate::ledger::{self, Ledger, Writer};
use crate::takeover;

const SEGMENT_LEN: u64 = 64 << 10;

fn impatient() -> LogOptions {
    LogOptions::default().with_lock_timeout(Duration::from_millis(20))
}

fn open_impatiently(dir: &str, durability: &str) -> Topic {
    ledger::open_with(dir, durability, SEGMENT_LEN, impatient())
}

fn assert_waited_for(result: Result<u64>, pid: u32) {
    match result {
        Err(Error::TimedOut { what }) => {
            assert!(what.contains(&format!("process {pid}")), "{what}");
        }
        other => panic!("the owner of the append lock was robbed: {other:?}"),
    }
}

#[test]
fn a_thread_stopped_under_the_append_lock_is_not_robbed_by_its_siblings() {
    for durability in ledger::DURABILITIES {
        for point in ["append.announced", "append.written", "roll.announced"] {
            let dir = crate::dir();
            let path = dir.path().to_str().unwrap();
            let mut child = Child::spawn(&["siblings", path, durability, point]);
            assert_eq!(child.hear().as_deref(), Some("bye"), "{durability}, {point}");
            assert!(child.wait().success());
        }
    }
}

/// Role: one thread pauses under the append lock while its siblings, through the same handle and
/// through another one, try to append.
pub(crate) fn siblings(words: &[&str]) {
    let [dir, durability, point] = words else { panic!("{words:?}") };
    let topic = open_impatiently(dir, durability);
    let other = open_impatiently(dir, durability);
    let mut ledger = Ledger::default();
    let (reached, at_point) = channel();
    let (go_on, told) = channel::<()>();
    let mut point = Some((*point).to_owned());
    deaddrop::arm_crash_points(Some(Box::new(move |name| {
        if point.as_deref() == Some(name) {
            point = None;
            reached.send(()).unwrap();
            told.recv().unwrap();
        }
    })));
    let mut owner = Writer::new(topic.clone(), 0);
    let owner = std::thread::spawn(move || {
        (0..40).flat_map(|_| owner.append(3000).unwrap()).collect::<Vec<_>>()
    });
    at_point.recv_timeout(child::GUARD).unwrap();
    let pid = std::process::id();
    for handle in [&topic, &other] {
        for _ in 0..3 {
            assert_waited_for(handle.append(&Record::new("never")), pid);
        }
    }
    go_on.send(()).unwrap();
    ledger.enter(0, &owner.join().unwrap());
    for (name, handle) in [(1, topic), (2, other.clone())] {
        let mut writer = Writer::new(handle, name);
        ledger.enter(name, &writer.append(10).unwrap());
    }
    assert_eq!(ledger.verify(&other).0, 42);
}

#[test]
fn two_handles_of_one_process_are_two_members() {
    let dir = crate::dir();
    let path = dir.path().to_str().unwrap();
    let topic = open_impatiently(path, "process-crash");
    let mut child = Child::spawn(&["two-handles", path]);
    child.wait_until_stopped();
    // Its other handle was closed: that must not have released the slot of this one.
    assert_waited_for(topic.append(&Record::new("never")), child.pid());
    child.signal(libc::SIGCONT);
    assert_eq!(child.hear().as_deref(), Some("bye"));
    let mut reader = topic.reader(Start::First).unwrap();
    for expected in ["one", "other", "stopped"] {
        assert_eq!(reader.next().unwrap().unwrap().payload(), expected.as_bytes());
    }
    assert_eq!(topic.append(&Record::new("behind")).unwrap(), 3);
}

/// Role: opens the log twice, closes one, and stops under the append lock with the other.
pub(crate) fn two_handles(words: &[&str]) {
    let [dir] = words else { panic!("{words:?}") };
    let one = ledger::open(dir, "process-crash", SEGMENT_LEN);
    let other = ledger::open(dir, "process-crash", SEGMENT_LEN);
    assert_eq!(one.append(&Record::new("one")).unwrap(), 0);
    assert_eq!(other.append(&Record::new("other")).unwrap(), 1);
    drop(other);
    takeover::arm("append.written", 1, libc::SIGSTOP);
    assert_eq!(one.append(&Record::new("stopped")).unwrap(), 2);
}

#[test]
fn members_are_listed_with_their_state_and_dead_ones_until_they_are_settled() {
    let dir = crate::dir();
    let path = dir.path().to_str().unwrap();
    let topic = open_impatiently(path, "process-crash");
    let watching = Log::open_read_only(path).unwrap().open_topic(topic.name()).unwrap();
    let seen = |topic: &Topic| -> Vec<(usize, u32, bool, bool)> {
        let members = topic.members().unwrap().into_iter();
        members.map(|one| (one.slot, one.pid, one.is_alive, one.is_appending)).collect()
    };
    let me = (0, std::process::id(), true, false);
    assert_eq!((seen(&topic), seen(&watching)), (vec![me], vec![me]));
    let mut stopped = Child::spawn(&["two-handles", path]);
    stopped.wait_until_stopped();
    // Its other handle had slot 2 and was closed.
    assert_eq!(seen(&watching), [me, (1, stopped.pid(), true, true)]);
    assert_eq!(seen(&watching), seen(&topic));
    stopped.signal(libc::SIGCONT);
    assert_eq!(stopped.hear().as_deref(), Some("bye"));
    assert!(stopped.wait().success());
    assert_eq!(seen(&watching), [me]);
    let mut dead = Child::spawn(&["dies", path, "process-crash", "append.written"]);
    let pid = dead.pid();
    assert_eq!(dead.hear(), None);
    dead.wait_for_death();
    assert_eq!(
        seen(&watching),
        [me, (1, pid, false, true)],
        "it holds the lock until it is settled"
    );
    topic.append(&Record::new("settles")).unwrap();
    assert_eq!(seen(&watching), [me]);
    drop(topic);
    assert_eq!(seen(&watching), []);
}

#[test]
fn every_call_in_a_forked_child_is_refused_and_its_parents_death_frees_the_append_lock() {
    for durability in ledger::DURABILITIES {
        let dir = crate::dir();
        let path = dir.path().to_str().unwrap();
        let topic = ledger::open(path, durability, SEGMENT_LEN);
        let mut parent = Child::spawn(&["fork", path, durability]);
        loop {
            let line = parent.hear().expect("the forked child reports");
            if line == "checked" {
                break;
            }
            assert_eq!(line.split_once(": ").map(|(_, result)| result), Some("Forked"), "{line}");
        }
        parent.tell("die");
        let mut consumer = loop {
            // The kernel frees the dead parent's locks when it is gone, not when it is killed.
            match topic.consumer("c", Start::First) {
                Err(Error::Locked { .. }) => std::thread::yield_now(),
                other => break other.unwrap(),
            }
        };
        let offset = topic.append(&Record::new("behind")).unwrap();
        let mut seen = None;
        while let Some(record) = consumer.next().unwrap() {
            seen = Some((record.offset(), record.payload().to_owned()));
        }
        assert_eq!(seen, Some((offset, b"behind".to_vec())));
        drop(parent);
    }
}

#[test]
fn a_forked_child_that_opens_the_log_again_uses_it_and_not_its_parents() {
    for durability in ledger::DURABILITIES {
        let dir = crate::dir();
        let path = dir.path().to_str().unwrap();
        let topic = ledger::open(path, durability, SEGMENT_LEN);
        let mut parent = Child::spawn(&["fork", path, durability, "anew"]);
        loop {
            let line = parent.hear().expect("the forked child reports");
            if line == "checked" {
                break;
            }
            assert_eq!(line.split_once(": ").map(|(_, result)| result), Some("Forked"), "{line}");
        }
        // Twenty records of the parent, two of the child, two of the grandchild.
        assert_eq!(topic.high_watermark().unwrap(), 20 + 2 + 2);
        drop(parent);
    }
}

/// Role: forks; the child tries everything and stays; the parent dies under the append lock.
pub(crate) fn fork(words: &[&str]) {
    let [dir, durability, ..] = words else { panic!("{words:?}") };
    let log = Log::open_or_create(dir).unwrap();
    let topic = log.topic_with("t", ledger::options(durability, SEGMENT_LEN)).unwrap();
    for number in 0..20u32 {
        topic.append(&Record::new(number.to_le_bytes())).unwrap();
    }
    let mut reader = topic.reader(Start::First).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().offset(), 0);
    let mut caught_up = topic.reader(Start::End).unwrap();
    let mut consumer = topic.consumer("c", Start::First).unwrap();
    assert_eq!(consumer.next().unwrap().unwrap().offset(), 0);
    consumer.commit().unwrap();
    // SAFETY: the other threads of this process hold no lock that the child needs: they wait for
    // this one, or sleep in the housekeeper.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child > 0 {
        assert_eq!(child::listen().as_deref(), Some("die"));
        takeover::arm("append.written", 1, libc::SIGKILL);
        topic.append(&Record::new("half")).unwrap();
        unreachable!("killed above");
    }
    let record = Record::new("x");
    let wait = Duration::from_millis(1);
    say("append", topic.append(&record));
    say("append_batch", topic.append_batch(std::slice::from_ref(&record)));
    say("append_if_end", topic.append_if_end(20, &record));
    say("append_unsynced", topic.append_unsynced(&record));
    say("wait_durable", topic.wait_durable(0));
    say("high_watermark", topic.high_watermark());
    say("end_offset", topic.end_offset());
    say("durable_end", topic.durable_end());
    say("first_offset", topic.first_offset());
    say("trim_before", topic.trim_before(1));
    say("trim", topic.trim());
    say("populate", topic.populate(1));
    for start in [Start::First, Start::End, Start::Last, Start::Offset(1)] {
        say("reader", topic.reader(start));
    }
    say("reader.next", reader.next());
    say("reader.seek", reader.seek(Start::First));
    say("reader.lag", reader.lag());
    say("reader.wait_timeout", reader.wait_timeout(wait));
    say("reader.skip_damage", reader.skip_damage());
    say("reader.next at the end", caught_up.next());
    say("reader.wait_timeout at the end", caught_up.wait_timeout(wait));
    say("consumer", topic.consumer("d", Start::First));
    say("consumer.next", consumer.next());
    say("consumer.wait_timeout", consumer.wait_timeout(wait));
    say("consumer.commit", consumer.commit());
    say("consumer.sync", consumer.sync());
    say("consumer.lag", consumer.lag());
    // A value that the child has a copy of.
    assert_eq!(consumer.committed(), 1);
    say("consumers", topic.consumers());
    say("delete_consumer", topic.delete_consumer("c"));
    say("topic", log.topic("u"));
    say("open_topic", log.open_topic("t"));
    say("delete_topic", log.delete_topic("t"));
    if words.len() == 3 {
        in_child_of_its_own(dir, durability);
        say("append again", topic.append(&record));
    }
    // Values are dropped as at the end of a scope.
    drop((reader, caught_up, consumer, topic, log));
    child::say("checked");
    let mut hangup = libc::pollfd { fd: 0, events: 0, revents: 0 };
    // SAFETY: `hangup` is live for the call, which ends when the test closes its end of the pipe.
    unsafe { libc::poll(&mut hangup, 1, -1) };
    // SAFETY: ends the process without running code that belongs to the parent.
    unsafe { libc::_exit(0) };
}

/// A forked child opens the log again and uses it, and its own child does the same.
fn in_child_of_its_own(dir: &str, durability: &str) {
    for depth in 0..2 {
        let log = Log::open_or_create(dir).unwrap();
        let topic = log.topic_with("t", ledger::options(durability, SEGMENT_LEN)).unwrap();
        let offset = topic.append(&Record::new("child's")).unwrap();
        let mut reader = topic.reader(Start::Offset(offset)).unwrap();
        assert_eq!(reader.next().unwrap().unwrap().payload(), b"child's");
        let mut consumer = topic.consumer(&format!("child-{depth}"), Start::First).unwrap();
        assert!(consumer.next().unwrap().is_some());
        consumer.commit().unwrap();
        // SAFETY: no other thread of this process holds a lock: they sleep in the housekeeper.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            say("grandchild's append", topic.append(&Record::new("x")));
            drop((reader, consumer, topic, log));
            continue;
        }
        let mut status = 0;
        // SAFETY: a child of this process and a live integer.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
        topic.append(&Record::new("child's, still")).unwrap();
        if depth == 0 {
            return;
        }
        break;
    }
    // SAFETY: ends the process without running code that belongs to its parents.
    unsafe { libc::_exit(0) };
}

fn say<T: std::fmt::Debug>(call: &str, result: Result<T>) {
    child::say(&match result {
        Ok(value) => format!("{call}: {value:?}"),
        Err(error) => format!("{call}: {error:?}"),
    });
}

#[test]
fn a_dead_owners_slot_taken_by_a_stopped_opener_does_not_look_alive() {
    for durability in ledger::DURABILITIES {
        let dir = crate::dir();
        let path = dir.path().to_str().unwrap();
        let topic = open_impatiently(path, durability);
        let mut first = Child::spawn(&["dies", path, durability, "append.written"]);
        assert_eq!(first.hear(), None);
        first.wait_for_death();
        let mut second = Child::spawn(&["stops-opening", path, durability]);
        second.wait_until_stopped();
        let mut writer = Writer::new(topic.clone(), 0);
        let mut ledger = Ledger::default();
        for _ in 0..10 {
            ledger.enter(0, &writer.append(1000).unwrap());
        }
        second.signal(libc::SIGCONT);
        assert_eq!(second.hear().as_deref(), Some("bye"));
        ledger.enter(0, &writer.append(1000).unwrap());
        assert_eq!(ledger.verify(&topic).0, 12 + 1);
    }
}

#[test]
fn a_process_that_is_stopped_while_it_opens_a_topic_delays_no_other_topic() {
    let dir = crate::dir();
    let path = dir.path().to_str().unwrap();
    drop(ledger::open(path, "process-crash", SEGMENT_LEN));
    let opener = Child::spawn(&["stops-opening", path, "process-crash"]);
    opener.wait_until_stopped();
    let timeout = Some(Duration::from_secs(2));
    let options = LogOptions::default().with_lock_timeout(timeout);
    let log = Log::open_or_create_with(dir.path(), options).unwrap();
    let other = log.topic("other").unwrap();
    let (starts, has_started) = channel();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            starts.send(()).unwrap();
            log.open_topic("t").map(drop)
        });
        has_started.recv().unwrap();
        let mut count = 0;
        while !waiting.is_finished() {
            // A topic that is open already, and another one.
            assert_eq!(log.topic("other").unwrap().name(), other.name());
            drop(log.topic("third").unwrap());
            count += 1;
        }
        let error = waiting.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert!(count > 5, "{count} calls returned meanwhile");
    });
    opener.kill();
    assert!(log.open_topic("t").is_ok());
}

#[test]
fn a_record_that_another_process_published_for_a_dead_one_is_found_by_its_time() {
    let dir = crate::dir();
    let path = dir.path().to_str().unwrap();
    let topic = ledger::open(path, "process-crash", SEGMENT_LEN);
    topic.append(&Record::new("before")).unwrap();
    let first = topic.reader(Start::First).unwrap().next().unwrap().unwrap().timestamp();
    // The clock of records is coarse, and the next record needs another of its ticks.
    let tick = first + std::time::Duration::from_millis(50);
    while std::time::SystemTime::now() < tick {
        std::thread::yield_now();
    }
    Child::spawn(&["dies", path, "process-crash", "append.written"]).wait_for_death();
    // It has no room after the two: the header of the next segment holds their highest timestamp.
    topic.append(&Record::new(vec![7; 61_300])).unwrap();
    let segments = std::fs::read_dir(topic.dir()).unwrap().map(|entry| entry.unwrap().path());
    let segments = segments.filter(|path| path.extension() == Some("seg".as_ref()));
    assert_eq!(segments.count(), 2);
    let mut reader = topic.reader(Start::First).unwrap();
    let before = reader.next().unwrap().unwrap().timestamp();
    let left = reader.next().unwrap().unwrap().timestamp();
    assert!(left > before, "another tick of the clock");
    let found = topic.reader(Start::Time(left)).unwrap();
    assert_eq!(found.offset(), 1);
}

/// Role: dies under the append lock.
pub(crate) fn dies(words: &[&str]) {
    let [dir, durability, point] = words else { panic!("{words:?}") };
    let mut writer = Writer::new(ledger::open(dir, durability, SEGMENT_LEN), 1);
    takeover::arm(point, 1, libc::SIGKILL);
    drop(writer.append(100));
}

/// Role: stops when it has taken its slot, and appends when it is continued.
pub(crate) fn stops_opening(words: &[&str]) {
    let [dir, durability] = words else { panic!("{words:?}") };
    takeover::arm("open.slot-taken", 1, libc::SIGSTOP);
    let mut writer = Writer::new(ledger::open(dir, durability, SEGMENT_LEN), 2);
    writer.append(100).unwrap();
}

#[test]
fn a_topic_that_was_closed_is_free_while_a_child_between_fork_and_exec_has_its_files() {
    let dir = crate::dir();
    let patient = LogOptions::default().with_lock_timeout(child::GUARD / 4);
    let log = Log::open_or_create_with(dir.path(), patient).unwrap();
    let topic = log.topic("t").unwrap();
    topic.append(&Record::new("x")).unwrap();
    // Created by the system call alone, so that no handler of the C library closes anything in it.
    // SAFETY: the child makes system calls only.
    let forked = unsafe {
        let forked = libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0);
        if forked == 0 {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            loop {
                libc::pause();
            }
        }
        forked as libc::pid_t
    };
    assert!(forked > 0);
    drop(topic);
    let deleted = log.delete_topic("t");
    // SAFETY: a child of this process, not reaped yet.
    unsafe {
        libc::kill(forked, libc::SIGKILL);
        libc::waitpid(forked, std::ptr::null_mut(), 0);
    }
    deleted.unwrap();
}
