//! The arguments of `top`.

use std::time::Duration;

/// Watch topics, consumers, services and members as they work
///
/// On a terminal a full-screen view: q quits, the arrows and page keys scroll, a shows all. Elsewhere, and with
/// --once, a table per interval, or with --json an object a line. The log is opened read-only: no
/// lock is taken and nothing is written, so this can look at a live log as often as it likes.
///
/// A service has one line; --all, or the key a, also shows its topics, consumers, groups and members.
/// Damage and stopped processes are always shown. --json has everything.
///
/// Rates are those of the last interval. A request is outstanding while the service's reply topic has
/// no outcome of it; requests that name another reply topic are not counted. Latencies are the time
/// from the request's append to that of its outcome, of the last 60 looks; records are stamped with a
/// clock that ticks every few milliseconds.
#[derive(Debug, clap::Args)]
pub(crate) struct Top {
    /// Look again after this time
    #[arg(short, long, value_name = "DURATION", default_value = "1s", value_parser = super::time::parse_duration)]
    pub(crate) interval: Duration,
    /// End after so many looks
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub(crate) count: Option<u64>,
    /// Look for one interval, print what was seen, and end
    #[arg(long, conflicts_with = "count")]
    pub(crate) once: bool,
    /// Show the topics of services and clients one by one
    #[arg(short, long)]
    pub(crate) all: bool,
}
