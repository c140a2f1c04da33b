//! `bench`: measures appends, reading, and request and reply, on this machine with this disk.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use deaddrop_bench::{
    Case, CaseReport, ComparedCase, Error, Report, Service, Setting, Window, LANES,
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::bench::{Bench, Worker, Workload};
use crate::failure::{note, At, Exit, Failure};
use crate::output::{Colour, Out};
use crate::Global;

/// Steps of the progress bar for each case.
const STEPS: u64 = 1000;
/// A longer run is a typing error.
const SECONDS_MAX: f64 = 86_400.0;
const COUNT_MAX: u64 = 1 << 40;
const SIZE_MAX: u64 = 64 << 20;
const THREADS_MAX: u32 = 256;
const PROCESSES_MAX: u32 = 256;
/// More would fill the request topic without keeping the servers busier.
const OUTSTANDING_MAX: u32 = 4096;
const CASES_MAX: usize = 1000;

impl Bench {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        if let Some([a, b]) = self.compare.as_deref() {
            return compare(&Report::read(a)?, &Report::read(b)?, out);
        }
        let cases = self.cases()?;
        for file in [&self.output, &self.html].into_iter().flatten() {
            check_output(file)?;
        }
        let base = base_dir(global.dir.as_deref())?;
        let setting = Setting { window: self.window(), warm_up: self.warm_up.as_secs_f64() };
        let report = run(&cases, setting, &base)?;
        if let Some(path) = &self.output {
            write(path, &report.to_json()?)?;
        }
        if let Some(path) = &self.html {
            write(path, &report.to_html()?)?;
        }
        print(&report, out)?;
        Ok(Exit::Ok)
    }

    fn window(&self) -> Window {
        self.count.map_or(Window::Seconds(self.seconds), Window::Count)
    }

    /// All combinations, checked.
    fn cases(&self) -> Result<Vec<Case>, Failure> {
        self.check()?;
        let mut cases = Vec::new();
        for &workload in &self.workload {
            let services = self.services(workload);
            for durability in &self.durability {
                for &size in &self.size {
                    for &processes in &self.processes {
                        for &threads in &self.threads {
                            for &service in &services {
                                let durability = durability.to_string();
                                let case = Case {
                                    workload: workload.into(),
                                    durability,
                                    size,
                                    processes,
                                    threads,
                                    service,
                                };
                                // A repeated combination: a report has each once.
                                if !cases.contains(&case) {
                                    cases.push(case);
                                }
                            }
                        }
                    }
                }
            }
            if cases.len() > CASES_MAX {
                return Err(Failure::usage(format_args!(
                    "more than {CASES_MAX} cases: choose fewer combinations"
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

    /// The servers of the cases of a workload.
    fn services(&self, workload: Workload) -> Vec<Option<Service>> {
        if workload != Workload::Request {
            return vec![None];
        }
        let mut services = Vec::new();
        for &servers in &self.servers {
            for &threads in &self.server_threads {
                for &outstanding in &self.outstanding {
                    services.push(Some(Service { servers, threads, outstanding }));
                }
            }
        }
        services
    }

    /// Refuses numbers that make no sense.
    fn check(&self) -> Result<(), Failure> {
        // `contains` is also false for NaN.
        if !(1e-3..=SECONDS_MAX).contains(&self.seconds) {
            return Err(Failure::usage(format_args!(
                "--seconds {} is out of range: use 0.001 to {SECONDS_MAX}",
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
        let of_a_service = [
            ("--servers", &self.servers, LANES),
            ("--server-threads", &self.server_threads, LANES),
            ("--outstanding", &self.outstanding, OUTSTANDING_MAX),
        ];
        for (name, values, max) in of_a_service {
            within(name, values, 1, max)?;
            if *values != [1] && !self.workload.contains(&Workload::Request) {
                return Err(Failure::usage(format_args!(
                    "{name} needs the workload request, which is not selected"
                )));
            }
        }
        let most = |values: &[u32]| values.iter().copied().max().unwrap_or(0);
        let (servers, threads) = (most(&self.servers), most(&self.server_threads));
        if servers * threads > LANES {
            return Err(Failure::usage(format_args!(
                "--servers {servers} with --server-threads {threads}: the service has {LANES} lanes, so \
                 at most that many threads can work"
            )));
        }
        Ok(())
    }
}

impl From<Workload> for deaddrop_bench::Workload {
    fn from(asked: Workload) -> deaddrop_bench::Workload {
        match asked {
            Workload::Append => deaddrop_bench::Workload::Append,
            Workload::Consume => deaddrop_bench::Workload::Consume,
            Workload::Request => deaddrop_bench::Workload::Request,
        }
    }
}

impl Worker {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        deaddrop_bench::work(&self.task, global.dir(), out)?;
        Ok(Exit::Ok)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let exit = match &error {
            Error::Invalid(_) => Exit::Usage,
            Error::Process(Some(code), _) => Exit::of_code(*code).unwrap_or(Exit::Io),
            Error::Interrupted => Exit::No,
            _ => Exit::Io,
        };
        match error {
            Error::Log(error) => error.into(),
            other => Failure::new(exit, other),
        }
    }
}

/// Measures the cases, and draws the progress on a terminal: on stderr.
fn run(cases: &[Case], setting: Setting, base: &Path) -> Result<Report, Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // Otherwise the directory, perhaps gigabytes, would be left.
        signal_hook::flag::register(signal, Arc::clone(&interrupted))
            .map_err(|error| Failure::new(Exit::Io, format_args!("watching signals: {error}")))?;
    }
    let bar = ProgressBar::new(cases.len() as u64 * STEPS);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} %  {elapsed}  {msg}") {
        bar.set_style(style);
    }
    let tell = |case: usize, fraction: f64| {
        bar.set_message(cases[case].to_string());
        let steps = (fraction.clamp(0.0, 1.0) * STEPS as f64) as u64;
        bar.set_position(case as u64 * STEPS + steps);
    };
    let worker = |log: &Path| {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("-d").arg(log).arg("bench-worker");
        Ok(command)
    };
    let report = deaddrop_bench::run(cases, setting, base, &worker, &interrupted, &tell)?;
    bar.finish_and_clear();
    Ok(report)
}

fn print(report: &Report, out: &mut Out) -> Result<(), Failure> {
    if out.is_json() {
        for case in report.cases() {
            // Fields that only a program that merges reports needs are in the file.
            let mut value = serde_json::to_value(case).unwrap_or_default();
            if let Some(object) = value.as_object_mut() {
                object.remove("histogram");
                object.remove("series");
            }
            out.object(&value)?;
        }
        return Ok(());
    }
    for (name, fact) in report.facts() {
        let name = out.paint(Colour::Faint, format!("{name:<13}"));
        writeln!(out, "{name}{fact}")?;
    }
    writeln!(out)?;
    let rows: Vec<Vec<String>> = report.cases().iter().map(CaseReport::row).collect();
    let right: Vec<usize> = (2..CaseReport::HEADING.len()).collect();
    Ok(out.table(&CaseReport::HEADING, &right, &rows)?)
}

/// Prints B divided by A for all cases that both have. The exit code is 1 if they have none in common.
fn compare(a: &Report, b: &Report, out: &mut Out) -> Result<Exit, Failure> {
    let compared = deaddrop_bench::compare(a, b);
    for message in &compared.notes {
        note(message);
    }
    if compared.cases.is_empty() {
        return Err(Failure::no("the two reports have no case in common"));
    }
    if out.is_json() {
        for case in &compared.cases {
            out.object(case)?;
        }
        return Ok(Exit::Ok);
    }
    let rows: Vec<Vec<String>> = compared.cases.iter().map(ComparedCase::row).collect();
    let right: Vec<usize> = (1..ComparedCase::HEADING.len()).collect();
    out.table(&ComparedCase::HEADING, &right, &rows)?;
    writeln!(out, "\nper second: above 1 is faster; latencies: below 1 is faster")?;
    Ok(Exit::Ok)
}

fn within<T: PartialOrd + std::fmt::Display + Copy>(
    name: &str,
    values: &[T],
    min: T,
    max: T,
) -> Result<(), Failure> {
    match values.iter().find(|value| !(min..=max).contains(*value)) {
        Some(value) => {
            Err(Failure::usage(format_args!("{name} {value} is out of range: use {min} to {max}")))
        }
        None => Ok(()),
    }
}

/// Finds out that the result cannot be written before minutes of measuring.
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

/// The directory in which the run creates its own directory.
fn base_dir(asked: Option<&Path>) -> Result<PathBuf, Failure> {
    let Some(dir) = asked else {
        let target = Path::new("target");
        return Ok(if target.is_dir() { target.into() } else { ".".into() });
    };
    if !dir.is_dir() {
        return Err(Failure::usage(format_args!(
            "there is no directory {}: create it, on the disk that you want to measure",
            dir.display()
        )));
    }
    match deaddrop::Log::open_read_only(dir) {
        Err(deaddrop::Error::NotALog { .. }) => Ok(dir.to_owned()),
        Ok(_) | Err(deaddrop::Error::Version { .. }) => Err(Failure::usage(format_args!(
            "{} is a log: name another directory on the same disk",
            dir.display()
        ))),
        Err(error) => Err(error.into()),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).at("writing", path)
}
