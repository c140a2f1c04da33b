//! The report as one HTML file: tables, and charts as inline SVG. It loads no other file.

use crate::case::{Case, Workload};
use crate::chart::{self, escape, Axis, Line};
use crate::error::{Error, Result};
use crate::measurement::Measurement;
use crate::report::{CaseReport, Report};
use crate::units;

/// The colours are those of Okabe and Ito, for readers who cannot distinguish red from green.
const STYLE: &str = "
:root { color-scheme: light dark; --text: #1c1c1c; --faint: #666; --grid: #ddd; --back: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e4e4; --faint: #9a9a9a; --grid: #3a3a3a; --back: #161616; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 960px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2.2em; } h3 { font-size: 1em; }
p, dt { color: var(--faint); }
dl { display: grid; grid-template-columns: 8em 1fr; } dd { margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 10px 3px 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--grid); }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: var(--text); }
.grid { stroke: var(--grid); } .line { fill: none; stroke-width: 2; } circle.line { fill: currentColor; }
.dashed { stroke-dasharray: 6 4; }
line.s0, polyline.s0, circle.s0 { stroke: #0072b2; } .bar.s0 { fill: #0072b2; }
line.s1, polyline.s1, circle.s1 { stroke: #e69f00; } .bar.s1 { fill: #e69f00; }
line.s2, polyline.s2, circle.s2 { stroke: #009e73; } .bar.s2 { fill: #009e73; }
line.s3, polyline.s3, circle.s3 { stroke: #cc79a7; } .bar.s3 { fill: #cc79a7; }
line.s4, polyline.s4, circle.s4 { stroke: #56b4e9; } .bar.s4 { fill: #56b4e9; }
line.s5, polyline.s5, circle.s5 { stroke: #d55e00; } .bar.s5 { fill: #d55e00; }
line.s6, polyline.s6, circle.s6 { stroke: #999999; } .bar.s6 { fill: #999999; }
";

impl Report {
    /// Returns the report as one HTML file with plots, which loads nothing.
    pub fn to_html(&self) -> Result<String> {
        let mut facts = self.facts();
        facts.push(("at", format!("{} with deaddrop {}", self.at, self.deaddrop)));
        let facts: String = facts
            .iter()
            .map(|(name, fact)| format!("<dt>{name}</dt><dd>{}</dd>\n", escape(fact)))
            .collect();
        let mut html = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>deaddrop bench</title>\n\
             <style>{STYLE}</style>\n</head>\n<body>\n<h1>deaddrop bench</h1>\n<dl>\n{facts}</dl>\n"
        );
        push(&mut html, &table(self));
        for group in groups(self) {
            push(&mut html, &section(&group)?);
        }
        push(&mut html, "</body>\n</html>");
        Ok(html)
    }
}

fn push(html: &mut String, part: &str) {
    html.push_str(part);
    html.push('\n');
}

fn table(report: &Report) -> String {
    let cells = |cells: &mut dyn Iterator<Item = String>, name: &str| -> String {
        let cells: String =
            cells.map(|cell| format!("<{name}>{}</{name}>", escape(&cell))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let heading = cells(&mut CaseReport::HEADING.iter().map(|name| name.to_lowercase()), "th");
    let rows: String =
        report.cases.iter().map(|case| cells(&mut case.row().into_iter(), "td")).collect();
    format!("<div class=\"wide\"><table>\n{heading}{rows}</table></div>")
}

/// The cases with one workload and one durability: their charts have common axes.
fn groups(report: &Report) -> Vec<Vec<&CaseReport>> {
    let mut groups: Vec<Vec<&CaseReport>> = Vec::new();
    for case in &report.cases {
        let same = |group: &&mut Vec<&CaseReport>| {
            let other = &group[0].case;
            (other.workload, &other.durability) == (case.case.workload, &case.case.durability)
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(case),
            None => groups.push(vec![case]),
        }
    }
    groups
}

fn section(group: &[&CaseReport]) -> Result<String> {
    let case = &group[0].case;
    let name = match case.workload {
        Workload::Append => "Append",
        Workload::Consume => "Consume",
        Workload::Request => "Request and reply",
    };
    let measured: Vec<Measurement> = group
        .iter()
        .map(|report| report.measured.load().map_err(Error::Failed))
        .collect::<Result<_, _>>()?;
    let names = short_names(group);
    let rates: Vec<(String, f64, String)> = names
        .iter()
        .zip(group)
        .map(|(name, report)| {
            let rate = report.per_second;
            (name.clone(), rate, units::grouped(rate.round() as u64))
        })
        .collect();
    let mut operations: Vec<&str> = group.iter().map(|one| one.operation.as_str()).collect();
    operations.sort_unstable();
    operations.dedup();
    let mut html = format!(
        "<h2>{name}, {}</h2>\n<p>One operation: {}.<br>Sync: {}.</p>\n",
        escape(&case.durability),
        escape(&operations.join(", or, with several outstanding, ")),
        escape(&group[0].sync)
    );
    push(&mut html, "<h3>Operations per second</h3>");
    push(&mut html, &chart::bars("Operations per second", &rates).0);
    push(&mut html, "<h3>Operations per second, over time</h3>");
    push(&mut html, &over_time(&names, &measured));
    push(&mut html, "<h3>Latency by percentile</h3>");
    push(&mut html, &percentiles(&names, &measured));
    Ok(html)
}

/// The differences between the cases of a group, as short as possible: there is little room beside a
/// plot.
fn short_names(group: &[&CaseReport]) -> Vec<String> {
    let all: Vec<[String; 4]> = group.iter().map(|report| parts(&report.case)).collect();
    let differs = |part: usize| all.iter().any(|one| one[part] != all[0][part]);
    let mut shown: Vec<usize> = (0..4).filter(|&part| differs(part)).collect();
    if shown.is_empty() {
        shown.push(0);
    }
    let name = |one: &[String; 4]| {
        let parts: Vec<&str> = shown.iter().map(|&part| one[part].as_str()).collect();
        parts.join(", ")
    };
    all.iter().map(name).collect()
}

fn parts(case: &Case) -> [String; 4] {
    let service = case.service.unwrap_or_default();
    [
        units::size(case.size),
        format!("{} x {}", case.processes, units::count(case.threads.into(), "thread")),
        format!("{} outstanding", service.outstanding),
        format!("{} x {} serving", service.servers, units::count(service.threads.into(), "thread")),
    ]
}

fn over_time(names: &[String], measured: &[Measurement]) -> String {
    let lines: Vec<Line> = names
        .iter()
        .zip(measured)
        .map(|(name, one)| Line { name: name.clone(), points: rates(one) })
        .collect();
    let most = |of: fn(&(f64, f64)) -> f64| {
        lines.iter().flat_map(|line| &line.points).map(of).fold(0.0, f64::max)
    };
    let x = Axis::linear("seconds since the start of the window", most(|point| point.0), |value| {
        format!("{}", (value * 1e6).round() / 1e6)
    });
    let y = Axis::linear("", 1.05 * most(|point| point.1), units::short);
    chart::lines("Operations per second, over time", &x, &y, &lines)
}

/// More points make the line of a noisy machine unreadable.
const POINTS_MAX: usize = 48;

/// Rates at the middles of the slots. The last slot has the length that the window filled; a short rest
/// is meaningless and left out.
fn rates(measured: &Measurement) -> Vec<(f64, f64)> {
    let mut series = measured.series.clone();
    while series.counts.len() > POINTS_MAX {
        series.coarsen();
    }
    let (slot, counts) = (series.slot_nanos as f64 / 1e9, &series.counts);
    let mut points = Vec::new();
    for (number, &count) in counts.iter().enumerate() {
        let start = number as f64 * slot;
        let len = if number + 1 == counts.len() { measured.seconds - start } else { slot };
        if len >= slot / 2.0 || number == 0 {
            let len = len.max(1e-9);
            points.push((start + len / 2.0, count as f64 / len));
        }
    }
    points
}

/// Latency over 1 / (1 - quantile), both logarithmic: rare and slow operations are at the right.
fn percentiles(names: &[String], measured: &[Measurement]) -> String {
    const STEPS: u32 = 20;
    let most = measured.iter().map(|one| one.latencies.len()).max().unwrap_or(1);
    let decades = (most as f64).log10().ceil().clamp(1.0, 7.0) as u32;
    let lines: Vec<Line> = names
        .iter()
        .zip(measured)
        .map(|(name, one)| {
            // Beyond one in this many there is no further operation.
            let own = (one.latencies.len() as f64).log10().clamp(0.0, f64::from(decades));
            let steps = (own * f64::from(STEPS)).floor() as u32;
            let point = |step: u32| {
                let one_in = 10f64.powf(f64::from(step) / f64::from(STEPS));
                (one_in, one.latencies.value_at_quantile(1.0 - 1.0 / one_in).max(1) as f64)
            };
            Line { name: name.clone(), points: (0..=steps).map(point).collect() }
        })
        .collect();
    let ticks = (0..=decades).map(|power| {
        let name = match power {
            0 => "0 %".to_owned(),
            1 => "90 %".to_owned(),
            2 => "99 %".to_owned(),
            more => format!("99.{} %", "9".repeat(more as usize - 2)),
        };
        (10f64.powi(power as i32), name)
    });
    let x = Axis {
        label: "percentile",
        min: 1.0,
        max: 10f64.powi(decades as i32),
        is_log: true,
        ticks: ticks.collect(),
    };
    let values = lines.iter().flat_map(|line| &line.points).map(|point| point.1);
    let y = Axis::log("", values, |value| units::nanos(value as u64));
    chart::lines("Latency by percentile", &x, &y, &lines)
}
