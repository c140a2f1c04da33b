//! Odd input: the exit codes, and messages that advise.

use crate::support::Scratch;

#[test]
fn wrong_usage_is_code_2() {
    let scratch = Scratch::new();
    for args in [
        vec![],
        vec!["no-such-command"],
        vec!["cat"],
        vec!["append", "t", "--durability", "sometimes"],
        vec!["append", "t", "--segment-size", "1.5M"],
        vec!["append", "t", "--segment-size", "5000"],
        vec!["append", "t", "--whole", "--ndjson"],
        vec!["cat", "t", "--format", "%q"],
        vec!["append", "../x"],
        vec!["append", ".hidden"],
        vec!["append", "a/b"],
        vec!["append", ""],
    ] {
        let ran = scratch.run(&args).expect(2);
        assert!(ran.stderr.starts_with("deaddrop: ") || args.is_empty(), "{}", ran.stderr);
        assert!(ran.stdout.is_empty());
    }
    assert!(!scratch.path().join("x").exists());
}

#[test]
fn an_invalid_request_id_is_refused_before_anything_is_opened() {
    let scratch = Scratch::new();
    for args in [vec!["trace"], vec!["request", "--attach"]] {
        let ran = scratch.run(&[&args[..], &["nonsense"]].concat()).expect(2);
        let said = "deaddrop: invalid value 'nonsense' for '";
        assert!(ran.stderr.starts_with(said), "{}", ran.stderr);
        assert!(ran.stderr.contains("expected CLIENT-INCARNATION-SEQUENCE"), "{}", ran.stderr);
        // An id of the right form is accepted: only the log is missing.
        scratch.run(&[&args[..], &["cli-0000000000000001-0"]].concat()).expect(3);
    }
}

#[test]
fn a_name_that_would_leave_the_directory_is_refused_by_reading_commands_too() {
    let scratch = Scratch::new();
    scratch.append("t", "a\n");
    for command in ["cat", "tail", "export", "info", "consumers", "verify"] {
        let ran = scratch.run(&[command, "../t"]).expect(2);
        assert!(ran.stderr.contains("cannot be a name"), "{}", ran.stderr);
    }
}

#[test]
fn a_missing_log_or_topic_is_not_made_by_reading_it() {
    let scratch = Scratch::new();
    for args in [vec!["ls"], vec!["cat", "t"], vec!["verify"], vec!["consumers", "t"]] {
        let ran = scratch.run(&args).expect(3);
        assert!(ran.stderr.contains("check the path"), "{}", ran.stderr);
    }
    assert!(!scratch.log().exists());
    scratch.append("t", "a\n");
    for command in ["cat", "tail", "export", "info", "dump", "consumers", "verify"] {
        let ran = scratch.run(&[command, "other"]).expect(1);
        assert!(ran.stderr.contains("no topic other"), "{command}: {}", ran.stderr);
    }
    assert_eq!(scratch.run(&["ls", "-1"]).text(), "t\n");
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.log()).unwrap();
    std::fs::write(scratch.log().join("thesis.tex"), "precious").unwrap();
    let ran = scratch.run_with(&["append", "t"], b"a\n").expect(3);
    assert!(ran.stderr.contains("thesis.tex"), "{}", ran.stderr);
    scratch.run(&["ls"]).expect(3);
    assert_eq!(std::fs::read_dir(scratch.log()).unwrap().count(), 1);
}

#[test]
fn help_and_version_go_to_stdout() {
    let scratch = Scratch::new();
    assert!(scratch.run(&["--help"]).expect(0).text().contains("Exit codes"));
    assert!(scratch.run(&["cat", "--help"]).expect(0).text().contains("Ranges"));
    assert!(scratch.run(&["--version"]).expect(0).text().starts_with("deaddrop "));
}
