//! `serve`: runs a command for each request of a service.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use deaddrop::service::{HandlerError, Poison, Reply, Request, Server, ServerOptions};
use deaddrop::Stop;

use crate::args::serve::{Fate, Serve};
use crate::failure::{note, Exit, Failure};
use crate::missing::say_recovery_of_service;
use crate::output::Out;
use crate::{signals, units, Global};

/// With this exit code or a larger one, a request has failed for good.
const TERMINAL: i32 = 100;
/// At most this much of standard error is kept as the reason of a failure.
const REASON_LEN: usize = 4096;

impl Serve {
    pub(crate) fn run(&self, global: &Global, _out: &mut Out) -> Result<Exit, Failure> {
        let (log, is_new) = global.open_or_make()?;
        let options = ServerOptions::default()
            .with_topic(self.new.of_service())
            .with_max_attempts((self.max_attempts != 0).then_some(self.max_attempts))
            .with_poison(match self.poison {
                Fate::DeadLetter => Poison::DeadLetter,
                Fate::StopLane => Poison::StopLane,
            })
            .with_retry_first(self.retry_first)
            .with_abandoned_after(self.abandoned_after);
        let stop = Stop::new();
        // If a command cannot be started, requests must not fail for it.
        let broken = Arc::new(OnceLock::new());
        let running = Running::default();
        let handler = Arc::new(self.handler(stop.clone(), running.clone(), Arc::clone(&broken)));
        let servers = (0..self.threads)
            .map(|_| {
                let handler = Arc::clone(&handler);
                log.server_with(&self.service, options.clone(), move |request| handler(request))
            })
            .collect::<deaddrop::Result<Vec<Server>>>()?;
        end_in_order(&stop, &running)?;
        say_recovery_of_service(&log, &self.service)?;
        note(format_args!("serving {}", self.service));
        if is_new {
            global.say_made();
        }
        serve(servers, &stop)?;
        match broken.get() {
            Some(error) => Err(Failure::usage(format_args!(
                "starting {}: {error}; the request is kept until a command can be started",
                self.command[0]
            ))),
            None => Ok(Exit::Ok),
        }
    }

    fn handler(
        &self,
        stop: Stop,
        running: Running,
        broken: Arc<OnceLock<io::Error>>,
    ) -> impl Fn(&Request<'_>) -> Result<Reply, HandlerError> {
        let command = self.command.clone();
        let left = self.count.map(AtomicU64::new);
        let (verbose, poison) = (self.verbose, self.poison);
        move |request| {
            let started = Instant::now();
            let done = run_command(&command, request, &running);
            if verbose || done.is_err() {
                say(request, &done, started.elapsed(), poison);
            }
            let outcome = match done {
                Err(RunError::Start(error)) => {
                    let retry = HandlerError::retry(error.to_string());
                    broken.get_or_init(|| error);
                    stop.stop();
                    return Err(retry);
                }
                Err(RunError::Again(why)) if !request.is_last_attempt() => {
                    return Err(HandlerError::retry(why.to_string()))
                }
                Err(RunError::Again(why)) => Err(HandlerError::retry(why.to_string())),
                Err(RunError::Failed(why)) => Err(HandlerError::terminal(why.reason())),
                Ok(reply) => Ok(Reply::new(reply)),
            };
            if left.as_ref().is_some_and(|left| left.fetch_sub(1, Ordering::Relaxed) <= 1) {
                stop.stop();
            }
            outcome
        }
    }
}

/// The running commands, by their process groups.
#[derive(Debug, Clone, Default)]
struct Running(Arc<Mutex<Vec<u32>>>);

impl Running {
    fn groups(&self) -> MutexGuard<'_, Vec<u32>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Sends SIGTERM to the commands and to all processes that they have started.
    fn terminate(&self) {
        for &group in self.groups().iter() {
            let Some(group) = rustix::process::Pid::from_raw(group as i32) else { continue };
            match rustix::process::kill_process_group(group, rustix::process::Signal::TERM) {
                // It has ended meanwhile.
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => note(format_args!("ending the command {group:?}: {error}")),
            }
        }
    }
}

/// At a signal the server takes no more requests, and ends when those in flight are finished.
fn end_in_order(stop: &Stop, running: &Running) -> Result<(), Failure> {
    let (stop, at_work, last) = (stop.clone(), running.clone(), running.clone());
    let first = move || {
        stop.stop();
        let count = at_work.groups().len() as u64;
        if count > 0 {
            note(format_args!(
                "exiting once {} {} done; a second signal exits at once",
                units::count(count, "request"),
                if count == 1 { "is" } else { "are" }
            ));
        }
    };
    signals::on_end(first, move || last.terminate())
        .map_err(|error| Failure::new(Exit::Io, format_args!("waiting for signals: {error}")))
}

/// Reports the result of an attempt in one line.
fn say(request: &Request<'_>, done: &Result<Vec<u8>, RunError>, took: Duration, poison: Fate) {
    let (id, attempt) = (request.id(), request.attempt());
    let took = units::nanos(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    let next = match (request.is_last_attempt(), poison) {
        (false, _) => "it will be retried",
        (true, Fate::DeadLetter) => "the request is dead-lettered",
        (true, Fate::StopLane) => "the lane stops at it",
    };
    match done {
        Ok(reply) => {
            let len = units::size(reply.len() as u64);
            note(format_args!("{id} attempt {attempt}: replied with {len} in {took}"));
        }
        // The final message of this process says why.
        Err(RunError::Start(_)) => {}
        // The output of the command is on standard error already.
        Err(RunError::Again(why)) => {
            note(format_args!("{id} attempt {attempt} failed after {took}: {}; {next}", why.ended))
        }
        Err(RunError::Failed(why)) => {
            note(format_args!("{id} attempt {attempt} failed for good after {took}: {}", why.ended))
        }
    }
}

/// Runs each server on a thread until `stop` is set, or one of them fails: then all end.
fn serve(servers: Vec<Server>, stop: &Stop) -> Result<(), Failure> {
    std::thread::scope(|scope| {
        let run = |mut server: Server| {
            let ended = server.run(stop);
            stop.stop();
            ended
        };
        let threads: Vec<_> =
            servers.into_iter().map(|server| scope.spawn(move || run(server))).collect();
        let ended = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        Ok(ended.fold(Ok(()), Result::and)?)
    })
}

/// The reason why there is no reply.
enum RunError {
    /// The command could not be started.
    Start(io::Error),
    /// It may work later.
    Again(Ended),
    /// It refused for good.
    Failed(Ended),
}

/// How a command ended, and the end of its output on standard error.
struct Ended {
    ended: String,
    said: String,
}

impl Ended {
    /// Its output on standard error, or if there is none, how it ended.
    fn reason(self) -> String {
        if self.said.is_empty() {
            return self.ended;
        }
        self.said
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.said.as_str() {
            "" => f.write_str(&self.ended),
            said => write!(f, "{}: {said}", self.ended),
        }
    }
}

impl<E: std::error::Error> From<E> for RunError {
    fn from(error: E) -> RunError {
        RunError::Again(Ended { ended: error.to_string(), said: String::new() })
    }
}

fn run_command(
    command: &[String],
    request: &Request<'_>,
    running: &Running,
) -> Result<Vec<u8>, RunError> {
    let mut prepared = Command::new(&command[0]);
    prepared
        .args(&command[1..])
        .env("DEADDROP_REQUEST_ID", request.id().to_string())
        .env("DEADDROP_ATTEMPT", request.attempt().to_string())
        .env("DEADDROP_CLIENT", request.client())
        .env_remove("DEADDROP_KEY")
        .env_remove("DEADDROP_KEY_BASE64")
        // A signal from the terminal is for the server, which lets the command finish.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(key) = request.key() {
        prepared.env("DEADDROP_KEY_BASE64", STANDARD.encode(key));
        // The environment cannot hold a NUL.
        if !key.contains(&0) {
            prepared.env("DEADDROP_KEY", OsStr::from_bytes(key));
        }
    }
    let guard = request.lane_guard()?;
    guard.pass_to(&mut prepared);
    let mut groups = running.groups();
    let mut child = prepared.spawn().map_err(RunError::Start)?;
    groups.push(child.id());
    drop(groups);
    // Drops this process's part of the guard: the command's own children are not waited for here.
    drop(prepared);
    let done = finish(&mut child, request.payload());
    running.groups().retain(|&group| group != child.id());
    let (reply, said, status) = done?;
    let ended = match status.code() {
        Some(code) => format!("exit code {code}"),
        // The name of the signal.
        None => status.to_string(),
    };
    match status.code() {
        Some(0) => Ok(reply),
        Some(code) if code >= TERMINAL => Err(RunError::Failed(Ended { ended, said })),
        _ => Err(RunError::Again(Ended { ended, said })),
    }
}

/// The output of a command, the end of its standard error, and its exit status.
fn finish(child: &mut Child, payload: &[u8]) -> io::Result<(Vec<u8>, String, ExitStatus)> {
    let (reply, said) = talk(child, payload)?;
    Ok((reply, said, child.wait()?))
}

/// Gives a child its input, and returns its output and the end of its standard error, which is also
/// passed on. All at once, so that a full pipe does not block another one.
fn talk(child: &mut Child, payload: &[u8]) -> io::Result<(Vec<u8>, String)> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A command need not read its input.
            stdin.map(|mut stdin| stdin.write_all(payload))
        });
        let reason = scope.spawn(move || {
            let mut said = Vec::new();
            if let Some(mut stderr) = stderr {
                stderr.read_to_end(&mut said)?;
                io::stderr().write_all(&said)?;
            }
            let start = said.len().saturating_sub(REASON_LEN);
            io::Result::Ok(String::from_utf8_lossy(&said[start..]).trim().to_owned())
        });
        let mut reply = Vec::new();
        if let Some(mut stdout) = stdout {
            stdout.read_to_end(&mut reply)?;
        }
        let reason = reason.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((reply, reason))
    })
}
