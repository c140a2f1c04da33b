//! The arguments of `trim`.

use super::range::{Future, Point};

/// Drop the oldest records of a topic, whole segments at a time
///
/// Prints what would be dropped, and which consumers and groups have not read it; with --execute it is
/// dropped. The newest segment always stays.
#[derive(Debug, clap::Args)]
pub(crate) struct Trim {
    /// The topic
    pub(crate) topic: String,
    /// Allow everything before this to be dropped: an offset, -1000, -7d, @TIME, end
    #[arg(long, value_name = "POINT", allow_hyphen_values = true)]
    pub(crate) before: Point,
    #[command(flatten)]
    pub(crate) future: Future,
    /// Carry it out, instead of printing what would be done
    #[arg(long)]
    pub(crate) execute: bool,
}
