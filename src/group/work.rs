//! The loop of a worker and of a server: one job after another, on the caller's thread or on threads of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::dispatch::Dispatch;
use super::job::Job;
use super::running::{Running, Threads};
use crate::error::Result;
use crate::stop::Stop;

/// A worker, or a server.
pub(crate) trait Work: Send + Sized + 'static {
    fn dispatch(&mut self) -> &mut Dispatch;

    /// Handles a job; returns true if it is done.
    fn work(&mut self, job: &Job) -> Result<bool>;

    /// When the chores are due.
    fn chores_at(&self) -> Option<Instant> {
        None
    }

    /// Called between jobs, and when the chores are due.
    fn chores(&mut self) -> Result<()> {
        Ok(())
    }

    /// Called at the end of a run.
    fn finish(&mut self) -> Result<()> {
        self.dispatch().finish()
    }
}

fn handle(work: &mut impl Work, job: &Job) -> Result<bool> {
    let handled = work.work(job).and_then(|is_done| match is_done {
        true => work.dispatch().done(job).map(|()| true),
        false => Ok(false),
    });
    if handled.is_err() {
        work.dispatch().abandon(job);
    }
    handled
}

/// Works until `stop` is requested, and finishes the job in flight.
pub(crate) fn run(work: &mut impl Work, stop: &Stop) -> Result<()> {
    while !stop.is_stopped() {
        let until = work.chores_at();
        if let Some(job) = work.dispatch().next(until, stop)? {
            handle(work, &job)?;
        }
        work.chores()?;
    }
    work.finish()
}

/// Handles the records that are there, or waits up to `timeout` for the first. Returns how many are done.
pub(crate) fn poll(work: &mut impl Work, timeout: Duration) -> Result<u64> {
    let stop = Stop::new();
    let begun = Instant::now();
    // `None` waits without a limit.
    let mut until = begun.checked_add(timeout);
    let (mut done, mut end) = (0, None);
    while let Some(job) = work.dispatch().next(until, &stop)? {
        // Records that arrive from now on are left to the next call, or a busy topic would never let it return.
        let end = match end {
            Some(end) => end,
            None => *end.insert(work.dispatch().topic.frontier()?.high_watermark),
        };
        done += u64::from(handle(work, &job)?);
        if done > 0 {
            until = Some(begun);
            if job.offset() + 1 >= end {
                break;
            }
        }
    }
    work.chores()?;
    Ok(done)
}

/// Works on threads of their own, which share their counters.
pub(crate) fn spawn<W: Work>(works: Vec<W>, name: &str, dir: &Path) -> Result<Running> {
    let mut running = Running::new(Threads::default());
    for mut work in works {
        running.threads.counters = Arc::clone(&work.dispatch().counters);
        running.threads.start(name, dir, move |stop| run(&mut work, stop))?;
    }
    Ok(running)
}
