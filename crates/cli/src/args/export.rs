//! The arguments of `export`.

use super::range::Selection;

/// Write the records of a topic as JSON, one object per line, for `import`
///
/// All bytes are preserved: keys, header values and payloads that are not UTF-8 are written in base64.
/// Headers of requests and replies are written as well; `import` restores them only with --reserved.
/// Batches are not preserved: the output does not say which records were appended as one.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// The topic
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Skip damaged records and report them; the exit code is still 4
    #[arg(long)]
    pub(crate) skip_damage: bool,
}
