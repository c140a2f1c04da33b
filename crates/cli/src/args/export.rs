//! The arguments of `export`.

use super::range::Selection;

/// Write the records of a topic as JSON, one object a line, for `import`
///
/// Any bytes come through: keys, header values and payloads that are not UTF-8 are in base64. Headers
/// of requests and replies are written as well; `import` restores them only if it is told to. What is
/// not kept: which records were one batch.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// The topic
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Pass over damaged records and report them; the exit code is 4 all the same
    #[arg(long)]
    pub(crate) skip_damage: bool,
}
