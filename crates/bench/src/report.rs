//! A report: the machine, the settings, and the results of each case.

use std::path::Path;
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::case::{Case, Service, Setting, Window};
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::measurement::{Measurement, Stored};
use crate::units;

const FORMAT: &str = "deaddrop-bench";
const FORMAT_VERSION: u32 = 1;
/// No report that this program writes is longer.
const LEN_MAX: u64 = 1 << 30;

/// The file that `--output` writes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    format: String,
    format_version: u32,
    /// The version of this program.
    pub(crate) deaddrop: String,
    /// The time of the measurement, RFC 3339.
    pub(crate) at: String,
    pub(crate) machine: Machine,
    pub(crate) window: Window,
    pub(crate) warm_up_seconds: f64,
    pub(crate) cases: Vec<CaseReport>,
}

/// A case that was measured.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub struct CaseReport {
    #[serde(flatten)]
    pub(crate) case: Case,
    /// What one operation is.
    pub(crate) operation: String,
    /// When an operation syncs.
    pub(crate) sync: String,
    /// Operations a second.
    pub(crate) per_second: f64,
    /// The same in bytes of payload.
    pub(crate) payload_bytes_per_second: f64,
    pub(crate) latency_nanos: Latency,
    /// Operations of each process.
    pub(crate) operations_by_process: Vec<u64>,
    #[serde(flatten)]
    pub(crate) measured: Stored,
}

/// Percentiles of the merged histograms, exact to three digits.
#[derive(Debug, Clone, PartialEq, JsonSchema, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// The shortest operation, in nanoseconds.
    pub(crate) min: u64,
    /// The mean of all.
    pub(crate) mean: f64,
    /// Half of them took no longer.
    pub(crate) p50: u64,
    /// Nine of ten took no longer.
    pub(crate) p90: u64,
    /// 99 of 100.
    pub(crate) p99: u64,
    /// 999 of 1,000; the field's name is p99.9.
    #[serde(rename = "p99.9")]
    pub(crate) p999: u64,
    /// 9,999 of 10,000; the field's name is p99.99.
    #[serde(rename = "p99.99")]
    pub(crate) p9999: u64,
    /// The longest one.
    pub(crate) max: u64,
}

impl CaseReport {
    pub(crate) fn of(case: &Case, processes: &[Measurement]) -> Result<CaseReport> {
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
    pub(crate) fn new(machine: Machine, setting: Setting, cases: Vec<CaseReport>) -> Report {
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

    /// Returns the report as `--output` writes it.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self)
            .map(|text| text + "\n")
            .map_err(|error| Error::Failed(format!("the report: {error}")))
    }

    /// Reads a file that `--output` wrote, and checks it: it can come from any program.
    pub fn read(path: &Path) -> Result<Report> {
        let io = |error| Error::io("reading", path, &error);
        let bad = |what: &dyn std::fmt::Display| {
            Error::Invalid(format!("{} is not a report of bench: {what}", path.display()))
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
    fn window(&self) -> String {
        let window = match self.window {
            Window::Seconds(seconds) => format!("{seconds} s"),
            Window::Count(count) => units::count(count, "operation"),
        };
        format!("{window} of each case, after {} s of warm-up", self.warm_up_seconds)
    }

    /// What the cases measured.
    pub fn cases(&self) -> &[CaseReport] {
        &self.cases
    }

    /// The facts about the machine and the measurement with their names, for people.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = self.machine.facts();
        facts.push(("measured", self.window()));
        facts
    }
}

impl CaseReport {
    /// The columns of [`row`](Self::row).
    pub const HEADING: [&str; 13] = [
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

    /// The case and what it measured, as cells of a table.
    pub fn row(&self) -> Vec<String> {
        let latency = &self.latency_nanos;
        let case = &self.case;
        let (servers, outstanding) = match case.service {
            Some(Service { servers, threads, outstanding }) => {
                (format!("{servers} x {threads}"), outstanding.to_string())
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
            units::grouped(self.per_second.round() as u64),
            units::size(self.payload_bytes_per_second.round() as u64),
            units::nanos(latency.p50),
            units::nanos(latency.p99),
            units::nanos(latency.p999),
            units::nanos(latency.max),
        ]
    }
}
