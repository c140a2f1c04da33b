//! Directories that are not a log, or that this release cannot read.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use deaddrop::format::{marker, VERSION};

use super::{lines, Does, Line};
use crate::support::{feed, Ran, Scratch};

/// The id of an unprivileged user.
pub(super) const NOBODY: u32 = 65534;

/// A path with its length, times and contents.
type State = (PathBuf, u64, i64, i64, Option<Vec<u8>>);

/// Returns everything at a path and under it.
pub(super) fn states(path: &Path) -> Vec<State> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Vec::new() };
    let contents = metadata.is_file().then(|| std::fs::read(path).unwrap());
    let (seconds, nanos) = (metadata.mtime(), metadata.mtime_nsec());
    let mut all = vec![(path.to_owned(), metadata.len(), seconds, nanos, contents)];
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            all.extend(states(&entry.unwrap().path()));
        }
    }
    all.sort();
    all
}

/// Runs every command that uses a log. Those that make one may do so if `makes` is set. All others
/// end with code 3 and a message with the path and one of the words, and change nothing.
fn refused(prepare: impl Fn(&Path), advice: &[&str], makes: bool) {
    let scratch = Scratch::new();
    prepare(&scratch.log());
    let before = states(&scratch.log());
    for line in lines(&scratch, "t").iter().filter(|line| line.does != Does::Nothing) {
        // No server runs, and no client asks.
        if makes && (line.command == "serve" || line.is("request", "--timeout")) {
            continue;
        }
        for json in [false, true] {
            let ran = line.run(&scratch, json);
            if makes && line.does == Does::Make {
                let ran = ran.expect(0);
                assert!(scratch.log().join("deaddrop").exists(), "{:?}", line.words);
                drop(ran);
                std::fs::remove_dir_all(scratch.log()).unwrap();
                prepare(&scratch.log());
                continue;
            }
            check(line, &ran, &scratch.log(), advice);
            let now = states(&scratch.log());
            let is_same = now.iter().map(|state| &state.0).eq(before.iter().map(|state| &state.0));
            assert!(is_same && (makes || now == before), "{:?} changed it: {now:?}", line.words);
        }
    }
}

/// Checks for code 3, and for a message that names the path and the next step.
fn check(line: &Line, ran: &Ran, log: &Path, advice: &[&str]) {
    let (words, said) = (&line.words, &ran.stderr);
    assert_eq!(ran.code, Some(3), "{words:?}: {said}");
    assert!(ran.stdout.is_empty(), "{words:?}: {}", ran.text());
    assert!(said.contains(log.to_str().unwrap()), "{words:?}: {said}");
    // If a file was named, the message is about the file.
    assert!(
        line.is_file() || advice.iter().any(|word| said.contains(word)),
        "{words:?}: none of {advice:?} in: {said}"
    );
}

#[test]
fn a_missing_or_an_empty_directory_is_refused_by_all_that_do_not_make_a_log() {
    refused(|_| {}, &["check the path"], true);
    refused(|log| std::fs::create_dir(log).unwrap(), &["check the path"], true);
}

#[test]
fn a_foreign_directory_a_file_and_a_log_of_the_future_are_refused_by_all() {
    let foreign = |log: &Path| {
        std::fs::create_dir_all(log.join("thesis/figures")).unwrap();
        std::fs::write(log.join("thesis/thesis.tex"), "precious").unwrap();
        std::fs::write(log.join("notes.seg"), "more of it").unwrap();
    };
    refused(foreign, &["check the path", "name a new or empty directory"], false);
    refused(|log| std::fs::write(log, "a file").unwrap(), &["check the path"], false);
    refused(
        |log| {
            std::fs::create_dir_all(log.join("topics/t")).unwrap();
            let mut bytes = marker::encode();
            bytes[8..10].copy_from_slice(&(VERSION + 1).to_le_bytes());
            let crc = crc32fast::hash(&bytes[..marker::CRC_AT]);
            bytes[marker::CRC_AT..].copy_from_slice(&crc.to_le_bytes());
            std::fs::write(log.join("deaddrop"), bytes).unwrap();
        },
        &["use the release that wrote it"],
        false,
    );
}

#[test]
fn a_directory_without_permission_is_refused_by_all() {
    // A place that another user and the program can reach.
    let scratch = Scratch::in_dir(tempfile::tempdir().unwrap());
    let program = open_to_all(&scratch);
    drop(scratch.topic_of("t", 0..10));
    let mode = |mode| {
        std::fs::set_permissions(scratch.log(), PermissionsExt::from_mode(mode)).unwrap();
    };
    let is_root = std::fs::metadata(scratch.log()).unwrap().uid() == 0;
    let before = states(&scratch.log());
    // Root may do everything, so it becomes another user.
    mode(if is_root { 0o700 } else { 0 });
    for line in lines(&scratch, "t").iter().filter(|line| line.does != Does::Nothing) {
        let mut command = scratch.command(&line.args(false));
        let mut command = match is_root {
            true => as_nobody(&program, &command),
            false => std::mem::replace(&mut command, std::process::Command::new("")),
        };
        let ran = run(&mut command, line.input());
        line.check_form(&ran, false);
        check(line, &ran, &scratch.log(), &["check who owns"]);
    }
    mode(0o700);
    assert!(states(&scratch.log()) == before);
}

/// Puts a copy of the program beside a log that every user can reach.
pub(super) fn open_to_all(scratch: &Scratch) -> PathBuf {
    let program = scratch.path().join("deaddrop");
    std::fs::copy(env!("CARGO_BIN_EXE_deaddrop"), &program).unwrap();
    for path in [scratch.path(), &program] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    program
}

/// Returns the same command, run by another user.
pub(super) fn as_nobody(program: &Path, like: &std::process::Command) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    command.args(like.get_args()).uid(NOBODY).gid(NOBODY).current_dir("/");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub(super) fn run(command: &mut std::process::Command, input: &[u8]) -> Ran {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    feed(&mut child, input);
    Ran::of(&child.wait_with_output().unwrap())
}

#[test]
fn bench_makes_nothing_in_a_log_or_in_foreign_directories() {
    let scratch = Scratch::new();
    let all = lines(&scratch, "t");
    let of = |command: &str| all.iter().find(|line| line.command == command).unwrap();
    // There is no directory to measure in.
    assert_eq!(of("bench").run(&scratch, false).code, Some(2));
    drop(scratch.topic_of("t", 0..10));
    let before = states(&scratch.log());
    let ran = of("bench").run(&scratch, false);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(ran.stderr.contains("log"), "{}", ran.stderr);
    assert!(states(&scratch.log()) == before);
    let marker = scratch.log().join("deaddrop");
    std::fs::remove_dir_all(scratch.log().join("topics")).unwrap();
    std::fs::rename(&marker, scratch.log().join("thesis.tex")).unwrap();
    of("bench").run(&scratch, false).expect(0);
    let left: Vec<_> = std::fs::read_dir(scratch.log()).unwrap().map(Result::unwrap).collect();
    assert_eq!(left.len(), 1, "{left:?}");
}
