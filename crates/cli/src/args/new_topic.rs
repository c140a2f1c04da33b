//! What topics are made with.

use super::durability::Durability;
use super::size;

/// What a topic is made with, if it is new.
#[derive(Debug, clap::Args)]
pub(crate) struct NewTopic {
    /// What acknowledged records of a new topic survive: power-loss, process-crash, within:500ms
    #[arg(long)]
    pub(crate) durability: Option<Durability>,
    /// Bytes of the segment files of a new topic, e.g. 16MiB
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) segment_size: Option<u64>,
}
