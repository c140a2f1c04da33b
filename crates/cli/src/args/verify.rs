//! The arguments of `verify`.

/// Check topics: all frames by checksum, offsets without a gap, headers, indexes, consumers
///
/// Works while other processes use the log: bytes that are not yet published are not checked. Each damage
/// is reported with its file, position and offsets; the exit code is then 4. Nothing is changed.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// The topics [default: all]
    pub(crate) topics: Vec<String>,
}
