//! The arguments of `top`.

use std::time::Duration;

/// Watch topics, consumers, services and members as they work
///
/// On a terminal, a full-screen view: q quits, the arrow and page keys scroll, a shows all. Otherwise,
/// and with --once, a table per interval, or with --json one object per line. The log is opened
/// read-only: no lock is taken and nothing is written, so a live log can be polled at any rate.
///
/// A service has one line; --all, or the key a, also shows its topics, consumers, groups and members.
/// Damage and stopped processes are always shown. --json has everything.
///
/// Rates are those of the last interval. A request is outstanding while the service's reply topic has no
/// outcome of it; requests that name another reply topic are not counted. Latencies are the time from the
/// append of the request to the append of its outcome, over the last 60 polls; records are stamped with a
/// clock that ticks every few milliseconds.
#[derive(Debug, clap::Args)]
pub(crate) struct Top {
    /// Poll again after this time
    #[arg(short, long, value_name = "DURATION", default_value = "1s", value_parser = super::time::parse_duration)]
    pub(crate) interval: Duration,
    /// Exit after this many polls
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub(crate) count: Option<u64>,
    /// Watch for one interval, print the result, and exit
    #[arg(long, conflicts_with = "count")]
    pub(crate) once: bool,
    /// Show the topics of services and clients one by one
    #[arg(short, long)]
    pub(crate) all: bool,
}
