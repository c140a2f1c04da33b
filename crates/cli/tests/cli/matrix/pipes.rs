//! Standard output that accepts no more: a reader that has gone, and a full disk.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use deaddrop::group::GroupOptions;
use deaddrop::service::{HandlerError, ServerOptions};
use deaddrop::{Log, Start};

use super::{lines, Does, Line};
use crate::support::{feed, Ran, Scratch};

/// A log for which every command has something to print.
fn log() -> Scratch {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..5_000);
    topic.consumer("idle", Start::First).unwrap();
    for group in ["workers", "spare"] {
        topic.group(group, GroupOptions::default()).unwrap();
    }
    let log = Log::open_or_create(scratch.log()).unwrap();
    let options = ServerOptions::default().with_max_attempts(1);
    let server = log.server_with("echo", options, |_| Err(HandlerError::retry("poison")));
    let server = server.unwrap().spawn().unwrap();
    let ran = scratch.run(&["request", "echo", "hello", "--key", "k"]).expect(1);
    assert!(ran.stderr.contains("dead-lettered"), "{}", ran.stderr);
    server.stop().unwrap();
    scratch
}

/// Returns whether a command prints anything.
fn prints(line: &Line, json: bool) -> bool {
    match line.command {
        "man" | "serve" => false,
        // There is no such request.
        "cancel" => false,
        // There is no such client either.
        "clients" => !line.is("clients", "retire"),
        // They report their work on stderr.
        "append" => json || line.words.iter().any(|word| word == "--ack"),
        "import" => json,
        // There is no row for a client without requests.
        "pending" => !json || line.words.len() == 1,
        _ => true,
    }
}

/// Returns the commands to run here, and whether with --json.
fn printing(scratch: &Scratch) -> Vec<(Line, bool)> {
    let both =
        lines(scratch, "t").into_iter().flat_map(|line| [(line.clone(), false), (line, true)]);
    both.filter(|(line, json)| prints(line, *json))
        .filter(|(line, _)| line.command != "bench" && !line.is("request", "--timeout"))
        // Changes can be made only once.
        .filter(|(line, json)| line.does != Does::Change || !json)
        .collect()
}

fn run_into(scratch: &Scratch, line: &Line, json: bool, stdout: Stdio) -> Ran {
    let mut command = scratch.command(&line.args(json));
    let mut child = command.stdin(Stdio::piped()).stdout(stdout).spawn().unwrap();
    feed(&mut child, line.input());
    Ran::of(&child.wait_with_output().unwrap())
}

#[test]
fn a_reader_that_has_gone_is_not_an_error_of_any_command() {
    let scratch = log();
    for (line, json) in printing(&scratch) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        drop(reader);
        let ran = run_into(&scratch, &line, json, writer.into());
        assert_eq!(ran.code, Some(0), "{:?}: {}", line.words, ran.stderr);
        // It has appended everything, and reports so.
        let summary = line.words.iter().any(|word| word == "--ack");
        assert!(summary || ran.stderr.is_empty(), "{:?}: {}", line.words, ran.stderr);
    }
}

#[test]
fn a_reader_that_leaves_after_the_first_line_is_not_an_error() {
    let scratch = log();
    for args in [
        vec!["cat", "t"],
        vec!["cat", "t", "--format", "raw"],
        vec!["tail", "t", "-n", "5000"],
        vec!["tail", "t", "-n", "1", "-f"],
        vec!["export", "t"],
        vec!["dump", "t", "--hex"],
        vec!["top", "--interval", "10ms"],
        vec!["groups", "t", "workers", "--lanes", "--json"],
        vec!["completions", "zsh"],
        vec!["--help"],
    ] {
        let mut child = scratch.command(&args).spawn().unwrap();
        let mut stdout = BufReader::with_capacity(16, child.stdout.take().unwrap());
        if args.contains(&"raw") {
            stdout.fill_buf().unwrap();
        } else {
            stdout.read_line(&mut String::new()).unwrap();
        }
        drop(stdout);
        if args.contains(&"-f") {
            // It notices that the reader has gone when it has something to print.
            scratch.append("t", "more\n");
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*said), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn all_input_is_appended_even_if_no_process_reads_the_acknowledgements() {
    let scratch = Scratch::new();
    let input: String = (0..1_000).map(|index| format!("{index}\n")).collect();
    let args = ["append", "t", "--ack", "-q", "--durability", "process-crash"];
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    drop(reader);
    let mut child = scratch.command(&args).stdin(Stdio::piped()).stdout(writer).spawn().unwrap();
    feed(&mut child, input.as_bytes());
    let ran = Ran::of(&child.wait_with_output().unwrap()).expect(0);
    assert!(ran.stderr.is_empty(), "{}", ran.stderr);
    assert_eq!(scratch.run(&["cat", "t"]).expect(0).text(), input);
}

#[test]
fn a_full_disk_under_standard_output_is_reported_with_code_3() {
    let scratch = log();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    for (line, json) in printing(&scratch) {
        let ran = run_into(&scratch, &line, json, full().into());
        let (words, said) = (&line.words, &ran.stderr);
        assert_eq!(ran.code, Some(3), "{words:?} json {json}: {said}");
        assert!(
            said.starts_with("deaddrop: writing to standard output: No space"),
            "{words:?}: {said}"
        );
    }
    for args in
        [vec!["--help"], vec!["cat", "--help"], vec!["--version"], vec!["ls", "--format", "help"]]
    {
        let output = scratch.command(&args).stdout(full()).output().unwrap();
        let ran = Ran::of(&output).expect(3);
        assert!(ran.stderr.contains("writing to standard output"), "{args:?}: {}", ran.stderr);
    }
}
