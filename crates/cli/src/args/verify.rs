//! The arguments of `verify`.

/// Check topics: all frames by checksum, offsets without a gap, headers, indexes, consumers
///
/// Works beside processes that write: frames that are not published yet are not checked. Prints every damaged
/// place with its file, position and offsets; the exit code is 4 then. Changes nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// The topics [default: all]
    pub(crate) topics: Vec<String>,
}
