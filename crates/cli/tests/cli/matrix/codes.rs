//! The documented exit codes, command by command. The modules beside this one test 3 and 4:
//! directories that are not a log, users without permission, a full disk; a damaged segment.

use deaddrop::group::{GroupOptions, WorkerOptions};
use deaddrop::{Log, Start};

use crate::support::{flip, Scratch};

#[test]
fn help_is_code_0_and_an_unknown_flag_code_2_of_every_command() {
    let scratch = Scratch::new();
    for command in crate::help::commands(&scratch, &[]) {
        scratch.run(&[&command, "--help"]).expect(0);
        let ran = scratch.run(&[&command, "--no-such-flag"]).expect(2);
        assert!(ran.stderr.starts_with("deaddrop: unexpected argument"), "{}", ran.stderr);
        assert!(ran.stdout.is_empty());
    }
    assert!(!scratch.log().exists());
}

#[test]
fn a_missing_thing_is_code_1_and_is_named() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..10);
    topic.group("workers", GroupOptions::default()).unwrap();
    drop(topic);
    scratch.append("echo.requests", "no request\n");
    let args = ["request", "echo", "x", "--no-wait", "--client", "other"];
    let unknown = Scratch::new().run(&args).expect(0).text();
    let unknown = unknown.trim();
    for (args, named) in [
        (vec!["cat", "none"], "no topic none"),
        (vec!["tail", "none"], "no topic none"),
        (vec!["export", "none"], "no topic none"),
        (vec!["info", "none"], "no topic none"),
        (vec!["stats", "none"], "no topic none"),
        (vec!["dump", "none"], "no topic none"),
        (vec!["consumers", "none"], "no topic none"),
        (vec!["groups", "none"], "no topic none"),
        (vec!["verify", "none"], "no topic none"),
        (vec!["repair", "none"], "no topic none"),
        (vec!["repair", "none", "t"], "no topic none"),
        (vec!["repair", "none", "t", "--execute"], "no topic none"),
        (vec!["trim", "none", "--before", "0"], "no topic none"),
        (vec!["trim", "t", "--before", "11", "--execute"], "0 to 10"),
        (vec!["delete", "none", "--execute"], "no topic none"),
        (vec!["dead", "none"], "no topic none"),
        (vec!["dead", "redrive", "none"], "no topic none"),
        (vec!["cat", "t", "11:"], "past the end of topic t (10)"),
        (vec!["export", "t", "11:"], "past the end of topic t (10)"),
        (vec!["tail", "t", "11:"], "past the end of topic t (10)"),
        (vec!["groups", "t", "none"], "no group none"),
        (vec!["groups", "t", "none", "--lanes"], "no group none"),
        (vec!["groups", "delete", "t", "none", "--execute"], "no group none"),
        (vec!["groups", "reset", "t", "none", "--to", "0", "--execute"], "no group none"),
        (vec!["groups", "resume", "t", "workers", "0", "--execute"], "not stopped"),
        (vec!["groups", "reset", "t", "workers", "--to", "11", "--execute"], "0 to 10"),
        (vec!["consumers", "t", "--delete", "none", "--execute"], "no consumer none"),
        (vec!["consumers", "t", "--reset", "none", "--to", "0"], "no consumer none"),
        (vec!["pending", "--service", "none"], "no service none"),
        (vec!["clients", "retire", "none"], "client none"),
        (vec!["cancel", unknown], "not outstanding"),
        (vec!["trace", "--last", "5", "--service", "none"], "no service none"),
        (vec!["trace", "--last", "5"], "there are no requests in this log"),
        (vec!["trace", "--key", "none"], "no request with key none"),
        (vec!["trace", unknown], unknown),
        (vec!["request", "--attach", unknown, "--timeout", "10ms"], unknown),
    ] {
        let ran = scratch.run(&args).expect(1);
        assert!(ran.stderr.contains(named), "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn a_timeout_is_code_124_of_every_command_that_has_one() {
    let scratch = Scratch::new();
    let id = scratch.run(&["request", "echo", "x", "--no-wait"]).expect(0).text();
    let calls: &[(&str, &[&str])] =
        &[("request", &["echo", "x"]), ("request", &["--attach", id.trim()])];
    for (command, args) in calls {
        for json in [&[][..], &["--json"]] {
            let all = [&[*command], *args, &["--timeout", "10ms"], json].concat();
            let ran = scratch.run(&all).expect(124);
            assert!(ran.stderr.contains("no outcome yet"), "{all:?}: {}", ran.stderr);
        }
    }
    for command in crate::help::commands(&scratch, &[]) {
        let help = scratch.run(&[&command, "--help"]).expect(0).text();
        let listed = calls.iter().any(|(name, _)| *name == command);
        assert_eq!(help.contains("--timeout"), listed, "{command} needs a call above");
    }
    let help = scratch.run(&["--help"]).expect(0).text();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("124 timed out"), "{help}");
}

#[test]
fn a_topic_or_name_in_use_is_code_5_and_is_left_alone() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..10);
    let log = Log::open_or_create(scratch.log()).unwrap();
    let consumer = topic.consumer("c", Start::First).unwrap();
    let group = topic.group("workers", GroupOptions::default()).unwrap();
    let worker = group.worker(WorkerOptions::default(), |_| Ok(())).unwrap();
    let client = log.client("shop").open().unwrap();
    let id = client.request("echo", &deaddrop::Record::new("x")).unwrap().call().unwrap();
    let id = id.id().to_string();
    for args in [
        vec!["consumers", "t", "--reset", "c", "--to", "0"],
        vec!["consumers", "t", "--reset", "c", "--to", "0", "--execute"],
        vec!["consumers", "t", "--delete", "c", "--execute"],
        vec!["groups", "reset", "t", "workers", "--to", "0", "--execute"],
        vec!["groups", "delete", "t", "workers", "--execute"],
        vec!["delete", "t", "--execute"],
        vec!["repair", "t", "--execute"],
        vec!["repair", "--all", "--execute"],
        vec!["request", "echo", "x", "--client", "shop"],
        vec!["request", "--attach", &id],
    ] {
        let ran = scratch.run(&args).expect(5);
        let said = &ran.stderr;
        assert!(said.contains("in use") || said.contains("open"), "{args:?}: {said}");
        assert!(said.contains("stop") || said.contains("close"), "what to do, {args:?}: {said}");
    }
    drop((worker, client));
    assert_eq!(consumer.committed(), 0);
}

#[test]
fn the_first_failing_topic_decides_the_code_and_no_topic_is_left_out() {
    let scratch = Scratch::new();
    for name in ["a", "b", "c"] {
        drop(scratch.topic_of(name, 0..10));
    }
    flip(&scratch.log().join("topics/b/settings"), 24, 0);
    for args in [vec!["ls"], vec!["ls", "--json"], vec!["groups"], vec!["repair", "--all"]] {
        let ran = scratch.run(&args);
        let all = format!("{}{}", ran.text(), ran.stderr);
        assert_eq!(ran.code, Some(4), "{args:?}: {all}");
        assert!(all.contains("topics/b/settings"), "{args:?}: {all}");
    }
    let listed = scratch.run(&["ls", "--json"]).json();
    assert_eq!(listed.len(), 2);
    let ran = scratch.run(&["repair", "none", "b", "a"]).expect(1);
    assert!(ran.stderr.contains("no topic none") && ran.stderr.contains("b/settings"));
    assert!(ran.text().contains("a: nothing to repair"), "{}", ran.text());
}
