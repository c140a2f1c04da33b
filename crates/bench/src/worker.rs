//! A process of a case, started by `bench`: it reports that it is ready, waits for the signal to begin,
//! and reports its results. It ends when its standard input does, so it never outlives its parent.

use std::hint::black_box;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use deaddrop::{Log, Record, Start, Stop, Topic};
use serde::{Deserialize, Serialize};

use crate::case::{Case, Window, Workload};
use crate::error::{At, Error, Result};
use crate::measurement::{Measurement, Operation, Stored};
use crate::service;

/// The topic of the cases that need one.
pub(crate) const TOPIC: &str = "bench";
/// The line that a parent writes when all are ready.
pub(crate) const BEGIN: &str = "begin";
/// How often a worker reports its progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// The task of a process of a case.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) case: Case,
    pub(crate) window: Window,
    pub(crate) warm_up_seconds: f64,
    pub(crate) role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Answers requests until it is stopped.
    Serve { number: u32 },
    /// The process `number` of those that are measured.
    Work { number: u32 },
}

impl Role {
    pub(crate) fn is_measured(self) -> bool {
        matches!(self, Role::Work { .. })
    }
}

/// A line from a worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Said {
    Ready,
    /// A fraction of the window is over.
    Progress(f64),
    Done(Stored),
}

/// Does a task of [`run`](crate::run) on the log in `dir`, in a process of its own: reads standard input, and
/// writes lines for the parent to `out`.
pub fn work(task: &str, dir: &Path, out: &mut dyn Write) -> Result<()> {
    let task: Task = serde_json::from_str(task)
        .map_err(|error| Error::Invalid(format!("not a task of bench: {error}")))?;
    let log = Log::open_or_create(dir)?;
    match task.role {
        Role::Serve { number } => {
            let stop = Stop::new();
            service::serve(&task.case, &log, number == 0, &stop, || {
                say(out, &Said::Ready)?;
                wait_to_begin(&stop).map(drop)
            })
        }
        Role::Work { number } => measure_all(&task, number, &log, out),
    }
}

fn say(out: &mut dyn Write, said: &Said) -> Result<()> {
    let line = serde_json::to_string(said).map_err(|error| Error::Failed(error.to_string()))?;
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .at("writing to", Path::new("standard output"))
}

/// Waits for the line to begin; returns false if the parent has gone. From then on the end of standard
/// input stops the work.
fn wait_to_begin(stop: &Stop) -> Result<bool> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).at("reading", Path::new("standard input"))?;
    let stop = stop.clone();
    std::thread::spawn(move || {
        // An error ends it as well.
        drop(std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
        stop.stop();
    });
    Ok(line.trim() == BEGIN)
}

/// Fills the topic of a case before its processes start.
pub(crate) fn prepare(case: &Case, log: &Log) -> Result<()> {
    if case.workload == Workload::Request {
        // If the service's topics could not be created, that is reported before anything runs.
        log.topic_with("probe", case.topic_options()?)?;
        return Ok(());
    }
    let topic = log.topic_with(TOPIC, case.topic_options()?)?;
    if case.workload == Workload::Consume {
        let record = Record::new(payload(case.size));
        let mut left = case.filled_count();
        let per_batch = (topic.options().segment_len / 4 / (case.size + 64)).clamp(1, 1000);
        while left > 0 {
            let batch = vec![record.clone(); left.min(per_batch) as usize];
            topic.append_batch(&batch)?;
            left -= batch.len() as u64;
        }
    }
    Ok(())
}

fn payload(size: u64) -> Vec<u8> {
    (0..size).map(|index| (index % 251) as u8).collect()
}

fn measure_all(task: &Task, number: u32, log: &Log, out: &mut dyn Write) -> Result<()> {
    let stop = Stop::new();
    let threads = u64::from(task.case.threads);
    let operations: Vec<Operation> = (0..threads)
        .map(|thread| operation(task, log, &format!("{number}-{thread}"), &stop))
        .collect::<Result<_, _>>()?;
    say(out, &Said::Ready)?;
    if !wait_to_begin(&stop)? {
        return Ok(());
    }
    let begun = Instant::now() + Duration::from_secs_f64(task.warm_up_seconds);
    // Millionths, of the thread with the most progress.
    let progress = AtomicU64::new(0);
    let mut total = Measurement::empty()?;
    std::thread::scope(|scope| -> Result<()> {
        let mut running = Vec::new();
        for (thread, operation) in (0u64..).zip(operations) {
            let window = match task.window {
                Window::Count(count) => {
                    Window::Count(task.case.share(count, u64::from(number) * threads + thread))
                }
                seconds => seconds,
            };
            let (stop, progress) = (&stop, &progress);
            running.push(scope.spawn(move || measure(window, begun, stop, progress, operation)));
        }
        while !running.iter().all(|thread| thread.is_finished()) {
            let fraction = progress.load(Ordering::Relaxed) as f64 / 1e6;
            if let Err(failure) = say(out, &Said::Progress(fraction)) {
                // The parent has gone.
                stop.stop();
                return Err(failure);
            }
            std::thread::park_timeout(PROGRESS_INTERVAL);
        }
        for thread in running {
            let taken = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            total.add(taken?)?;
        }
        Ok(())
    })?;
    match stop.is_stopped() {
        true => Ok(()),
        false => say(out, &Said::Done(total.store()?)),
    }
}

fn measure(
    window: Window,
    begun: Instant,
    stop: &Stop,
    progress: &AtomicU64,
    mut operation: Operation,
) -> Result<Measurement> {
    while Instant::now() < begun && !stop.is_stopped() {
        operation()?;
    }
    let tell = |fraction: f64| {
        progress.fetch_max((fraction * 1e6) as u64, Ordering::Relaxed);
    };
    Measurement::take(window, begun, &|| stop.is_stopped(), &tell, operation)
}

fn operation(task: &Task, log: &Log, name: &str, stop: &Stop) -> Result<Operation> {
    let case = &task.case;
    let record = Record::new(payload(case.size));
    Ok(match case.workload {
        Workload::Append => {
            let topic = log.open_topic(TOPIC)?;
            Box::new(move || {
                topic.append(&record)?;
                Ok(None)
            })
        }
        Workload::Consume => consume(&log.open_topic(TOPIC)?, name)?,
        Workload::Request => service::request(case, log, name, record, stop.clone())?,
    })
}

fn consume(topic: &Topic, name: &str) -> Result<Operation> {
    let mut consumer = topic.consumer(name, Start::First)?;
    Ok(Box::new(move || {
        match consumer.next()? {
            Some(record) => {
                black_box(record.payload());
                consumer.commit()?;
            }
            // Start again: the topic is filled, so the next read finds a record.
            None => {
                consumer.seek(Start::First)?;
                black_box(consumer.next()?.map(|record| record.offset()));
                consumer.commit()?;
            }
        }
        Ok(None)
    }))
}
