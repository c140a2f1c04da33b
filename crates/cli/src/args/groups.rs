//! The arguments of `groups`.

use super::range::{Future, Point, TIMES};

/// Show worker groups: position, lag, lanes, workers, records in flight, stopped lanes
///
/// resume, skip, reset and delete print what they would do; with --execute they do it.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Groups {
    #[command(subcommand)]
    pub(crate) action: Option<Action>,
    /// Show only this topic
    pub(crate) topic: Option<String>,
    /// Show only this group
    pub(crate) name: Option<String>,
    /// Show the lanes; in text, adjacent lanes in the same state share a row
    #[arg(long, requires = "name")]
    pub(crate) lanes: bool,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// Let a stopped lane continue with the record at which it stopped
    Resume {
        #[command(flatten)]
        of: Named,
        /// The lane's number
        lane: u32,
    },
    /// Let a stopped lane continue after the record at which it stopped
    ///
    /// The next worker moves that record to the topic of dead letters without another attempt; a request is
    /// answered with `dead-lettered`.
    Skip {
        #[command(flatten)]
        of: Named,
        /// The lane's number
        lane: u32,
    },
    /// Move all lanes of a group without workers to another position
    ///
    /// Records after that position are handled again; requests with an outcome are not answered twice.
    #[command(after_help = TIMES)]
    Reset {
        #[command(flatten)]
        of: Named,
        /// Move them to this position: an offset, -5, -1h, @TIME, start, end
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
    /// Carry it out, instead of printing what would be done
    #[arg(long)]
    pub(crate) execute: bool,
}
