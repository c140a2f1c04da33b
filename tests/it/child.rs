//! Other processes: this binary again, in a role, controlled over its standard streams.
//!
//! Lines of a child that start with `@` are messages; its other output (of the test harness) is
//! ignored. Nothing here sleeps: a parent waits for lines, for a child's end, or for it to be
//! stopped, and a guard ends a test that has waited for a minute.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

/// How long a test waits for an event that must happen before it fails.
pub(crate) const GUARD: Duration = Duration::from_secs(60);

const ROLE: &str = "DEADDROP_CHILD";

/// Not a test: the entry point of a child process.
#[test]
fn entry() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let words: Vec<&str> = role.split('\n').collect();
    match words[0] {
        "writer" => crate::storm::writer(&words[1..]),
        "tail" => crate::storm::tail(&words[1..]),
        "server" => crate::service_kill::server(&words[1..]),
        "client" => crate::service_kill::client(&words[1..]),
        "dies-replied" => crate::service_kill::dies_replied(&words[1..]),
        "killed-consumer" => crate::consumer::killed_consumer(&words[1..]),
        "waiter" => crate::consumer::waiter(&words[1..]),
        "answers" => crate::remount::answers(&words[1..]),
        "tells-state" => crate::trials::tells_state(&words[1..]),
        "committer" => crate::positions::committer(&words[1..]),
        "slow-handlers" => crate::suspects::slow(&words[1..]),
        "nested-handlers" => crate::suspects::nested(&words[1..]),
        "mortal" => crate::group::mortal(&words[1..]),
        "mortal-server" => crate::fleet::mortal(&words[1..]),
        "fleet-server" => crate::fleet::server(&words[1..]),
        "fleet-client" => crate::fleet::client(&words[1..]),
        "dies-with-outcomes" => crate::calls::dies_with_outcomes(&words[1..]),
        "held-by-client" => crate::service_retention::held_by_client(&words[1..]),
        "redrive" => crate::redrive::killed(&words[1..]),
        "killed-client" => crate::service_kill::killed_client(&words[1..]),
        "clocks" => crate::clocks::jumps(&words[1..]),
        "large" => crate::extend::large(&words[1..]),
        "worker" => crate::takeover::worker(&words[1..]),
        "siblings" => crate::liveness::siblings(&words[1..]),
        "two-handles" => crate::liveness::two_handles(&words[1..]),
        "fork" => crate::liveness::fork(&words[1..]),
        "dies" => crate::liveness::dies(&words[1..]),
        "stops-opening" => crate::liveness::stops_opening(&words[1..]),
        "consumes" => crate::input::consumes(&words[1..]),
        "stranger" => crate::input::stranger(&words[1..]),
        "other-umask" => crate::modes::other_umask(&words[1..]),
        "far-ahead" => crate::far_ahead::writer(&words[1..]),
        "zeros-ahead" => crate::far_ahead::zeros(&words[1..]),
        "resident" => crate::moved::resident(&words[1..]),
        "deleter" => crate::delete::deleter(&words[1..]),
        "delete-power-cuts" => crate::delete::power_cuts(&words[1..]),
        "owner" => crate::owner::owner(&words[1..]),
        "appends-until-full" => crate::full_disk::appends_until_full(&words[1..]),
        "fills-up" => crate::full_disk::fills_up(&words[1..]),
        "many-locks" => crate::many_locks::owner(&words[1..]),
        "limit-moves" => crate::input::limit_moves(&words[1..]),
        "mounts" => crate::moved::mounts(&words[1..]),
        "few-files" => crate::input::few_files(&words[1..]),
        "small-files" => crate::input::small_files(&words[1..]),
        "full-disk" => crate::input::full_disk(&words[1..]),
        "read-only-disk" => crate::input::read_only_disk(&words[1..]),
        "committers" => crate::sync::committers(&words[1..]),
        "appends" => crate::sync::appends(&words[1..]),
        "appends-on" => crate::field::appends_on(&words[1..]),
        "unwinds" => crate::unwinding::unwinds(&words[1..]),
        "stuck" => crate::background::stuck(&words[1..]),
        "cut-in-a-trim" => crate::retention::cut_in_a_trim(&words[1..]),
        "wrong-clocks" => crate::retention::wrong_clocks(&words[1..]),
        "outdone" => crate::background::outdone(&words[1..]),
        "after-a-failed-sync" => crate::sync::after_a_failed_sync(&words[1..]),
        "dies-in-a-sync" => crate::unwritten::dies_in_a_sync(&words[1..]),
        "sync-death" => crate::sync::sync_death(&words[1..]),
        "older-words" => crate::stale_words::older_words(&words[1..]),
        "remounted" => crate::stale_words::remounted(&words[1..]),
        "dies-appending" => crate::near_damage::dies_appending(&words[1..]),
        "seen-recovery" => crate::stale_words::seen_recovery(&words[1..]),
        "roller" => crate::listing::roller(&words[1..]),
        "unlucky" => crate::lost_writes::unlucky(&words[1..]),
        "runs-program" => crate::documents::runs_program(&words[1..]),
        "without-threads" => crate::spans::without_threads(&words[1..]),
        "unlucky-consumer" => crate::lost_writes::unlucky_consumer(&words[1..]),
        other => panic!("no role {other}"),
    }
    say("bye");
}

/// In a child: sends the parent a line, in one write.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The harness may have left a line unfinished.
    out.write_all(format!("\n@{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// In a child: returns the next line from the parent; `None` when the parent is gone.
pub(crate) fn listen() -> Option<String> {
    let mut line = String::new();
    let len = std::io::stdin().lock().read_line(&mut line).unwrap();
    (len > 0).then(|| line.trim_end().to_owned())
}

/// Sends this thread a signal. SIGKILL and SIGSTOP act on the process before this returns. (If
/// another thread took a SIGSTOP sent to the process, this one would run on for a while.)
pub(crate) fn raise(signal: i32) {
    // SAFETY: a plain integer.
    unsafe { libc::raise(signal) };
}

/// Runs in a new child before the role does, to give it other limits or another user.
pub(crate) type Before = Box<dyn FnMut() -> std::io::Result<()> + Send + Sync>;

/// A child process. Killed and reaped when dropped.
pub(crate) struct Child {
    process: std::process::Child,
    input: ChildStdin,
    lines: Option<Receiver<String>>,
}

impl Child {
    pub(crate) fn spawn(role: &[&str]) -> Child {
        let (sender, lines) = channel();
        let mut child = Child::spawn_with(role, None, move |line| send(&sender, line));
        child.lines = Some(lines);
        child
    }

    /// Starts a child; `hear` gets each of its lines on another thread, and `None` at the end.
    pub(crate) fn spawn_with(
        role: &[&str],
        before: Option<Before>,
        mut hear: impl FnMut(Option<String>) + Send + 'static,
    ) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "child::entry", "--nocapture", "--test-threads=1"])
            .env(ROLE, role.join("\n"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(before) = before {
            // SAFETY: the closures given in these tests only make system calls.
            unsafe { command.pre_exec(before) };
        }
        let mut process = command.spawn().unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines() {
                // A line that a kill cut short may not be text.
                let Ok(line) = line else { break };
                if let Some(said) = line.strip_prefix('@') {
                    hear(Some(said.to_owned()));
                }
            }
            hear(None);
        });
        Child { process, input, lines: None }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends the child a line.
    pub(crate) fn tell(&mut self, line: &str) {
        assert!(self.try_tell(line), "the child has ended");
    }

    /// The same; returns false if the child has ended.
    pub(crate) fn try_tell(&mut self, line: &str) -> bool {
        self.input.write_all(format!("{line}\n").as_bytes()).is_ok()
    }

    /// Returns the child's next line; `None` if it ended.
    pub(crate) fn hear(&mut self) -> Option<String> {
        let lines = self.lines.as_ref().expect("a child with its own listener");
        match lines.recv_timeout(GUARD) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("child {} is stuck", self.pid()),
        }
    }

    /// Returns the child's next line, `None` if it ended; an error if none came within `timeout`.
    pub(crate) fn hear_for(&mut self, timeout: Duration) -> Result<Option<String>, ()> {
        let lines = self.lines.as_ref().expect("a child with its own listener");
        match lines.recv_timeout(timeout) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(()),
        }
    }

    /// Sends the child a line and returns its answer.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.hear().unwrap_or_else(|| panic!("the child died of: {line}"))
    }

    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: plain integers; the child is not reaped yet, so the id is its own.
        assert_eq!(unsafe { libc::kill(self.process.id() as i32, signal) }, 0);
    }

    /// Kills the child and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Waits until the child has ended by itself.
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    /// Waits until the child is dead, and keeps its pipes: a child of its own may still use them.
    pub(crate) fn wait_until_dead(&mut self) {
        let status = self.process.wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
    }

    /// Waits until the child has killed itself.
    pub(crate) fn wait_for_death(self) {
        let status = self.wait();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
    }

    /// Waits until the child is stopped.
    pub(crate) fn wait_until_stopped(&self) {
        // SAFETY: zeroed bytes are a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let events = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT;
        // SAFETY: `info` is live for the call; WNOWAIT leaves the child to `Drop`.
        let done = unsafe { libc::waitid(libc::P_PID, self.pid(), &mut info, events) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        assert_eq!(info.si_code, libc::CLD_STOPPED, "the child ended instead of stopping");
    }
}

/// Ends the test run if it lives longer than [`GUARD`]: for calls of this process that would wait
/// forever if they took a dead process for a living one.
pub(crate) struct Watchdog {
    _alive: Sender<()>,
}

impl Watchdog {
    pub(crate) fn new() -> Watchdog {
        let (alive, gone) = channel::<()>();
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        std::thread::spawn(move || {
            if gone.recv_timeout(GUARD) == Err(RecvTimeoutError::Timeout) {
                println!("{test} is stuck");
                std::process::abort();
            }
        });
        Watchdog { _alive: alive }
    }
}

fn send(sender: &Sender<String>, line: Option<String>) {
    // A parent that is gone needs no answer.
    drop(line.map(|line| sender.send(line)));
}

impl Drop for Child {
    fn drop(&mut self) {
        // The child is reaped already: there is nothing to kill.
        if let Ok(None) = self.process.try_wait() {
            self.end();
        }
    }
}
