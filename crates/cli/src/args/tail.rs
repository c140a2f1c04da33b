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
    /// Print this many of the newest records [default: 10]; of a range, at most this many from its start,
    /// and end then, also with -f
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub(crate) count: Option<u64>,
    /// Go on with what is appended, until interrupted; a range has no end then. When the topic is deleted
    /// this ends with code 1
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// As -f, and wait for a topic that is not there yet, or was deleted: a new one of this name is
    /// followed from its start
    #[arg(short = 'F', long)]
    pub(crate) retry: bool,
    #[command(flatten)]
    pub(crate) style: Style,
}
