//! A report: the machine, the settings, and the results of each case.

use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::case::{Case, Window};
use super::machine::Machine;
use super::measurement::{Measurement, Stored};
use super::run::Setting;
use crate::failure::{Exit, Failure};
use crate::output::{Colour, Out};
use crate::units;

const FORMAT: &str = "deaddrop-bench";
const FORMAT_VERSION: u32 = 1;
/// No report that this program writes is longer.
const LEN_MAX: u64 = 1 << 30;

/// The file that `--output` writes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Report {
    format: String,
    format_version: u32,
    /// The version of this program.
    pub(super) deaddrop: String,
    /// The time of the measurement, RFC 3339.
    pub(super) at: String,
    pub(super) machine: Machine,
    pub(super) window: Window,
    pub(super) warm_up_seconds: f64,
    pub(super) cases: Vec<CaseReport>,
}

/// The results of one case.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CaseReport {
    #[serde(flatten)]
    pub(super) case: Case,
    /// A description of one operation, and when it syncs.
    pub(super) operation: String,
    pub(super) sync: String,
    pub(super) per_second: f64,
    pub(super) payload_bytes_per_second: f64,
    pub(super) latency_nanos: Latency,
    /// Operations of each process.
    pub(super) operations_by_process: Vec<u64>,
    #[serde(flatten)]
    pub(super) measured: Stored,
}

/// Percentiles of the merged histograms, exact to three digits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Latency {
    pub(super) min: u64,
    pub(super) mean: f64,
    pub(super) p50: u64,
    pub(super) p90: u64,
    pub(super) p99: u64,
    #[serde(rename = "p99.9")]
    pub(super) p999: u64,
    #[serde(rename = "p99.99")]
    pub(super) p9999: u64,
    pub(super) max: u64,
}

impl CaseReport {
    pub(super) fn of(case: &Case, processes: &[Measurement]) -> Result<CaseReport, Failure> {
        let mut total = Measurement::empty()?;
        for process in processes {
            total.add(process.clone())?;
        }
        let latencies = &total.latencies;
        let at = |quantile| latencies.value_at_quantile(quantile);
        // A window cannot be shorter than the clock's resolution.
        let per_second = latencies.len() as f64 / total.seconds.max(1e-9);
        Ok(CaseReport {
            case: case.clone(),
            operation: case.operation().to_owned(),
            sync: case.sync_mode(),
            per_second,
            payload_bytes_per_second: per_second * case.size as f64,
            latency_nanos: Latency {
                min: latencies.min(),
                mean: latencies.mean(),
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                p9999: at(0.9999),
                max: latencies.max(),
            },
            operations_by_process: processes.iter().map(|one| one.latencies.len()).collect(),
            measured: total.store()?,
        })
    }
}

impl Report {
    pub(super) fn new(machine: Machine, setting: Setting, cases: Vec<CaseReport>) -> Report {
        Report {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            deaddrop: env!("CARGO_PKG_VERSION").to_owned(),
            at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            machine,
            window: setting.window,
            warm_up_seconds: setting.warm_up,
            cases,
        }
    }

    pub(super) fn to_json(&self) -> Result<String, Failure> {
        serde_json::to_string_pretty(self)
            .map(|text| text + "\n")
            .map_err(|error| Failure::new(Exit::Io, format_args!("the report: {error}")))
    }

    /// Reads a file that `--output` wrote, and checks it: it can come from any program.
    pub(super) fn read(path: &Path) -> Result<Report, Failure> {
        let io = |error| Failure::io("reading", path, &error);
        let bad = |what: &dyn std::fmt::Display| {
            Failure::usage(format_args!("{} is not a report of bench: {what}", path.display()))
        };
        if std::fs::metadata(path).map_err(io)?.len() > LEN_MAX {
            return Err(bad(&"it is too long"));
        }
        let bytes = std::fs::read(path).map_err(io)?;
        let mut report: Report = serde_json::from_slice(&bytes).map_err(|error| bad(&error))?;
        if report.format != FORMAT || report.format_version != FORMAT_VERSION {
            return Err(bad(&format_args!(
                "its format is {} {}, this program knows {FORMAT} {FORMAT_VERSION}",
                report.format, report.format_version
            )));
        }
        for case in &mut report.cases {
            case.case.complete();
            case.measured.load().map_err(|what| bad(&format_args!("{}: {what}", case.case)))?;
        }
        Ok(report)
    }

    /// How long each case was measured, as text.
    pub(super) fn window(&self) -> String {
        let window = match self.window {
            Window::Seconds(seconds) => format!("{seconds} s"),
            Window::Count(count) => units::count(count, "operation"),
        };
        format!("{window} of each case, after {} s of warm-up", self.warm_up_seconds)
    }

    pub(super) fn print(&self, out: &mut Out) -> Result<(), Failure> {
        if out.is_json() {
            for case in &self.cases {
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
        for (name, fact) in self.machine.facts() {
            let name = out.paint(Colour::Faint, format!("{name:<13}"));
            writeln!(out, "{name}{fact}")?;
        }
        writeln!(out, "{}{}\n", out.paint(Colour::Faint, "measured     "), self.window())?;
        let rows: Vec<Vec<String>> = self.cases.iter().map(row).collect();
        Ok(out.table(&HEADING, &RIGHT, &rows)?)
    }
}

/// The columns of a report as text.
pub(super) const HEADING: [&str; 13] = [
    "WORKLOAD",
    "DURABILITY",
    "SIZE",
    "PROCESSES",
    "THREADS",
    "SERVERS",
    "OUTSTANDING",
    "PER SECOND",
    "PAYLOAD/S",
    "P50",
    "P99",
    "P99.9",
    "MAX",
];
const RIGHT: [usize; 11] = [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

pub(super) fn row(report: &CaseReport) -> Vec<String> {
    let latency = &report.latency_nanos;
    let case = &report.case;
    let (servers, outstanding) = match case.service {
        Some(service) => {
            (format!("{} x {}", service.servers, service.threads), service.outstanding.to_string())
        }
        None => ("-".to_owned(), "-".to_owned()),
    };
    vec![
        case.workload.name().to_owned(),
        case.durability.clone(),
        units::size(case.size),
        case.processes.to_string(),
        case.threads.to_string(),
        servers,
        outstanding,
        units::grouped(report.per_second.round() as u64),
        units::size(report.payload_bytes_per_second.round() as u64),
        units::nanos(latency.p50),
        units::nanos(latency.p99),
        units::nanos(latency.p999),
        units::nanos(latency.max),
    ]
}
