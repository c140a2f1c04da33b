//! `--compare`: how one report differs from another, case by case.

use schemars::JsonSchema;
use serde::Serialize;

use crate::case::{Case, Service, Workload};
use crate::report::{CaseReport, Report};
use crate::units;

/// How report B differs from report A.
#[derive(Debug)]
pub struct Comparison {
    /// The cases that both reports have.
    pub cases: Vec<ComparedCase>,
    /// Cases that only one of them has, and facts of the machines that differ.
    pub notes: Vec<String>,
}

/// With --compare, a case that both reports have.
#[derive(Debug, JsonSchema, Serialize)]
pub struct ComparedCase {
    /// append, consume, request.
    workload: Workload,
    /// What acknowledged records survive: power-loss, process-crash, within:500ms.
    durability: String,
    /// Bytes of a payload.
    size: u64,
    /// Processes at work.
    processes: u32,
    /// Threads in each of them.
    threads: u32,
    /// For request, the servers.
    service: Option<Service>,
    /// Operations a second in A.
    per_second_a: f64,
    /// The same in B.
    per_second_b: f64,
    /// B divided by A; null if A is 0.
    per_second_ratio: Option<f64>,
    /// The same of the median latencies.
    p50_ratio: Option<f64>,
    /// Of the 99th percentiles.
    p99_ratio: Option<f64>,
    /// Of the longest operations.
    max_ratio: Option<f64>,
    #[serde(skip)]
    row: Vec<String>,
}

/// Divides B by A for all cases that both have.
pub fn compare(a: &Report, b: &Report) -> Comparison {
    let mut cases = Vec::new();
    let mut notes = Vec::new();
    for before in &a.cases {
        match find(b, &before.case) {
            Some(after) => cases.push(ComparedCase::of(before, after)),
            None => notes.push(format!("only in A: {}", before.case)),
        }
    }
    for after in b.cases.iter().filter(|after| find(a, &after.case).is_none()) {
        notes.push(format!("only in B: {}", after.case));
    }
    if a.machine != b.machine {
        for ((name, before), (_, after)) in a.machine.facts().iter().zip(&b.machine.facts()) {
            if before != after && *name != "clock" {
                notes.push(format!("the machines differ: {name} {before} in A, {after} in B"));
            }
        }
    }
    Comparison { cases, notes }
}

fn find<'a>(report: &'a Report, case: &Case) -> Option<&'a CaseReport> {
    report.cases.iter().find(|other| other.case == *case)
}

impl ComparedCase {
    /// The columns of [`row`](Self::row).
    pub const HEADING: [&str; 11] =
        ["CASE", "PER SECOND A", "B", "B/A", "P50 A", "B", "B/A", "P99 A", "B", "B/A", "MAX B/A"];

    fn of(a: &CaseReport, b: &CaseReport) -> ComparedCase {
        // B divided by A; none where A is 0.
        let ratio = |a: f64, b: f64| (a > 0.0).then(|| b / a).filter(|ratio| ratio.is_finite());
        let shown =
            |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        let (from, to) = (&a.latency_nanos, &b.latency_nanos);
        let per_second_ratio = ratio(a.per_second, b.per_second);
        let p50_ratio = ratio(from.p50 as f64, to.p50 as f64);
        let p99_ratio = ratio(from.p99 as f64, to.p99 as f64);
        let max_ratio = ratio(from.max as f64, to.max as f64);
        let row = vec![
            a.case.to_string(),
            units::grouped(a.per_second.round() as u64),
            units::grouped(b.per_second.round() as u64),
            shown(per_second_ratio),
            units::nanos(from.p50),
            units::nanos(to.p50),
            shown(p50_ratio),
            units::nanos(from.p99),
            units::nanos(to.p99),
            shown(p99_ratio),
            shown(max_ratio),
        ];
        let Case { workload, durability, size, processes, threads, service } = a.case.clone();
        ComparedCase {
            workload,
            durability,
            size,
            processes,
            threads,
            service,
            per_second_a: a.per_second,
            per_second_b: b.per_second,
            per_second_ratio,
            p50_ratio,
            p99_ratio,
            max_ratio,
            row,
        }
    }

    /// The case as cells of a table.
    pub fn row(&self) -> Vec<String> {
        self.row.clone()
    }
}
