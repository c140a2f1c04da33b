//! The arguments of `ls`.

/// List the topics: records, bytes, segments, offsets, durability, consumers
///
/// The topics of a service (requests, replies, dead letters and their states) share one line, and so do
/// the parked outcomes of a client; --all lists each topic. --json and --names always list each topic.
#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// Print only the names
    #[arg(short = '1', long)]
    pub(crate) names: bool,
    /// List the topics of services and clients one by one
    #[arg(short, long)]
    pub(crate) all: bool,
}
