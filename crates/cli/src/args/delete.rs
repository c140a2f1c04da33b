//! The arguments of `delete`.

/// Delete a topic with all its records, consumers and groups
///
/// Prints what would be deleted; --execute deletes it, unless a process has the topic open for writing.
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// The topic
    pub(crate) topic: String,
    /// Carry it out, instead of printing what would be done
    #[arg(long)]
    pub(crate) execute: bool,
}
