//! The settings with which topics are created.

use super::durability::Durability;
use super::size;

/// The settings of a topic, used if it is new.
#[derive(Debug, clap::Args)]
pub(crate) struct NewTopic {
    /// Set what acknowledged records of a new topic survive: power-loss, process-crash, within:500ms
    #[arg(long)]
    pub(crate) durability: Option<Durability>,
    /// Create a new topic with segment files of this many bytes, e.g. 16MiB
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) segment_size: Option<u64>,
}
