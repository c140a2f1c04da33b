//! The arguments of `pending`.

/// Show the requests whose outcome no client has taken: waiting, answered, parked
///
/// A request in the state `stopped` waits in a lane that its server stopped at a poison request: see
/// `deaddrop groups SERVICE.requests server`, and `groups resume`.
/// Reads the log starting at each client's oldest open request, and takes no lock.
#[derive(Debug, clap::Args)]
pub(crate) struct Pending {
    /// Show only requests of this client
    #[arg(long, value_name = "NAME")]
    pub(crate) client: Option<String>,
    /// Show only requests to this service
    #[arg(long, value_name = "SERVICE")]
    pub(crate) service: Option<String>,
}
