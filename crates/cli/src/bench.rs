//! `bench`: how fast a log is on this machine, with this disk: appends, reading, request and reply.

mod case;
mod chart;
mod comparison;
mod machine;
mod measurement;
mod page;
mod report;
mod run;
mod service;
mod worker;

use std::path::{Path, PathBuf};

use crate::args::bench::{Bench, Workload};
use crate::failure::{Exit, Failure};
use crate::output::Out;
use crate::Global;
use case::{Case, Service, Window};
use report::Report;
use service::LANES;

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
                                    workload,
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
    std::fs::write(path, text).map_err(|error| Failure::io("writing", path, &error))
}
