//! The arguments of `dump`.

use super::range::Range;

/// Show every frame of a topic or of one file: position, checksum, flags, key, headers, payload
///
/// Takes a single segment file too, even one that is damaged or from another machine. Prints what is wrong with
/// invalid bytes, and continues at the next record. Prints index files, settings, epochs, offset files of
/// consumers and the control page field by field.
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
    /// With --json, show payloads that are JSON as JSON, not as strings
    #[arg(long, conflicts_with = "hex")]
    pub(crate) payload_json: bool,
    /// Show whole payloads (up to 1 MiB), not only the first bytes
    #[arg(long)]
    pub(crate) full: bool,
    /// Show only damage and counts, no frames
    #[arg(short, long)]
    pub(crate) quiet: bool,
}
