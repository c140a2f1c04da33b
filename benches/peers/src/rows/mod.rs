//! Measures one subject for one row. The functions run in a process of their own; a second process that a
//! row needs is this program in the role of an assistant.

mod append;
mod durable;
mod read;
mod reopen;
mod round_trip;

use std::path::Path;

use hdrhistogram::Histogram;

use crate::row::{Kind, Row, Scale};
use crate::subject::{Subject, Work};
use crate::subjects;

/// The figures of the row, in its order.
pub(crate) fn pass(row: &Row, subject: &str, dir: &Path, scale: Scale) -> Vec<f64> {
    if let Kind::RoundTrip { cpus } = row.kind {
        return round_trip::pass(subject, dir, row.size, cpus, scale);
    }
    let subject = subjects::named(subject);
    match row.kind {
        Kind::Append => append::rate(subject, dir, row.size, scale),
        Kind::Batch => append::batch_rate(subject, dir, row.size, scale),
        Kind::Tail => append::tail(subject, dir, row.size, scale),
        Kind::Durable { threads } => durable::pass(subject, dir, row.size, threads, scale),
        Kind::Read => read::pass(subject, dir, row.size, scale),
        Kind::Reopen => reopen::pass(subject, dir, row.size, scale),
        Kind::RoundTrip { .. } => unreachable!("measured above"),
    }
}

/// The work of a second process of a pass.
pub(crate) fn assist(role: &str, arguments: &[String]) {
    match role {
        "write" => read::write(arguments),
        "append until killed" => reopen::append_until_killed(arguments),
        "serve" => round_trip::serve(arguments),
        other => panic!("no role {other}"),
    }
}

/// A payload that does not repeat every few bytes.
fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 131 + (index >> 8) * 17) as u8).collect()
}

/// Whether the log is opened with syncs, where a row accepts both: only if it cannot do without.
fn syncs(subject: &dyn Subject) -> bool {
    subject.promise(Work::Append).is_err() && subject.promise(Work::Durable).is_ok()
}

/// Latencies in nanoseconds, up to a minute, with three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds")
}

fn quantiles(times: &Histogram<u64>, quantiles: &[f64]) -> Vec<f64> {
    quantiles.iter().map(|&quantile| times.value_at_quantile(quantile) as f64).collect()
}
