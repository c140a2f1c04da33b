//! `demo`: it proves its claims, and reports when they do not hold.

use std::io::Write;
use std::process::{Child, Stdio};

use deaddrop::Log;

use crate::support::{copy_dir, Random, Scratch};

/// An order file of `count` orders.
fn orders(scratch: &Scratch, count: u32) -> String {
    let path = scratch.path().join(format!("orders-{count}.ndjson"));
    let mut file = std::fs::File::create(&path).unwrap();
    for index in 0..count {
        let sku = index % 5;
        writeln!(file, r#"{{"order":"O-{index}","items":[{{"sku":"S-{sku}","quantity":3}}]}}"#)
            .unwrap();
    }
    path.to_str().unwrap().to_owned()
}

fn failing_claims(scratch: &Scratch, file: &str) -> Vec<String> {
    let lines = scratch.run(&["demo-verify", file, "--json"]).expect(1).json();
    let failing = lines.iter().filter(|line| line["holds"] == false);
    failing.map(|line| format!("{}: {}", line["claim"], line["ids"])).collect()
}

#[test]
fn the_shipped_orders_are_settled_once_though_both_services_are_killed() {
    let scratch = Scratch::new();
    let text = scratch.run(&["demo", "--over", "1s"]).expect(0).text();
    for part in [
        "inventory killed",
        "order service killed",
        "10,000 orders in",
        "7,850 reserved, 2,150 rejected",
        "P99.9",
        "each of the 10000 orders was requested exactly once: holds",
        "every request has exactly one outcome, and it is a reply about its order: holds",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert_eq!(text.matches(": holds").count(), 5);
    scratch.run(&["verify"]).expect(0);
    scratch.run(&["demo"]).expect(2);
}

#[test]
fn without_a_directory_each_run_gets_its_own() {
    let scratch = Scratch::new();
    let file = orders(&scratch, 20);
    for run in ["run-1", "run-2"] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_deaddrop"))
            .args(["demo", "--over", "0s", "--json", "--orders", &file])
            .current_dir(scratch.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(scratch.path().join("target/demo").join(run).join("deaddrop").exists());
    }
}

#[test]
fn a_missing_a_second_and_a_foreign_order_are_named() {
    let scratch = Scratch::new();
    let file = orders(&scratch, 30);
    scratch.run(&["demo", "--over", "0s", "--orders", &file]).expect(0);
    scratch.run(&["demo-verify", &file]).expect(0);
    let missing = failing_claims(&scratch, &orders(&scratch, 31));
    assert_eq!(missing.len(), 1);
    assert!(missing[0].contains("exactly once") && missing[0].contains("O-30: 0 requests"));
    let foreign = failing_claims(&scratch, &orders(&scratch, 29));
    assert!(foreign[0].contains("O-29") && foreign[0].contains("not in the file"), "{foreign:?}");
    // Services never do this, so the test does it without them: in a copy, whose end is where its
    // frames end.
    let copy = Scratch::new();
    copy_dir(&scratch.log(), &copy.log());
    copy.repeat_frame("inventory.replies", 7);
    let twice = failing_claims(&copy, &file);
    assert_eq!(twice.len(), 1);
    assert!(twice[0].contains("exactly one outcome"), "{twice:?}");
    assert!(twice[0].contains("2 outcomes"), "{twice:?}");
    copy.repeat_frame("inventory.requests", 3);
    let again = failing_claims(&copy, &file);
    assert!(again[0].contains("the id was used twice"), "{again:?}");
    assert!(again[0].contains("O-3: 2 requests"), "{again:?}");
    let text = copy.run(&["demo-verify", &file]).expect(1).text();
    assert!(text.contains("DOES NOT HOLD"), "{text}");
}

#[test]
fn services_killed_at_any_moment_skip_no_order_and_repeat_none() {
    const ROUNDS: u64 = 8;
    let scratch = Scratch::new();
    let file = orders(&scratch, 400);
    for durability in ["process-crash", "power-loss"] {
        let dir = scratch.path().join(durability);
        let start = |command: &str| -> Child {
            let args = [command, "--over", "300ms", "--durability", durability, "--orders", &file];
            let mut prepared = std::process::Command::new(env!("CARGO_BIN_EXE_deaddrop"));
            prepared.arg("-d").arg(&dir).args(args).stdin(Stdio::piped()).spawn().unwrap()
        };
        let end = |topic: &str| {
            let log = Log::open_read_only(&dir);
            log.and_then(|log| log.existing_topic(topic)?.high_watermark()).unwrap_or(0)
        };
        let mut random = Random(5);
        for round in 0..ROUNDS {
            let (mut order, mut inventory) =
                (start("demo-order-service"), start("demo-inventory-service"));
            // After this many more requests or replies, the end comes without a warning.
            let topic = ["inventory.requests", "inventory.replies"][(round % 2) as usize];
            let until = end(topic) + random.below(80);
            while end(topic) < until && order.try_wait().unwrap().is_none() {
                std::thread::yield_now();
            }
            for child in [&mut order, &mut inventory] {
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
        let mut inventory = start("demo-inventory-service");
        assert_eq!(start("demo-order-service").wait_with_stdin().code(), Some(0));
        drop(inventory.stdin.take());
        assert_eq!(inventory.wait().unwrap().code(), Some(0));
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_deaddrop"))
            .arg("-d")
            .arg(&dir)
            .args(["demo-verify", &file])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{said}");
    }
}

trait WaitWithStdin {
    /// Waits without closing the child's input, because the child would stop when it closes.
    fn wait_with_stdin(self) -> std::process::ExitStatus;
}

impl WaitWithStdin for Child {
    fn wait_with_stdin(mut self) -> std::process::ExitStatus {
        let input = self.stdin.take();
        let status = self.wait().unwrap();
        drop(input);
        status
    }
}

#[test]
fn an_invalid_order_file_is_refused() {
    let scratch = Scratch::new();
    for (text, expected) in [
        ("", "contains no order"),
        ("{\"order\":\"a\"}\n", "line 1"),
        ("{\"order\":\"a\",\"items\":[]}\n{\"order\":\"a\",\"items\":[]}\n", "occurs twice"),
    ] {
        let path = scratch.path().join("bad.ndjson");
        std::fs::write(&path, text).unwrap();
        let ran = scratch.run(&["demo", "--orders", path.to_str().unwrap()]).expect(2);
        assert!(ran.stderr.contains(expected), "{}", ran.stderr);
    }
    scratch.run(&["demo", "--orders", "no-such-file"]).expect(3);
}
