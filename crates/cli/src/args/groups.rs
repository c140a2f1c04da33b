//! The arguments of `groups`.

use super::range::{Future, Point, TIMES};

/// Show worker groups: position, lag, lanes, workers, records in hand, stopped lanes
///
/// resume, reset and delete say what they would do; with --execute they do it.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Groups {
    #[command(subcommand)]
    pub(crate) action: Option<Action>,
    /// Only this topic
    pub(crate) topic: Option<String>,
    /// Only this group
    pub(crate) name: Option<String>,
    /// Show the lanes; in text, adjacent lanes that are alike share a row
    #[arg(long, requires = "name")]
    pub(crate) lanes: bool,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// Let a stopped lane go on with the record that it stopped at
    Resume {
        #[command(flatten)]
        of: Named,
        /// The lane's number
        lane: u32,
    },
    /// Set all lanes of a group without workers to another position
    ///
    /// Records from there on are handled again; requests that have an outcome are not answered twice.
    #[command(after_help = TIMES)]
    Reset {
        #[command(flatten)]
        of: Named,
        /// The position: an offset, -5, -1h, @TIME, start, end
        #[arg(long, value_name = "POINT", allow_hyphen_values = true)]
        to: Point,
        #[command(flatten)]
        future: Future,
    },
    /// Delete a group without workers
    Delete {
        #[command(flatten)]
        of: Named,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    /// The topic
    pub(crate) topic: String,
    /// The group
    pub(crate) name: String,
    /// Do it, instead of saying what would be done
    #[arg(long)]
    pub(crate) execute: bool,
}
