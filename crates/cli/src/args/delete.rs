//! The arguments of `delete`.

/// Delete a topic with all its records, consumers and groups
///
/// Says what would go; with --execute it goes, unless a process has the topic open for writing.
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// The topic
    pub(crate) topic: String,
    /// Do it, instead of saying what would be done
    #[arg(long)]
    pub(crate) execute: bool,
}
