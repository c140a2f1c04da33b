//! `consumers`: its output, and that it changes nothing unless it is asked to.

use deaddrop::{Log, Start};

use crate::support::{flip, Scratch};

/// A topic of a hundred records with the consumers `a` at 10 and `b` at 100.
fn two_consumers() -> Scratch {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..100);
    topic.consumer("a", Start::Offset(10)).unwrap();
    topic.consumer("b", Start::End).unwrap();
    scratch
}

fn committed(scratch: &Scratch) -> Vec<(String, u64)> {
    let rows = scratch.run(&["consumers", "t", "--json"]).expect(0).json();
    let row = |row: &serde_json::Value| {
        (row["consumer"].as_str().unwrap().to_owned(), row["committed"].as_u64().unwrap())
    };
    rows.iter().map(row).collect()
}

#[test]
fn positions_and_lag_are_shown() {
    let scratch = two_consumers();
    assert_eq!(committed(&scratch), [("a".to_owned(), 10), ("b".to_owned(), 100)]);
    let rows = scratch.run(&["consumers", "t", "--json"]).expect(0).json();
    assert_eq!((&rows[0]["lag"], &rows[0]["owner"]), (&90.into(), &().into()));
    let text = scratch.run(&["consumers", "t"]).expect(0).text();
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["CONSUMER", "COMMITTED", "DURABLE", "LAG", "OWNER"]);
    assert_eq!(lines[1], ["a", "10", "10", "90", "-"]);
}

#[test]
fn a_reset_happens_only_when_executed() {
    let scratch = two_consumers();
    let reset = |more: &[&str]| {
        let args = [&["consumers", "t", "--reset", "a"], more].concat();
        scratch.run(&args)
    };
    let text = reset(&["--to", "-5"]).expect(0).text();
    assert!(text.contains("would be set from 10 to 95") && text.contains("--execute"), "{text}");
    assert_eq!(committed(&scratch)[0].1, 10);
    let done = reset(&["--to", "-5", "--execute", "--json"]).expect(0).json();
    assert_eq!((&done[0]["to"], &done[0]["executed"]), (&95.into(), &true.into()));
    assert_eq!(committed(&scratch)[0].1, 95);
    reset(&["--to", "start", "--execute"]).expect(0);
    assert_eq!(committed(&scratch)[0].1, 0);
    let topic = Log::open_or_create(scratch.log()).unwrap().topic("t").unwrap();
    let mut a = topic.consumer("a", Start::End).unwrap();
    assert_eq!(a.next().unwrap().unwrap().offset(), 0);
    drop(a);
    reset(&["--to", "101", "--execute"]).expect(1);
    reset(&[]).expect(2);
}

#[test]
fn a_delete_happens_only_when_executed() {
    let scratch = two_consumers();
    let text = scratch.run(&["consumers", "t", "--delete", "b"]).expect(0).text();
    assert!(text.contains("would be deleted"), "{text}");
    assert_eq!(committed(&scratch).len(), 2);
    scratch.run(&["consumers", "t", "--delete", "b", "--execute"]).expect(0);
    assert_eq!(committed(&scratch), [("a".to_owned(), 10)]);
    let ran = scratch.run(&["consumers", "t", "--delete", "b", "--execute"]).expect(1);
    assert!(ran.stderr.contains("it has a"), "{}", ran.stderr);
}

#[test]
fn a_consumer_in_use_is_left_alone_with_code_5() {
    let scratch = two_consumers();
    let topic = Log::open_or_create(scratch.log()).unwrap().topic("t").unwrap();
    let owner = topic.consumer("a", Start::First).unwrap();
    for args in [vec!["--reset", "a", "--to", "0"], vec!["--delete", "a"]] {
        let args = [vec!["consumers", "t", "--execute"], args].concat();
        let ran = scratch.run(&args).expect(5);
        assert!(ran.stderr.contains(&format!("process {}", std::process::id())), "{}", ran.stderr);
    }
    let rows = scratch.run(&["consumers", "t", "--json"]).expect(0).json();
    assert_eq!(rows[0]["owner"], std::process::id());
    assert_eq!(owner.committed(), 10);
}

#[test]
fn an_unreadable_offset_file_is_shown_as_such_and_hides_no_other() {
    let scratch = two_consumers();
    flip(&scratch.log().join("topics/t/consumers/a"), 3, 0);
    let rows = scratch.run(&["consumers", "t", "--json"]).expect(4).json();
    assert!(rows[0]["error"].as_str().unwrap().contains("corruption"), "{}", rows[0]);
    assert_eq!(rows[1]["committed"], 100);
    scratch.run(&["consumers", "t", "--reset", "a", "--to", "0", "--execute"]).expect(4);
    scratch.run(&["verify", "t"]).expect(4);
    scratch.run(&["consumers", "t", "--delete", "a", "--execute"]).expect(0);
    scratch.run(&["verify", "t"]).expect(0);
}
