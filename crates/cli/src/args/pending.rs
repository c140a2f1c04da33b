//! The arguments of `pending`.

/// Show the requests whose outcome no client has taken: waiting, answered, parked
///
/// Reads the log from each client's oldest open request on, and takes no lock.
#[derive(Debug, clap::Args)]
pub(crate) struct Pending {
    /// Only this client's
    #[arg(long, value_name = "NAME")]
    pub(crate) client: Option<String>,
    /// Only those to this service
    #[arg(long, value_name = "SERVICE")]
    pub(crate) service: Option<String>,
}
