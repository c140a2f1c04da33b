//! The parent of a run: one directory, and for each case its processes, started, released and merged.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};

use deaddrop::Log;

use crate::case::{Case, Setting, LOOK};
use crate::error::{At, Error, Result};
use crate::machine::Machine;
use crate::measurement::Measurement;
use crate::report::{CaseReport, Report};
use crate::worker::{self, Role, Said, Task};

/// What a run needs of its caller.
struct Caller<'a> {
    worker: &'a dyn Fn(&Path) -> io::Result<Command>,
    interrupted: &'a AtomicBool,
}

/// Measures all cases, one after the other, in a directory of its own in `base`, which it removes.
///
/// `worker` gives the command of a process that calls [`work`](crate::work) with its last argument on the log
/// of this path. `interrupted` ends the run. `tell` is called with the number of the case and the fraction of
/// it that is measured.
pub fn run(
    cases: &[Case],
    setting: Setting,
    base: &Path,
    worker: &dyn Fn(&Path) -> io::Result<Command>,
    interrupted: &AtomicBool,
    tell: &dyn Fn(usize, f64),
) -> Result<Report> {
    let caller = Caller { worker, interrupted };
    let dir = tempfile::Builder::new()
        .prefix("deaddrop-bench-")
        .tempdir_in(base)
        .at("making a directory in", base)?;
    let measured = run_in(cases, setting, dir.path(), &caller, tell);
    let path = dir.path().to_owned();
    dir.close().at("removing", &path)?;
    measured
}

fn run_in(
    cases: &[Case],
    setting: Setting,
    dir: &Path,
    caller: &Caller<'_>,
    tell: &dyn Fn(usize, f64),
) -> Result<Report> {
    // This comes first: an impossible case is reported before minutes of measuring.
    for (number, case) in cases.iter().enumerate() {
        if !cases[..number].iter().any(|other| other.durability == case.durability) {
            let probe = dir.join(format!("probe-{number}"));
            Log::open_or_create(&probe)?.topic_with(worker::TOPIC, case.topic_options()?)?;
            remove(&probe)?;
        }
    }
    let machine = Machine::look(dir)?;
    let mut reports = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        tell(number, 0.0);
        let log = dir.join(format!("case-{number}"));
        settle(dir)?;
        let mut measured = Vec::new();
        let tell = |fraction| tell(number, fraction);
        let processes = Processes::start(case, setting, &log, caller)?;
        processes.measure(caller.interrupted, &tell, &mut measured)?;
        reports.push(CaseReport::of(case, &measured)?);
        remove(&log)?;
    }
    Ok(Report::new(machine, setting, reports))
}

/// Writes out dirty pages that earlier cases left, whose cost would be charged to the next case.
fn settle(dir: &Path) -> Result<()> {
    let open = std::fs::File::open(dir);
    open.and_then(|file| Ok(rustix::fs::syncfs(file)?)).at("syncing the file system of", dir)
}

fn remove(dir: &Path) -> Result<()> {
    std::fs::remove_dir_all(dir).at("removing", dir)
}

/// A process of a case; killed if the case ends early.
struct Process {
    child: Child,
    /// Closing it ends the process.
    stdin: Option<ChildStdin>,
    role: Role,
    is_ready: bool,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, which is just as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The processes of a case, and their output: a process's number, and a line or its end.
struct Processes {
    all: Vec<Process>,
    lines: Receiver<(usize, Option<String>)>,
}

impl Processes {
    fn start(case: &Case, setting: Setting, log: &Path, caller: &Caller<'_>) -> Result<Processes> {
        worker::prepare(case, &Log::open_or_create(log)?)?;
        let servers = case.service.map_or(0, |service| service.servers);
        let serve = (0..servers).map(|number| Role::Serve { number });
        let work = (0..case.processes).map(|number| Role::Work { number });
        let (sender, lines) = mpsc::channel();
        let mut all = Vec::new();
        for (number, role) in serve.chain(work).enumerate() {
            let task = Task {
                case: case.clone(),
                window: setting.window,
                warm_up_seconds: setting.warm_up,
                role,
            };
            let mut process = start(&task, log, caller)?;
            if let Some(stdout) = process.child.stdout.take() {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                        if sender.send((number, Some(line))).is_err() {
                            return;
                        }
                    }
                    // If the receiver has gone, nothing is lost.
                    drop(sender.send((number, None)));
                });
            }
            all.push(process);
        }
        Ok(Processes { all, lines })
    }

    /// Lets all processes begin once all are ready, and collects their results.
    fn measure(
        mut self,
        interrupted: &AtomicBool,
        tell: &dyn Fn(f64),
        measured: &mut Vec<Measurement>,
    ) -> Result<()> {
        let workers = self.all.iter().filter(|process| process.role.is_measured()).count();
        while measured.len() < workers {
            let said = self.lines.recv_timeout(LOOK);
            // This comes first: a terminal interrupts the processes too, which is not another failure.
            if interrupted.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let (number, line) = match said {
                Ok(said) => said,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => (0, None),
            };
            let Some(line) = line else {
                if self.all[number].stdin.is_some() {
                    return Err(self.ended_early(number));
                }
                continue;
            };
            match serde_json::from_str(&line) {
                Ok(Said::Ready) => {
                    self.all[number].is_ready = true;
                    if self.all.iter().all(|process| process.is_ready) {
                        self.begin()?;
                    }
                }
                Ok(Said::Progress(fraction)) => tell(fraction),
                Ok(Said::Done(stored)) => {
                    let told = |what| Error::Failed(format!("a process: {what}"));
                    measured.push(stored.load().map_err(told)?);
                    // From here on its end is expected.
                    self.all[number].stdin = None;
                }
                Err(error) => return Err(Error::Failed(format!("a process reports {error}"))),
            }
        }
        for process in &mut self.all {
            process.stdin = None;
            process.child.wait().at("waiting for", Path::new("a process"))?;
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<()> {
        for process in &mut self.all {
            if let Some(stdin) = &mut process.stdin {
                // If it has ended, its end is handled elsewhere.
                drop(writeln!(stdin, "{}", worker::BEGIN));
            }
        }
        Ok(())
    }

    /// The reason why a process has ended, in its own words.
    fn ended_early(&mut self, number: usize) -> Error {
        let child = &mut self.all[number].child;
        let mut said = String::new();
        if let Some(stderr) = &mut child.stderr {
            // The exit status is reported anyway.
            drop(stderr.read_to_string(&mut said));
        }
        let status = match child.wait() {
            Ok(status) => status,
            Err(error) => return Error::io("waiting for", Path::new("a process"), &error),
        };
        let said = said.trim().trim_start_matches("deaddrop: ");
        let said = match said {
            "" => format!("a process of the case ended with {status}"),
            said => said.to_owned(),
        };
        Error::Process(status.code(), said)
    }
}

fn start(task: &Task, log: &Path, caller: &Caller<'_>) -> Result<Process> {
    let mut command = (caller.worker)(log).at("finding", Path::new("this program"))?;
    let text =
        serde_json::to_string(task).map_err(|error| Error::Failed(format!("a task: {error}")))?;
    let mut child = command
        .arg(text)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .at("starting", Path::new(command.get_program()))?;
    let stdin = child.stdin.take();
    Ok(Process { child, stdin, role: task.role, is_ready: false })
}
