//! Files that root adds to a log belong to the owner of the log, and the owner can use them.

use std::collections::BTreeSet;
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use deaddrop::group::GroupOptions;
use deaddrop::{repair, Durability, Log, Record, Start, Topic, TopicOptions};

use crate::child::{self, Child};

/// Any user and group except root's.
const USER: u32 = 65_534;
const GROUP: u32 = 65_533;

/// Tests of another user need root, because only root can make files for others. Returns true if
/// the test must be skipped; a run that is to check everything does not skip.
pub(crate) fn is_no_root(test: &str) -> bool {
    // SAFETY: takes nothing and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        return false;
    }
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{test} needs root");
    println!("{test} is skipped: it needs root");
    true
}

fn options() -> TopicOptions {
    TopicOptions::default().with_durability(Durability::PowerLoss).with_segment_len(16 << 10)
}

fn append(topic: &Topic, count: usize) {
    for _ in 0..count {
        topic.append(&Record::new([1; 5_000])).unwrap();
    }
}

/// Drops the rights of root.
pub(crate) fn become_user() {
    // SAFETY: plain integers; no other thread of this process would keep the rights.
    let left = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0
            && libc::setgid(GROUP) == 0
            && libc::setuid(USER) == 0
    };
    assert!(left, "{}", std::io::Error::last_os_error());
}

/// Role: the owner, a user without rights to anything else.
pub(crate) fn owner(words: &[&str]) {
    let [dir] = words else { panic!("{words:?}") };
    become_user();
    let log = Log::open_or_create(dir).unwrap();
    let topic = log.topic_with("t", options()).unwrap();
    append(&topic, 1);
    child::say("open");
    while let Some(line) = child::listen() {
        assert_eq!(line, "go on");
        append(&topic, 8);
        let again = Log::open_or_create(dir).unwrap();
        for name in again.topics().unwrap() {
            let topic = again.topic(&name).unwrap();
            append(&topic, 4);
            let mut reader = topic.reader(Start::First).unwrap();
            while reader.next().unwrap().is_some() {}
            for consumer in ["one", "two"] {
                let mut consumer = topic.consumer(consumer, Start::First).unwrap();
                consumer.next().unwrap();
                consumer.commit().unwrap();
                consumer.sync().unwrap();
            }
            for (name, info) in topic.groups().unwrap() {
                info.unwrap();
                topic.group(&name, GroupOptions::default()).unwrap();
            }
        }
        drop(again.client("shop").open().unwrap());
        drop(again.client("other").open().unwrap());
        child::say("done");
    }
}

/// Returns everything under `dir`, itself included.
fn everything(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::from([dir.to_owned()]);
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() && !path.is_symlink() {
            true => found.extend(everything(&path)),
            false => drop(found.insert(path)),
        }
    }
    found
}

fn check_owned(dir: &Path) {
    for path in everything(dir) {
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid()), (USER, GROUP), "{path:?}");
    }
}

/// A directory that the owner may reach and write to.
pub(crate) fn home() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    chown(dir.path(), Some(USER), Some(GROUP)).unwrap();
    dir
}

#[test]
fn the_owner_of_a_log_can_use_it_after_root_has_used_it_in_every_way() {
    if is_no_root("the_owner_of_a_log_can_use_it_after_root_has_used_it_in_every_way") {
        return;
    }
    let home = home();
    let dir = home.path().join("log");
    let mut owner = Child::spawn(&["owner", dir.to_str().unwrap()]);
    assert_eq!(owner.hear().unwrap(), "open");
    {
        let log = Log::open_or_create(&dir).unwrap();
        let topic = log.topic("t").unwrap();
        append(&topic, 12);
        append(&log.topic_with("made-by-root", options()).unwrap(), 12);
        let mut consumer = topic.consumer("one", Start::First).unwrap();
        consumer.next().unwrap();
        consumer.commit().unwrap();
        topic.group("packing", GroupOptions::default()).unwrap();
        let client = log.client("shop").open().unwrap();
        drop(client.request("inventory", &Record::new("7")).unwrap().call().unwrap());
        drop(client);
    }
    assert_eq!(owner.ask("go on"), "done");
    assert!(everything(&dir).len() > 30);
    check_owned(&dir);
    drop(owner);
    // A repair makes files and a directory too.
    let segment = dir.join("topics/made-by-root/00000000000000000000.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[5_000] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let log = Log::open_or_create(&dir).unwrap();
    let report = repair::execute(&log, "made-by-root", repair::Options::default()).unwrap();
    assert!(report.findings.iter().any(|finding| finding.kept.is_some()), "{report:?}");
    check_owned(&dir);
}

#[test]
fn reading_a_log_leaves_no_files() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    append(&log.topic_with("t", options()).unwrap(), 12);
    drop(log);
    let before = everything(dir.path());
    let log = Log::open_read_only(dir.path()).unwrap();
    assert_eq!(log.topics().unwrap(), ["t"]);
    let topic = log.topic("t").unwrap();
    let mut reader = topic.reader(Start::First).unwrap();
    while reader.next().unwrap().is_some() {}
    topic.reader(Start::Time(std::time::SystemTime::now())).unwrap();
    topic.reader(Start::Last).unwrap();
    assert!(topic.consumers().unwrap().is_empty() && topic.groups().unwrap().is_empty());
    assert!(topic.members().unwrap().is_empty());
    assert!(repair::plan(&log, "t").unwrap().findings.is_empty());
    drop((reader, topic, log));
    assert_eq!(everything(dir.path()), before);
}
