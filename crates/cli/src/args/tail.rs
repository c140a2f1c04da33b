//! The arguments of `tail`.

use super::format::Style;
use super::range::Selection;

/// Print the newest records of a topic, and with -f what is appended from now on
#[derive(Debug, clap::Args)]
pub(crate) struct Tail {
    /// The topic
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// So many of the newest records, if no range is given
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 10)]
    #[arg(conflicts_with_all = ["range", "from", "to"])]
    pub(crate) count: u64,
    /// Go on with what is appended, until interrupted; a range has no end then
    #[arg(short, long)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) style: Style,
}
