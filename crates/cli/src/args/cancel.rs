//! The arguments of `cancel`.

/// Take a request back: its outcome is `cancelled`, unless another one is faster
///
/// The request's client must not be running: it can cancel its requests itself. A server that has begun
/// the request goes on.
#[derive(Debug, clap::Args)]
pub(crate) struct Cancel {
    /// The request, as `pending` shows it
    pub(crate) id: String,
}
