//! `serve`: runs a command for each request of a service.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use deaddrop::service::{HandlerError, Poison, Reply, Request, Server, ServerOptions};
use deaddrop::Stop;

use crate::args::serve::{Fate, Serve};
use crate::failure::{note, Exit, Failure};
use crate::output::Out;
use crate::Global;

/// From this exit code on a request has failed for good.
const TERMINAL: i32 = 100;
/// How often a server on threads of its own is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// So much of standard error is kept as the reason of a failure.
const REASON_LEN: usize = 4096;

impl Serve {
    pub(crate) fn run(&self, global: &Global, _out: &mut Out) -> Result<Exit, Failure> {
        let log = global.open()?;
        let options = ServerOptions {
            topic: self.new.of_service(),
            threads: self.threads.into(),
            max_attempts: self.max_attempts,
            poison: match self.poison {
                Fate::DeadLetter => Poison::DeadLetter,
                Fate::StopLane => Poison::StopLane,
            },
            retry_first: self.retry_first,
            ..ServerOptions::default()
        };
        let stop = Stop::new();
        // A command that cannot be started is no reason to give up on requests.
        let broken = Arc::new(OnceLock::new());
        let handler = self.handler(stop.clone(), Arc::clone(&broken));
        let server = log.server_with(&self.service, options, handler)?;
        note(format_args!("serving {}", self.service));
        serve(server, self.threads, &stop)?;
        match broken.get() {
            Some(error) => Err(Failure::usage(format_args!(
                "starting {}: {error}; the request waits for a command that works",
                self.command[0]
            ))),
            None => Ok(Exit::Ok),
        }
    }

    fn handler(
        &self,
        stop: Stop,
        broken: Arc<OnceLock<io::Error>>,
    ) -> impl Fn(&Request<'_>) -> Result<Reply, HandlerError> {
        let command = self.command.clone();
        let left = self.count.map(AtomicU64::new);
        move |request| {
            let outcome = match run_command(&command, request) {
                Err(RunError::Start(error)) => {
                    let retry = HandlerError::retry(error.to_string());
                    broken.get_or_init(|| error);
                    stop.stop();
                    return Err(retry);
                }
                Err(RunError::Again(why)) if !request.is_last_attempt() => {
                    return Err(HandlerError::retry(why))
                }
                Err(RunError::Again(why)) => Err(HandlerError::retry(why)),
                Err(RunError::Failed(why)) => Err(HandlerError::terminal(why)),
                Ok(reply) => Ok(reply),
            };
            if left.as_ref().is_some_and(|left| left.fetch_sub(1, Ordering::Relaxed) <= 1) {
                stop.stop();
            }
            outcome
        }
    }
}

/// Serves until `stop` is given, or a thread fails.
fn serve(mut server: Server, threads: u16, stop: &Stop) -> Result<(), Failure> {
    if threads == 1 {
        return Ok(server.run(stop)?);
    }
    let running = server.spawn()?;
    while !stop.is_stopped() && !running.has_ended() {
        std::thread::sleep(LOOK);
    }
    Ok(running.stop()?)
}

/// Why there is no reply.
enum RunError {
    /// The command could not be started.
    Start(io::Error),
    /// It may work later.
    Again(String),
    /// It refused for good.
    Failed(String),
}

impl From<io::Error> for RunError {
    fn from(error: io::Error) -> RunError {
        RunError::Again(error.to_string())
    }
}

/// How a command ended, and what it said, if it said anything.
fn because(ended: &str, reason: &str) -> String {
    match reason {
        "" => ended.to_owned(),
        reason => format!("{ended}: {reason}"),
    }
}

fn run_command(command: &[String], request: &Request<'_>) -> Result<Reply, RunError> {
    let mut prepared = Command::new(&command[0]);
    prepared
        .args(&command[1..])
        .env("DEADDROP_REQUEST_ID", request.id().to_string())
        .env("DEADDROP_ATTEMPT", request.attempt().to_string())
        .env("DEADDROP_CLIENT", request.client())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    match request.key() {
        // The environment cannot hold a NUL.
        Some(key) if !key.contains(&0) => prepared.env("DEADDROP_KEY", OsStr::from_bytes(key)),
        _ => prepared.env_remove("DEADDROP_KEY"),
    };
    let guard = request.lane_guard().map_err(|error| RunError::Again(error.to_string()))?;
    guard.pass_to(&mut prepared);
    let mut child = prepared.spawn().map_err(RunError::Start)?;
    // With this process's part of the guard: what the command leaves running is not waited for here.
    drop(prepared);
    let (reply, reason) = talk(&mut child, request.payload())?;
    let status = child.wait()?;
    match status.code() {
        Some(0) => Ok(Reply::new(reply)),
        Some(code) if code >= TERMINAL => {
            let reason = if reason.is_empty() { format!("exit code {code}") } else { reason };
            Err(RunError::Failed(reason))
        }
        Some(code) => Err(RunError::Again(because(&format!("exit code {code}"), &reason))),
        // A signal, by its name.
        None => Err(RunError::Again(because(&status.to_string(), &reason))),
    }
}

/// Gives a child its input, and takes its output and the end of what it says on stderr, which is
/// passed on as well. All at once, so that no full pipe blocks another.
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
