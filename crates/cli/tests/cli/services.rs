//! `ls` and `top` show a service or a client in one line, unless `--all` is given.

use deaddrop::{Durability, Log, TopicOptions};

use crate::support::Scratch;

/// A topic, a service with dead letters, and a client with a topic of its own.
fn a_log() -> Scratch {
    let scratch = Scratch::new();
    let options = TopicOptions::default()
        .with_durability(Durability::ProcessCrash)
        .with_segment_len(64 << 10);
    let log = Log::open_or_create(scratch.log()).unwrap();
    for name in ["echo.requests", "echo.replies", "shop.parked"] {
        log.restore_topic(name, options).unwrap();
    }
    drop(log);
    drop(scratch.topic_of("orders", 0..3));
    let args = ["echo", "-n", "1", "--max-attempts", "1", "--durability", "process-crash"];
    scratch.run(&["request", "echo", "x", "--no-wait"]).expect(0);
    scratch.run(&[&["serve"], &args[..], &["--", "false"]].concat()).expect(0);
    scratch.run(&["dead", "drop", "echo.dead", "--execute"]).expect(0);
    scratch
}

const ALL: &[&str] =
    &["echo.dead", "echo.dead.marks", "echo.replies", "echo.requests", "orders", "shop.parked"];

#[test]
fn the_topics_of_a_service_are_one_line_unless_all_are_asked_for() {
    let scratch = a_log();
    let first_words = |args: &[&str]| -> Vec<String> {
        let text = scratch.run(args).expect(0).text();
        let words = text.lines().filter_map(|line| line.split_whitespace().next());
        words.map(str::to_owned).collect()
    };
    let grouped = ["TOPIC", "orders", "SERVICE", "echo", "CLIENT", "shop", "--all"];
    assert_eq!(first_words(&["ls"]), grouped);
    assert_eq!(first_words(&["ls", "--all"]), [&["TOPIC"], ALL].concat());
    assert_eq!(first_words(&["ls", "--names"]), ALL);
    let text = scratch.run(&["ls"]).expect(0).text();
    let echo = text.lines().find(|line| line.starts_with("echo")).unwrap();
    // A request, its outcome and its letter, in four topics.
    let counts: Vec<&str> = echo.split_whitespace().skip(1).take(4).collect();
    assert_eq!(counts, ["1", "1", "1", "4"], "{text}");
    for args in [vec!["ls", "--json"], vec!["ls", "--json", "--all"]] {
        let rows = scratch.run(&args).expect(0).json();
        let topics: Vec<&str> = rows.iter().map(|row| row["topic"].as_str().unwrap()).collect();
        assert_eq!(topics, ALL);
        for row in rows {
            let of_service = row["topic"].as_str().unwrap().starts_with("echo");
            assert_eq!(row["service"] == "echo", of_service, "{row}");
            assert_eq!(row["client"] == "shop", row["topic"] == "shop.parked", "{row}");
        }
    }
}

#[test]
fn top_shows_a_service_as_one_line_and_its_faults_always() {
    let scratch = a_log();
    let top = |more: &[&str], code: i32| {
        scratch.run(&[&["top", "--once", "--interval", "10ms"], more].concat()).expect(code).text()
    };
    let text = top(&[], 0);
    for hidden in ["echo.", "shop.parked", "client-floor.cli", "client.cli"] {
        assert!(!text.contains(hidden), "{hidden}: {text}");
    }
    assert!(text.contains("orders") && text.contains("SERVICE"), "{text}");
    let text = top(&["--all"], 0);
    for shown in ALL.iter().chain(&["client-floor.cli", "client.cli"]) {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    let topics: serde_json::Value = serde_json::from_str(&top(&["--json"], 0)).unwrap();
    let topics = topics["topics"].as_array().unwrap();
    assert_eq!(topics.len(), ALL.len());
    assert!(topics.iter().all(
        |one| (one["service"] == "echo") == one["topic"].as_str().unwrap().starts_with("echo")
    ));
    // Damage is not hidden.
    let file = scratch.log().join("topics/echo.replies/consumers/client.cli");
    crate::support::flip(&file, 20, 0);
    assert!(top(&[], 4).contains("client.cli"), "{}", top(&[], 4));
}
