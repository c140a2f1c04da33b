//! Messages to people: misspelt words, hints that can be typed, directories that are made.

use std::process::{Command, Stdio};

use crate::support::{Ran, Scratch};

#[test]
fn a_misspelt_option_is_reported_as_an_option() {
    let scratch = Scratch::new();
    scratch.append("t", "a\n");
    for (args, option, tip) in [
        (vec!["cat", "t", "--key", "item 1"], "--key", ""),
        (vec!["cat", "t", "--follow"], "--follow", "deaddrop tail -f"),
        (vec!["tail", "t", "--jsn"], "--jsn", "'--json'"),
        (vec!["tail", "t", "-5", "--jsn"], "--jsn", "'--json'"),
        (vec!["export", "t", "--skip-damge"], "--skip-damge", "'--skip-damage'"),
        (vec!["dump", "t", "--quite"], "--quite", "'--quiet'"),
        (vec!["cat", "t", "-x"], "-x", ""),
        (vec!["cat", "t", "--from", "-2", "--tto", "5"], "--tto", ""),
        (vec!["request", "inventory", "--timout", "5s"], "--timout", "'--timeout'"),
        (vec!["request", "inventory", "--foo"], "--foo", ""),
    ] {
        let ran = scratch.run(&args).expect(2);
        let said = format!("deaddrop: unexpected argument '{option}' found\n");
        assert!(ran.stderr.starts_with(&said) && ran.stderr.contains(tip), "{}", ran.stderr);
        assert!(!ran.stderr.contains("as a value"), "{}", ran.stderr);
    }
    // Ranges are not options, and everything after -- is a payload.
    for args in [vec!["cat", "t", "-5"], vec!["cat", "t", "-1h:"], vec!["tail", "t", "-1h:-30m"]] {
        scratch.run(&args).expect(0);
    }
    scratch.run(&["request", "inventory", "--no-wait", "--", "--foo"]).expect(0);
    assert_eq!(scratch.run(&["cat", "inventory.requests"]).expect(0).text(), "--foo\n");
    let ran = scratch.run(&["./drop", "ls"]).expect(2);
    assert!(ran.stderr.contains("-d ./drop COMMAND"), "{}", ran.stderr);
    let ran = scratch.run(&["cta", "t"]).expect(2);
    assert!(ran.stderr.contains("'cat'") && !ran.stderr.contains("'tail'"), "{}", ran.stderr);
}

#[test]
fn an_invalid_duration_or_service_is_refused_with_valid_forms() {
    let scratch = Scratch::new();
    for args in [
        ["request", "s", "x", "--timeout", "abc"],
        ["request", "s", "x", "--deadline", "5"],
        ["create", "t", "--retain-age", "1y2", "--json"],
        ["top", "--once", "--interval", "x", "--json"],
    ] {
        let ran = scratch.run(&args).expect(2);
        assert!(ran.stderr.contains("not a duration: write 500ms, 5s"), "{}", ran.stderr);
    }
    let ran = scratch.run(&["request", "a b", "x", "--timeout", "1ms"]).expect(2);
    assert!(ran.stderr.contains("cannot be a name"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("waits"), "{}", ran.stderr);
}

#[test]
fn a_hint_names_the_directory_that_was_given() {
    let scratch = Scratch::in_dir(
        tempfile::Builder::new().prefix("it's a ").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
    );
    scratch.append("t", "a\nb\n");
    let dir = scratch.log().to_str().unwrap().replace('\'', r"'\''");
    let program = format!("deaddrop -d '{dir}' ");
    for (args, code) in [
        (vec!["cat", "other"], 1),
        (vec!["cat", "t", "9"], 1),
        (vec!["request", "s", "x", "--timeout", "1ms"], 124),
    ] {
        let ran = scratch.run(&args).expect(code);
        assert!(ran.stderr.contains(&program), "{}", ran.stderr);
    }
    crate::support::flip(&scratch.segments("t")[0], 4096 + 40, 0);
    let said = scratch.run(&["verify", "t"]).expect(4).text();
    assert!(said.contains(&format!("{program}repair t")), "{said}");
    // Pasted into a shell, it refers to the same directory.
    let hint = said.lines().last().unwrap().split_once(": ").unwrap().1;
    let pasted = hint.replacen("deaddrop", env!("CARGO_BIN_EXE_deaddrop"), 1);
    let ran = Ran::of(&Command::new("sh").args(["-c", &pasted]).output().unwrap()).expect(4);
    assert!(ran.text().contains("damaged in 1 place"), "{}", ran.text());
    // The messages of the library name commands too.
    assert!(scratch.run(&["cat", "t"]).expect(4).stderr.contains(&format!("`{program}repair`")));
    // Without -d there is none.
    let mut command = Command::new(env!("CARGO_BIN_EXE_deaddrop"));
    command.args(["cat", "other"]).current_dir(scratch.path()).stdin(Stdio::null());
    let ran = Ran::of(&command.output().unwrap()).expect(1);
    assert!(ran.stderr.contains("`deaddrop ls`"), "{}", ran.stderr);
}

#[test]
fn a_new_log_is_reported_and_so_is_a_missing_one() {
    let scratch = Scratch::new();
    let ran = scratch.run(&["ls"]).expect(3);
    assert!(ran.stderr.contains("is not a log: it does not exist"), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("append TOPIC`") && ran.stderr.contains("-d DIR"),
        "{}",
        ran.stderr
    );
    let made = format!("created a new log in {}", scratch.log().display());
    assert!(scratch.run_with(&["append", "t"], b"").expect(0).stderr.contains(&made));
    assert!(!scratch.run_with(&["append", "t"], b"").expect(0).stderr.contains("created"));
}

#[test]
fn acknowledgements_that_cannot_be_printed_do_not_stop_an_append() {
    let scratch = Scratch::new();
    let mut child = scratch
        .command(&["append", "t", "--ack"])
        .stdin(Stdio::piped())
        .stdout(std::fs::File::options().write(true).open("/dev/full").unwrap())
        .spawn()
        .unwrap();
    crate::support::feed(&mut child, b"a\nb\nc\n");
    let ran = Ran::of(&child.wait_with_output().unwrap()).expect(3);
    assert!(ran.stderr.contains("No space left"), "{}", ran.stderr);
    assert!(ran.stderr.contains("3 records"), "{}", ran.stderr);
    assert_eq!(scratch.run(&["cat", "t"]).expect(0).text(), "a\nb\nc\n");
}

#[test]
fn json_that_could_be_read_in_two_ways_is_refused_in_words_of_json() {
    let scratch = Scratch::new();
    for (line, said) in [
        (r#"{"payload":"x","headers":{"a":"1","a":"2"}}"#, "header \"a\" is given twice"),
        (
            r#"[null,null,null,null,"k",null,[],"hello",null]"#,
            "expected an object with \"payload\"",
        ),
        (r#"{"payload":"x","payload":"y"}"#, "\"payload\" is given twice"),
        (r#"{"payload":"x","key":"a","key":null}"#, "\"key\" is given twice"),
        (r#"{"payload":"x","headers":[["a","1"]]}"#, "expected a header as"),
        (r#"{"payload":"x","headers":[{"value":"1"}]}"#, "a header without a \"name\""),
        (r#"{"payload":"x","headers":5}"#, "expected headers as"),
        (r#"{"payload":"x","headers":{"":"1"}}"#, "a header's name is empty"),
        (r#"{"payload":"x","headers":{"a\nb":"1"}}"#, "has a control character"),
        ("nope", "not valid JSON"),
        (r#""text""#, "expected an object"),
    ] {
        for command in ["append", "import"] {
            let args = match command {
                "append" => vec!["append", "t", "--ndjson"],
                _ => vec!["import", "t"],
            };
            if command == "import" && said.contains("header's name") | said.contains("control") {
                // A name that was stored once is restored.
                continue;
            }
            let ran = scratch.run_with(&args, line.as_bytes()).expect(2);
            assert!(ran.stderr.contains(said), "{line}: {}", ran.stderr);
            for word in ["Given", "struct", "enum", "variant"] {
                assert!(!ran.stderr.contains(word), "{line}: {}", ran.stderr);
            }
        }
    }
    for header in ["=b", "a\nb=c"] {
        scratch.run_with(&["append", "t", "-H", header], b"x").expect(2);
    }
    let good = "\u{feff}{\"payload\":\"one\",\"headers\":null}\r\n{\"payload\":\"two\",\"headers\":\
                [{\"name\":\"a\",\"value\":\"1\"},{\"name\":\"a\",\"value\":\"2\"}],\"key\":null}\n";
    scratch.run_with(&["append", "t", "--ndjson", "-q"], good.as_bytes()).expect(0);
    let lines = scratch.run(&["cat", "t", "--format", "%v %h%n"]).expect(0).text();
    assert_eq!(lines, "one \ntwo a=1,a=2\n");
}

#[test]
fn a_consumer_before_the_first_offset_is_reported() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..1000);
    topic.consumer("c", deaddrop::Start::Offset(2)).unwrap().sync().unwrap();
    let first = topic.trim_before(900).unwrap();
    drop(topic);
    let row = &scratch.run(&["consumers", "t", "--json"]).expect(0).json()[0];
    assert_eq!(row["missed"], first - 2);
    for args in [vec!["consumers", "t"], vec!["info", "t"], vec!["stats", "t"]] {
        let text = scratch.run(&args).expect(0).text();
        let said =
            format!("before the first offset ({first}): {} records dropped unread", first - 2);
        assert!(text.contains(&said), "{text}");
    }
}

#[test]
fn a_follower_reports_that_its_topic_was_deleted_and_follows_a_new_one_if_asked() {
    use std::io::{BufRead, BufReader};
    for retry in [false, true] {
        let scratch = Scratch::new();
        scratch.append("t", "one\n");
        let args = ["tail", if retry { "-F" } else { "-f" }, "t"];
        let mut child = scratch.command(&args).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(out.next().unwrap().unwrap(), "one");
        scratch.run(&["delete", "t", "--execute"]).expect(0);
        if retry {
            let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
            let line = said.next().unwrap().unwrap();
            assert!(line.contains("topic t was deleted: waiting for a new one"), "{line}");
            scratch.append("t", "two\n");
            assert_eq!(out.next().unwrap().unwrap(), "two");
            child.kill().unwrap();
            child.wait().unwrap();
        } else {
            let ran = Ran::of(&child.wait_with_output().unwrap()).expect(1);
            assert!(ran.stderr.contains("topic t was deleted"), "{}", ran.stderr);
        }
    }
}

#[test]
fn a_follower_stays_with_a_log_that_is_moved() {
    use std::io::{BufRead, BufReader};
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..1);
    let mut child = scratch.command(&["tail", "-f", "t"]).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(out.next().unwrap().unwrap(), crate::support::payload(0));
    std::fs::rename(scratch.log(), scratch.path().join("moved")).unwrap();
    // The follower checks for new records several times between these.
    for number in 0..5 {
        topic.append(&deaddrop::Record::new(format!("after {number}"))).unwrap();
        assert_eq!(out.next().unwrap().unwrap(), format!("after {number}"));
        std::thread::sleep(std::time::Duration::from_millis(150));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_follower_of_a_range_ends_after_as_many_records_as_were_asked_for() {
    let scratch = Scratch::new();
    scratch.append("t", "a\nb\nc\n");
    for args in [vec!["tail", "-f", "-n", "2", "t", "1:"], vec!["tail", "-n", "2", "t", "1:"]] {
        assert_eq!(scratch.run(&args).expect(0).text(), "b\nc\n");
    }
}
