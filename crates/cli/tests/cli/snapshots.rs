//! The output of each command for a fixed small log, as text and as JSON, beside stored files.
//!
//! The files are in `tests/snapshots`, one for each command. `UPDATE_SNAPSHOTS=1` rewrites them; a
//! person then reviews the difference.

mod measured;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use deaddrop::group::GroupOptions;
use deaddrop::{Durability, Log, Record, Start, TopicOptions};

use crate::support::{flip, Scratch};

/// `help` prints what `--help` prints, which is also in the completions and the manual.
const WITHOUT: &[&str] = &["help"];

/// Three topics: orders with every part of a record and two consumers, an empty one, a damaged one.
fn fixed_log(scratch: &Scratch) {
    let log = Log::open_or_create(scratch.log()).unwrap();
    let options = || {
        TopicOptions::default().with_durability(Durability::ProcessCrash).with_segment_len(16 << 10)
    };
    let orders = log.topic_with("orders", options()).unwrap();
    for record in [
        Record::new("3 of item 7").with_key("customer-12"),
        Record::new("grün\nund\tblau")
            .with_key("customer-12")
            .with_header("trace", "abc")
            .with_header("hops", "2"),
        Record::new([0, 0xff, 0xfe]).with_key([0xff]).with_header("binary", [0x80]),
        Record::new(""),
        Record::new(r#"{"sku":"S-1","quantity":3}"#),
    ] {
        orders.append(&record).unwrap();
    }
    orders.append_batch(&[Record::new("one of two"), Record::new("two of two")]).unwrap();
    for (name, at) in [("billing", 5), ("shipping", 2)] {
        orders.consumer(name, Start::Offset(at)).unwrap().sync().unwrap();
    }
    let lanes = GroupOptions::default().with_lanes(2).with_start(Start::Offset(3));
    orders.group("packing", lanes).unwrap();
    log.topic_with("empty", options()).unwrap();
    let damaged = log.topic_with("damaged", options()).unwrap();
    for index in 0..4 {
        damaged.append(&Record::new(format!("record {index}"))).unwrap();
    }
    drop((log, orders, damaged));
    // In the payload of the second record.
    flip(&scratch.segments("damaged")[0], 4096 + 48 + 36, 0);
    std::fs::write(scratch.path().join("line.txt"), "a line\nand another\n").unwrap();
    let records = scratch.run(&["export", "orders"]).expect(0).stdout;
    std::fs::write(scratch.path().join("records.ndjson"), records).unwrap();
}

/// A service: one request was answered, one dead-lettered, one waits; all have one key, so they are
/// in one lane and in this order.
fn a_service(scratch: &Scratch) {
    let log = Log::open_or_create(scratch.log()).unwrap();
    let options = TopicOptions::default()
        .with_durability(Durability::ProcessCrash)
        .with_segment_len(64 << 10);
    for name in ["echo.requests", "echo.replies", "echo.dead"] {
        log.topic_with(name, options).unwrap();
    }
    drop(log);
    let request = |payload: &str| ["request", "echo", payload, "--key", "k"].map(str::to_owned);
    let request = |payload: &str, more: &[&str], code: i32| {
        let all = request(payload);
        let args: Vec<&str> = all.iter().map(String::as_str).chain(more.iter().copied()).collect();
        scratch.run(&args).expect(code);
    };
    request("first", &["--no-wait"], 0);
    scratch.run(&["serve", "echo", "-n", "1", "--", "cat"]).expect(0);
    let args = ["serve", "echo", "--max-attempts", "1", "--retry-first", "1ms", "--", "false"];
    let mut server = scratch.command(&args).spawn().unwrap();
    request("second", &[], 1);
    server.kill().unwrap();
    server.wait().unwrap();
    request("third", &["--no-wait"], 0);
}

/// No log: a directory that is there and empty.
fn an_empty_directory(scratch: &Scratch) {
    std::fs::create_dir(scratch.log()).unwrap();
}

/// A function that makes a log, and the command lines that are run with it.
type Story = (fn(&Scratch), &'static [(&'static str, &'static [&'static str])]);

const STORIES: &[Story] =
    &[(fixed_log, RUNS), (a_service, RUNS_OF_A_SERVICE), (an_empty_directory, RUNS_WITHOUT_A_LOG)];

const RUNS_OF_A_SERVICE: &[(&str, &[&str])] = &[
    (
        "top",
        &[
            "top --once --interval 10ms",
            "top -n 2 --interval 10ms",
            "top --once --interval 10ms --json",
            "top --interval 0s",
        ],
    ),
    (
        "pending",
        &["pending", "pending --json", "pending --client nobody", "pending --service none"],
    ),
    ("trace", &["trace --key k", "trace --key k --json", "trace --last 1", "trace --key nobody"]),
    ("cancel", &["cancel cli-0000000000000001-0", "cancel no-id"]),
    ("clients", &["clients", "clients --json", "clients retire cli", "clients retire nobody"]),
    (
        "dead",
        &[
            "dead echo.dead",
            "dead echo.dead --json",
            "dead redrive echo.dead",
            "dead redrive echo.dead --execute --json",
            "dead redrive echo.dead --offset 5:",
            "dead",
        ],
    ),
];

const RUNS_WITHOUT_A_LOG: &[(&str, &[&str])] = &[
    (
        "bench",
        &[
            "bench --count 60 --warm-up 0s --durability process-crash --output a.json",
            "bench --count 60 --warm-up 0s --workload append --durability power-loss --json",
            "bench --compare a.json a.json",
            "bench --compare a.json missing.json",
            "bench --count 0",
        ],
    ),
    ("completions", &["completions fish", "completions tcsh", "completions zsh --json"]),
    ("man", &["man pages", "man pages --json", "< pages/deaddrop-dead-redrive.1"]),
];

/// The arguments that each command is run with. Those that write come last.
const RUNS: &[(&str, &[&str])] = &[
    ("ls", &["ls", "ls --json", "ls --names", "ls --names --json"]),
    ("info", &["info orders", "info orders --json", "info nothing"]),
    (
        "cat",
        &[
            "cat orders",
            "cat orders --json",
            "cat orders 1:3 --format %t[%o]%K:%k{json}|%S:%v{json}|%h|%h{hex}|%h{json}%n",
            "cat orders 2 --format raw",
            "cat orders 99",
            "cat damaged",
            "cat damaged --skip-damage",
        ],
    ),
    ("tail", &["tail -n 2 orders", "tail orders --from -3 --json"]),
    ("export", &["export orders", "export orders -2", "export damaged --skip-damage"]),
    ("stats", &["stats orders", "stats orders --json", "stats empty", "stats empty --json"]),
    ("dump", &["dump orders", "dump orders --json", "dump damaged --quiet"]),
    (
        "groups",
        &[
            "groups",
            "groups orders packing --json",
            "groups orders packing --lanes",
            "groups orders packing --lanes --json",
            "groups reset orders packing --to -5",
            "groups resume orders packing 1",
            "groups delete orders packing --json",
            "groups delete orders nobody",
        ],
    ),
    (
        "consumers",
        &[
            "consumers orders",
            "consumers orders --json",
            "consumers orders --reset billing --to 0",
            "consumers orders --reset billing --to 0 --json",
            "consumers orders --delete shipping",
            "consumers orders --delete nobody",
        ],
    ),
    ("verify", &["verify", "verify --json"]),
    (
        "repair",
        &[
            "repair damaged",
            "repair --all --json",
            "repair damaged --execute",
            "repair damaged",
            "verify damaged",
            "repair nothing",
        ],
    ),
    (
        "append",
        &[
            "append new line.txt",
            "append new line.txt --json",
            "append new line.txt --ack -q",
            "append new line.txt --ack --json",
            "append new no-such-file",
        ],
    ),
    ("import", &["import copy records.ndjson", "import copy records.ndjson --json"]),
    (
        "create",
        &[
            "create sized --segment-size 64KiB --durability process-crash",
            "create sized",
            "create sized --json",
            "create sized --retain-age 1d",
            "create bad/name",
        ],
    ),
    (
        "trim",
        &[
            "trim orders --before 3",
            "trim orders --before end --json",
            "trim orders --before 100",
            "trim nothing --before 3",
        ],
    ),
    ("delete", &["delete new", "delete new --json", "delete new --execute", "delete new"]),
    (
        "request",
        &[
            "request echo hello --no-wait",
            "request echo hello --no-wait --json",
            "request echo hello --deadline 1ms",
            "request echo hello --deadline 1ms --json",
            "request echo hello --timeout 1ms",
        ],
    ),
    ("serve", &["serve echo -n 1 -- /no/such/command", "serve echo -n 1 -- cat"]),
];

#[test]
fn each_command_prints_its_snapshot() {
    let update = std::env::var_os("UPDATE_SNAPSHOTS").is_some();
    let mut differ = Vec::new();
    for (make, runs) in STORIES {
        let scratch = Scratch::new();
        make(&scratch);
        for (command, runs) in *runs {
            let text: String =
                runs.iter().map(|args| transcript(&scratch, command, args)).collect();
            let path = snapshot_dir().join(format!("{command}.txt"));
            if update {
                std::fs::write(&path, text).unwrap();
                continue;
            }
            let agreed = std::fs::read_to_string(&path).unwrap_or_default();
            if let Some(difference) = first_difference(&agreed, &text) {
                differ.push(format!("{command}: {difference}"));
            }
        }
    }
    assert!(differ.is_empty(), "UPDATE_SNAPSHOTS=1 accepts it:\n{}", differ.join("\n"));
}

#[test]
fn every_command_has_a_snapshot_and_every_snapshot_a_command() {
    let help = Scratch::new().run(&["--help"]).expect(0).text();
    let (_, rest) = help.split_once("Commands:\n").unwrap();
    let lines = rest.lines().take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("    "));
    let known: BTreeSet<String> = names
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .filter(|name| !WITHOUT.contains(&name.as_str()))
        .collect();
    let shown = STORIES.iter().flat_map(|(_, runs)| *runs);
    let shown: BTreeSet<String> = shown.map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(shown, known);
    let files = std::fs::read_dir(snapshot_dir()).unwrap().map(|entry| entry.unwrap().path());
    let files = files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned());
    assert_eq!(files.collect::<BTreeSet<String>>(), known);
}

fn snapshot_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots")
}

/// Returns a command line, its output and its exit code; or the contents of a file.
fn transcript(scratch: &Scratch, command: &str, args: &str) -> String {
    if let Some(file) = args.strip_prefix("< ") {
        let bytes = std::fs::read(scratch.path().join(file)).unwrap();
        return format!("$ cat {file}\n{}\n", readable(&bytes));
    }
    let args: Vec<&str> = args.split(' ').collect();
    let ran = scratch.run_with(&args, b"from standard input");
    let mut text = format!("$ deaddrop {}\n", args.join(" "));
    text += &readable(&ran.stdout);
    if !text.ends_with('\n') {
        text += "<no newline>\n";
    }
    for line in ran.stderr.lines() {
        writeln!(text, "! {line}").unwrap();
    }
    writeln!(text, "= {}\n", ran.code.unwrap()).unwrap();
    let text = text.replace(env!("CARGO_BIN_EXE_deaddrop"), "deaddrop");
    let text = normalise(&text.replace(scratch.path().to_str().unwrap(), "DIR"));
    measured::normalise(command, &text)
}

/// Returns bytes as text that an editor shows; bytes that are not text become `<ff>`.
fn readable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\n' => text.push('\n'),
                other if other.is_control() => write!(text, "<{:02x}>", other as u32).unwrap(),
                other => text.push(other),
            }
        }
        for byte in chunk.invalid() {
            write!(text, "<{byte:02x}>").unwrap();
        }
    }
    text
}

/// Returns the text without the parts that differ from run to run.
fn normalise(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let is_word = |char: char| char.is_ascii_alphanumeric() || matches!(char, ':' | '.' | '-');
        let mut out = String::new();
        let mut rest = line;
        while !rest.is_empty() {
            let end = rest.find(|char| !is_word(char)).unwrap_or(rest.len());
            out += &normal_word(&rest[..end]);
            let next = rest[end..].find(is_word).map_or(rest.len(), |at| end + at);
            out += &rest[end..next];
            rest = &rest[next..];
        }
        for (before, behind) in [
            ("\"seconds\":", "}"),
            ("\"last_minute\":{\"records\":", "}"),
            ("\"last_hour\":{\"records\":", "}"),
            ("last minute   ", "second"),
            ("last hour     ", "second"),
            (" in ", " s"),
        ] {
            out = blank_between(&out, before, behind);
        }
        lines.push(out);
    }
    lines.join("\n") + "\n"
}

/// Returns a word, or the kind of word that it is.
fn normal_word(word: &str) -> String {
    let bytes = word.as_bytes();
    let is_time = bytes.len() >= 20 && bytes[4] == b'-' && bytes[10] == b'T' && word.ends_with('Z');
    if is_time {
        return "TIME".to_owned();
    }
    let part = |part: &str| {
        let hex = part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match part.len() {
            8 if hex => "CRC".to_owned(),
            16 if hex => "HEX".to_owned(),
            _ => part.to_owned(),
        }
    };
    word.split('-').map(part).collect::<Vec<String>>().join("-")
}

/// Replaces the digits between two texts by `N`.
fn blank_between(line: &str, before: &str, behind: &str) -> String {
    let Some((head, tail)) = line.split_once(before) else { return line.to_owned() };
    let Some((number, rest)) = tail.split_once(behind) else { return line.to_owned() };
    let numeric = number.chars().all(|c| c.is_ascii_digit() || c == '.');
    if before == " in " && !numeric {
        return line.to_owned();
    }
    let text: String = number.chars().map(|c| if c.is_ascii_digit() { 'N' } else { c }).collect();
    let mut short = text;
    while short.contains("NN") || short.contains("N.N") {
        short = short.replace("NN", "N").replace("N.N", "N");
    }
    format!("{head}{before}{short}{behind}{rest}")
}

fn first_difference(agreed: &str, printed: &str) -> Option<String> {
    if agreed == printed {
        return None;
    }
    let mut lines = agreed.lines().zip(printed.lines()).enumerate();
    Some(match lines.find(|(_, (agreed, printed))| agreed != printed) {
        Some((index, (agreed, printed))) => {
            format!("line {}:\n- {agreed}\n+ {printed}", index + 1)
        }
        None => {
            format!("{} lines, agreed were {}", printed.lines().count(), agreed.lines().count())
        }
    })
}
