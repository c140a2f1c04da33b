//! `--format help` documents exactly the output, field by field.

mod object;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use deaddrop::format::{cursor, segment};
use deaddrop::group::{AttemptState, GroupOptions, HandlerError, Poison, Worker, WorkerOptions};
use deaddrop::service::{Client, Reply};
use deaddrop::{Durability, Log, Record, Start, Topic, TopicOptions};
use serde_json::Value;

use crate::support::{flip, Ran, Scratch};
use object::check;

/// Makes a topic `t` whose records have everything that a record can have, and a consumer `c`.
fn rich_topic(scratch: &Scratch) {
    let topic = scratch.topic_of("t", 0..1500);
    topic
        .append(
            &Record::new([0xff]).with_key([0xfe]).with_header("a", "1").with_header("b", [0xff]),
        )
        .unwrap();
    topic.append_batch(&[Record::new("x").with_key("k"), Record::new("y")]).unwrap();
    topic.consumer("c", Start::Offset(3)).unwrap().sync().unwrap();
}

fn json(scratch: &Scratch, code: i32, args: &[&str]) -> Vec<Value> {
    scratch.run(&[args, &["--json"]].concat()).expect(code).json()
}

#[test]
fn commands_that_print_records_print_what_they_document() {
    let scratch = Scratch::new();
    rich_topic(&scratch);
    check(&scratch, "cat", &json(&scratch, 0, &["cat", "t"]));
    check(&scratch, "tail", &json(&scratch, 0, &["tail", "t"]));
    check(&scratch, "export", &scratch.run(&["export", "t"]).expect(0).json());
}

#[test]
fn commands_that_show_topics_print_what_they_document() {
    let scratch = Scratch::new();
    rich_topic(&scratch);
    scratch.run(&["request", "echo", "x", "--no-wait"]).expect(0);
    drop(scratch.topic_of("shop.parked", 0..0));
    check(&scratch, "ls", &[json(&scratch, 0, &["ls"]), json(&scratch, 0, &["ls", "-1"])].concat());
    let topic = Log::open_or_create(scratch.log()).unwrap().open_topic("t").unwrap();
    let _owned = topic.consumer("owned", Start::First).unwrap();
    let mut consumers = json(&scratch, 0, &["consumers", "t"]);
    consumers.extend(json(&scratch, 0, &["consumers", "t", "--reset", "c", "--to", "0"]));
    consumers.extend(json(&scratch, 0, &["consumers", "t", "--delete", "c"]));
    damage_consumer(&scratch);
    consumers.extend(json(&scratch, 4, &["consumers", "t"]));
    consumers.extend(json(&scratch, 0, &["consumers", "t", "--delete", "damaged"]));
    check(&scratch, "consumers", &consumers);
    // A torn tail that a later opening finds makes an epoch.
    std::fs::write(scratch.log().join("topics/t/epochs"), epoch_entry()).unwrap();
    drop(scratch.topic_of("empty", 0..0));
    check(&scratch, "stats", &json(&scratch, 4, &["stats"]));
    for group in ["good", "bad"] {
        topic.group(group, GroupOptions::default()).unwrap();
    }
    flip(&scratch.log().join("topics/t/groups/bad"), 3, 0);
    let mut info = json(&scratch, 4, &["info", "t"]);
    damage_header(&scratch.segments("t")[1]);
    info.extend(json(&scratch, 4, &["info", "t"]));
    scratch.append("ahead", "of its time");
    scratch.date_back("ahead", u64::MAX / 4);
    info.extend(json(&scratch, 0, &["info", "ahead"]));
    info.extend(json(&scratch, 0, &["info", "echo.requests"]));
    check(&scratch, "info", &info);
}

/// Makes the header of a segment unreadable, and its copy too.
fn damage_header(path: &Path) {
    flip(path, 20, 0);
    flip(path, segment::HEADER_COPY_AT as u64 + 20, 0);
}

/// A consumer of topic `t` whose file is unreadable.
fn damage_consumer(scratch: &Scratch) {
    let topic = Log::open_or_create(scratch.log()).unwrap().open_topic("t").unwrap();
    topic.consumer("damaged", Start::First).unwrap().sync().unwrap();
    flip(&scratch.log().join("topics/t/consumers/damaged"), 3, 0);
}

/// Runs a command on a topic `t` whose recovery cuts records off.
fn recovered(args: &[&str]) -> Vec<Value> {
    let scratch = crate::missing::torn_copy();
    scratch.run_with(&[args, &["--json"]].concat(), b"").expect(0).json()
}

fn epoch_entry() -> Vec<u8> {
    deaddrop::format::epochs::Entry { epoch: 1, start: 0 }.encode().to_vec()
}

#[test]
fn commands_that_change_topics_print_what_they_document() {
    let scratch = Scratch::new();
    let mut made = json(&scratch, 0, &["create", "new"]);
    made.extend(recovered(&["create", "t"]));
    check(&scratch, "create", &made);
    rich_topic(&scratch);
    damage_consumer(&scratch);
    let mut trimmed = json(&scratch, 0, &["trim", "t", "--before", "end"]);
    trimmed.extend(recovered(&["trim", "t", "--before", "0", "--execute"]));
    check(&scratch, "trim", &trimmed);
    check(&scratch, "delete", &json(&scratch, 0, &["delete", "t"]));
}

#[test]
fn appending_commands_print_what_they_document() {
    let scratch = Scratch::new();
    let mut printed = scratch.run_with(&["append", "t", "--json"], b"a\nb\n").expect(0).json();
    printed.extend(scratch.run_with(&["append", "t", "--json"], b"").expect(0).json());
    printed.extend(scratch.run_with(&["append", "t", "--json", "--ack"], b"a\n").expect(0).json());
    printed.extend(recovered(&["append", "t"]));
    check(&scratch, "append", &printed);
    let exported = scratch.run(&["export", "t"]).expect(0).stdout;
    let printed = scratch.run_with(&["import", "u", "--json"], &exported).expect(0).json();
    let nothing = scratch.run_with(&["import", "u", "--json"], b"").expect(0).json();
    check(&scratch, "import", &[printed, nothing, recovered(&["import", "t"])].concat());
}

#[test]
fn commands_that_read_files_print_what_they_document() {
    let scratch = Scratch::new();
    rich_topic(&scratch);
    scratch.store_index("t", |entries| entries.truncate(3));
    let dir = scratch.log().join("topics/t");
    std::fs::write(dir.join("epochs"), epoch_entry()).unwrap();
    scratch.run(&["request", "echo", "x", "--no-wait"]).expect(0);
    // A frame after the last one that counts is a frame that a recovery cut off.
    scratch.topic_of("s", 0..10).append(&Record::new([b'x'; 14 << 10])).unwrap();
    let cut = json(&scratch, 0, &["dump", "s"]);
    let cut = cut.iter().find(|line| line["kind"] == "zeros").unwrap();
    scratch.repeat_frame("s", 0);
    scratch.repeat_frame("s", 0);
    flip(&scratch.segments("s")[0], cut["position"].as_u64().unwrap() + 33, 0);
    let segments = scratch.segments("t");
    flip(&segments[1], 5000, 3);
    damage_header(&segments[2]);
    let mut damaged = json(&scratch, 4, &["dump", "t"]);
    for topic in ["s", "echo.requests"] {
        damaged.extend(json(&scratch, 0, &["dump", topic]));
    }
    damaged.extend(json(&scratch, 4, &["dump", "t", "--hex"]));
    damaged.extend(dump_of_a_repaired_topic(&scratch));
    damaged.extend(dump_of_a_group(&scratch));
    // An attempt at offset 0, while one of the two slots is not written yet.
    let consumer = std::fs::File::options().write(true).open(dir.join("consumers/c")).unwrap();
    consumer.write_all_at(&[1], cursor::ATTEMPT_AT as u64).unwrap();
    consumer.write_all_at(&[0; cursor::SLOT_LEN], cursor::SLOT_B_AT as u64).unwrap();
    for file in ["deaddrop", "topics/t/epochs", "topics/t/settings", "topics/t/consumers/c"] {
        damaged.extend(json(&scratch, 0, &["dump", scratch.log().join(file).to_str().unwrap()]));
    }
    let _member = Log::open_or_create(scratch.log()).unwrap().open_topic("s").unwrap();
    let control = scratch.log().join("topics/s/control");
    damaged.extend(json(&scratch, 0, &["dump", control.to_str().unwrap()]));
    let index = segments[0].with_extension("idx");
    damaged.extend(json(&scratch, 0, &["dump", index.to_str().unwrap()]));
    check(&scratch, "dump", &damaged);
    // The file that a process leaves if it is killed while it writes an index.
    std::fs::write(scratch.segments("s").swap_remove(0).with_extension("idx"), []).unwrap();
    check(&scratch, "verify", &json(&scratch, 4, &["verify"]));
}

/// Frames that mark offsets lost after a repair, and payloads as JSON.
fn dump_of_a_repaired_topic(scratch: &Scratch) -> Vec<Value> {
    drop(scratch.topic_of("repaired", 0..3));
    lose(scratch, "repaired", 1);
    json(scratch, 0, &["repair", "repaired", "--execute"]);
    scratch.append("repaired", "{\"a\":[1]}\nno JSON\n");
    json(scratch, 0, &["dump", "repaired", "--payload-json"])
}

/// Damages the record at `offset` of a topic's first segment.
fn lose(scratch: &Scratch, topic: &str, offset: u64) {
    let frames = json(scratch, 0, &["dump", topic, &offset.to_string()]);
    let frame = frames.iter().find(|line| line["offset"] == offset).unwrap();
    flip(&scratch.segments(topic)[0], frame["position"].as_u64().unwrap() + 33, 2);
}

/// A group. Its first lane has a record in flight and lacks a slot; its second lane is damaged.
fn dump_of_a_group(scratch: &Scratch) -> Vec<Value> {
    drop(stopped_lane(&scratch.topic_of("grouped", 0..20), 2));
    let path = scratch.log().join("topics/grouped/groups/shipping");
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0; cursor::SLOT_LEN], 4096 + cursor::SLOT_B_AT as u64).unwrap();
    let mut lines = json(scratch, 0, &["dump", path.to_str().unwrap()]);
    flip(&path, 2 * 4096 + 1, 0);
    lines.extend(json(scratch, 4, &["dump", path.to_str().unwrap()]));
    lines
}

/// A worker of a group `shipping` whose lane is stopped by a record.
fn stopped_lane(topic: &Topic, lanes: u32) -> Worker {
    let options = GroupOptions::default().with_lanes(lanes).with_start(Start::First);
    let group = topic.group("shipping", options).unwrap();
    let options = WorkerOptions::default().with_max_attempts(1).with_poison(Poison::StopLane);
    let handler = |_: &deaddrop::group::Job| Err(HandlerError::terminal("refused"));
    let mut worker = group.worker(options, handler).unwrap();
    let is_stopped = |info: deaddrop::group::GroupInfo| {
        info.lanes
            .iter()
            .any(|lane| lane.in_hand.as_ref().is_some_and(|at| at.state == AttemptState::Stopped))
    };
    for _ in 0..1000 {
        worker.poll(Duration::ZERO).unwrap();
        if is_stopped(group.info().unwrap()) {
            return worker;
        }
    }
    panic!("no lane stops");
}

#[test]
fn groups_print_what_they_document() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..1);
    let _worker = stopped_lane(&topic, 4);
    let options = GroupOptions::default().with_lanes(2).with_start(Start::First);
    let idle = topic.group("idle", options).unwrap();
    topic.group("damaged", options).unwrap();
    flip(&scratch.log().join("topics/t/groups/damaged"), 3, 0);
    let mut printed = json(&scratch, 4, &["groups"]);
    let shown = printed.iter().find(|group| group["group"] == "shipping").unwrap();
    let lane = shown["stopped"][0].to_string();
    printed.extend(json(&scratch, 0, &["groups", "t", "shipping", "--lanes"]));
    printed.extend(json(&scratch, 0, &["groups", "t", "idle", "--lanes"]));
    printed.extend(json(&scratch, 0, &["groups", "resume", "t", "shipping", &lane]));
    drop(idle);
    printed.extend(json(&scratch, 0, &["groups", "reset", "t", "idle", "--to", "1"]));
    printed.extend(json(&scratch, 0, &["groups", "delete", "t", "idle", "--execute"]));
    check(&scratch, "groups", &printed);
}

#[test]
fn repairs_print_what_they_document() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..100);
    topic.consumer("billing", Start::Offset(51)).unwrap().sync().unwrap();
    drop(topic);
    lose(&scratch, "t", 51);
    let mut printed = json(&scratch, 4, &["repair", "t"]);
    printed.extend(json(&scratch, 0, &["repair", "t", "--execute"]));
    printed.extend(json(&scratch, 0, &["repair", "--all"]));
    check(&scratch, "repair", &printed);
}

#[test]
fn measurements_print_what_they_document() {
    let scratch = Scratch::new();
    let bench = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_deaddrop"));
        let output = command.args(["bench", "--json"]).args(args).current_dir(scratch.path());
        Ran::of(&output.output().unwrap()).expect(0).json()
    };
    let case = ["--workload", "append,request", "--durability", "process-crash", "--count", "60"];
    let mut printed = bench(&[&case[..], &["--warm-up", "0s", "--output", "a.json"]].concat());
    let path = scratch.path().join("a.json");
    let mut report: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    printed.extend(bench(&["--compare", "a.json", "a.json"]));
    let case = &mut report["cases"][0];
    case["per_second"] = 0.into();
    for name in ["p50", "p99", "max"] {
        case["latency_nanos"][name] = 0.into();
    }
    std::fs::write(scratch.path().join("b.json"), report.to_string()).unwrap();
    printed.extend(bench(&["--compare", "b.json", "a.json"]));
    check(&scratch, "bench", &printed);
}

#[test]
fn a_live_view_prints_what_it_documents() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..20);
    let _owned = topic.consumer("owned", Start::First).unwrap();
    damage_consumer(&scratch);
    let _worker = stopped_lane(&topic, 4);
    let options = GroupOptions::default().with_lanes(2).with_start(Start::First);
    topic.group("idle", options).unwrap();
    topic.group("damaged", options).unwrap();
    drop(scratch.topic_of("shop.parked", 0..0));
    flip(&scratch.log().join("topics/t/groups/damaged"), 3, 0);
    let log = Log::open_or_create(scratch.log()).unwrap();
    let client = client(&log);
    for service in ["answered", "open", "broken"] {
        let request = client.request(service, &Record::new("x")).unwrap();
        drop(request.call().unwrap());
    }
    let mut server = log.server("answered", |_| Ok(Reply::new("y"))).unwrap();
    for _ in 0..100 {
        server.poll(Duration::ZERO).unwrap();
    }
    assert_eq!(server.lag().unwrap(), 0);
    flip(&scratch.log().join("topics/broken.replies/settings"), 20, 3);
    let args = ["top", "-n", "2", "--interval", "10ms"];
    check(&scratch, "top", &json(&scratch, 4, &args));
}

fn client(log: &Log) -> Client {
    let options = TopicOptions::default().with_durability(Durability::ProcessCrash);
    log.client("shop").with_topic_options(options).open().unwrap()
}

#[test]
fn requests_print_what_they_document() {
    let scratch = Scratch::new();
    let mut printed = json(&scratch, 0, &["request", "echo", "x", "--no-wait"]);
    let bytes = scratch.run_with(&["request", "echo", "--no-wait", "--json"], b"\xff").json();
    let ids = [&printed[0], &bytes[0]].map(|sent| sent["id"].as_str().unwrap().to_owned());
    printed.extend(json(&scratch, 124, &["request", "--attach", &ids[0], "--timeout", "1ms"]));
    scratch.run(&["serve", "echo", "-n", "2", "--", "cat"]).expect(0);
    for id in &ids {
        printed.extend(json(&scratch, 0, &["request", "--attach", id]));
    }
    printed.extend(json(&scratch, 1, &["request", "echo", "x", "--deadline", "1ms"]));
    check(&scratch, "request", &printed);
}

#[test]
fn commands_about_requests_print_what_they_document() {
    let scratch = Scratch::new();
    let args = ["serve", "echo", "--max-attempts", "1", "--retry-first", "1ms", "--", "false"];
    let mut server = scratch.command(&args).spawn().unwrap();
    json(&scratch, 1, &["request", "echo", "given up", "--key", "k"]);
    server.kill().unwrap();
    server.wait().unwrap();
    json(&scratch, 1, &["request", "echo", "expires", "--deadline", "1ms"]);
    json(&scratch, 0, &["request", "echo", "waits", "--no-wait", "--deadline", "1h"]);
    // The same outcomes once more, as in a restored copy: they come late.
    let outcomes = scratch.run(&["export", "echo.replies"]).expect(0).stdout;
    scratch.run_with(&["import", "echo.replies", "--reserved"], &outcomes).expect(0);
    let mut dead = json(&scratch, 0, &["dead", "echo.dead"]);
    dead.extend(json(&scratch, 0, &["dead", "redrive", "echo.dead"]));
    dead.extend(json(&scratch, 0, &["dead", "redrive", "echo.dead", "--execute"]));
    // The same requests too: a server answers them late.
    let requests = scratch.run(&["export", "echo.requests"]).expect(0).stdout;
    scratch.run_with(&["import", "echo.requests", "--reserved"], &requests).expect(0);
    scratch.run(&["serve", "echo", "-n", "4", "--", "cat"]).expect(0);
    scratch.append("echo.dead", "no letter\n");
    dead.extend(json(&scratch, 0, &["dead", "echo.dead"]));
    dead.extend(json(&scratch, 1, &["dead", "redrive", "echo.dead", "--offset", "1"]));
    check(&scratch, "dead", &dead);

    let log = Log::open_or_create(scratch.log()).unwrap();
    let (shop, nested) = (client(&log), log.client("nested").open().unwrap());
    let request = shop.request("orders", &Record::new("order")).unwrap();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    drop(request.with_traceparent(trace).unwrap().call().unwrap());
    let handler = move |request: &deaddrop::service::Request<'_>| {
        drop(nested.request("echo", &Record::new("item"))?.caused_by(request).call()?);
        Ok(Reply::new("ok"))
    };
    assert_eq!(log.server("orders", handler).unwrap().poll(Duration::from_secs(30)).unwrap(), 1);
    check(&scratch, "trace", &json(&scratch, 0, &["trace", "--last", "99"]));

    let mut clients = json(&scratch, 0, &["clients"]);
    clients.extend(json(&scratch, 0, &["clients", "retire", "cli", "--discard"]));
    let sent = json(&scratch, 0, &["request", "echo", "taken back", "--no-wait"]);
    let cancelled = json(&scratch, 0, &["cancel", sent[0]["id"].as_str().unwrap()]);
    check(&scratch, "cancel", &cancelled);
    check(&scratch, "clients", &clients);

    // Requests in the place of parked outcomes: no offset of a request is given for these.
    scratch.run_with(&["import", "cli.parked", "--reserved"], &requests).expect(0);
    check(&scratch, "pending", &json(&scratch, 0, &["pending"]));
}

/// Commands without records, with a missing argument or file, and with damage, with their exit
/// codes and the number of objects that they print.
const POOR: &[(&str, i32, usize)] = &[
    ("append empty", 0, 1),
    ("append empty no-such-file", 3, 0),
    ("append damaged", 4, 0),
    ("cat empty", 0, 0),
    ("cat empty 5", 1, 0),
    ("cat lossy", 4, 1),
    ("cat lossy --skip-damage", 4, 2),
    ("tail empty", 0, 0),
    ("tail nothing", 1, 0),
    ("export empty", 0, 0),
    ("export lossy", 4, 1),
    ("import empty", 0, 1),
    ("import empty no-such-file", 3, 0),
    ("create empty", 0, 1),
    ("create empty --durability power-loss", 2, 0),
    ("trim empty --before 0", 0, 1),
    ("trim empty --before 1", 1, 0),
    ("delete empty", 0, 1),
    ("delete nothing --execute", 1, 0),
    ("ls", 4, 3),
    ("ls --names", 0, 4),
    ("info empty", 0, 1),
    ("info damaged", 4, 0),
    ("stats empty", 0, 1),
    ("stats nothing", 1, 0),
    ("dump empty", 0, 3),
    ("dump damaged", 4, 0),
    ("dump drop/topics/damaged/settings", 4, 0),
    ("consumers empty", 0, 0),
    ("consumers empty --delete nobody", 1, 0),
    ("groups empty", 0, 0),
    ("groups empty nobody --lanes", 1, 0),
    ("groups reset empty nobody --to 0", 1, 0),
    ("verify empty", 0, 1),
    ("verify damaged", 4, 2),
    ("verify nothing", 1, 0),
    ("repair empty", 0, 1),
    ("repair --all", 4, 4),
    ("repair nothing", 1, 0),
    ("request some.service x --deadline 0s", 1, 1),
    ("request --attach cli-0000000000000001-0", 1, 0),
    ("trace --key nobody", 1, 0),
    ("pending", 0, 0),
    ("pending --service nobody", 1, 0),
    ("clients", 0, 1),
    ("clients retire nobody", 1, 0),
    ("cancel cli-0000000000000001-0", 1, 0),
    ("dead empty", 0, 0),
    ("dead redrive nothing", 1, 0),
    ("serve ../no-service -- cat", 2, 0),
    ("completions zsh", 2, 0),
    ("man pages", 2, 0),
    ("top --once --interval 10ms", 4, 1),
    ("bench --compare no-such-file neither", 3, 0),
    ("ls --no-such-option", 2, 0),
];

#[test]
fn with_json_standard_output_has_only_objects_even_without_records_and_after_errors() {
    let scratch = Scratch::new();
    drop((scratch.topic_of("empty", 0..0), scratch.topic_of("damaged", 0..5)));
    drop((scratch.topic_of("lossy", 0..3), scratch.topic_of("fine", 0..3)));
    lose(&scratch, "lossy", 1);
    flip(&scratch.log().join("topics/damaged/settings"), 20, 3);
    for (line, code, count) in POOR {
        let args: Vec<&str> = line.split(' ').collect();
        let ran = scratch.run(&[&["--json"], &args[..]].concat()).expect(*code);
        let objects = ran.json();
        assert_eq!(objects.len(), *count, "{line}: {} {}", ran.text(), ran.stderr);
        assert!(objects.iter().all(|object| object["v"] == 1), "{line}: {}", ran.text());
        // Damage that a command was asked for is in its output; every other failure is on stderr.
        let is_told =
            !ran.stderr.is_empty() || (*code == 4 && *count > 0) || line.contains("deadline");
        assert_eq!(is_told, *code != 0, "{line}: {}", ran.stderr);
        let has_none = ["serve", "completions", "man"].contains(&args[0]);
        assert_eq!(ran.stderr.contains("prints no JSON"), has_none, "{line}: {}", ran.stderr);
        assert!(ran.stderr.is_empty() || ran.stderr.starts_with("deaddrop: "), "{}", ran.stderr);
    }
    let tried: std::collections::BTreeSet<&str> =
        POOR.iter().filter_map(|(line, _, _)| line.split(' ').next()).collect();
    let names = crate::help::commands(&scratch, &[]);
    for name in names.iter().filter(|name| *name != "help") {
        assert!(tried.contains(name.as_str()), "{name} was not tried");
    }
}

#[test]
fn format_help_needs_no_other_argument_and_is_never_part_of_a_served_command() {
    let scratch = Scratch::new();
    let help = scratch.run(&["cat", "--format", "help"]).expect(0).text();
    assert!(help.contains("Escapes of --format") && help.contains("%o offset"), "{help}");
    assert_eq!(scratch.run(&["cat", "--format=help"]).expect(0).text(), help);
    let ran = scratch.run(&["serve", "echo", "--format", "help"]).expect(0);
    assert_eq!(ran.text(), "serve prints no JSON.\n");
    scratch.append("t", "a\n");
    assert_eq!(scratch.run(&["cat", "t", "--format", "json"]).text().lines().count(), 1);
    for args in [vec!["ls", "--format", "%o"], vec!["info", "t", "--format", "raw"]] {
        let ran = scratch.run(&args).expect(2);
        assert!(ran.stderr.contains("only cat and tail"), "{}", ran.stderr);
    }
    scratch.run(&["ls", "--json", "--format", "text"]).expect(2);
}
