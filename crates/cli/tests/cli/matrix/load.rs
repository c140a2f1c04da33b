//! Processes that write to a log at full speed, and the acknowledgements that they got.
//!
//! Two `deaddrop append` share the topic `t`, which drops old records; a third appends to `safe`,
//! each record once the one before it is on the disk. A server and a client are this binary again;
//! besides requests they use a group and a consumer on `safe`.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use deaddrop::group::{GroupOptions, WorkerOptions};
use deaddrop::service::{HandlerError, Outcome, Reply, Request, ServerOptions};
use deaddrop::{Durability, Log, LogOptions, Record, Retention, Start, TopicOptions};

use crate::support::Scratch;

const ROLE: &str = "DEADDROP_CLI_CHILD";
const LONG: Duration = Duration::from_secs(60);
/// Polls of a writer, a millisecond apart, after which it counts as stuck.
const LOOKS: u32 = 120_000;
/// Requests that a client has sent without an answer so far.
const OUTSTANDING: usize = 16;
/// More records than any writer appends.
const RECORDS_MAX: u64 = 1 << 32;

/// Not a test: the entry point of a child process.
#[test]
fn entry() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (role, dir) = role.split_once('\n').unwrap();
    let log = Log::open_or_create(dir).unwrap();
    match role {
        "server" => server(&log),
        "client" => client(&log),
        other => panic!("no role {other}"),
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The harness may have left a line unfinished.
    out.write_all(format!("\n@{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Becomes true when the parent asks for it by closing standard input, or has gone.
fn stopped() -> Arc<AtomicBool> {
    let stopped = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stopped);
    std::thread::spawn(move || {
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        told.store(true, Ordering::Relaxed);
    });
    stopped
}

fn server(log: &Log) {
    let handler = |request: &Request<'_>| match request.payload() {
        b"poison" => Err(HandlerError::retry("poison")),
        payload => Ok(Reply::new(payload)),
    };
    let options = ServerOptions::default().with_threads(2).with_max_attempts(1);
    let serving = log.server_with("echo", options, handler).unwrap().spawn().unwrap();
    let group = log.topic("safe").unwrap().group("workers", GroupOptions::default()).unwrap();
    let handled = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&handled);
    let working = group.worker(WorkerOptions::default(), move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    let working = working.unwrap().spawn().unwrap();
    say("ready");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    assert!(!serving.has_ended() && !working.has_ended(), "disturbed");
    working.stop().unwrap();
    serving.stop().unwrap();
    say(&format!("done {}", handled.load(Ordering::Relaxed)));
}

fn client(log: &Log) {
    let stopped = stopped();
    let client = log.client("shop").open().unwrap();
    let poison = client.request("echo", &Record::new("poison").with_key("k")).unwrap();
    let done = poison.call().unwrap().wait_timeout(LONG).unwrap().expect("it is served");
    assert!(matches!(done.outcome(), Outcome::DeadLettered(_)), "{done:?}");
    let mut consumer = log.topic("safe").unwrap().consumer("c", Start::First).unwrap();
    say("ready");
    let mut calls = VecDeque::new();
    let (mut answered, mut consumed) = (0u64, 0);
    for number in 0..RECORDS_MAX {
        let is_last = stopped.load(Ordering::Relaxed);
        if !is_last {
            let record = Record::new(number.to_string()).with_key(format!("k{}", number % 50));
            calls.push_back(client.request("echo", &record).unwrap().call().unwrap());
        }
        while calls.len() >= if is_last { 1 } else { OUTSTANDING } {
            let done = calls.pop_front().unwrap().wait_timeout(LONG).unwrap();
            let done = done.expect("it is served");
            let Outcome::Reply(reply) = done.outcome() else { panic!("{done:?}") };
            assert_eq!(reply.payload(), answered.to_string().as_bytes());
            answered += 1;
        }
        if let Some(record) = consumer.next().unwrap() {
            assert_eq!(record.offset(), consumed);
            consumed += 1;
            consumer.commit().unwrap();
        }
        if is_last {
            break;
        }
    }
    say(&format!("done {answered}"));
}

/// This binary again, in a role.
struct Role {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Role {
    fn start(scratch: &Scratch, role: &str) -> Role {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "matrix::load::entry", "--nocapture"])
            .env(ROLE, format!("{role}\n{}", scratch.log().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut role = Role { child, lines };
        role.listen("ready");
        role
    }

    /// Returns the rest of its line that begins with a word.
    fn listen(&mut self, word: &str) -> String {
        let said = self.lines.by_ref().map(Result::unwrap);
        let mut said = said.filter_map(|line| Some(line.strip_prefix('@')?.to_owned()));
        let line = said.next().expect("it ended without a word");
        line.strip_prefix(word).unwrap_or_else(|| panic!("{word} expected: {line}")).to_owned()
    }

    /// Lets it finish; returns its count.
    fn stop(mut self) -> u64 {
        drop(self.child.stdin.take());
        let count = self.listen("done ").parse().unwrap();
        self.lines.by_ref().for_each(drop);
        assert!(self.child.wait().unwrap().success());
        count
    }
}

/// A `deaddrop append --ack` that gets lines without end.
struct Appender {
    topic: &'static str,
    name: &'static str,
    child: Child,
    stop: Arc<AtomicBool>,
    feeding: JoinHandle<u64>,
    reading: JoinHandle<Vec<u64>>,
    acknowledged: Arc<AtomicU64>,
}

/// Returns the payload of a writer's record.
fn payload(name: &str, index: u64) -> String {
    format!("{name} {index} {}", "x".repeat(index as usize % 100))
}

/// Writes lines until stopped, `ahead` of the acknowledgements; returns their number.
fn feed(
    mut stdin: impl Write,
    acks: &Receiver<()>,
    stop: &AtomicBool,
    (name, ahead): (&str, u64),
) -> u64 {
    let mut fed = 0;
    while fed < RECORDS_MAX && !stop.load(Ordering::Relaxed) {
        let lines: String = (fed..fed + ahead).map(|at| payload(name, at) + "\n").collect();
        if stdin.write_all(lines.as_bytes()).is_err() {
            break;
        }
        fed += ahead;
        if acks.iter().take(ahead as usize).count() < ahead as usize {
            break;
        }
    }
    fed
}

impl Appender {
    fn start(scratch: &Scratch, topic: &'static str, name: &'static str, ahead: u64) -> Appender {
        let mut command = scratch.command(&["append", topic, "--ack", "-q"]);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (told, acks): (Sender<()>, _) = channel();
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (is_over, count) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        // A separate signal for each at the start, so that `ahead` lines are always in flight.
        for _ in 0..ahead {
            told.send(()).unwrap();
        }
        let feeding = std::thread::spawn(move || feed(stdin, &acks, &is_over, (name, ahead)));
        let reading = std::thread::spawn(move || {
            let mut offsets = Vec::new();
            let mut stdout = BufReader::new(stdout);
            let mut line = String::new();
            // A killed writer may leave half a line.
            while stdout.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
                offsets.push(line.trim().parse().unwrap());
                count.fetch_add(1, Ordering::Relaxed);
                // The feeder may have stopped already.
                told.send(()).unwrap_or_default();
                line.clear();
            }
            offsets
        });
        Appender { topic, name, child, stop, feeding, reading, acknowledged }
    }
}

/// All writers.
pub(crate) struct Load {
    appenders: Vec<Appender>,
    server: Role,
    client: Role,
}

/// The acknowledged records: the payload of each offset of a topic.
pub(crate) type Acknowledged = BTreeMap<(&'static str, u64), String>;

/// Makes the topics, with a consumer and two groups that have no workers.
pub(crate) fn make_topics(scratch: &Scratch, mode: u32) {
    let options = LogOptions::default().with_mode(mode);
    let log = Log::open_or_create_with(scratch.log(), options).unwrap();
    let keep = |bytes: u64| Retention::default().with_bytes(bytes);
    let fast = TopicOptions::default()
        .with_durability(Durability::ProcessCrash)
        .with_segment_len(64 << 10)
        .with_retention(keep(1 << 20));
    let safe = TopicOptions::default().with_segment_len(1 << 20);
    let retention = Retention::default().with_consumed(true);
    let service = safe.with_segment_len(256 << 10).with_retention(retention);
    let services = ["echo.requests", "echo.replies", "echo.dead"].map(|name| (name, service));
    for (name, options) in services.into_iter().chain([("t", fast), ("made", fast), ("safe", safe)])
    {
        let topic = log.topic_with(name, options).unwrap();
        if matches!(name, "t" | "safe") {
            topic.consumer("idle", Start::First).unwrap();
            for group in ["workers", "spare"] {
                let few = GroupOptions::default().with_lanes(4);
                topic.group(group, few).unwrap();
            }
        }
    }
}

impl Load {
    /// Starts all writers; each has written something when this returns.
    pub(crate) fn start(scratch: &Scratch) -> Load {
        let server = Role::start(scratch, "server");
        let client = Role::start(scratch, "client");
        let appenders = vec![
            Appender::start(scratch, "t", "one", 256),
            Appender::start(scratch, "t", "two", 256),
            Appender::start(scratch, "safe", "three", 1),
        ];
        let load = Load { appenders, server, client };
        load.wait_for_more(&vec![0; load.appenders.len()]);
        load
    }

    /// Returns how many records of each writer were acknowledged.
    pub(crate) fn counts(&self) -> Vec<u64> {
        self.appenders.iter().map(|one| one.acknowledged.load(Ordering::Relaxed)).collect()
    }

    /// Waits until more records of each writer are acknowledged.
    pub(crate) fn wait_for_more(&self, than: &[u64]) {
        for (appender, than) in self.appenders.iter().zip(than) {
            for look in 0.. {
                if appender.acknowledged.load(Ordering::Relaxed) > *than {
                    break;
                }
                let is_over = appender.reading.is_finished() || look > LOOKS;
                assert!(!is_over, "{} is stuck", appender.name);
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
    }

    /// Lets all finish; returns the acknowledged records, and how many requests were answered.
    pub(crate) fn stop(self) -> (Acknowledged, u64) {
        for appender in &self.appenders {
            appender.stop.store(true, Ordering::Relaxed);
        }
        let mut all = Acknowledged::new();
        for mut appender in self.appenders {
            let fed = appender.feeding.join().unwrap();
            let offsets = appender.reading.join().unwrap();
            assert_eq!(offsets.len() as u64, fed, "{}: every line is acknowledged", appender.name);
            assert_eq!(appender.child.wait().unwrap().code(), Some(0), "{}", appender.name);
            note(&mut all, appender.topic, appender.name, &offsets);
        }
        let answered = self.client.stop();
        self.server.stop();
        (all, answered)
    }

    /// Kills all writers.
    pub(crate) fn kill(mut self) -> Acknowledged {
        for child in self.appenders.iter_mut().map(|appender| &mut appender.child) {
            child.kill().unwrap();
        }
        for mut role in [self.server, self.client] {
            role.child.kill().unwrap();
            role.child.wait().unwrap();
        }
        let mut all = Acknowledged::new();
        for mut appender in self.appenders {
            appender.child.wait().unwrap();
            appender.feeding.join().unwrap();
            let offsets = appender.reading.join().unwrap();
            note(&mut all, appender.topic, appender.name, &offsets);
        }
        all
    }
}

fn note(all: &mut Acknowledged, topic: &'static str, name: &str, offsets: &[u64]) {
    assert!(offsets.windows(2).all(|pair| pair[0] < pair[1]), "{name}: offsets rise");
    for (index, &offset) in offsets.iter().enumerate() {
        let other = all.insert((topic, offset), payload(name, index as u64));
        assert!(other.is_none(), "{topic} {offset} was assigned twice");
    }
}

/// Checks that every acknowledged record that retention has left is there with its payload. Without
/// `all`, it checks only records that are there.
pub(crate) fn check(log: &Log, acknowledged: &Acknowledged, all: bool) {
    for name in ["t", "safe"] {
        let topic = log.open_topic(name).unwrap();
        let mut reader = topic.reader(Start::First).unwrap();
        let mut next = reader.offset();
        assert!(name == "t" || next == 0);
        let mut seen = 0;
        while let Some(record) = reader.next().unwrap() {
            assert_eq!(record.offset(), next, "{name}: no gap");
            next += 1;
            if let Some(payload) = acknowledged.get(&(name, record.offset())) {
                assert_eq!(record.payload(), payload.as_bytes(), "{name} {}", record.offset());
                seen += 1;
            }
        }
        let last = acknowledged.range((name, 0)..=(name, u64::MAX)).next_back().unwrap();
        assert!(
            !all || last.0 .1 < next,
            "{name}: {last:?} is acknowledged, the topic ends at {next}"
        );
        assert!(seen > 0);
    }
}

/// A child that gets lines without end.
pub(crate) struct Endless {
    child: Child,
    stop: Arc<AtomicBool>,
    feeding: JoinHandle<u64>,
}

impl Endless {
    pub(crate) fn of(mut child: Child) -> Endless {
        let mut stdin = child.stdin.take().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&stop);
        let feeding = std::thread::spawn(move || {
            let mut fed = 0;
            while fed < RECORDS_MAX && !is_over.load(Ordering::Relaxed) {
                stdin.write_all(b"endless\n").unwrap();
                fed += 1;
            }
            fed
        });
        Endless { child, stop, feeding }
    }

    /// Lets it finish; returns the number of lines.
    pub(crate) fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let fed = self.feeding.join().unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        fed
    }
}
