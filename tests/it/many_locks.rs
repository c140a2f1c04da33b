//! A process with very many lock files is killed: a child that it forked keeps none of its locks.

use std::path::Path;

use deaddrop::{Consumer, Durability, Log, Start, Topic, TopicOptions};

use crate::child::{self, Child};

/// More than any fixed table of a few pages could hold.
const COUNT: usize = 17_000;

fn topic(dir: &str) -> Topic {
    let options = TopicOptions::default().with_durability(Durability::ProcessCrash);
    Log::open_or_create(dir).unwrap().topic_with("t", options).unwrap()
}

fn consumer(topic: &Topic, number: usize) -> deaddrop::Result<Consumer> {
    topic.consumer(&format!("c{number}"), Start::First)
}

/// In memory if possible, because each consumer's file is synced.
fn dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        crate::dir()
    }
}

/// Role: owns many consumers, some of which come and go, forks a child that stays, and dies.
pub(crate) fn owner(words: &[&str]) {
    let [dir] = words else { panic!("{words:?}") };
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is live for both calls.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
    let topic = topic(dir);
    let count = COUNT.min(limit.rlim_cur as usize - 200);
    let mut owned = Vec::new();
    for number in 0..count {
        owned.push(consumer(&topic, number).unwrap());
        if number % 100 == 99 {
            // Its place in the table is freed and taken again.
            owned.pop();
            owned.push(consumer(&topic, number).unwrap());
        }
        if number % 1_000 == 999 {
            child::say("more follow");
        }
    }
    // SAFETY: the child makes system calls only.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let mut hangup = libc::pollfd { fd: 0, events: 0, revents: 0 };
        // SAFETY: `hangup` is live for the call, which ends when the test closes its end of the pipe.
        unsafe { libc::poll(&mut hangup, 1, -1) };
        // SAFETY: ends the process without running code that belongs to the parent.
        unsafe { libc::_exit(0) };
    }
    child::say(&count.to_string());
    child::raise(libc::SIGKILL);
}

#[test]
fn no_lock_of_a_killed_process_with_very_many_stays_with_its_forked_child() {
    let dir = dir();
    let path = dir.path().to_str().unwrap();
    let mut parent = Child::spawn(&["many-locks", path]);
    let count: usize = loop {
        // On a slow machine all of them take longer than a test waits for one line.
        if let Ok(count) = parent.hear().unwrap().parse() {
            break count;
        }
    };
    assert!(count > 1_000, "the limit of open files is too low for this test");
    parent.wait_until_dead();
    let topic = topic(path);
    for number in [0, 99, 1_000, 16_383, 16_384, 16_385, count - 1] {
        if number < count {
            consumer(&topic, number).unwrap_or_else(|error| panic!("consumer {number}: {error}"));
        }
    }
    drop(parent);
}
