//! The arguments of `info`.

/// Show one topic: settings, ends, segments, consumers, recoveries
#[derive(Debug, clap::Args)]
pub(crate) struct Info {
    /// The topic
    pub(crate) topic: String,
}
