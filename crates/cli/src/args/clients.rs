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
    /// Then retention drops what they held. Its requests are not taken back. Without --execute, print
    /// what would be done.
    Retire {
        /// The client
        name: String,
        /// Retire it also if outcomes of its requests are outstanding or parked: nobody gets them
        #[arg(long)]
        discard: bool,
        /// Do it, instead of saying what would be done
        #[arg(long)]
        execute: bool,
    },
}
