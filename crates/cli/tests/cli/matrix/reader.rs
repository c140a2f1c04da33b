//! Another user with the right to read only.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use deaddrop::group::GroupOptions;
use deaddrop::{Durability, Log, LogOptions, Retention, Start, TopicOptions};

use super::elsewhere::{as_nobody, open_to_all, run, states, NOBODY};
use super::{lines, Does};
use crate::support::{payload, Scratch};

/// A log that every user can reach, made with a mode.
fn log_with_mode(mode: u32) -> (Scratch, Log) {
    let scratch = Scratch::in_dir(tempfile::tempdir().unwrap());
    let log =
        Log::open_or_create_with(scratch.log(), LogOptions::default().with_mode(mode)).unwrap();
    // The file system of temporary directories may refuse a default topic.
    let options = TopicOptions::default()
        .with_durability(Durability::ProcessCrash)
        .with_segment_len(256 << 10);
    for name in ["made", "echo.requests", "echo.replies", "echo.dead"] {
        log.topic_with(name, options).unwrap();
    }
    let retention = Retention::default().with_bytes(4 << 20);
    let topic = log.topic_with("t", options.with_retention(retention)).unwrap();
    topic.consumer("idle", Start::First).unwrap();
    for group in ["workers", "spare"] {
        topic.group(group, GroupOptions::default().with_lanes(4).with_start(Start::First)).unwrap();
    }
    for index in 0..1_000 {
        topic.append(&deaddrop::Record::new(payload(index))).unwrap();
    }
    (scratch, log)
}

/// Returns whether tests run as root; other users cannot become another user.
#[allow(clippy::print_stdout)]
fn is_root(scratch: &Scratch) -> bool {
    let is_root = std::fs::metadata(scratch.log()).unwrap().uid() == 0;
    if !is_root {
        println!("skipped: only root can become another user");
    }
    is_root
}

fn owned_by_nobody(path: &Path) -> bool {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return false };
    let entries = std::fs::read_dir(path).into_iter().flatten();
    metadata.uid() == NOBODY || entries.flatten().any(|entry| owned_by_nobody(&entry.path()))
}

#[test]
fn all_reading_commands_work_for_another_user_and_write_nothing() {
    let (scratch, log) = log_with_mode(0o644);
    if !is_root(&scratch) {
        return;
    }
    let program = open_to_all(&scratch);
    // Beside a quiet process that has it open, every change would be seen; then at full speed.
    let mut writer = None;
    for is_quiet in [true, false] {
        let before = states(&scratch.log());
        if !is_quiet {
            let endless = scratch
                .command(&["append", "t", "-q"])
                .stdin(Stdio::piped())
                .stderr(Stdio::inherit())
                .spawn()
                .unwrap();
            writer = Some(crate::matrix::load::Endless::of(endless));
        }
        for line in lines(&scratch, "t").iter().filter(|line| line.does != Does::Nothing) {
            for json in [false, true] {
                let like = scratch.command(&line.args(json));
                let ran = run(&mut as_nobody(&program, &like), line.input());
                line.check_form(&ran, json && line.has_json());
                let (words, said) = (&line.words, &ran.stderr);
                // There is no request, and no such client; and retention overtakes a command that
                // begins at the start.
                let is_none = line.command == "trace" || line.is("clients", "retire");
                let is_no = is_none || !is_quiet && said.contains("trimmed");
                match line.does {
                    Does::Read if is_no => assert_eq!(ran.code, Some(1), "{words:?}: {said}"),
                    Does::Read => assert_eq!(ran.code, Some(0), "{words:?}: {said}"),
                    _ => {
                        assert_eq!(ran.code, Some(3), "{words:?}: {said}");
                        assert!(said.contains("check who owns"), "{words:?}: {said}");
                    }
                }
            }
        }
        assert!(!is_quiet || states(&scratch.log()) == before, "a file was changed or made");
        assert!(!owned_by_nobody(&scratch.log()));
    }
    assert!(writer.unwrap().stop() > 0);
    let high_watermark = log.topic("t").unwrap().high_watermark().unwrap();
    assert!(high_watermark > 1_000);
    scratch.run(&["verify"]).expect(0);
}

#[test]
fn files_that_the_tool_adds_to_a_log_have_the_mode_of_the_log() {
    let (scratch, log) = log_with_mode(0o644);
    drop(log);
    scratch.append("t", &"x\n".repeat(20_000));
    scratch.append("new", "x\n");
    scratch.run(&["request", "echo", "x", "--no-wait"]).expect(0);
    let open = |path: &Path| {
        let mode = std::fs::metadata(path).unwrap().mode();
        let wanted = if path.is_dir() { 0o755 } else { 0o644 };
        assert_eq!(mode & 0o777, wanted, "{}", path.display());
    };
    for_all(&scratch.log().join("topics"), &open);
}

fn for_all(dir: &Path, look: &impl Fn(&Path)) {
    look(dir);
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => for_all(&path, look),
            false => look(&path),
        }
    }
}
