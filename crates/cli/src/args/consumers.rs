//! The arguments of `consumers`.

use super::range::{Future, Point};

/// Show the consumers of a topic: committed and durable position, lag, owner
///
/// --reset and --delete print what they would do; with --execute they do it.
#[derive(Debug, clap::Args)]
pub(crate) struct Consumers {
    /// The topic
    pub(crate) topic: String,
    /// Move this consumer to another position
    #[arg(long, value_name = "NAME", requires = "to", conflicts_with = "delete")]
    pub(crate) reset: Option<String>,
    /// Move it to this position: an offset, -5, -1h, @TIME, start, end
    #[arg(long, value_name = "POINT", allow_hyphen_values = true, requires = "reset")]
    pub(crate) to: Option<Point>,
    /// Delete this consumer
    #[arg(long, value_name = "NAME")]
    pub(crate) delete: Option<String>,
    #[command(flatten)]
    pub(crate) future: Future,
    /// Carry it out, instead of printing what would be done
    #[arg(long)]
    pub(crate) execute: bool,
}
