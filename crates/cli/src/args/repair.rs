//! The arguments of `repair`.

/// Give up damaged ranges of a topic, keeping their bytes in its directory `quarantine`
///
/// Without --execute nothing is changed: what would be done is printed. With it, no process may have
/// the topic open for writing. Offsets of undamaged records stay as they are; readers and consumers
/// are told of the lost ones once and go on behind them. Nothing is deleted but damaged indexes, which
/// are made anew. The exit code is 4 if damage is left, by a dry run or because it cannot be repaired.
#[derive(Debug, clap::Args)]
pub(crate) struct Repair {
    /// The topics
    #[arg(required_unless_present = "all", value_name = "TOPIC")]
    pub(crate) topics: Vec<String>,
    /// All topics
    #[arg(long, conflicts_with = "topics")]
    pub(crate) all: bool,
    /// Do it
    #[arg(long)]
    pub(crate) execute: bool,
    /// Move unreadable files of consumers and groups into the quarantine as well: they begin anew
    #[arg(long)]
    pub(crate) consumers: bool,
}
