//! A reading command that is blocked, in a wait or before a full pipe: it holds no lock, has
//! nothing open for writing, and writers continue.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use deaddrop::group::GroupOptions;
use deaddrop::Start;

use crate::support::Scratch;

/// Polls of a process until it is blocked, far more than a busy machine needs.
const LOOKS: u32 = 60_000;
/// The number of polls in a row that must find it asleep with no more work done.
const STILL: u32 = 50;

/// Returns state and processor time of a process.
fn state(pid: u32) -> (String, String) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    (fields[0].to_owned(), fields[11..13].join(" "))
}

/// Waits until it sleeps and stays asleep.
fn wait_until_it_stands(child: &Child) {
    let mut still = 0;
    let mut last = state(child.id());
    for _ in 0..LOOKS {
        std::thread::sleep(Duration::from_millis(1));
        let now = state(child.id());
        still = if now.0 == "S" && now == last { still + 1 } else { 0 };
        if still == STILL {
            return;
        }
        last = now;
    }
    panic!("it is never blocked: {last:?}");
}

/// Checks each file of the log that a process has open; returns their number.
fn check_files(pid: u32, log: &Path, args: &[&str]) -> usize {
    let mut found = 0;
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let entry = entry.unwrap();
        let target = std::fs::read_link(entry.path()).unwrap();
        if !target.starts_with(log) {
            continue;
        }
        found += 1;
        let number = entry.file_name().into_string().unwrap();
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap();
        let has_lock = info.lines().any(|line| line.starts_with("lock:"));
        assert!(!has_lock, "{args:?} holds a lock on {}: {info}", target.display());
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
        assert_eq!(flags & 0o3, 0, "{args:?} has {} open for writing", target.display());
    }
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    for line in maps.lines().filter(|line| line.contains(log.to_str().unwrap())) {
        found += 1;
        let mode = line.split_whitespace().nth(1).unwrap();
        let writes = mode.contains('w') && mode.contains('s');
        assert!(!writes, "{args:?} could write through its mapping: {line}");
    }
    found
}

#[test]
fn a_blocked_command_holds_no_lock_and_stops_no_writer() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..5_000);
    topic.consumer("idle", Start::First).unwrap();
    topic.group("spare", GroupOptions::default()).unwrap();
    let mut topic = Some(topic);
    for has_writer in [true, false] {
        // Without a writer, commands find the end by reading, and have no words to wait on.
        let held = topic.take_if(|_| !has_writer).is_none();
        let commands: &[&[&str]] = &[
            &["tail", "t", "-f", "-n", "1"],
            &["top", "--interval", "1h"],
            &["cat", "t", "--json"],
            &["export", "t"],
            &["dump", "t", "--hex"],
            &["tail", "t", "-n", "5000", "--json"],
        ];
        let mut children = Vec::new();
        for args in commands {
            let mut child = scratch.command(args).spawn().unwrap();
            let stdout = BufReader::with_capacity(1, child.stdout.take().unwrap());
            children.push((args, child, stdout));
        }
        for (args, child, stdout) in &mut children {
            if args.contains(&"-f") {
                stdout.read_line(&mut String::new()).unwrap();
            }
            wait_until_it_stands(child);
            let found = check_files(child.id(), &scratch.log(), args);
            assert!(found > 0, "{args:?} has nothing of the log open");
            assert!(child.try_wait().unwrap().is_none());
        }
        // Commands that need locks get them, even those that only one process can have.
        scratch.append("t", "more\n");
        scratch.run(&["consumers", "t", "--reset", "idle", "--to", "end", "--execute"]).expect(0);
        let repair = scratch.run(&["repair", "t", "--execute"]);
        assert_eq!(repair.code, Some(if held { 5 } else { 0 }), "{}", repair.stderr);
        for (args, mut child, stdout) in children {
            assert!(child.try_wait().unwrap().is_none(), "{args:?} has ended");
            child.kill().unwrap();
            child.wait().unwrap();
            drop(stdout);
        }
    }
}
