//! The arguments of `dead`.

use super::range::Range;

/// List the dead letters of a topic (SERVICE.dead), or send their requests again
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(crate) struct Dead {
    /// The topic of dead letters: SERVICE.dead
    pub(crate) topic: Option<String>,
    #[command(subcommand)]
    pub(crate) action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// List the dead letters
    Ls {
        /// The topic of dead letters: SERVICE.dead
        topic: String,
    },
    /// Append the requests to their topic again
    ///
    /// A request keeps its id and its outcome `dead-lettered`: what is answered now is a late reply.
    /// Without --execute it is only said what would be done.
    Redrive {
        /// The topic of dead letters: SERVICE.dead
        topic: String,
        /// Which dead letters: 10, 10:20, -5, -1h: [default: all]
        #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
        offset: Option<Range>,
        /// Do it, instead of saying what would be done
        #[arg(long)]
        execute: bool,
    },
}
