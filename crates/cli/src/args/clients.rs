//! The arguments of `clients`.

/// List the clients of services and what they hold, or retire one that never comes back
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Clients {
    #[command(subcommand)]
    pub(crate) action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// List the clients
    Ls,
    /// Delete the positions of a client that never comes back
    ///
    /// Retention can then drop the records that they held. The client's requests are not cancelled.
    /// Without --execute, print what would be done.
    Retire {
        /// The client
        name: String,
        /// Retire it even if outcomes of its requests are outstanding or parked: no client ever gets them
        #[arg(long)]
        discard: bool,
        /// Carry it out, instead of printing what would be done
        #[arg(long)]
        execute: bool,
    },
}
