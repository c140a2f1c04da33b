//! The arguments of `dump`.

use super::range::Range;

/// Show every frame of a topic or of one file: position, checksum, flags, key, headers, payload
///
/// A segment file alone is enough, even a damaged one or one from another machine. Invalid bytes are
/// reported with their kind, and reading continues at the next record. Index files, settings, epochs,
/// offset files of consumers and the control page are shown field by field.
#[derive(Debug, clap::Args)]
pub(crate) struct Dump {
    /// The topic, or a file: *.seg, *.idx, settings, epochs, consumers/NAME, control
    pub(crate) what: String,
    /// Show only these records: 10:20, -5, -1h:, @2026-01-01T00:00:00Z:end; of a file, offsets only
    /// [default: all]
    #[arg(allow_hyphen_values = true)]
    pub(crate) range: Option<Range>,
    /// Show payloads in hexadecimal
    #[arg(long)]
    pub(crate) hex: bool,
    /// With --json, show payloads that are JSON as JSON values, not as strings
    #[arg(long, conflicts_with = "hex")]
    pub(crate) payload_json: bool,
    /// Show whole payloads (up to 1 MiB), not only their start
    #[arg(long)]
    pub(crate) full: bool,
    /// Show no frames, only the damage and the counts
    #[arg(short, long)]
    pub(crate) quiet: bool,
}
