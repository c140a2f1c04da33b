//! `--compare`: how one report differs from another, case by case.

use std::io::Write;

use serde_json::json;

use super::case::Case;
use super::report::{CaseReport, Report};
use crate::failure::{note, Exit, Failure};
use crate::output::Out;
use crate::units;

/// Prints B divided by A for all cases that both have. The exit code is 1 if they have none in common.
pub(super) fn compare(a: &Report, b: &Report, out: &mut Out) -> Result<Exit, Failure> {
    let mut rows = Vec::new();
    let mut common = 0;
    for before in &a.cases {
        let Some(after) = find(b, &before.case) else {
            note(format_args!("only in A: {}", before.case));
            continue;
        };
        common += 1;
        let ratios = Ratios::of(before, after);
        if out.is_json() {
            out.object(&json!({
                "workload": before.case.workload, "durability": before.case.durability,
                "size": before.case.size, "processes": before.case.processes,
                "threads": before.case.threads, "service": before.case.service,
                "per_second_a": before.per_second, "per_second_b": after.per_second,
                "per_second_ratio": ratios.per_second, "p50_ratio": ratios.p50,
                "p99_ratio": ratios.p99, "max_ratio": ratios.max,
            }))?;
        } else {
            rows.push(row(before, after, &ratios));
        }
    }
    for after in b.cases.iter().filter(|after| find(a, &after.case).is_none()) {
        note(format_args!("only in B: {}", after.case));
    }
    if a.machine != b.machine {
        for ((name, before), (_, after)) in a.machine.facts().iter().zip(&b.machine.facts()) {
            if before != after && *name != "clock" {
                note(format_args!("the machines differ: {name} {before} in A, {after} in B"));
            }
        }
    }
    if common == 0 {
        return Err(Failure::no("the two reports have no case in common"));
    }
    if !out.is_json() {
        let heading = [
            "CASE",
            "PER SECOND A",
            "B",
            "B/A",
            "P50 A",
            "B",
            "B/A",
            "P99 A",
            "B",
            "B/A",
            "MAX B/A",
        ];
        out.table(&heading, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], &rows)?;
        writeln!(out, "\nper second: above 1 is faster; latencies: below 1 is faster")?;
    }
    Ok(Exit::Ok)
}

fn find<'a>(report: &'a Report, case: &Case) -> Option<&'a CaseReport> {
    report.cases.iter().find(|other| other.case == *case)
}

/// B divided by A; none where A is 0.
struct Ratios {
    per_second: Option<f64>,
    p50: Option<f64>,
    p99: Option<f64>,
    max: Option<f64>,
}

impl Ratios {
    fn of(a: &CaseReport, b: &CaseReport) -> Ratios {
        let ratio = |a: f64, b: f64| (a > 0.0).then(|| b / a).filter(|ratio| ratio.is_finite());
        let (from, to) = (&a.latency_nanos, &b.latency_nanos);
        Ratios {
            per_second: ratio(a.per_second, b.per_second),
            p50: ratio(from.p50 as f64, to.p50 as f64),
            p99: ratio(from.p99 as f64, to.p99 as f64),
            max: ratio(from.max as f64, to.max as f64),
        }
    }
}

fn row(a: &CaseReport, b: &CaseReport, ratios: &Ratios) -> Vec<String> {
    let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    let (from, to) = (&a.latency_nanos, &b.latency_nanos);
    vec![
        a.case.to_string(),
        units::grouped(a.per_second.round() as u64),
        units::grouped(b.per_second.round() as u64),
        ratio(ratios.per_second),
        units::nanos(from.p50),
        units::nanos(to.p50),
        ratio(ratios.p50),
        units::nanos(from.p99),
        units::nanos(to.p99),
        ratio(ratios.p99),
        ratio(ratios.max),
    ]
}
