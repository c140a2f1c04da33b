//! The arguments of `repair`.

/// Mark damaged ranges of a topic lost, and keep their bytes in its directory `quarantine`
///
/// Without --execute nothing is changed, and what would be done is printed. With --execute, no process may
/// have the topic open for writing. Undamaged records keep their offsets; each reader and consumer gets one
/// error that names the lost offsets, and continues after them. Nothing is deleted except damaged indexes,
/// which are rebuilt. The exit code is 4 if damage is left: in a dry run, or if it cannot be repaired.
#[derive(Debug, clap::Args)]
pub(crate) struct Repair {
    /// The topics
    #[arg(required_unless_present = "all", value_name = "TOPIC")]
    pub(crate) topics: Vec<String>,
    /// Repair all topics
    #[arg(long, conflicts_with = "topics")]
    pub(crate) all: bool,
    /// Carry the repair out
    #[arg(long)]
    pub(crate) execute: bool,
    /// Move unreadable files of consumers and groups into the quarantine as well: they start from the
    /// beginning
    #[arg(long)]
    pub(crate) consumers: bool,
}
