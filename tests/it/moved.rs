//! A log is the directory that was opened, not its path: the current directory changes, the log is
//! moved, another one takes its place, or its files are removed, while processes have it open.
//!
//! No acknowledged record is written anywhere else, and no other log is touched.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use deaddrop::group::{GroupOptions, WorkerOptions};
use deaddrop::sim::SimDisk;
use deaddrop::{Durability, Error, Log, Record, Start, Topic, TopicOptions};

use crate::child::{self, Child};

const DURABILITIES: [Durability; 3] = [
    Durability::ProcessCrash,
    Durability::PowerLossWithin(Duration::from_millis(20)),
    Durability::PowerLoss,
];

/// Three records fill a segment.
const PAYLOAD_LEN: usize = 5_000;

fn options(durability: Durability) -> TopicOptions {
    TopicOptions::default().with_durability(durability).with_segment_len(16 << 10)
}

fn record(text: &str) -> Record {
    Record::new(format!("{text:<PAYLOAD_LEN$}"))
}

/// Returns the texts of all records of a topic; none may be damaged.
fn texts(topic: &Topic) -> Vec<String> {
    let mut reader = topic.reader(Start::First).unwrap();
    let mut found = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        found.push(String::from_utf8(record.payload().to_vec()).unwrap().trim_end().to_owned());
    }
    found
}

fn stored(log: &Path, topic: &str) -> Vec<String> {
    let topic = Log::open_or_create(log).unwrap().open_topic(topic).unwrap();
    assert!(topic.recovery().is_none(), "nothing was cut: {:?}", topic.recovery());
    texts(&topic)
}

fn numbered(name: &str, range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("{name}{number}")).collect()
}

/// Makes a log with a topic `t` that has three records of its own.
fn make_log(path: &Path, durability: Durability, name: &str) {
    let topic = Log::open_or_create(path).unwrap().topic_with("t", options(durability)).unwrap();
    for text in numbered(name, 0..3) {
        topic.append(&record(&text)).unwrap();
    }
}

/// Returns every file under a directory, with a hash of its bytes.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => dirs.push(path),
                false => {
                    let mut hasher = DefaultHasher::new();
                    std::fs::read(&path).unwrap().hash(&mut hasher);
                    found.insert(path, hasher.finish());
                }
            }
        }
    }
    found
}

pub(crate) fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(done.success());
}

/// A child that has `t` of a log open, appends texts that start with `name`, and obeys commands.
struct Resident {
    child: Child,
    name: &'static str,
    acknowledged: usize,
}

impl Resident {
    /// `path` is relative to `dir`.
    fn open(dir: &Path, path: &str, durability: Durability, name: &'static str) -> Resident {
        let which = DURABILITIES.iter().position(|other| *other == durability).unwrap();
        let words = ["resident", dir.to_str().unwrap(), path, &which.to_string(), name];
        let mut child = Child::spawn(&words);
        assert_eq!(child.hear().unwrap(), "open");
        Resident { child, name, acknowledged: 0 }
    }

    fn ask(&mut self, line: &str) -> String {
        self.child.ask(line)
    }

    /// Appends `count` records, all of which are acknowledged.
    fn append(&mut self, count: usize) {
        assert_eq!(self.ask(&format!("append {count}")), format!("{count} ok"));
        self.acknowledged += count;
    }

    /// Returns the texts of its acknowledged records.
    fn texts(&self) -> Vec<String> {
        numbered(self.name, 0..self.acknowledged)
    }
}

/// Role: the child of a [`Resident`].
pub(crate) fn resident(words: &[&str]) {
    let [dir, path, durability, name] = words else { panic!("{words:?}") };
    std::env::set_current_dir(dir).unwrap();
    let options = options(DURABILITIES[durability.parse::<usize>().unwrap()]);
    let log = Log::open_or_create(path).unwrap();
    let topic = log.topic_with("t", options).unwrap();
    let mut appended = 0;
    child::say("open");
    while let Some(line) = child::listen() {
        let answer = match line.split_once(' ').unwrap_or((&line, "")) {
            ("append", count) => {
                let mut result = Ok(());
                let mut ok = 0;
                for _ in 0..count.parse::<usize>().unwrap() {
                    result = topic.append(&record(&format!("{name}{appended}"))).map(drop);
                    if result.is_err() {
                        break;
                    }
                    (appended, ok) = (appended + 1, ok + 1);
                }
                match result {
                    Ok(()) => format!("{ok} ok"),
                    Err(error) => format!("{ok} then {}", kind(&error)),
                }
            }
            ("chdir", path) => answer(std::env::set_current_dir(path).map_err(|e| e.to_string())),
            ("create", other) => answer(
                log.topic_with(other, options).and_then(|t| t.append(&record("other"))).map(drop),
            ),
            ("end", other) => answer(log.open_topic(other).and_then(|t| t.end_offset())),
            ("consume", name) => answer(consume(&topic, name)),
            ("work", name) => answer(work(&topic, name)),
            ("client", name) => answer(log.client(name).open().map(drop)),
            ("count", _) => answer(count(&topic)),
            (other, _) => panic!("{other}"),
        };
        child::say(&answer);
    }
}

fn kind(error: &Error) -> String {
    match error {
        Error::Unknown { source, .. } => format!("unknown, {}", kind(source)),
        Error::NotFound { what } => format!("not found: {what}"),
        Error::Replaced { .. } => format!("replaced: {error}"),
        other => format!("{other:?}"),
    }
}

fn answer<T: std::fmt::Debug, E: std::fmt::Debug>(result: Result<T, E>) -> String {
    format!("{result:?}").replace('\n', " ")
}

fn consume(topic: &Topic, name: &str) -> Result<(), Error> {
    let mut consumer = topic.consumer(name, Start::First)?;
    consumer.next()?;
    consumer.commit()?;
    consumer.sync()
}

/// Handles a record and leaves its lane to a child process, as a server of commands does.
fn work(topic: &Topic, name: &str) -> Result<u64, Error> {
    let group = topic.group(name, GroupOptions::default())?;
    let mut worker = group.worker(WorkerOptions::default(), |job| {
        let mut command = Command::new("true");
        job.lane_guard()?.pass_to(&mut command);
        assert!(command.status()?.success());
        Ok(())
    })?;
    worker.poll(child::GUARD)
}

fn count(topic: &Topic) -> Result<u64, Error> {
    let mut reader = topic.reader(Start::First)?;
    let mut count = 0u64;
    while reader.next()?.is_some() {
        count += 1;
    }
    Ok(count)
}

#[test]
fn a_process_that_changes_its_current_directory_stays_in_the_log_that_it_opened() {
    for durability in DURABILITIES {
        let dir = crate::dir();
        let [mine, other] = ["a", "b"].map(|name| dir.path().join(name).join("drop"));
        make_log(&mine, durability, "a");
        make_log(&other, durability, "b");
        let before = snapshot(&other);
        let mut resident = Resident::open(&dir.path().join("a"), "drop", durability, "x");
        let mut reader = Resident::open(dir.path(), "a/drop", durability, "y");
        resident.append(4);
        assert_eq!(resident.ask("chdir ../b"), "Ok(())");
        resident.append(20);
        for line in ["create u", "consume c", "client shop"] {
            assert_eq!(resident.ask(line), "Ok(())", "{line}");
        }
        assert_eq!(resident.ask("work g"), "Ok(27)");
        assert_eq!(resident.ask("end u"), "Ok(1)");
        assert_eq!(resident.ask("count"), "Ok(27)");
        assert_eq!(reader.ask("count"), "Ok(27)");
        reader.append(1);
        let expected = [numbered("a", 0..3), resident.texts(), reader.texts()].concat();
        drop((resident, reader));
        assert_eq!(snapshot(&other), before, "the other log was not touched");
        assert_eq!(stored(&mine, "t"), expected);
        assert_eq!(stored(&mine, "u"), ["other"]);
        let topic = Log::open_or_create(&mine).unwrap().topic("t").unwrap();
        assert_eq!(topic.consumers().unwrap()[0].name, "c");
        assert_eq!(topic.groups().unwrap()[0].0, "g");
        assert!(mine.join("clients/shop").exists());
        assert_eq!(stored(&other, "t"), numbered("b", 0..3));
    }
}

#[test]
fn a_log_that_is_moved_and_restored_from_a_copy_is_two_logs_that_do_not_mix() {
    for durability in DURABILITIES {
        let dir = crate::dir();
        let [drop_dir, backup, old] = ["drop", "backup", "old"].map(|name| dir.path().join(name));
        make_log(&drop_dir, durability, "r");
        copy(&drop_dir, &backup);
        let mut first = Resident::open(dir.path(), "drop", durability, "x");
        let mut second = Resident::open(dir.path(), "drop", durability, "y");
        first.append(2);
        std::fs::rename(&drop_dir, &old).unwrap();
        copy(&backup, &drop_dir);
        let mut new = Resident::open(dir.path(), "drop", durability, "n");
        // In turns, so that each of them rolls while the others do.
        let mut in_old = first.texts();
        for _ in 0..4 {
            for resident in [&mut first, &mut second] {
                let start = resident.acknowledged;
                resident.append(3);
                in_old.extend(numbered(resident.name, start..resident.acknowledged));
            }
            new.append(4);
        }
        assert_eq!(first.ask("consume c"), "Ok(())");
        assert_eq!(first.ask("create u"), "Ok(())");
        assert!(new.ask("end u").contains("NotFound"));
        let in_new = new.texts();
        drop((first, second, new));
        assert_eq!(stored(&old, "t"), [numbered("r", 0..3), in_old].concat());
        assert_eq!(stored(&drop_dir, "t"), [numbered("r", 0..3), in_new].concat());
        assert!(Log::open_or_create(&drop_dir)
            .unwrap()
            .topic("t")
            .unwrap()
            .consumers()
            .unwrap()
            .is_empty());
        assert_eq!(
            Log::open_or_create(&old).unwrap().topic("t").unwrap().consumers().unwrap().len(),
            1
        );
    }
}

#[test]
fn a_symbolic_link_in_the_path_that_was_changed_is_not_followed_again() {
    for durability in DURABILITIES {
        let dir = crate::dir();
        let [one, two, current] = ["one", "two", "current"].map(|name| dir.path().join(name));
        make_log(&one.join("drop"), durability, "a");
        make_log(&two.join("drop"), durability, "b");
        symlink("one", &current).unwrap();
        let before = snapshot(&two);
        let mut old = Resident::open(dir.path(), "current/drop", durability, "x");
        old.append(2);
        let swapped = dir.path().join("swapped");
        symlink("two", &swapped).unwrap();
        std::fs::rename(&swapped, &current).unwrap();
        old.append(12);
        assert_eq!(old.ask("create u"), "Ok(())");
        let in_old = old.texts();
        drop(old);
        assert_eq!(snapshot(&two), before, "the log of the new release was not touched");
        let mut new = Resident::open(dir.path(), "current/drop", durability, "y");
        new.append(4);
        let in_new = new.texts();
        drop(new);
        assert_eq!(stored(&one.join("drop"), "t"), [numbered("a", 0..3), in_old].concat());
        assert_eq!(stored(&two.join("drop"), "t"), [numbered("b", 0..3), in_new].concat());
    }
}

/// Removes a directory in which processes still create files, so that a listing may miss one.
fn remove_whole(path: &Path) {
    for _ in 0..1_000 {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => std::thread::yield_now(),
            removed => return removed.unwrap(),
        }
    }
    panic!("{} never stays empty", path.display());
}

#[test]
fn a_log_that_is_removed_under_its_processes_takes_no_more_records_and_does_not_come_back() {
    for durability in DURABILITIES {
        let dir = crate::dir();
        let path = dir.path().join("drop");
        let mut first = Resident::open(dir.path(), "drop", durability, "x");
        let mut second = Resident::open(dir.path(), "drop", durability, "y");
        first.append(2);
        remove_whole(&path);
        for resident in [&mut first, &mut second] {
            // At the latest where the next segment gets its name.
            let answer = resident.ask("append 20");
            let (before, error) = answer.split_once(" then ").unwrap();
            assert!(before.parse::<usize>().unwrap() <= 3, "{answer}");
            assert!(error.contains("were removed while it was open"), "{answer}");
            let again = resident.ask("append 1");
            assert!(again.starts_with("0 then not found: topic t in "), "{again}");
            assert!(again.contains("create it again if you need it"), "{again}");
            for line in ["create u", "create t", "consume c", "work g", "client shop"] {
                let answer = resident.ask(line);
                assert!(answer.starts_with("Err(NotFound"), "{line}: {answer}");
            }
        }
        assert!(!path.exists());
        // Another log of that name is not touched.
        make_log(&path, durability, "n");
        let before = snapshot(&path);
        for resident in [&mut first, &mut second] {
            assert!(resident.ask("append 1").starts_with("0 then not found"));
            assert!(resident.ask("create t").starts_with("Err(NotFound"));
        }
        drop((first, second));
        assert_eq!(snapshot(&path), before);
        assert_eq!(stored(&path, "t"), numbered("n", 0..3));
    }
}

#[test]
fn a_topic_whose_directory_is_moved_is_still_written_there_and_its_name_is_free() {
    for durability in DURABILITIES {
        let dir = crate::dir();
        let path = dir.path().join("drop");
        let mut first = Resident::open(dir.path(), "drop", durability, "x");
        first.append(2);
        std::fs::rename(path.join("topics/t"), path.join("topics/u")).unwrap();
        first.append(7);
        let in_u = first.texts();
        assert_eq!(first.ask("end u"), "Ok(9)");
        assert!(first.ask("end t").contains("NotFound"));
        // Opened again, the name is that of another topic, even in this process.
        assert_eq!(first.ask("create t"), "Ok(())");
        let mut second = Resident::open(dir.path(), "drop", durability, "y");
        second.append(4);
        first.append(1);
        assert_eq!(first.ask("end t"), "Ok(5)");
        assert_eq!(first.ask("end u"), "Ok(10)");
        let in_t = second.texts();
        let last = first.texts().split_off(9);
        drop((first, second));
        assert_eq!(stored(&path, "u"), [in_u, last].concat());
        assert_eq!(stored(&path, "t"), [vec!["other".to_owned()], in_t].concat());
    }
}

/// Does what `rsync` does: copies each file beside the one that it replaces, and renames it.
pub(crate) fn restore_in_place(backup: &Path, dir: &Path) {
    for entry in std::fs::read_dir(backup).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), dir.join(entry.file_name()));
        if from.is_dir() {
            restore_in_place(&from, &to);
            continue;
        }
        let beside = dir.join(".restored");
        copy(&from, &beside);
        std::fs::rename(&beside, &to).unwrap();
    }
}

#[test]
fn a_topic_whose_files_are_replaced_in_its_directory_refuses_to_continue() {
    for durability in DURABILITIES {
        let dir = crate::dir();
        let [path, backup] = ["drop", "backup"].map(|name| dir.path().join(name));
        make_log(&path, durability, "r");
        copy(&path, &backup);
        let mut old = Resident::open(dir.path(), "drop", durability, "x");
        old.append(1);
        restore_in_place(&backup, &path);
        let mut new = Resident::open(dir.path(), "drop", durability, "n");
        new.append(2);
        let answer = old.ask("append 20");
        let (before, error) = answer.split_once(" then ").unwrap();
        assert!(before.parse::<usize>().unwrap() <= 3, "{answer}");
        assert!(error.contains("were replaced while they were open"), "{answer}");
        let again = old.ask("append 1");
        assert!(again.starts_with("0 then replaced: "), "{again}");
        assert!(old.ask("consume c").starts_with("Err(Replaced"));
        assert!(old.ask("create u").starts_with("Err(Replaced"), "no topic is added either");
        new.append(9);
        // Opened again, it is the restored one.
        assert_eq!(old.ask("end t"), "Ok(14)");
        let in_new = new.texts();
        drop((old, new));
        assert_eq!(stored(&path, "t"), [numbered("r", 0..3), in_new].concat());
    }
}

#[test]
fn a_topic_that_is_a_symbolic_link_is_refused_and_its_target_is_left_alone() {
    let dir = crate::dir();
    let [path, other] = ["drop", "other"].map(|name| dir.path().join(name));
    make_log(&path, Durability::ProcessCrash, "a");
    make_log(&other, Durability::ProcessCrash, "b");
    symlink(other.join("topics/t"), path.join("topics/linked")).unwrap();
    symlink(dir.path().join("nowhere"), path.join("topics/dangling")).unwrap();
    let before = snapshot(&other);
    let log = Log::open_or_create(&path).unwrap();
    for name in ["linked", "dangling"] {
        let errors = [
            log.topic(name).map(drop),
            log.open_topic(name).map(drop),
            log.topic_with(name, options(Durability::ProcessCrash)).map(drop),
            log.delete_topic(name),
            Log::open_read_only(&path).unwrap().topic(name).map(drop),
        ];
        for error in errors {
            let error = error.unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{name}: {error:?}");
            assert!(error.to_string().contains("mount --bind"), "{error}");
        }
    }
    assert_eq!(log.topics().unwrap(), ["dangling", "linked", "t"]);
    assert_eq!(snapshot(&other), before);
    assert_eq!(texts(&log.topic("t").unwrap()), numbered("a", 0..3));
}

/// Role: mounts directories of its own in a log, in a namespace of its own.
pub(crate) fn mounts(words: &[&str]) {
    let [dir] = words else { panic!("{words:?}") };
    let mount = |from: &str, to: &str, kind: &str, flags| {
        let [from, to, kind] = [from, to, kind].map(|text| CString::new(text).unwrap());
        // SAFETY: NUL-terminated strings that live through the call.
        let done = unsafe {
            libc::mount(from.as_ptr(), to.as_ptr(), kind.as_ptr(), flags, std::ptr::null())
        };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    };
    // SAFETY: a plain integer.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
    mount("none", "/", "none", libc::MS_REC | libc::MS_PRIVATE);
    let topics = Path::new(dir).join("log/topics");
    let log = Log::open_or_create(Path::new(dir).join("log")).unwrap();
    for name in ["bound", "memory"] {
        std::fs::create_dir_all(topics.join(name)).unwrap();
    }
    let elsewhere = Path::new(dir).join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let [bound, memory] = ["bound", "memory"].map(|name| topics.join(name));
    mount(elsewhere.to_str().unwrap(), bound.to_str().unwrap(), "none", libc::MS_BIND);
    mount("none", memory.to_str().unwrap(), "tmpfs", 0);

    let topic = log.topic_with("bound", options(Durability::PowerLoss)).unwrap();
    for text in numbered("x", 0..10) {
        topic.append(&record(&text)).unwrap();
    }
    assert_eq!(texts(&topic), numbered("x", 0..10));
    assert!(elsewhere.join("00000000000000000000.seg").exists());
    drop(topic);
    let error = log.delete_topic("bound").unwrap_err();
    assert!(error.to_string().contains("unmount it first"), "{error}");
    assert_eq!(texts(&log.open_topic("bound").unwrap()), numbered("x", 0..10));

    let error = log.topic_with("memory", options(Durability::PowerLoss)).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    let topic = log.topic_with("memory", options(Durability::ProcessCrash)).unwrap();
    topic.append(&record("x")).unwrap();
}

#[test]
fn a_topic_whose_directory_is_mounted_works_and_is_as_durable_as_the_mount() {
    // SAFETY: takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "only root can mount");
        println!("skipped: only root can mount");
        return;
    }
    let dir = crate::dir();
    let mut child = Child::spawn(&["mounts", dir.path().to_str().unwrap()]);
    assert_eq!(child.hear().as_deref(), Some("bye"));
    assert!(child.wait().success());
}

#[test]
fn messages_name_the_log_by_its_absolute_path() {
    let dir = crate::dir();
    let mut resident = Resident::open(dir.path(), "drop", Durability::ProcessCrash, "x");
    assert_eq!(resident.ask("chdir /"), "Ok(())");
    let answer = resident.ask("end nothing");
    assert!(answer.contains(dir.path().join("drop").to_str().unwrap()), "{answer}");
}

#[test]
fn a_directory_that_moves_on_a_simulated_disk_keeps_appended_records_through_power_cuts() {
    for durability in DURABILITIES {
        let disk = SimDisk::new();
        let log = Log::open_sim(&disk.process(), "/drop").unwrap();
        let topic = log.topic_with("t", options(durability)).unwrap();
        topic.append(&record("x0")).unwrap();
        disk.rename("/drop", "/old");
        Log::open_sim(&disk.process(), "/drop").unwrap().topic("t").unwrap();
        for text in numbered("x", 1..9) {
            topic.append(&record(&text)).unwrap();
        }
        topic.wait_durable(8).unwrap();
        for seed in 0..4 {
            let image = disk.power_cut(seed);
            let found = Log::open_sim(&image, "/old").unwrap().open_topic("t").unwrap();
            assert_eq!(texts(&found), numbered("x", 0..9), "seed {seed}");
            let other = Log::open_sim(&image, "/drop").unwrap().open_topic("t").unwrap();
            assert_eq!(other.end_offset().unwrap(), 0, "seed {seed}");
        }
    }
}
