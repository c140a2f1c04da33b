//! `bench`: how fast a log is on this machine, with this disk: appends, reading, request and reply.

mod case;
mod chart;
mod comparison;
mod machine;
mod measurement;
mod page;
mod report;
mod run;
mod worker;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::failure::{Exit, Failure};
use crate::output::Out;
use crate::{units, Global};
use case::{Case, Window, Workload};
use report::Report;

pub(crate) use worker::Worker;

/// Measure appends, reading, and request and reply on this machine
///
/// Every combination of the workloads, sizes, threads, processes and durabilities is one case: its
/// processes start together, warm up, and are measured over the same window. Latencies are those of
/// all operations of all threads, not samples. The log is made in a directory of its own in DIR
/// [default: ./target, or the current directory], so on that disk, and removed at the end.
#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    /// What to measure
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "append,consume,request"
    )]
    workload: Vec<Workload>,
    /// Bytes of a payload, e.g. 64,1KiB
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_value = "256", value_parser = units::parse_size)]
    size: Vec<u64>,
    /// Threads in each process
    #[arg(long, value_name = "COUNT", value_delimiter = ',', default_value = "1")]
    threads: Vec<u32>,
    /// Processes that append, consume or request
    #[arg(long, value_name = "COUNT", value_delimiter = ',', default_value = "1")]
    processes: Vec<u32>,
    /// What acknowledged records survive: power-loss, process-crash, within:500ms
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "process-crash,power-loss", value_parser = parse_durability)]
    durability: Vec<String>,
    /// Measure each case for so long
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, conflicts_with = "count")]
    seconds: f64,
    /// Measure so many operations of each case instead
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
    /// Before it, run each case for so long unmeasured
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = humantime::parse_duration)]
    warm_up: Duration,
    /// Write the report, with all histograms, to this file
    #[arg(short, long, value_name = "FILE.json")]
    output: Option<PathBuf>,
    /// Write the report with plots to this file; it needs no other file and no network
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Compare two reports instead: how B differs from A
    #[arg(long, value_names = ["A.json", "B.json"], num_args = 2, conflicts_with_all = [
        "workload", "size", "threads", "processes", "durability", "seconds", "count", "warm_up",
        "output", "html", "dir",
    ])]
    compare: Option<Vec<PathBuf>>,
}

/// A longer run is a typing error.
const SECONDS_MAX: f64 = 86_400.0;
const COUNT_MAX: u64 = 1 << 40;
const SIZE_MAX: u64 = 64 << 20;
const THREADS_MAX: u32 = 256;
const PROCESSES_MAX: u32 = 256;
const CASES_MAX: usize = 1000;

/// Checked here, passed on as it was written.
fn parse_durability(text: &str) -> Result<String, String> {
    units::parse_durability(text).map(units::durability)
}

impl Bench {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        if let Some([a, b]) = self.compare.as_deref() {
            return comparison::compare(&Report::read(a)?, &Report::read(b)?, out);
        }
        let cases = self.cases()?;
        for file in [&self.output, &self.html].into_iter().flatten() {
            check_output(file)?;
        }
        let base = base_dir(global.dir.as_deref())?;
        let setting = run::Setting { window: self.window(), warm_up: self.warm_up.as_secs_f64() };
        let report = run::run(&cases, setting, &base)?;
        if let Some(path) = &self.output {
            write(path, &report.to_json()?)?;
        }
        if let Some(path) = &self.html {
            write(path, &page::page(&report)?)?;
        }
        report.print(out)?;
        Ok(Exit::Ok)
    }

    fn window(&self) -> Window {
        self.count.map_or(Window::Seconds(self.seconds), Window::Count)
    }

    /// All combinations, checked.
    fn cases(&self) -> Result<Vec<Case>, Failure> {
        // `contains` is also false for a number that is none.
        if !(1e-3..=SECONDS_MAX).contains(&self.seconds) {
            return Err(Failure::usage(format_args!(
                "--seconds {}: from 0.001 to {SECONDS_MAX}",
                self.seconds
            )));
        }
        if self.warm_up.as_secs_f64() > SECONDS_MAX {
            return Err(Failure::usage(format_args!("--warm-up is longer than {SECONDS_MAX} s")));
        }
        within("--count", self.count.as_slice(), 1, COUNT_MAX)?;
        within("--size", &self.size, 0, SIZE_MAX)?;
        within("--threads", &self.threads, 1, THREADS_MAX)?;
        within("--processes", &self.processes, 1, PROCESSES_MAX)?;
        let mut cases = Vec::new();
        for &workload in &self.workload {
            for durability in &self.durability {
                for &size in &self.size {
                    for &processes in &self.processes {
                        for &threads in &self.threads {
                            let durability = durability.clone();
                            let case = Case { workload, durability, size, processes, threads };
                            // Asked for twice: a report has each once.
                            if !cases.contains(&case) {
                                cases.push(case);
                            }
                        }
                    }
                }
            }
            if cases.len() > CASES_MAX {
                return Err(Failure::usage(format_args!(
                    "over {CASES_MAX} cases: ask for fewer combinations"
                )));
            }
        }
        match self.count.map(|count| (count, cases.iter().find(|c| c.threads_total() > count))) {
            Some((count, Some(case))) => Err(Failure::usage(format_args!(
                "--count {count} is less than one operation for each thread of: {case}"
            ))),
            _ => Ok(cases),
        }
    }
}

fn within<T: PartialOrd + std::fmt::Display + Copy>(
    name: &str,
    values: &[T],
    min: T,
    max: T,
) -> Result<(), Failure> {
    match values.iter().find(|value| !(min..=max).contains(*value)) {
        Some(value) => {
            Err(Failure::usage(format_args!("{name} {value}: it must be from {min} to {max}")))
        }
        None => Ok(()),
    }
}

/// Finds out before minutes of measuring that their result could not be written.
fn check_output(file: &Path) -> Result<(), Failure> {
    if file.is_dir() {
        return Err(Failure::usage(format_args!("{} is a directory", file.display())));
    }
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    match parent {
        Some(parent) if !parent.is_dir() => Err(Failure::usage(format_args!(
            "{} cannot be written: there is no directory {}",
            file.display(),
            parent.display()
        ))),
        _ => Ok(()),
    }
}

/// Where the run makes its own directory.
fn base_dir(asked: Option<&Path>) -> Result<PathBuf, Failure> {
    let Some(dir) = asked else {
        let target = Path::new("target");
        return Ok(if target.is_dir() { target.into() } else { ".".into() });
    };
    if !dir.is_dir() {
        return Err(Failure::usage(format_args!(
            "there is no directory {}: make it, on the disk that you want to measure",
            dir.display()
        )));
    }
    if deaddrop::Log::open_read_only(dir).is_ok() {
        return Err(Failure::usage(format_args!(
            "{} is a log: name another directory on the same disk",
            dir.display()
        )));
    }
    Ok(dir.to_owned())
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| Failure::io("writing", path, &error))
}
