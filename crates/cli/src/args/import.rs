//! The arguments of `import`.

use std::path::PathBuf;

use super::new_topic::NewTopic;

/// Append the records that `export` wrote, in their order
///
/// They get new offsets and times here. Headers of requests and replies (deaddrop.*) are left out unless
/// --reserved is given: with these headers a record is again a request or an outcome, and a server that
/// finds a request answers it.
#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// The topic
    pub(crate) topic: String,
    /// Files to read instead of standard input; - is standard input
    pub(crate) files: Vec<PathBuf>,
    /// Restore the headers that make records requests and replies, into a topic of any name
    #[arg(long)]
    pub(crate) reserved: bool,
    /// Store where each record came from in its headers origin-topic, origin-offset and origin-time
    #[arg(long)]
    pub(crate) origin: bool,
    /// Print nothing at the end
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) new: NewTopic,
}
