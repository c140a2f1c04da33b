//! Every command that a message recommends has the `-d DIR` of the command that printed it.

use std::collections::BTreeSet;
use std::path::Path;

use deaddrop::group::GroupOptions;
use deaddrop::Start;

use crate::support::{flip, Ran, Scratch};

/// The beginning of a recommended command in the output.
const BEGINS: &str = "`deaddrop ";

/// Checks that every command recommended on standard output or standard error has `-d`.
#[track_caller]
pub(crate) fn check(ran: &Ran) {
    for text in [&ran.text(), &ran.stderr] {
        for hint in text.split(BEGINS).skip(1) {
            assert!(hint.starts_with("-d "), "no -d in {BEGINS}{hint}");
        }
        let line = text.lines().find(|line| line.contains(": deaddrop "));
        assert!(line.is_none_or(|line| line.contains(": deaddrop -d ")), "no -d in {line:?}");
    }
}

/// Collects the recommendations in the sources: the file, and the first words of the command.
fn in_sources(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            in_sources(&path, found);
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        // Texts about arguments name no directory; `hint.rs` makes the hints.
        if !name.ends_with(".rs") || name == "hint.rs" || dir.ends_with("args") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            for begins in [BEGINS, "hint::command(\"", "hint::command(&format!(\""] {
                for hint in line.split(begins).skip(1) {
                    let is_word = |char: char| char.is_ascii_lowercase();
                    let word = hint.split(|char| !is_word(char)).next().unwrap();
                    found.insert(format!("{name} {word}"));
                }
            }
        }
    }
}

/// Commands whose output has each hint of the sources, by the file that has the hint.
const CASES: &[(&str, &str, i32)] = &[
    ("main.rs append", "-d nowhere ls", 3),
    ("exchange.rs ls", "pending --service nobody", 1),
    ("failure.rs ls", "cat nothing", 1),
    ("cat.rs info", "cat t 9", 1),
    ("cancel.rs trace", "cancel cli-0000000000000001-0", 1),
    ("request.rs dump", "request --attach cli-0000000000000001-0", 1),
    ("request.rs request", "request echo x --timeout 1ms", 124),
    ("missing.rs verify", "ls", 4),
    ("missing.rs repair", "ls", 4),
    ("verify.rs repair", "verify damaged", 4),
    ("verify.rs repair", "verify head", 4),
    ("verify.rs repair", "verify head --json", 4),
    ("segment.rs repair", "dump head -q", 4),
    ("error.rs verify", "cat damaged", 4),
    ("error.rs repair", "consumers t", 4),
    ("error.rs repair", "consumers t --json", 4),
    ("error.rs repair", "groups t", 4),
    ("error.rs repair", "groups t --json", 4),
    ("error.rs repair", "info t --json", 4),
    ("error.rs repair", "info t", 4),
    ("error.rs dump", "top --once --interval 10ms", 4),
    ("error.rs dump", "top --once --interval 10ms --json", 4),
];

#[test]
fn each_hint_of_the_sources_names_the_directory_that_was_given() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..3);
    topic.consumer("c", Start::First).unwrap().sync().unwrap();
    topic.group("g", GroupOptions::default()).unwrap();
    for name in ["damaged", "head", "beyond"] {
        drop(scratch.topic_of(name, 0..5));
    }
    drop(topic);
    let dir = scratch.log().join("topics");
    flip(&dir.join("t/consumers/c"), 20, 0);
    flip(&dir.join("t/groups/g"), 20, 0);
    flip(&scratch.segments("damaged")[0], 4096 + 48 + 36, 0);
    flip(&scratch.segments("head")[0], 20, 0);
    flip(&scratch.segments("beyond")[0], 4096 + 48 + 36, 0);
    // As after a reboot, so that it ends where its frames do.
    std::fs::remove_file(dir.join("beyond/control")).unwrap();
    for (hint, line, code) in CASES {
        let args: Vec<&str> = line.split(' ').collect();
        let args = if args[0] == "-d" { args[2..].to_vec() } else { args };
        let elsewhere = Scratch::new();
        let place = if line.starts_with("-d") { &elsewhere } else { &scratch };
        let ran = place.run(&args).expect(*code);
        check(&ran);
        let said = format!("{}{}", ran.text(), ran.stderr);
        let wanted = format!("deaddrop -d {} ", place.log().display());
        let word = hint.split(' ').next_back().unwrap();
        let is_there = said.contains(&format!("{wanted}{word}"));
        assert!(is_there, "{line} has no {hint}: {said}");
    }
    let mut found = BTreeSet::new();
    in_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    for hint in &found {
        assert!(CASES.iter().any(|(name, ..)| name == hint), "{hint} needs a case above");
    }
    assert!(found.len() > 8, "{found:?}");
}
