//! The arguments of `ls`.

/// List the topics: records, bytes, segments, offsets, durability, consumers
#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// Print the names only
    #[arg(short = '1', long)]
    pub(crate) names: bool,
}
