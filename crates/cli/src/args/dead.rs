//! The arguments of `dead`.

use super::range::Range;

/// List dead letters, send them again, or drop them
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Dead {
    /// The topic of dead letters: SERVICE.dead, TOPIC.GROUP.dead [default: all of them]
    pub(crate) topic: Option<String>,
    #[command(flatten)]
    pub(crate) which: Which,
    /// List dropped letters as well
    #[arg(long)]
    pub(crate) all: bool,
    #[command(subcommand)]
    pub(crate) action: Option<Action>,
}

/// Which dead letters.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Which {
    /// Only letters at these offsets: 10, 10:20, -5, -1h: [default: all]
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    pub(crate) offset: Option<Range>,
    /// Only letters with this key
    #[arg(short, long)]
    pub(crate) key: Option<String>,
    /// Only letters whose reason contains this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// List the dead letters
    Ls {
        /// The topic of dead letters: SERVICE.dead, TOPIC.GROUP.dead [default: all of them]
        topic: Option<String>,
        #[command(flatten)]
        which: Which,
        /// List dropped letters as well
        #[arg(long)]
        all: bool,
    },
    /// Send dead letters again
    ///
    /// A request becomes a new request, with its own id and the old request as its cause: its outcome
    /// goes to the same callback. A record of a worker group becomes a new record of its topic. Letters
    /// that were sent again or dropped before are left out. Without --execute, print what would be done.
    Redrive {
        /// The topic of dead letters: SERVICE.dead, TOPIC.GROUP.dead
        topic: String,
        #[command(flatten)]
        which: Which,
        /// Include letters that were sent again or dropped before
        #[arg(long)]
        again: bool,
        /// Carry it out, instead of printing what would be done
        #[arg(long)]
        execute: bool,
    },
    /// Remove dead letters from the list
    ///
    /// Their records stay until the topic is trimmed. Without --execute, print what would be done.
    Drop {
        /// The topic of dead letters: SERVICE.dead, TOPIC.GROUP.dead
        topic: String,
        #[command(flatten)]
        which: Which,
        /// Carry it out, instead of printing what would be done
        #[arg(long)]
        execute: bool,
    },
}
