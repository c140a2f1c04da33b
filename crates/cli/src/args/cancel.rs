//! The arguments of `cancel`.

/// Cancel a request: its outcome is `cancelled`, unless another outcome is recorded first
///
/// The request's client must not be running: a running client can cancel its requests itself. A server
/// that has begun the request finishes it.
#[derive(Debug, clap::Args)]
pub(crate) struct Cancel {
    /// The request, as `pending` shows it
    pub(crate) id: String,
}
