//! The demo proves its claims, and reports a claim that does not hold.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use deaddrop::{Log, Record, Start};
use tempfile::TempDir;

fn scratch() -> TempDir {
    // Not under /tmp, which may be lost in a power loss: a durable topic is refused there.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// An order file of `count` orders.
fn orders(dir: &Path, count: u32) -> PathBuf {
    let path = dir.join(format!("orders-{count}.ndjson"));
    let line = |index: u32| {
        let sku = index % 5;
        format!("{{\"order\":\"O-{index}\",\"items\":[{{\"sku\":\"S-{sku}\",\"quantity\":3}}]}}\n")
    };
    std::fs::write(&path, (0..count).map(line).collect::<String>()).unwrap();
    path
}

fn demo(dir: &Path, args: &[&str], orders: Option<&Path>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deaddrop-demo"));
    command.args(args).arg("-d").arg(dir.join("drop"));
    if let Some(orders) = orders {
        command.arg("--orders").arg(orders);
    }
    command
}

#[track_caller]
fn expect(output: &Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}\n{errors}");
    text + &errors
}

/// The proof of a log, whose claims hold or not.
#[track_caller]
fn proof(dir: &Path, orders: &Path, code: i32) -> String {
    expect(&demo(dir, &["proof"], Some(orders)).output().unwrap(), code)
}

#[test]
fn the_orders_of_the_demo_are_settled_once_though_both_services_are_killed() {
    let dir = scratch();
    let text = expect(&demo(dir.path(), &["--over", "1"], None).output().unwrap(), 0);
    for part in [
        "inventory killed",
        "order service killed",
        "10,000 orders in",
        "7,850 reserved, 2,150 rejected",
        "P99.9",
        "each of the 10000 orders was requested exactly once: holds",
        "every request has exactly one outcome, and it is a reply about its order: holds",
        "dead letter (the price list is unavailable)",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert_eq!(text.matches(": holds").count(), 5);
    let again = expect(&demo(dir.path(), &[], None).output().unwrap(), 2);
    assert!(again.contains("already holds a log"), "{again}");
}

#[test]
fn without_a_directory_each_run_gets_its_own() {
    let dir = scratch();
    let file = orders(dir.path(), 20);
    for run in ["run-1", "run-2"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deaddrop-demo"));
        command.args(["--over", "0", "--orders"]).arg(&file).current_dir(dir.path());
        expect(&command.output().unwrap(), 0);
        assert!(dir.path().join("target/demo").join(run).join("deaddrop").exists());
    }
}

/// Appends the record at `offset` of a topic once more, which the services never do.
fn repeat(dir: &Path, topic: &str, offset: u64) {
    let topic = Log::open_or_create(dir.join("drop")).unwrap().open_topic(topic).unwrap();
    let mut reader = topic.reader(Start::Offset(offset)).unwrap();
    let found = reader.next().unwrap().unwrap();
    let mut record = Record::new(found.payload());
    if let Some(key) = found.key() {
        record = record.with_key(key);
    }
    for (name, value) in found.headers() {
        record = record.header_as_stored(name, value);
    }
    topic.append(&record).unwrap();
}

#[test]
fn a_missing_a_second_and_a_foreign_order_are_named() {
    let dir = scratch();
    let dir = dir.path();
    let file = orders(dir, 30);
    expect(&demo(dir, &["--over", "0"], Some(&file)).output().unwrap(), 0);
    proof(dir, &file, 0);
    let missing = proof(dir, &orders(dir, 31), 1);
    assert_eq!(missing.matches("DOES NOT HOLD").count(), 1, "{missing}");
    assert!(
        missing.contains("exactly once: DOES NOT HOLD for 1\n    O-30: 0 requests"),
        "{missing}"
    );
    let foreign = proof(dir, &orders(dir, 29), 1);
    assert!(foreign.contains("O-29") && foreign.contains("not in the file"), "{foreign}");
    repeat(dir, "inventory.replies", 7);
    let twice = proof(dir, &file, 1);
    assert_eq!(twice.matches("DOES NOT HOLD").count(), 1, "{twice}");
    assert!(twice.contains("2 outcomes"), "{twice}");
    repeat(dir, "inventory.requests", 3);
    let again = proof(dir, &file, 1);
    assert!(again.contains("the id was used twice"), "{again}");
    assert!(again.contains("O-3: 2 requests"), "{again}");
}

#[test]
fn services_killed_at_any_moment_leave_no_order_out_and_ask_for_none_twice() {
    const ROUNDS: u64 = 8;
    let dir = scratch();
    let file = orders(dir.path(), 400);
    for durability in ["process-crash", "power-loss"] {
        let dir = dir.path().join(durability);
        let start = |role: &str| -> Child {
            let args = [role, "--over", "0.3", "--durability", durability];
            demo(&dir, &args, Some(&file)).stdin(Stdio::piped()).spawn().unwrap()
        };
        let end = |topic: &str| {
            let log = Log::open_read_only(dir.join("drop"));
            log.and_then(|log| log.open_topic(topic)?.high_watermark()).unwrap_or(0)
        };
        for round in 0..ROUNDS {
            let (mut order, mut inventory) = (start("order-service"), start("inventory-service"));
            // After some more requests, or replies, both are killed.
            let topic = ["inventory.requests", "inventory.replies"][(round % 2) as usize];
            let until = end(topic) + round * 37 % 80;
            while end(topic) < until && order.try_wait().unwrap().is_none() {
                std::thread::yield_now();
            }
            for child in [&mut order, &mut inventory] {
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
        let mut inventory = start("inventory-service");
        let mut order = start("order-service");
        // The end of its input would tell the order service to stop early.
        let input = order.stdin.take();
        assert_eq!(order.wait().unwrap().code(), Some(0));
        drop((input, inventory.stdin.take()));
        assert_eq!(inventory.wait().unwrap().code(), Some(0));
        proof(&dir, &file, 0);
    }
}

#[test]
fn a_file_that_holds_no_orders_is_refused() {
    let dir = scratch();
    let bad = dir.path().join("bad.ndjson");
    for (text, expected) in [
        ("", "contains no order"),
        ("{\"order\":\"a\"}\n", "line 1"),
        ("{\"order\":\"a\",\"items\":[]}\n{\"order\":\"a\",\"items\":[]}\n", "occurs twice"),
    ] {
        std::fs::write(&bad, text).unwrap();
        let said = expect(&demo(dir.path(), &[], Some(&bad)).output().unwrap(), 2);
        assert!(said.contains(expected), "{said}");
    }
    let missing = demo(dir.path(), &[], Some(Path::new("no-such-file"))).output().unwrap();
    assert!(expect(&missing, 2).contains("reading no-such-file"));
}
