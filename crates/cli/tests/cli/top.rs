//! `top`: what it shows of a log at work, that it changes nothing, and that it restores the
//! terminal.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use deaddrop::group::{GroupOptions, HandlerError, Poison, WorkerOptions};
use deaddrop::service::Reply;
use deaddrop::{Durability, Log, Record, Start, TopicOptions};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::pty;
use rustix::termios::{self, LocalModes, Winsize};
use serde_json::Value;

use crate::support::{flip, snapshot, Scratch};

/// A process that appends until it is killed.
struct Appender {
    child: Child,
}

impl Appender {
    fn start(scratch: &Scratch, topic: &str) -> Appender {
        let args = ["append", topic, "-q", "--ack", "--durability", "process-crash"];
        let mut child = scratch.command(&args).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // Ends with the child, because its pipe is closed then.
        std::thread::spawn(move || while stdin.write_all(b"x\ny\nz\n").is_ok() {});
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "it has appended");
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        Appender { child }
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn once(scratch: &Scratch) -> Value {
    let args = ["top", "--once", "--json", "--interval", "200ms"];
    let mut lines = scratch.run(&args).expect(0).json();
    assert_eq!(lines.len(), 1);
    lines.remove(0)
}

fn pids(topic: &Value) -> Vec<u64> {
    let members = topic["members"].as_array().unwrap().iter();
    let mut pids: Vec<u64> = members.map(|member| member["pid"].as_u64().unwrap()).collect();
    pids.sort_unstable();
    pids
}

#[test]
fn three_appending_processes_are_shown_and_a_killed_one_is_not() {
    let scratch = Scratch::new();
    let mut appenders: Vec<Appender> = (0..3).map(|_| Appender::start(&scratch, "t")).collect();
    let view = once(&scratch);
    let topic = &view["topics"][0];
    assert_eq!((&topic["topic"], &topic["durability"]), (&"t".into(), &"process-crash".into()));
    assert!(topic["per_second"].as_f64().unwrap() > 0.0, "{view}");
    assert!(topic["high_watermark"].as_u64().unwrap() >= 3);
    let mut expected: Vec<u64> = appenders.iter().map(|one| one.child.id().into()).collect();
    expected.sort_unstable();
    assert_eq!(pids(topic), expected);
    for member in topic["members"].as_array().unwrap() {
        assert_eq!(member["command"], "deaddrop");
        assert!(["idle", "appending"].contains(&member["state"].as_str().unwrap()), "{member}");
    }
    let killed = u64::from(appenders.remove(0).child.id());
    let still = pids(&once(&scratch)["topics"][0]);
    assert!(still.len() == 2 && !still.contains(&killed));
}

#[test]
fn a_stopped_process_is_shown() {
    let scratch = Scratch::new();
    let appender = Appender::start(&scratch, "t");
    let pid = appender.child.id().to_string();
    assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    // The signal is sent; /proc shows when it has arrived, to the test as to `top`.
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next()
    };
    assert!((0..100_000).any(|_| state() == Some('T')), "it never stopped");
    let topic = &once(&scratch)["topics"][0];
    assert_eq!(topic["members"][0]["state"], "stopped");
    assert_eq!(topic["per_second"], 0.0);
}

#[test]
fn consumers_show_their_lag_and_who_owns_them() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..100);
    let mut owned = topic.consumer("owned", Start::Offset(40)).unwrap();
    topic.consumer("free", Start::First).unwrap();
    owned.next().unwrap();
    owned.commit().unwrap();
    let view = once(&scratch);
    let consumers = &view["topics"][0]["consumers"];
    let free = &consumers[0];
    assert_eq!(
        (&free["consumer"], &free["lag"], &free["owner"]),
        (&"free".into(), &100.into(), &Value::Null)
    );
    assert_eq!((&consumers[1]["lag"], &consumers[1]["committed"]), (&59.into(), &41.into()));
    assert_eq!(consumers[1]["owner"], std::process::id());
    assert_eq!(view["topics"][0]["members"][0]["pid"], std::process::id());
}

#[test]
fn the_lanes_of_a_group_are_shown_with_the_record_that_stops_one() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..50);
    let options = GroupOptions::default().with_lanes(4).with_start(Start::First);
    let group = topic.group("shipping", options).unwrap();
    let poison = Poison::StopLane;
    let options = WorkerOptions::default().with_max_attempts(1).with_poison(poison);
    let mut worker = group
        .worker(options, |job| match job.offset() {
            7 => Err(HandlerError::terminal("poison")),
            _ => Ok(()),
        })
        .unwrap();
    for _ in 0..100 {
        worker.poll(Duration::ZERO).unwrap();
    }
    let view = once(&scratch);
    let seen = &view["topics"][0]["groups"][0];
    assert_eq!(seen["group"], "shipping");
    let committed = seen["committed"].as_u64().unwrap();
    assert!(committed <= 7, "{view}");
    assert_eq!(seen["lag"], 50 - committed);
    let lanes = seen["lanes"].as_array().unwrap();
    assert_eq!(lanes.len(), 4);
    let stopped: Vec<&Value> = lanes.iter().filter(|lane| !lane["in_hand"].is_null()).collect();
    assert_eq!(stopped.len(), 1, "{view}");
    let in_hand = &stopped[0]["in_hand"];
    assert_eq!((&in_hand["offset"], &in_hand["state"]), (&7.into(), &"stopped".into()));
    assert!(lanes.iter().all(|lane| lane["owner"] == std::process::id()), "{view}");
    let text = scratch.run(&["top", "--once", "--interval", "10ms"]).expect(0).text();
    assert!(text.contains("LANE  GROUP") && text.contains("stopped"), "{text}");
}

#[test]
fn requests_without_an_outcome_are_counted_and_answered_ones_are_timed() {
    let scratch = Scratch::new();
    let log = Log::open_or_create(scratch.log()).unwrap();
    let options = TopicOptions::default().with_durability(Durability::ProcessCrash);
    let client = log.client("shop").with_topic_options(options).open().unwrap();
    let calls: Vec<_> = (0..5)
        .map(|_| client.request("echo", &Record::new("x")).unwrap().call().unwrap())
        .collect();
    let service = |view: &Value| view["services"][0].clone();
    let before = service(&once(&scratch));
    assert_eq!((&before["service"], &before["outstanding"]), (&"echo".into(), &5.into()));
    assert_eq!(before["outstanding_is_partial"], false);
    assert!(before["oldest_seconds"].as_f64().unwrap() >= 0.0);
    assert_eq!(before["latency_micros"], Value::Null);
    client.cancel(calls[4].id()).unwrap();
    assert_eq!(service(&once(&scratch))["outstanding"], 4, "cancelled is an outcome");
    let mut server = log.server("echo", |request| Ok(Reply::new(request.payload()))).unwrap();
    for _ in 0..100 {
        server.poll(Duration::ZERO).unwrap();
    }
    assert_eq!(server.lag().unwrap(), 0);
    let after = service(&once(&scratch));
    assert_eq!(after["outstanding"], 0);
    assert_eq!(
        (&after["oldest_seconds"], &after["latency_micros"]["count"]),
        (&Value::Null, &5.into())
    );
    let _more = client.request("echo", &Record::new("x")).unwrap().call().unwrap();
    let again = service(&once(&scratch));
    assert_eq!((&again["outstanding"], &again["latency_micros"]["count"]), (&1.into(), &5.into()));
}

#[test]
fn top_takes_no_lock_and_writes_nothing() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..100).consumer("c", Start::First).unwrap());
    scratch.run(&["request", "echo", "x", "--no-wait"]).expect(0);
    let before = snapshot(&scratch.log());
    once(&scratch);
    scratch.run(&["top", "-n", "2", "--interval", "10ms"]).expect(0);
    assert!(snapshot(&scratch.log()) == before, "files were changed");
}

#[test]
fn plain_output_is_a_table_for_each_interval() {
    let scratch = Scratch::new();
    scratch.topic_of("orders", 0..10);
    let text = scratch.run(&["top", "-n", "3", "--interval", "10ms"]).expect(0).text();
    assert_eq!(text.matches("TOPIC ").count(), 3, "{text}");
    assert!(text.lines().any(|line| line.starts_with("orders ")), "{text}");
    assert!(!text.contains('\x1b') && !text.contains("HISTORY"));
    let lines = scratch.run(&["top", "-n", "3", "--interval", "10ms", "--json"]).expect(0).json();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[2]["topics"][0]["high_watermark"], 10);
}

#[test]
fn an_empty_log_is_shown_and_another_directory_is_refused() {
    let scratch = Scratch::new();
    let ran = scratch.run(&["top", "--once"]).expect(3);
    assert!(ran.stderr.contains("check the path"), "{}", ran.stderr);
    assert!(!scratch.log().exists());
    std::fs::create_dir(scratch.log()).unwrap();
    scratch.run(&["top", "--once"]).expect(3);
    std::fs::write(scratch.log().join("thesis.tex"), "precious").unwrap();
    scratch.run(&["top", "--once"]).expect(3);
    std::fs::remove_file(scratch.log().join("thesis.tex")).unwrap();
    Log::open_or_create(scratch.log()).unwrap();
    let view = once(&scratch);
    assert_eq!(
        (&view["topics"], &view["services"]),
        (&Value::Array(vec![]), &Value::Array(vec![]))
    );
    for args in [vec!["--interval", "0s"], vec!["-n", "0"], vec!["-n", "1", "--once"]] {
        let ran = scratch.run(&[&["top"], &args[..]].concat()).expect(2);
        assert!(ran.stdout.is_empty());
    }
}

#[test]
fn a_damaged_topic_is_shown_beside_the_others_with_code_4() {
    let scratch = Scratch::new();
    scratch.topic_of("good", 0..10);
    drop(scratch.topic_of("bad", 0..10));
    flip(&scratch.log().join("topics/bad/settings"), 20, 3);
    let ran = scratch.run(&["top", "--once", "--json", "--interval", "10ms"]).expect(4);
    let view = &ran.json()[0];
    assert!(view["topics"][0]["error"].as_str().unwrap().contains("settings"), "{view}");
    assert_eq!(
        (&view["topics"][1]["topic"], &view["topics"][1]["error"]),
        (&"good".into(), &Value::Null)
    );
}

/// Returns whether lines are edited and echoed, as a shell expects.
fn is_cooked(terminal: &File) -> bool {
    let modes = termios::tcgetattr(terminal).unwrap().local_modes;
    modes.contains(LocalModes::ICANON | LocalModes::ECHO)
}

/// Makes a hang a failure of the test.
const GUARD: Duration = Duration::from_secs(60);

/// `deaddrop top` on a terminal of its own.
struct OnTerminal {
    child: Child,
    screen: File,
    /// Keeps the terminal open after the child has ended.
    terminal: File,
    seen: Vec<u8>,
}

impl OnTerminal {
    fn start(scratch: &Scratch, args: &[&str]) -> OnTerminal {
        OnTerminal::start_sized(scratch, args, 24, 100)
    }

    fn start_sized(scratch: &Scratch, args: &[&str], rows: u16, columns: u16) -> OnTerminal {
        let screen = pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY).unwrap();
        pty::grantpt(&screen).unwrap();
        pty::unlockpt(&screen).unwrap();
        let name = pty::ptsname(&screen, Vec::new()).unwrap();
        let terminal = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        termios::tcsetwinsize(&terminal, size).unwrap();
        assert!(is_cooked(&terminal));
        let end = || Stdio::from(terminal.try_clone().unwrap());
        let mut command = scratch.command(args);
        command.stdin(end()).stdout(end()).env("TERM", "xterm-256color");
        let child = command.spawn().unwrap();
        drop(command);
        OnTerminal { child, screen: File::from(screen), terminal, seen: Vec::new() }
    }

    /// Reads the output until it contains `text`.
    fn wait_for(&mut self, text: &str) {
        let mut piece = [0; 4096];
        let begun = Instant::now();
        while !self.has_seen(text) {
            let guard = Timespec::try_from(GUARD).unwrap();
            let ready =
                poll(&mut [PollFd::new(&self.screen, PollFlags::IN)], Some(&guard)).unwrap();
            // A view that hangs, or never ends, draws its clock or nothing.
            assert!(ready > 0 && begun.elapsed() < GUARD, "it does not show {text:?}");
            let read = self.screen.read(&mut piece).unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&self.seen));
            self.seen.extend_from_slice(&piece[..read]);
        }
    }

    fn has_seen(&self, text: &str) -> bool {
        self.seen.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// Returns its exit code; the terminal must be restored.
    fn end(mut self) -> Option<i32> {
        // The last output must be read, because it waits for room.
        self.wait_for(LEAVE);
        let code = self.child.wait().unwrap().code();
        assert!(is_cooked(&self.terminal));
        self.read_the_rest();
        assert_eq!((self.count(ENTER), self.count(LEAVE)), (1, 1));
        assert!(self.last(LEAVE) > self.last(ENTER));
        assert!(self.last(SHOW_CURSOR) > self.last(HIDE_CURSOR), "the cursor stays hidden");
        code
    }

    /// Reads the rest of the output after the program has ended.
    fn read_the_rest(&mut self) {
        let mut piece = [0; 4096];
        while poll(&mut [PollFd::new(&self.screen, PollFlags::IN)], Some(&Timespec::default()))
            .unwrap()
            > 0
        {
            let read = self.screen.read(&mut piece).unwrap();
            self.seen.extend_from_slice(&piece[..read]);
        }
    }

    fn count(&self, text: &str) -> usize {
        self.seen.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
    }

    /// Returns the last position of `text` in the output.
    fn last(&self, text: &str) -> Option<usize> {
        self.seen.windows(text.len()).rposition(|window| window == text.as_bytes())
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const ENDLESS: [&str; 3] = ["top", "--interval", "20ms"];
/// Enters the alternate screen, and leaves it.
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";

#[test]
fn the_terminal_is_restored_after_q_and_after_every_signal_that_ends_top() {
    let scratch = Scratch::new();
    scratch.topic_of("orders", 0..10);
    for how in ["q", "\x03", "TERM", "INT", "HUP", "QUIT"] {
        let mut top = OnTerminal::start(&scratch, &ENDLESS);
        top.wait_for("orders");
        assert!(top.has_seen(ENTER) && !top.has_seen(LEAVE));
        assert!(!is_cooked(&top.terminal));
        match how {
            "q" | "\x03" => top.screen.write_all(how.as_bytes()).unwrap(),
            signal => {
                let pid = top.child.id().to_string();
                let sent = Command::new("kill").arg(format!("-{signal}")).arg(pid).status();
                assert!(sent.unwrap().success());
            }
        }
        assert_eq!(top.end(), Some(0), "{how:?}");
    }
}

#[test]
fn the_terminal_is_restored_when_the_log_disappears_and_after_the_last_view() {
    let scratch = Scratch::new();
    scratch.topic_of("orders", 0..10);
    let mut top = OnTerminal::start(&scratch, &["top", "-n", "2", "--interval", "20ms"]);
    top.wait_for("orders");
    assert_eq!(top.end(), Some(0));
    let mut top = OnTerminal::start(&scratch, &ENDLESS);
    top.wait_for("orders");
    std::fs::remove_dir_all(scratch.log()).unwrap();
    assert_eq!(top.end(), Some(3));
}

#[test]
fn a_single_view_is_plain_on_a_terminal_too() {
    let scratch = Scratch::new();
    scratch.topic_of("orders", 0..10);
    let mut top = OnTerminal::start(&scratch, &["top", "--once", "--interval", "10ms"]);
    top.wait_for("orders");
    assert_eq!(top.child.wait().unwrap().code(), Some(0));
    assert!(!top.has_seen(ENTER));
}

#[test]
fn a_terminal_that_claims_the_largest_size_is_drawn_on_in_part() {
    let scratch = Scratch::new();
    scratch.topic_of("orders", 0..10);
    let mut top = OnTerminal::start_sized(&scratch, &ENDLESS, u16::MAX, u16::MAX);
    top.wait_for("orders");
    let smaller = Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    termios::tcsetwinsize(&top.terminal, smaller).unwrap();
    top.wait_for("\x1b[24;1H");
    top.screen.write_all(b"q").unwrap();
    assert_eq!(top.end(), Some(0));
}

#[test]
fn a_request_whose_payload_is_typed_says_that_it_reads_the_terminal() {
    let scratch = Scratch::new();
    let args = ["request", "echo", "--no-wait"];
    let name = |screen: &File| pty::ptsname(screen, Vec::new()).unwrap();
    let screen =
        File::from(pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY).unwrap());
    pty::grantpt(&screen).unwrap();
    pty::unlockpt(&screen).unwrap();
    let terminal = name(&screen);
    let terminal = File::options().read(true).write(true).open(terminal.to_str().unwrap()).unwrap();
    // The input, and its end.
    (&screen).write_all(b"hello\n\x04").unwrap();
    let ran = scratch.command(&args).stdin(Stdio::from(terminal)).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    assert!(said.contains("reading the payload from standard input"), "{said}");
    let quiet = scratch.run_with(&args, b"hello").expect(0);
    assert!(!quiet.stderr.contains("reading the payload"), "{}", quiet.stderr);
}
