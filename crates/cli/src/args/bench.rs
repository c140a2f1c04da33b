//! The arguments of `bench`, and of the worker processes that it starts.

use std::path::PathBuf;
use std::time::Duration;

use super::durability::Durability;
use super::size;

/// Measure appends, reading, and request and reply on this machine
///
/// Every combination of the workloads, sizes, threads, processes and durabilities is one case; for
/// request, also of servers, their threads and outstanding requests. The processes of a case start
/// together, warm up, and are measured over the same window. Latencies are those of all operations of all
/// threads, not samples. The log is created in a directory of its own in DIR [default: ./target if it
/// exists, else the current directory], so on that disk, and removed at the end.
#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    /// Measure these workloads
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "append,consume,request"
    )]
    pub(crate) workload: Vec<Workload>,
    /// Use payloads of this many bytes, e.g. 64,1KiB
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_value = "256", value_parser = size::parse)]
    pub(crate) size: Vec<u64>,
    /// Run this many threads in each process
    #[arg(long, value_name = "COUNT", value_delimiter = ',', default_value = "1")]
    pub(crate) threads: Vec<u32>,
    /// Run this many processes that append, consume or request
    #[arg(long, value_name = "COUNT", value_delimiter = ',', default_value = "1")]
    pub(crate) processes: Vec<u32>,
    /// Run this many server processes of the service that gets the requests
    #[arg(long, value_name = "COUNT", value_delimiter = ',', default_value = "1")]
    pub(crate) servers: Vec<u32>,
    /// Run this many threads in each server process
    #[arg(long, value_name = "COUNT", value_delimiter = ',', default_value = "1")]
    pub(crate) server_threads: Vec<u32>,
    /// Keep this many requests of each thread outstanding; if more than one, send them with a callback
    #[arg(long, value_name = "COUNT", value_delimiter = ',', default_value = "1")]
    pub(crate) outstanding: Vec<u32>,
    /// Set what acknowledged records survive: power-loss, process-crash, within:500ms
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "process-crash,power-loss"
    )]
    pub(crate) durability: Vec<Durability>,
    /// Measure each case for this long
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, conflicts_with = "count")]
    pub(crate) seconds: f64,
    /// Measure this many operations of each case instead
    #[arg(long, value_name = "COUNT")]
    pub(crate) count: Option<u64>,
    /// Before measuring, run each case unmeasured for this long
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = super::time::parse_duration)]
    pub(crate) warm_up: Duration,
    /// Write the report, with all histograms, to this file
    #[arg(short, long, value_name = "FILE.json")]
    pub(crate) output: Option<PathBuf>,
    /// Write the report with plots to this file; it needs no other file and no network
    #[arg(long, value_name = "FILE.html")]
    pub(crate) html: Option<PathBuf>,
    /// Compare two reports instead: print how B differs from A
    #[arg(long, value_names = ["A.json", "B.json"], num_args = 2, conflicts_with_all = [
        "workload", "size", "threads", "processes", "servers", "server_threads", "outstanding",
        "durability", "seconds", "count", "warm_up", "output", "html", "dir",
    ])]
    pub(crate) compare: Option<Vec<PathBuf>>,
}

/// What the threads of a case do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Workload {
    /// All append to one topic, a record at a time
    Append,
    /// Each is a consumer of one topic: it reads a record and commits it
    Consume,
    /// Each is a client of one service: it sends requests and waits for the replies
    Request,
}

/// Run a process of `bench`; not meant to be called by people.
#[derive(Debug, clap::Args)]
pub(crate) struct Worker {
    /// The worker's task, as JSON
    pub(crate) task: String,
}
