//! The mode of a log's files: which users may read it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use deaddrop::group::GroupOptions;
use deaddrop::{Durability, Log, LogOptions, Record, Start, TopicOptions};

use crate::child::Child;

#[test]
fn files_that_any_process_adds_to_a_log_have_its_mode() {
    let dir = crate::dir();
    let log = dir.path().join("log");
    let mut child = Child::spawn(&["other-umask", log.to_str().unwrap()]);
    assert_eq!(child.hear().as_deref(), Some("bye"));
    assert!(child.wait().success());
    let mut seen = Vec::new();
    let mut dirs = vec![log];
    while let Some(dir) = dirs.pop() {
        let mode = std::fs::metadata(&dir).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o750, "{dir:?}");
        let hands_group_on = dir.components().any(|part| part.as_os_str() == "topics");
        assert_eq!(mode & 0o2000 != 0, hands_group_on, "{dir:?}");
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o640, "{path:?}");
            seen.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    for expected in ["control", "lock", "settings", "deaddrop", "billing", "packing"] {
        assert!(seen.iter().any(|name| name == expected), "{expected} in {seen:?}");
    }
    assert!(seen.iter().filter(|name| name.ends_with(".seg")).count() > 2, "{seen:?}");
}

/// Role: makes a log that a group may read, and uses it under a umask that denies others any right.
pub(crate) fn other_umask(words: &[&str]) {
    let [dir] = words else { panic!("{words:?}") };
    let umask = |mask| {
        // SAFETY: a plain integer.
        unsafe { libc::umask(mask) }
    };
    umask(0);
    let options = LogOptions::default().with_mode(0o640);
    drop(Log::open_or_create_with(dir, options).unwrap());
    let topics = Path::new(dir).join("topics");
    std::fs::set_permissions(topics, std::fs::Permissions::from_mode(0o2750)).unwrap();
    umask(0o077);
    let options =
        TopicOptions::default().with_durability(Durability::PowerLoss).with_segment_len(16 << 10);
    let topic = Log::open_or_create(dir).unwrap().topic_with("t", options).unwrap();
    for _ in 0..20 {
        topic.append(&Record::new([1; 2000])).unwrap();
    }
    topic.consumer("billing", Start::First).unwrap().sync().unwrap();
    topic.group("packing", GroupOptions::default()).unwrap();
    crate::child::say("bye");
}
