//! The arguments of `cat`.

use super::format::Style;
use super::range::Selection;

/// Print the records of a topic, one payload per line
#[derive(Debug, clap::Args)]
pub(crate) struct Cat {
    /// The topic
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Print at most this many records
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub(crate) count: Option<u64>,
    /// Skip damaged records and report them; the exit code is still 4
    #[arg(long)]
    pub(crate) skip_damage: bool,
    #[command(flatten)]
    pub(crate) style: Style,
}
