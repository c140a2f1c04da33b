//! The arguments of `trim`.

use super::range::{Future, Point};

/// Drop the oldest records of a topic, whole segments at a time
///
/// Says what would go, and whose records are among it; with --execute they go. The newest segment
/// always stays.
#[derive(Debug, clap::Args)]
pub(crate) struct Trim {
    /// The topic
    pub(crate) topic: String,
    /// Everything below may go: an offset, -1000, -7d, @TIME, end
    #[arg(long, value_name = "POINT", allow_hyphen_values = true)]
    pub(crate) before: Point,
    #[command(flatten)]
    pub(crate) future: Future,
    /// Do it, instead of saying what would be done
    #[arg(long)]
    pub(crate) execute: bool,
}
