//! The arguments of `create`.

use std::time::Duration;

use super::new_topic::NewTopic;
use super::size;

/// Make a topic with settings of its own
///
/// Settings are stored with the topic and never change. Other commands, and programs, make the topics
/// that they append to with the defaults: power-loss, segments of 16 MiB, everything kept.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// The topic
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) new: NewTopic,
    /// Segments may go when their newest record is older, e.g. 7d
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) retain_age: Option<Duration>,
    /// The oldest segments may go while the sealed ones take more, e.g. 1GiB
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) retain_bytes: Option<u64>,
    /// Nothing goes that a consumer or a group has not committed past; without the limits above,
    /// everything else goes
    #[arg(long)]
    pub(crate) retain_unconsumed: bool,
}
