//! The arguments of `verify`.

/// Check topics: all frames by checksum, offsets without a gap, headers, indexes, consumers
///
/// Works beside living processes: what is not published yet is not looked at. Every damage is named
/// with its file, position and offsets; the exit code is 4 then. Nothing is changed.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// The topics [default: all]
    pub(crate) topics: Vec<String>,
}
