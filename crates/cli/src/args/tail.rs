//! The arguments of `tail`.

use super::format::Style;
use super::range::Selection;

/// Print the newest records of a topic, and with -f those that are appended from now on
#[derive(Debug, clap::Args)]
pub(crate) struct Tail {
    /// The topic
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Print this many of the newest records [default: 10]; of a range, print at most this many from its
    /// start, then exit, even with -f
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub(crate) count: Option<u64>,
    /// Continue with appended records until interrupted; a range then has no end. If the topic is
    /// deleted, exit with code 1
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Like -f, and wait for a topic that does not exist yet or was deleted; a new topic with this name
    /// is followed from its start
    #[arg(short = 'F', long)]
    pub(crate) retry: bool,
    #[command(flatten)]
    pub(crate) style: Style,
}
