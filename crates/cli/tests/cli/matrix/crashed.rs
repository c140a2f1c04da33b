//! The files that killed writers leave, in place and in copies.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use deaddrop::Log;

use super::load::{check, make_topics, Acknowledged, Load};
use super::{lines, Does, Line};
use crate::support::{copy_dir, half_make, snapshot, Scratch};

/// When a writer is killed, this many more records than at the start are acknowledged.
const MORE: u64 = 300;
/// The number of times that a copy is begun.
const MOST_COPIES: usize = 100;

/// Copies as `cp -r` does beside living processes. If a segment goes before it is copied, the
/// earlier ones have gone too: the copy of the topic begins again after it, or it would have a
/// hole; and from the start if there is none after it.
fn copy_live(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for _ in 0..MOST_COPIES {
        let mut entries: Vec<_> = std::fs::read_dir(from).unwrap().map(Result::unwrap).collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        let mut is_whole = true;
        for entry in entries {
            let target = to.join(entry.file_name());
            let is_segment = target.extension().is_some_and(|extension| extension == "seg");
            match entry.path().is_dir() {
                true => copy_live(&entry.path(), &target),
                false => match std::fs::copy(entry.path(), target) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                        if is_segment {
                            remove_segments(to);
                            is_whole = false;
                        }
                    }
                    other => {
                        other.unwrap();
                        is_whole |= is_segment;
                    }
                },
            }
        }
        if is_whole {
            return;
        }
        remove_segments(to);
    }
    panic!("retention was faster {MOST_COPIES} times");
}

fn remove_segments(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "seg" || extension == "idx") {
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// Writes the first half of the first frame once more after the last one, as a kill in the middle
/// of an append leaves it.
fn tear(scratch: &Scratch, topic: &str) {
    let path = scratch.segments(topic).pop().unwrap();
    let lines = scratch.run(&["dump", path.to_str().unwrap(), "--json"]).json();
    let zeros = lines.iter().find(|line| line["kind"] == "zeros").expect("it has room");
    let end = zeros["position"].as_u64().unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut half = [0; 40];
    file.read_exact_at(&mut half, 4096).unwrap();
    file.write_all_at(&half, end).unwrap();
}

/// Returns the codes of a command. `whole`: nothing was copied while it was being written.
fn codes(line: &Line, whole: bool) -> &'static [i32] {
    match line.command {
        // The original of a dead letter is there, or was dropped.
        "dead" | "clients" => &[0, 1],
        // Bytes that were copied before earlier ones look like damage, and verify says that they
        // may be no more than that.
        "dump" if !whole => &[0, 4],
        // And a topic was copied before it had its first segment.
        "verify" | "repair" if !whole => &[0, 1, 4],
        _ => &[0],
    }
}

/// Runs reading commands first, which change nothing, and then all others. Every acknowledged
/// record must still be there.
fn run_all(name: &str, scratch: &Scratch, acknowledged: &Acknowledged, whole: bool) {
    let before = snapshot(&scratch.log());
    let both = || [("t", true), ("safe", false)].into_iter();
    for (line, json) in both().flat_map(|(topic, json)| {
        let all = lines(scratch, topic).into_iter();
        all.filter(|line| line.does == Does::Read).map(move |line| (line, json))
    }) {
        let ran = line.run(scratch, json);
        let (words, said) = (&line.words, &ran.stderr);
        let code = ran.code.unwrap();
        assert!(
            codes(&line, whole).contains(&code),
            "{name} {words:?}: {code} {said}{}",
            ran.text()
        );
        let has_doubt = code != 4 || line.command != "verify" || ran.text().contains("or a copy");
        assert!(has_doubt, "{name}: {}", ran.text());
    }
    assert!(snapshot(&scratch.log()) == before, "{name}: reading has changed a file");
    check(&Log::open_read_only(scratch.log()).unwrap(), acknowledged, whole);
    for (line, json) in both().flat_map(|(topic, json)| {
        let all = lines(scratch, topic).into_iter();
        all.filter(|line| matches!(line.does, Does::Make | Does::Change))
            // No server runs, and there is no such request.
            .filter(|line| !line.is("request", "--timeout") && line.command != "cancel")
            .map(move |line| (line, json))
    }) {
        let ran = line.run(scratch, json);
        assert_eq!(ran.code, Some(0), "{name} {:?}: {}", line.words, ran.stderr);
    }
    if !whole {
        let ran = scratch.run(&["verify"]).expect(1);
        let said = &ran.stderr;
        assert!(said.contains("half.parked: ") && said.contains("was interrupted"), "{said}");
        scratch.run(&["repair", "--all", "--execute"]).expect(0);
    }
    scratch.run(&["verify"]).expect(0);
    // In an early copy, other records follow now.
    if whole {
        check(&Log::open_read_only(scratch.log()).unwrap(), acknowledged, true);
    }
}

#[test]
fn every_command_works_on_a_crashed_log_and_on_its_copies() {
    let crashed = Scratch::new();
    make_topics(&crashed, 0o600);
    let load = Load::start(&crashed);
    load.wait_for_more(&load.counts().iter().map(|count| count + MORE).collect::<Vec<_>>());
    let (running, after, torn) = (Scratch::new(), Scratch::new(), Scratch::new());
    copy_live(&crashed.log(), &running.log());
    // A copy can catch any topic before it has its first segment: here one always does.
    half_make(&running, "half.parked");
    let acknowledged = load.kill();
    for copy in [&after, &torn] {
        copy_dir(&crashed.log(), &copy.log());
    }
    tear(&torn, "t");
    tear(&torn, "safe");
    run_all("copied while it was written", &running, &acknowledged, false);
    run_all("copied after the kill", &after, &acknowledged, true);
    run_all("with a torn tail", &torn, &acknowledged, true);
    run_all("where it lies", &crashed, &acknowledged, true);
}
