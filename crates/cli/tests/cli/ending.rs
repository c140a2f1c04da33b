//! How `serve` ends when it is asked to, and what it reports about requests.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};

use deaddrop::service::Outcome;
use deaddrop::{Log, Record};
use rustix::process::{kill_process, Pid, Signal};

use crate::support::Scratch;

/// A server whose standard error is read line by line; killed with the test.
struct Serving {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Serving {
    fn start(scratch: &Scratch, args: &[&str], script: &str) -> Serving {
        let args = [&["serve", "echo"], args, &["--", "sh", "-c", script]].concat();
        let plain = scratch.command(&args);
        // The tests may run under `nohup` or in the background of a shell, which ignore some of the signals.
        let mut command = Command::new("env");
        command
            .arg("--default-signal=HUP,INT,TERM")
            .arg(plain.get_program())
            .args(plain.get_args());
        command.current_dir(scratch.path()).stdin(Stdio::null()).stderr(Stdio::piped());
        Serving::of(command)
    }

    fn of(mut command: Command) -> Serving {
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut serving = Serving { child, stderr };
        assert_eq!(serving.line(), "deaddrop: serving echo");
        serving
    }

    /// Returns the next line of its standard error, except for the note that the log is new.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stderr.read_line(&mut line).unwrap();
        match line.starts_with("deaddrop: created a new log in ") {
            true => self.line(),
            false => line.trim_end().to_owned(),
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn end(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Appends `begin` to the file `said`, waits for the file `go`, then appends `end`.
const SLOW: &str = "echo begin >> said
    while [ ! -e go ]; do sleep 0.01; done
    echo end >> said; cat";

/// How long a request is waited for before a test fails: far more than a busy machine needs.
const TIMEOUT: &str = "120s";

#[test]
fn a_signal_lets_the_command_that_runs_finish_and_takes_no_more_requests() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        for threads in ["1", "2"] {
            let scratch = Scratch::new();
            let go = scratch.path().join("go");
            let mut server = Serving::start(&scratch, &["-v", "--threads", threads], SLOW);
            let send = |payload| {
                let args = ["request", "echo", payload, "--key", "k", "--no-wait"];
                scratch.run(&args).expect(0).text().trim().to_owned()
            };
            let (first, second) = (send("one"), send("two"));
            wait_for(&scratch, "begin\n");
            server.signal(signal);
            let said = "deaddrop: exiting once 1 request is done; a second signal exits at once";
            assert_eq!(server.line(), said, "{signal:?}");
            std::fs::write(&go, "").unwrap();
            let line = server.line();
            assert!(line.contains(&format!("{first} attempt 1: replied with 3 B in ")), "{line}");
            assert_eq!(server.end().code(), Some(0), "{signal:?}");
            assert_eq!(
                std::fs::read_to_string(scratch.path().join("said")).unwrap(),
                "begin\nend\n"
            );
            let attach = ["request", "--attach", &first, "--timeout", TIMEOUT];
            assert_eq!(scratch.run(&attach).expect(0).text(), "one\n");
            // The other request waits for the next server, and has had no attempt before.
            let last =
                Serving::start(&scratch, &["-n", "1"], "printf '%s ' $DEADDROP_ATTEMPT; cat");
            let attach = ["request", "--attach", &second, "--timeout", TIMEOUT];
            assert_eq!(scratch.run(&attach).expect(0).text(), "1 two\n");
            assert_eq!(last.end().code(), Some(0));
        }
    }
}

/// Waits until the commands have written this.
fn wait_for(scratch: &Scratch, said: &str) {
    for _ in 0..60_000 {
        if std::fs::read_to_string(scratch.path().join("said")).is_ok_and(|text| text == said) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let found = std::fs::read_to_string(scratch.path().join("said"));
    panic!("the commands did not write {said:?}: {found:?}");
}

#[test]
fn a_second_signal_ends_the_server_and_its_command_at_once() {
    let scratch = Scratch::new();
    let fifo = scratch.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut server = Serving::start(&scratch, &[], "exec sleep 300 > fifo");
    scratch.run(&["request", "echo", "x", "--no-wait"]).expect(0);
    // Opened when the command has it open too.
    let mut held = std::fs::File::open(fifo).unwrap();
    server.signal(Signal::TERM);
    assert!(server.line().contains("a second signal"));
    server.signal(Signal::INT);
    assert_eq!(server.end().signal(), Some(Signal::INT.as_raw()));
    // Its end is read once no command has it open.
    assert_eq!(std::io::copy(&mut held, &mut std::io::sink()).unwrap(), 0);
}

#[test]
fn a_server_without_requests_ends_at_a_signal_and_one_under_nohup_serves_on() {
    let scratch = Scratch::new();
    let server = Serving::start(&scratch, &[], "cat");
    server.signal(Signal::TERM);
    assert_eq!(server.end().code(), Some(0));
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_deaddrop")]);
    command.arg("-d").arg(scratch.log()).args(["serve", "echo", "--", "cat"]);
    command.current_dir(scratch.path()).stdin(Stdio::null()).stderr(Stdio::piped());
    let server = Serving::of(command);
    server.signal(Signal::HUP);
    let ran = scratch.run(&["request", "echo", "still here", "--timeout", TIMEOUT]).expect(0);
    assert_eq!(ran.text(), "still here\n");
    server.signal(Signal::TERM);
    assert_eq!(server.end().code(), Some(0));
}

#[test]
fn a_failed_attempt_is_reported_with_its_request_and_its_number() {
    let scratch = Scratch::new();
    let args = ["--max-attempts", "3", "--retry-first", "1ms", "-n", "2"];
    let script = "payload=$(cat); echo \"oh $payload\" >&2
        case $payload in bad) exit 100;; esac; kill -9 $$";
    let mut server = Serving::start(&scratch, &args, script);
    let send = |payload| scratch.run(&["request", "echo", payload, "--no-wait"]).expect(0).text();
    let id = send("poison");
    let (id, again) = (id.trim(), "it will be retried");
    for (attempt, next) in [(1, again), (2, again), (3, "the request is dead-lettered")] {
        assert_eq!(server.line(), "oh poison");
        let line = server.line();
        let begin = format!("deaddrop: {id} attempt {attempt} failed after ");
        assert!(line.starts_with(&begin), "{line}");
        assert!(line.contains("signal: 9") && line.ends_with(next), "{line}");
    }
    let id = send("bad");
    assert_eq!(server.line(), "oh bad");
    let line = server.line();
    let begin = format!("deaddrop: {} attempt 1 failed for good after ", id.trim());
    assert!(line.starts_with(&begin) && line.ends_with(": exit code 100"), "{line}");
    assert_eq!(server.end().code(), Some(0));
}

#[test]
fn a_key_with_a_zero_byte_is_not_mistaken_for_a_missing_key() {
    let scratch = Scratch::new();
    let script = "echo \"${DEADDROP_KEY-none} ${DEADDROP_KEY_BASE64-none}\"";
    let _server = Serving::start(&scratch, &[], script);
    let client = Log::open_or_create(scratch.log()).unwrap().client("c").open().unwrap();
    for (key, said) in
        [(None, "none none\n"), (Some("k"), "k aw==\n"), (Some("a\0b"), "none YQBi\n")]
    {
        let mut request = client.request("echo", &Record::new("x")).unwrap();
        if let Some(key) = key {
            request = request.with_key(key);
        }
        let mut call = request.call().unwrap();
        let done = call.wait_timeout(std::time::Duration::from_secs(120)).unwrap().unwrap();
        let Outcome::Reply(reply) = done.outcome() else { panic!("{done:?}") };
        assert_eq!(String::from_utf8_lossy(reply.payload()), said);
    }
}
