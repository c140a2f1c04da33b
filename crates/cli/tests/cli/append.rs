//! `append`: every record comes out byte for byte as it went in, and acknowledgements are true.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use crate::support::{Ran, Random, Scratch};

#[test]
fn any_bytes_come_back_as_they_were_given() {
    let scratch = Scratch::new();
    let mut random = Random(1);
    let mut bytes: Vec<u8> = (0..300_000).map(|_| random.below(256) as u8).collect();
    bytes.push(b'\n');
    scratch.run_with(&["append", "t"], &bytes).expect(0);
    assert!(scratch.run(&["cat", "t"]).expect(0).stdout == bytes);
    bytes.push(0);
    scratch.run_with(&["append", "nul", "--null"], &bytes).expect(0);
    assert!(scratch.run(&["cat", "nul", "-0"]).expect(0).stdout == bytes);
}

#[test]
fn a_last_line_without_a_newline_and_empty_lines_are_records() {
    let scratch = Scratch::new();
    let ran = scratch.run_with(&["append", "t", "--json"], b"\na\n\nlast").expect(0);
    assert_eq!(ran.json()[0]["records"], 4);
    assert_eq!(scratch.run(&["cat", "t"]).expect(0).stdout, b"\na\n\nlast\n");
    let ran = scratch.run_with(&["append", "t", "--json"], b"").expect(0);
    assert_eq!((&ran.json()[0]["records"], &ran.json()[0]["last"]), (&0.into(), &().into()));
}

#[test]
fn files_are_read_in_order_and_whole_ones_are_one_record_each() {
    let scratch = Scratch::new();
    for (name, text) in [("a", "1\n2\n"), ("b", "3\n")] {
        std::fs::write(scratch.path().join(name), text).unwrap();
    }
    scratch.run_with(&["append", "lines", "a", "-", "b"], b"between\n").expect(0);
    assert_eq!(scratch.run(&["cat", "lines"]).text(), "1\n2\nbetween\n3\n");
    scratch.run(&["append", "whole", "--whole", "a", "b"]).expect(0);
    scratch.run(&["append", "whole", "--key", "k", "--file", "b", "a"]).expect(0);
    let text = scratch.run(&["cat", "whole", "--format", "%k<%p>"]).text();
    assert_eq!(text, "<1\n2\n><3\n>k<3\n>k<1\n2\n>");
    scratch.run(&["append", "whole", "a", "--file", "b"]).expect(2);
    let ran = scratch.run(&["append", "lines", "a", "missing", "b"]).expect(3);
    assert!(ran.stderr.contains("opening missing") && ran.stderr.contains("2 records before it"));
    assert_eq!(scratch.run(&["cat", "lines", "-2"]).text(), "1\n2\n");
}

#[test]
fn json_lines_come_back_as_the_same_json() {
    let scratch = Scratch::new();
    let given = concat!(
        r#"{"payload":"plain"}"#,
        "\n\n",
        r#"{"key":"k","headers":{"a":"1"},"payload_base64":"//4="}"#,
        "\n",
        r#"{"key_base64":"/w==","headers":[{"name":"a","value":"1"},{"name":"a","value_base64":"/w=="}],"payload":""}"#,
    );
    scratch.run_with(&["append", "one", "--ndjson", "--key", "other"], given.as_bytes()).expect(0);
    let printed = scratch.run(&["cat", "one", "--json"]).expect(0);
    let records = printed.json();
    assert_eq!(records.len(), 3);
    assert_eq!((&records[0]["key"], &records[0]["payload"]), (&"other".into(), &"plain".into()));
    assert_eq!(records[1]["payload_base64"], "//4=");
    assert_eq!(records[2]["headers"][1]["value_base64"], "/w==");
    scratch.run_with(&["append", "two", "--ndjson"], &printed.stdout).expect(0);
    for (again, first) in scratch.run(&["cat", "two", "--json"]).json().iter().zip(&records) {
        for field in ["key", "key_base64", "headers", "payload", "payload_base64", "offset"] {
            assert_eq!(again[field], first[field], "{field}");
        }
    }
    let ran =
        scratch.run_with(&["append", "two", "--ndjson"], b"{\"payload\":\"x\"}\n{}\n").expect(2);
    assert!(ran.stderr.contains("line 2 of standard input"), "{}", ran.stderr);
    assert_eq!(scratch.run(&["cat", "two", "-1"]).text(), "x\n", "the lines before the bad one");
}

#[test]
fn an_offset_is_printed_as_soon_as_its_line_was_given() {
    for durability in ["power-loss", "process-crash", "within:50ms"] {
        let scratch = Scratch::new();
        let mut child = scratch
            .command(&["append", "t", "--ack", "--durability", durability])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut acks = BufReader::new(child.stdout.take().unwrap()).lines();
        for index in 0..20 {
            writeln!(stdin, "line {index}").unwrap();
            // Blocks forever if the record waited for more input.
            assert_eq!(acks.next().unwrap().unwrap(), index.to_string());
            let seen = scratch.run(&["cat", "t", "-1"]).expect(0);
            assert_eq!(seen.text(), format!("line {index}\n"), "an acknowledged record is there");
        }
        drop(stdin);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn without_acks_a_line_does_not_wait_for_the_next_one() {
    let scratch = Scratch::new();
    scratch.append("t", "");
    let mut child = scratch.command(&["append", "t"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut tail = scratch.command(&["tail", "-f", "t"]).spawn().unwrap();
    let mut seen = BufReader::new(tail.stdout.take().unwrap()).lines();
    for index in 0..5 {
        writeln!(stdin, "line {index}").unwrap();
        assert_eq!(seen.next().unwrap().unwrap(), format!("line {index}"));
    }
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    tail.kill().unwrap();
    tail.wait().unwrap();
}

#[test]
fn four_processes_at_once_lose_nothing_and_keep_their_order() {
    const LINES: usize = 20_000;
    let scratch = Scratch::new();
    let lines = |process: usize| -> Vec<u8> {
        let mut random = Random(process as u64);
        let mut bytes = Vec::new();
        for index in 0..LINES {
            write!(bytes, "{process} {index} ").unwrap();
            // Any bytes except the newline, of any length.
            let len = random.below(90);
            bytes.extend((0..len).map(|_| match random.below(256) as u8 {
                b'\n' => b' ',
                other => other,
            }));
            bytes.push(b'\n');
        }
        bytes
    };
    let given: Vec<Vec<u8>> = (0..4).map(lines).collect();
    let args = ["append", "t", "--durability", "process-crash", "--segment-size", "256KiB"];
    std::thread::scope(|scope| {
        for bytes in &given {
            scope.spawn(|| scratch.run_with(&args, bytes).expect(0));
        }
    });
    let read = scratch.run(&["cat", "t"]).expect(0).stdout;
    for (process, bytes) in given.iter().enumerate() {
        let tag = format!("{process} ").into_bytes();
        let of_process =
            read.split_inclusive(|&byte| byte == b'\n').filter(|l| l.starts_with(&tag));
        assert!(of_process.collect::<Vec<_>>().concat() == *bytes, "process {process}");
    }
    assert_eq!(read.iter().filter(|&&byte| byte == b'\n').count(), 4 * LINES);
    scratch.run(&["verify"]).expect(0);
}

#[test]
fn acknowledged_lines_survive_the_kill_of_their_writer() {
    for durability in ["process-crash", "power-loss"] {
        let scratch = Scratch::new();
        for round in 0..5 {
            let mut child = scratch
                .command(&["append", "t", "--ack", "--durability", durability])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            let writer = std::thread::spawn(move || {
                // Ends with a broken pipe when the child is killed.
                (0..1_000_000).try_for_each(|index| writeln!(stdin, "{round} {index}"))
            });
            let mut acks = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut acked: Vec<u64> =
                acks.by_ref().take(300).map(|line| line.unwrap().parse().unwrap()).collect();
            child.kill().unwrap();
            child.wait().unwrap();
            writer.join().unwrap().unwrap_err();
            acked.extend(acks.filter_map(|line| line.unwrap().parse::<u64>().ok()));
            let all = scratch.run(&["cat", "t", "--format", r"%o %p\n"]).expect(0).text();
            let all: HashSet<&str> = all.lines().collect();
            for (index, offset) in acked.iter().enumerate() {
                let line = format!("{offset} {round} {index}");
                assert!(all.contains(line.as_str()), "{line:?} was acknowledged");
            }
            scratch.run(&["verify", "t"]).expect(0);
        }
    }
}

#[test]
fn other_settings_than_the_stored_ones_are_refused() {
    let scratch = Scratch::new();
    let first = ["append", "t", "--durability", "within:500ms", "--segment-size", "64KiB"];
    scratch.run_with(&first, b"a\n").expect(0);
    // One setting alone leaves the others unchanged.
    scratch.run_with(&["append", "t", "--segment-size", "65536"], b"b\n").expect(0);
    let ran = scratch.run_with(&["append", "t", "--durability", "power-loss"], b"c\n").expect(2);
    assert!(ran.stderr.contains("500ms"), "{}", ran.stderr);
    assert_eq!(scratch.run(&["cat", "t"]).text(), "a\nb\n");
}

#[test]
fn records_larger_than_a_segment_are_taken() {
    let scratch = Scratch::new();
    let large = "y".repeat(200_000);
    let input = format!("small\n{large}\nsmall again\n");
    scratch.run_with(&["append", "t", "--segment-size", "16KiB"], input.as_bytes()).expect(0);
    assert!(scratch.run(&["cat", "t"]).expect(0).text() == input);
    scratch.run(&["verify"]).expect(0);
}

#[test]
fn a_reserved_header_is_refused_and_a_summary_is_printed() {
    let scratch = Scratch::new();
    let args = ["append", "t", "-H", "deaddrop.request=x"];
    scratch.run_with(&args, b"a\n").expect(2);
    let Ran { stderr, .. } = scratch.run_with(&["append", "t"], b"a\nbc\n").expect(0);
    assert!(stderr.starts_with("deaddrop: appended 2 records (3 B), offsets 0 to 1,"), "{stderr}");
}

#[test]
fn input_that_is_not_json_is_refused_in_plain_words() {
    let scratch = Scratch::new();
    for (line, said) in [
        ("nothing", "standard input is not a record: it is not valid JSON at column 2"),
        ("{\"payload\":\"x", "its JSON is cut off at column"),
    ] {
        let ran = scratch.run_with(&["append", "t", "--ndjson"], line.as_bytes()).expect(2);
        assert!(ran.stderr.contains(said), "{line}: {}", ran.stderr);
        assert!(!ran.stderr.contains("expected"), "{line}: {}", ran.stderr);
    }
}
