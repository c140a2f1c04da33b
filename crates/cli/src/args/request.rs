//! The arguments of `request`.

use std::time::Duration;

use super::append::parse_header;
use super::new_topic::NewTopic;

/// Send a request to a service and print its reply
///
/// The service need not be running: the request waits for it in the log, and `request --attach ID` waits
/// again for its outcome, now or another day. The exit code is 1 if there is no reply: failed,
/// dead-lettered, expired, cancelled. It is 124 if there is no outcome within --timeout.
#[derive(Debug, clap::Args)]
pub(crate) struct Request {
    /// The service
    #[arg(required_unless_present = "attach", conflicts_with = "attach")]
    pub(crate) service: Option<String>,
    /// The payload; standard input is read if it is - or missing
    #[arg(allow_hyphen_values = true)]
    pub(crate) payload: Option<String>,
    /// Wait at most this long for the outcome; after that the exit code is 124
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = super::time::parse_duration)]
    pub(crate) timeout: Duration,
    /// Send the request, print its id, and do not wait
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Wait for the outcome of a request that was sent before
    #[arg(long, value_name = "ID", conflicts_with = "no_wait")]
    pub(crate) attach: Option<String>,
    /// Send under this name [default: the first free one of cli, cli-1, cli-2, ..]
    #[arg(long, value_name = "NAME", conflicts_with = "attach")]
    pub(crate) client: Option<String>,
    /// Let the request become `expired` after this long without an outcome
    #[arg(long, value_name = "DURATION", value_parser = super::time::parse_duration)]
    pub(crate) deadline: Option<Duration>,
    /// Give the request this key
    #[arg(short, long)]
    pub(crate) key: Option<String>,
    /// Add a header to the request; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    pub(crate) headers: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) new: NewTopic,
}
