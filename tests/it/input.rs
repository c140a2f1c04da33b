//! Bad input, limits of the system, and other people's files: the variant of the error, and that
//! its text says what to do.

use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};

use deaddrop::{Durability, Error, Log, Record, Result, Retention, Start, TopicOptions};

use crate::child::Child;
use crate::ledger;

const SEGMENT_LEN: u64 = 64 << 10;

fn small(durability: Durability) -> TopicOptions {
    TopicOptions::default().with_durability(durability).with_segment_len(SEGMENT_LEN)
}

/// Returns the error of `result`, whose text must contain each of `words`.
#[track_caller]
fn error_says<T>(result: Result<T>, words: &[&str]) -> Error {
    let Err(error) = result else { panic!("no error") };
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    error
}

macro_rules! assert_is {
    ($error:expr, $pattern:pat) => {
        let error = $error;
        assert!(matches!(error, $pattern), "{error:?}");
    };
}

#[test]
fn a_directory_of_something_else_is_not_a_log() {
    let dir = crate::dir();
    std::fs::write(dir.path().join("letters.txt"), "dear").unwrap();
    let says = ["letters.txt", "name a new or empty directory"];
    assert_is!(error_says(Log::open_or_create(dir.path()), &says), Error::NotALog { .. });
    std::fs::remove_file(dir.path().join("letters.txt")).unwrap();
    std::fs::write(dir.path().join("deaddrop"), "garbage that is longer than a marker").unwrap();
    for result in [Log::open_or_create(dir.path()), Log::open_read_only(dir.path())] {
        assert_is!(error_says(result, &["check the path"]), Error::NotALog { .. });
    }
    let nowhere = dir.path().join("nowhere");
    let result = Log::open_read_only(&nowhere);
    assert_is!(error_says(result, &["nowhere", "check the path"]), Error::NotALog { .. });
    assert!(!nowhere.exists(), "opening read-only makes nothing");
    let file = dir.path().join("deaddrop");
    assert_is!(error_says(Log::open_or_create(&file), &["deaddrop"]), Error::Io { .. });
}

#[test]
fn files_that_desktops_and_new_file_systems_leave_do_not_make_a_directory_unusable() {
    for left in [".DS_Store", ".directory", "Thumbs.db", "desktop.ini", "lost+found"] {
        let dir = crate::dir();
        match left {
            "lost+found" => std::fs::create_dir(dir.path().join(left)).unwrap(),
            _ => std::fs::write(dir.path().join(left), "of a desktop").unwrap(),
        }
        std::fs::write(dir.path().join("letters.txt"), "dear").unwrap();
        assert_is!(
            error_says(Log::open_or_create(dir.path()), &["letters.txt"]),
            Error::NotALog { .. }
        );
        std::fs::remove_file(dir.path().join("letters.txt")).unwrap();
        let topic = Log::open_or_create(dir.path()).unwrap().topic("t").unwrap();
        topic.append(&Record::new("x")).unwrap();
        assert!(dir.path().join(left).exists(), "{left} is not ours");
        drop(topic);
        assert_eq!(Log::open_or_create(dir.path()).unwrap().topics().unwrap(), ["t"]);
    }
}

#[test]
fn a_name_cannot_leave_its_directory() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let topic = log.topic_with("t", small(Durability::ProcessCrash)).unwrap();
    let long = "x".repeat(129);
    for name in ["", ".", "..", "../t", "a/b", "/etc", "a\0b", "-rf", ".hidden", &long] {
        assert_is!(error_says(log.topic(name), &["cannot be a name"]), Error::InvalidName { .. });
        let deleted = log.delete_topic(name);
        assert_is!(error_says(deleted, &["cannot be a name"]), Error::InvalidName { .. });
        let consumer = topic.consumer(name, Start::First);
        assert_is!(error_says(consumer, &["cannot be a name"]), Error::InvalidName { .. });
        let deleted = topic.delete_consumer(name);
        assert_is!(error_says(deleted, &["cannot be a name"]), Error::InvalidName { .. });
    }
    assert_eq!(log.topics().unwrap(), ["t"]);
}

#[test]
fn records_over_the_limits_are_refused_and_nothing_is_appended() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let topic = log.topic_with("t", small(Durability::ProcessCrash)).unwrap();
    let refused = ["nothing was appended"];
    for record in [
        Record::new("x").with_key(vec![0; 65_536]),
        Record::new("x").with_header(&"n".repeat(65_536), "v"),
        Record::new("x").with_header("n", vec![0; 16 << 20]),
        Record::new("x").with_header("deaddrop.envelope", "v"),
    ] {
        assert_is!(error_says(topic.append(&record), &refused), Error::Invalid { .. });
        assert_is!(error_says(topic.append_batch(&[record]), &refused), Error::Invalid { .. });
    }
    assert_is!(error_says(topic.append_batch(&[] as &[Record]), &refused), Error::Invalid { .. });
    // Zero pages that are never touched: no memory is used.
    let large = Record::new(vec![0; 1 << 30]);
    let says = ["over the limit of 1073741824", "nothing was appended"];
    assert_is!(error_says(topic.append(&large), &says), Error::TooLarge { .. });
    let half = Record::new(vec![0; 600 << 20]);
    let batch = [half.clone(), half];
    assert_is!(error_says(topic.append_batch(&batch), &says), Error::TooLarge { .. });
    assert_is!(
        error_says(topic.append_if_end(7, &Record::new("x")), &["the end is 0, not 7", "read"]),
        Error::EndMoved { expected: 7, end: 0 }
    );
    assert_is!(error_says(topic.wait_durable(0), &["not appended yet"]), Error::Invalid { .. });
    let reader = topic.reader(Start::Offset(1));
    assert_is!(error_says(reader, &["past the high watermark (0)"]), Error::Invalid { .. });
    assert_eq!(topic.append(&Record::new("x").with_key(vec![0; 65_535])).unwrap(), 0);
}

#[test]
fn impossible_settings_are_refused_and_other_settings_are_named_with_the_stored_ones() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    for segment_len in [0, 4096, (16 << 10) + 1, 4 << 30] {
        let options = TopicOptions::default().with_segment_len(segment_len);
        let says = ["a multiple of 4096 from 16 KiB to 2 GiB"];
        assert_is!(error_says(log.topic_with("t", options), &says), Error::Invalid { .. });
    }
    let nothing = Retention::default().with_bytes(0);
    let options = TopicOptions::default().with_retention(nothing);
    let says = ["make it positive"];
    assert_is!(error_says(log.topic_with("t", options), &says), Error::Invalid { .. });
    let hasty = TopicOptions::default()
        .with_durability(Durability::PowerLossWithin(std::time::Duration::ZERO));
    let says = ["choose PowerLoss"];
    assert_is!(error_says(log.topic_with("t", hasty), &says), Error::Invalid { .. });
    assert_eq!(log.topics().unwrap(), [""; 0]);
    assert!(!dir.path().join("topics/t").exists(), "nothing is left");

    let stored = small(Durability::ProcessCrash);
    let topic = log.topic_with("t", stored).unwrap();
    let other = Log::open_or_create(dir.path()).unwrap();
    let wanted = [
        (small(Durability::PowerLoss), ["ProcessCrash", "PowerLoss"]),
        (stored.with_segment_len(1 << 20), ["65536", "1048576"]),
        (stored.with_retention(stored.retention.with_bytes(7)), ["bytes: None", "bytes: Some(7)"]),
    ];
    for (wanted, both) in wanted {
        for log in [&log, &other] {
            let error = error_says(log.topic_with("t", wanted), &["ask for the stored ones"]);
            assert!(both.iter().all(|value| error.to_string().contains(value)), "{error}");
            assert_is!(error, Error::Conflict { .. });
        }
    }
    // A refused opener leaves nothing locked.
    topic.append(&Record::new("x")).unwrap();
    other.topic_with("t", stored).unwrap().append(&Record::new("y")).unwrap();
}

#[test]
fn a_consumer_has_one_owner_and_the_error_names_it() {
    let dir = crate::dir();
    let path = dir.path().to_str().unwrap();
    let topic = ledger::open(path, "process-crash", SEGMENT_LEN);
    topic.append_batch(&[Record::new("a"), Record::new("b")]).unwrap();
    let owner = topic.consumer("billing", Start::First).unwrap();
    let same = topic.consumer("billing", Start::First);
    let me = format!("process {}", std::process::id());
    assert_is!(error_says(same, &["billing", &me, "another name"]), Error::Locked { .. });
    let other = ledger::open(path, "process-crash", SEGMENT_LEN);
    assert_is!(
        error_says(other.consumer("billing", Start::First), &["billing", &me]),
        Error::Locked { .. }
    );
    assert_is!(error_says(other.delete_consumer("billing"), &[&me]), Error::Locked { .. });
    drop(owner);
    let mut child = Child::spawn(&["consumes", path]);
    assert_eq!(child.hear().as_deref(), Some("owns"));
    let child_pid = format!("process {}", child.pid());
    let taken = topic.consumer("billing", Start::First);
    assert_is!(error_says(taken, &["billing", &child_pid]), Error::Locked { .. });
    child.kill();
    let mut next = topic.consumer("billing", Start::First).unwrap();
    assert_eq!(next.next().unwrap().unwrap().payload(), b"b", "the first one was committed");
}

/// Role: owns a consumer, commits one record, and stays.
pub(crate) fn consumes(words: &[&str]) {
    let [dir] = words else { panic!("{words:?}") };
    let topic = ledger::open(dir, "process-crash", SEGMENT_LEN);
    let mut consumer = topic.consumer("billing", Start::First).unwrap();
    assert_eq!(consumer.next().unwrap().unwrap().payload(), b"a");
    consumer.commit().unwrap();
    crate::child::say("owns");
    crate::child::listen();
}

/// A log with some segments, closed, and its topic's directory.
fn closed_topic(dir: &Path) -> PathBuf {
    let topic = ledger::open(dir.to_str().unwrap(), "process-crash", SEGMENT_LEN);
    for _ in 0..100 {
        topic.append(&Record::new(vec![1; 2000])).unwrap();
    }
    topic.dir().to_owned()
}

fn open_and_read(dir: &Path) -> Result<u64> {
    let topic = Log::open_or_create(dir)?.open_topic("t")?;
    topic.append(&Record::new("x"))?;
    let mut reader = topic.reader(Start::First)?;
    let mut count = 0;
    while reader.next()?.is_some() {
        count += 1;
    }
    Ok(count)
}

fn segments(topic: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(topic).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    paths.sort();
    paths
}

#[test]
fn a_symbolic_link_in_place_of_a_file_is_not_followed() {
    let names = ["settings", "lock", "control", "first segment", "last segment"];
    for name in names {
        let dir = crate::dir();
        let topic = closed_topic(dir.path());
        let path = match name {
            "first segment" => segments(&topic)[0].clone(),
            "last segment" => segments(&topic).pop().unwrap(),
            name => topic.join(name),
        };
        let elsewhere = dir.path().join("elsewhere");
        std::fs::rename(&path, &elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        let error = error_says(open_and_read(dir.path()), &["remove the link"]);
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert_is!(error, Error::Io { .. });
        std::fs::rename(&elsewhere, &path).unwrap();
        assert!(open_and_read(dir.path()).unwrap() > 100, "{name}: the log opens again");
    }
}

#[test]
fn a_directory_in_place_of_a_file_is_an_error_that_names_it() {
    for name in ["settings", "lock", "control", "segment"] {
        let dir = crate::dir();
        let topic = closed_topic(dir.path());
        let path = match name {
            "segment" => segments(&topic).pop().unwrap(),
            name => topic.join(name),
        };
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let error = error_says(open_and_read(dir.path()), &[path.to_str().unwrap()]);
        assert_is!(error, Error::Io { .. });
    }
}

#[test]
fn a_deleted_topic_is_gone_and_one_in_use_is_not_deleted() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let topic = log.topic_with("t", small(Durability::ProcessCrash)).unwrap();
    topic.append(&Record::new("old")).unwrap();
    let other = Log::open_or_create(dir.path()).unwrap();
    for log in [&log, &other] {
        assert_is!(error_says(log.delete_topic("t"), &["topic t"]), Error::Locked { .. });
    }
    assert_eq!(topic.append(&Record::new("old")).unwrap(), 1);
    drop(topic);
    other.delete_topic("t").unwrap();
    assert_eq!(log.topics().unwrap(), [""; 0]);
    assert_is!(error_says(log.open_topic("t"), &["no topic t"]), Error::NotFound { .. });
    assert_is!(error_says(log.delete_topic("t"), &["no topic t"]), Error::NotFound { .. });
    // Another topic of the same name, with other settings.
    let topic = log.topic_with("t", small(Durability::PowerLoss)).unwrap();
    assert_eq!(topic.append(&Record::new("new")).unwrap(), 0);
    let mut reader = topic.reader(Start::First).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().payload(), b"new");
}

#[test]
fn a_file_system_in_memory_refuses_to_promise_power_loss() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        println!("skipped: /dev/shm cannot be written");
        return;
    };
    let log = Log::open_or_create(dir.path()).unwrap();
    let within = Durability::PowerLossWithin(std::time::Duration::from_secs(1));
    for durability in [Durability::PowerLoss, within] {
        let result = log.topic_with("t", small(durability));
        let says = ["choose Durability::ProcessCrash"];
        assert_is!(error_says(result, &says), Error::Unsupported { .. });
    }
    assert_eq!(log.topics().unwrap(), [""; 0]);
    let topic = log.topic_with("t", small(Durability::ProcessCrash)).unwrap();
    for _ in 0..100 {
        topic.append(&Record::new(vec![1; 2000])).unwrap();
    }
    drop(topic);
    assert_eq!(open_and_read(dir.path()).unwrap(), 101);
}

/// Runs a role that checks for itself, or reports why it could not be set up here.
fn run(role: &[&str]) {
    let mut child = Child::spawn(role);
    let said = child.hear();
    match said.as_deref().and_then(|line| line.strip_prefix("skipped")) {
        Some(why) => println!("skipped{why}"),
        None => {
            assert_eq!(said.as_deref(), Some("bye"), "{role:?}");
            assert!(child.wait().success());
        }
    }
}

#[test]
fn another_user_gets_advice_about_the_owner_and_may_read_what_the_mode_allows() {
    let dir = crate::dir();
    let log = dir.path().join("log");
    drop(closed_topic(&log));
    for open in [&log, &dir.path().to_owned()] {
        std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    run(&["stranger", log.to_str().unwrap()]);
}

/// Role: as an unprivileged user, tries to use a log of root.
pub(crate) fn stranger(words: &[&str]) {
    let [dir] = words else { panic!("{words:?}") };
    // While the rights are still there.
    let topic = Path::new(dir).join("topics/t");
    let modes = |dir: u32, file: u32| {
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set(&topic, dir);
        set(topic.parent().unwrap(), dir);
        set(&Path::new(dir_of(&topic)).join("deaddrop"), file);
        for entry in std::fs::read_dir(&topic).unwrap() {
            let path = entry.unwrap().path();
            set(&path, if path.is_dir() { dir } else { file });
        }
    };
    modes(0o755, 0o644);
    // SAFETY: plain integers; applies to all threads of this process.
    let left = unsafe { libc::setgid(65534) == 0 && libc::setuid(65534) == 0 };
    if !left {
        crate::child::say("skipped: only root can become another user");
        std::process::exit(0);
    }
    if std::fs::read_dir(dir).is_err() {
        crate::child::say("skipped: the user nobody cannot reach the test's directory");
        std::process::exit(0);
    }
    let says = ["check who owns the directory and its mode"];
    let log = Log::open_or_create(dir).unwrap();
    assert_is!(error_says(log.open_topic("t"), &says), Error::Io { .. });
    assert_is!(error_says(log.topic("new"), &says), Error::Io { .. });
    assert_is!(
        error_says(Log::open_or_create(Path::new(dir).join("sub")), &says),
        Error::Io { .. }
    );
    let topic = Log::open_read_only(dir).unwrap().topic("t").unwrap();
    let mut reader = topic.reader(Start::First).unwrap();
    for _ in 0..100 {
        assert_eq!(reader.next().unwrap().unwrap().payload(), [1; 2000]);
    }
    let says = ["opened read-only", "open it with Log::open_or_create"];
    assert_is!(error_says(topic.append(&Record::new("x")), &says), Error::ReadOnly { .. });
    assert_is!(error_says(topic.consumer("c", Start::First), &says), Error::ReadOnly { .. });
    assert_is!(error_says(topic.trim_before(1), &says), Error::ReadOnly { .. });
}

fn dir_of(topic: &Path) -> &str {
    topic.parent().unwrap().parent().unwrap().to_str().unwrap()
}

#[test]
fn too_many_open_files_is_a_temporary_error_that_names_the_limit() {
    let dir = crate::dir();
    run(&["few-files", dir.path().to_str().unwrap()]);
}

fn limit(resource: libc::__rlimit_resource_t, value: u64) {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` is live for the call.
    let done = unsafe { libc::setrlimit(resource, &limit) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Role: opens topics until it has no descriptors left.
pub(crate) fn few_files(words: &[&str]) {
    let [dir] = words else { panic!("{words:?}") };
    let log = Log::open_or_create(dir).unwrap();
    let first = log.topic_with("t", small(Durability::ProcessCrash)).unwrap();
    first.append(&Record::new("x")).unwrap();
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `old` is live for the call.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut old) };
    let mut failed = Vec::new();
    let mut acked = 1;
    // Every number of free descriptors from 0 on, so that each open fails once.
    for free in 0..14 {
        let next = std::fs::File::open(dir).unwrap();
        let used = std::os::fd::AsRawFd::as_raw_fd(&next) as u64;
        drop(next);
        let few = libc::rlimit { rlim_cur: used + free, rlim_max: old.rlim_max };
        // SAFETY: `few` is live for the call.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &few) };
        let other = Log::open_or_create(dir).and_then(|log| {
            let topic = log.topic_with("other", small(Durability::ProcessCrash))?;
            topic.append(&Record::new("x")).map(|_| log)
        });
        let appended: Vec<Result<u64>> =
            (0..40).map(|_| first.append(&Record::new(vec![2; 4000]))).collect();
        // SAFETY: as above.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &old) };
        failed.push(other.is_err());
        if other.is_err() {
            assert_is!(error_says(other, &["raise the limit (ulimit -n)"]), Error::Io { .. });
        }
        for result in appended {
            match result {
                Ok(offset) => {
                    assert_eq!(offset, acked);
                    acked += 1;
                }
                Err(error) => {
                    error_says::<()>(Err(error), &["raise the limit (ulimit -n)"]);
                }
            }
        }
        assert_eq!(first.append(&Record::new("enough again")).unwrap(), acked);
        acked += 1;
    }
    assert!(failed[0] && failed.contains(&false), "{failed:?}");
    let mut reader = first.reader(Start::First).unwrap();
    let mut count = 0;
    while reader.next().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, acked);
}

#[test]
fn a_file_size_limit_is_an_error_and_not_a_signal() {
    let dir = crate::dir();
    run(&["small-files", dir.path().to_str().unwrap()]);
}

/// Role: may not write files as long as a segment.
pub(crate) fn small_files(words: &[&str]) {
    let [dir] = words else { panic!("{words:?}") };
    let log = Log::open_or_create(dir).unwrap();
    let topic = log.topic_with("t", small(Durability::ProcessCrash)).unwrap();
    topic.append(&Record::new("x")).unwrap();
    limit(libc::RLIMIT_FSIZE, SEGMENT_LEN - 4096);
    let says = ["raise the limit (ulimit -f)"];
    let other = log.topic_with("other", small(Durability::PowerLoss));
    assert_is!(error_says(other, &says), Error::Io { .. });
    let large = topic.append(&Record::new(vec![1; SEGMENT_LEN as usize]));
    assert_is!(error_says(large, &says), Error::Io { .. });
    let mut appended = 1;
    let error = loop {
        match topic.append(&Record::new(vec![1; 3000])) {
            Ok(offset) => assert_eq!(offset, appended),
            Err(error) => break error,
        }
        appended += 1;
        assert!(appended < 100, "a segment was made in spite of the limit");
    };
    assert_is!(error_says::<()>(Err(error), &says), Error::Io { .. });
    limit(libc::RLIMIT_FSIZE, libc::RLIM_INFINITY);
    assert_eq!(topic.append(&Record::new(vec![1; 3000])).unwrap(), appended);
}

#[test]
fn a_file_size_limit_that_is_lowered_at_any_moment_is_an_error_and_not_a_signal() {
    let dir = crate::dir();
    let mut child = Child::spawn(&["limit-moves", dir.path().to_str().unwrap()]);
    let acknowledged: u64 = child.hear().expect("it survives").parse().unwrap();
    assert_eq!(child.hear().as_deref(), Some("bye"));
    let status = child.wait();
    assert!(status.success(), "{status}");
    let topic = Log::open_or_create(dir.path()).unwrap().open_topic("t").unwrap();
    let mut reader = topic.reader(Start::First).unwrap();
    let mut count = 0;
    while reader.next().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, acknowledged);
}

/// Role: appends while another thread lowers and raises the limit; reports how many succeeded.
pub(crate) fn limit_moves(words: &[&str]) {
    let [dir] = words else { panic!("{words:?}") };
    let log = Log::open_or_create(dir).unwrap();
    // Each of its segments is written ahead, which takes a while.
    let options =
        TopicOptions::default().with_durability(Durability::PowerLoss).with_segment_len(4 << 20);
    let topic = log.topic_with("t", options).unwrap();
    let (mut acknowledged, mut refused) = (0, 0);
    let is_done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut low = 1_000;
            while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                limit(libc::RLIMIT_FSIZE, low);
                std::thread::yield_now();
                limit(libc::RLIMIT_FSIZE, libc::RLIM_INFINITY);
                low = (low * 7) % (4 << 20);
                std::thread::sleep(std::time::Duration::from_micros(300));
            }
        });
        for _ in 0..300 {
            match topic.append(&Record::new(vec![1; 300_000])) {
                Ok(_) => acknowledged += 1,
                // Unknown if the limit was lowered again before the half of a record was taken back.
                Err(Error::Io { .. } | Error::Unknown { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    limit(libc::RLIMIT_FSIZE, 0);
    // No space is allocated for it: the first write meets the limit.
    assert_is!(log.client("c").open().map(drop).unwrap_err(), Error::Io { .. });
    limit(libc::RLIMIT_FSIZE, libc::RLIM_INFINITY);
    println!("{acknowledged} acknowledged, {refused} refused");
    crate::child::say(&acknowledged.to_string());
}

/// Mounts a new file system of `mebibytes` in `dir`, which only this thread and its children see,
/// and which ends with them. `Err` says why that is not possible here.
fn mount(dir: &Path, mebibytes: u64) -> Result<PathBuf, String> {
    let (image, point) = (dir.join("image"), dir.join("mounted"));
    let system = |error: std::io::Error| error.to_string();
    let file = std::fs::File::create(&image).map_err(system)?;
    file.set_len(mebibytes << 20).map_err(system)?;
    std::fs::create_dir(&point).map_err(system)?;
    // SAFETY: plain integers and live C strings; changes the mounts of a new namespace only.
    let private = unsafe {
        let flags = libc::MS_REC | libc::MS_PRIVATE;
        let (none, root) = (c"none".as_ptr(), c"/".as_ptr());
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, root, none, flags, std::ptr::null()) == 0
    };
    if !private {
        return Err(format!("a mount namespace: {}", std::io::Error::last_os_error()));
    }
    command("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()])?;
    command("mount", &["-o", "loop", image.to_str().unwrap(), point.to_str().unwrap()])?;
    Ok(point)
}

fn command(name: &str, arguments: &[&str]) -> Result<(), String> {
    let mut command = std::process::Command::new(name);
    let output = command.args(arguments).output().map_err(|error| format!("{name}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

fn mount_or_skip(dir: &str, mebibytes: u64) -> PathBuf {
    mount(Path::new(dir), mebibytes).unwrap_or_else(|why| {
        crate::child::say(&format!("skipped: {}", why.replace('\n', " ")));
        std::process::exit(0)
    })
}

#[test]
fn on_a_full_disk_appends_fail_until_there_is_room_and_acknowledged_records_are_read() {
    for durability in ledger::DURABILITIES {
        let dir = crate::dir();
        run(&["full-disk", dir.path().to_str().unwrap(), durability]);
    }
}

/// Role: fills a disk with a log.
pub(crate) fn full_disk(words: &[&str]) {
    let [dir, durability] = words else { panic!("{words:?}") };
    let mounted = mount_or_skip(dir, 24);
    let log = Log::open_or_create(mounted.join("log")).unwrap();
    let options = ledger::options(durability, 1 << 20).with_segment_len(1 << 20);
    let topic = log.topic_with("t", options).unwrap();
    let mut end = 0;
    let payload = |offset: u64| vec![offset as u8; 10_000];
    let fill = |end: &mut u64| loop {
        match topic.append(&Record::new(payload(*end))) {
            Ok(offset) => assert_eq!(offset, *end),
            Err(error) => {
                let says = ["no space", "nothing was written", "free some disk space or trim"];
                assert_is!(error_says::<()>(Err(error), &says), Error::NoSpace { .. });
                break;
            }
        }
        *end += 1;
        assert!(*end < 6000, "the disk never fills up");
    };
    let check = |first: u64, end: u64| {
        let mut reader = topic.reader(Start::First).unwrap();
        for offset in first..end {
            let record = reader.next().unwrap().expect("every acknowledged record");
            assert_eq!((record.offset(), record.payload()), (offset, &payload(offset)[..]));
        }
        assert!(reader.next().unwrap().is_none());
    };
    fill(&mut end);
    assert!(end > 500, "{end}");
    check(0, end);
    for _ in 0..3 {
        let says = ["no space"];
        let other = log.topic_with("other", options);
        assert_is!(error_says(other, &says), Error::NoSpace { .. });
        let large = topic.append(&Record::new(vec![0; 8 << 20]));
        assert_is!(error_says(large, &says), Error::NoSpace { .. });
        let consumer = topic.consumer("c", Start::First);
        if let Err(error) = consumer {
            error_says::<()>(Err(error), &says);
        }
    }
    topic.wait_durable(end - 1).unwrap();
    let first = topic.trim_before(end / 2).unwrap();
    assert!(first > 0);
    fill(&mut end);
    check(first, end);
    assert!(log.topic_with("other", options).is_err());
    let first = topic.trim_before(end - 10).unwrap();
    log.topic_with("other", options).unwrap().append(&Record::new("x")).unwrap();
    check(first, end);
    let leftovers = std::fs::read_dir(topic.dir()).unwrap().map(|entry| entry.unwrap().file_name());
    let leftovers: Vec<_> =
        leftovers.filter(|name| name.to_str().unwrap().starts_with("roll-")).collect();
    assert!(leftovers.is_empty(), "files of appends that failed: {leftovers:?}");
}

#[test]
fn a_read_only_file_system_is_read_and_refuses_writes() {
    let dir = crate::dir();
    run(&["read-only-disk", dir.path().to_str().unwrap()]);
}

/// Role: uses a log on a file system that is remounted read-only.
pub(crate) fn read_only_disk(words: &[&str]) {
    let [dir] = words else { panic!("{words:?}") };
    let mounted = mount_or_skip(dir, 24);
    let log = mounted.join("log");
    let topic = ledger::open(log.to_str().unwrap(), "power-loss", SEGMENT_LEN);
    for number in 0..100u32 {
        topic.append(&Record::new(number.to_le_bytes())).unwrap();
    }
    drop(topic);
    command("mount", &["-o", "remount,ro", mounted.to_str().unwrap()]).unwrap();
    let says = ["open the log read-only, or remount the file system"];
    assert_is!(error_says(Log::open_or_create(mounted.join("new")), &says), Error::Io { .. });
    let opened = Log::open_or_create(&log).and_then(|log| log.open_topic("t"));
    assert_is!(error_says(opened, &says), Error::Io { .. });
    let topic = Log::open_read_only(&log).unwrap().topic("t").unwrap();
    assert_eq!(topic.high_watermark().unwrap(), 100);
    let mut reader = topic.reader(Start::First).unwrap();
    for number in 0..100u32 {
        assert_eq!(reader.next().unwrap().unwrap().payload(), number.to_le_bytes());
    }
    command("mount", &["-o", "remount,rw", mounted.to_str().unwrap()]).unwrap();
    let topic = ledger::open(log.to_str().unwrap(), "power-loss", SEGMENT_LEN);
    assert_eq!(topic.append(&Record::new("again")).unwrap(), 100);
}
