//! The arguments of `trace`.

/// Show conversations: each request, how long it waited, its attempts, its outcome, its callback
///
/// A request that was sent by the handler or the callback of another one is shown below it. Reads the
/// topics of all services once or twice, and takes no lock.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub(crate) struct Trace {
    /// Show the conversation that contains the request with this id
    #[arg(group = "which")]
    pub(crate) id: Option<String>,
    /// Show the conversations of the newest hundred requests with this key
    #[arg(short, long, group = "which")]
    pub(crate) key: Option<String>,
    /// Show the conversations of this many of the newest requests
    #[arg(long, value_name = "COUNT", group = "which", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) last: Option<u64>,
    /// Look for them only in this service
    #[arg(long, value_name = "SERVICE", conflicts_with = "id")]
    pub(crate) service: Option<String>,
}
