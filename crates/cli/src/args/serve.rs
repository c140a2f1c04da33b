//! The arguments of `serve`.

use std::time::Duration;

use super::new_topic::NewTopic;

/// Answer the requests of a service: a command runs for each
///
/// The command gets the payload on standard input and, in the environment, DEADDROP_REQUEST_ID,
/// DEADDROP_ATTEMPT, DEADDROP_CLIENT and, if there is a key, DEADDROP_KEY_BASE64 and DEADDROP_KEY (left out
/// if the key contains a NUL byte). Exit code 0: its standard output is the reply. 1 to 99, or a signal: it
/// is run again later. 100 and above: the request has failed for good, for the reason on its standard
/// error.
///
/// After a SIGTERM, SIGINT or SIGHUP the server takes no more requests, waits for the running commands, and
/// exits with code 0. A second signal is passed on to the commands, and ends this process at once.
///
/// A request is answered once, however often this process is killed. The command may run again for a
/// request that was in flight then (DEADDROP_ATTEMPT says so), but not before its first command and
/// every process to which that command passed its open files have ended. Any number of these processes
/// may serve one service: requests with the same key run one after another, in order.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// The service
    pub(crate) service: String,
    /// The command and its arguments
    #[arg(last = true, required = true, num_args = 1..)]
    pub(crate) command: Vec<String>,
    /// Exit after this many requests, answered or no longer retried
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub(crate) count: Option<u64>,
    /// Stop retrying a request after this many attempts; 0: never stop
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    pub(crate) max_attempts: u32,
    /// Answer up to this many requests at a time; those with the same key run in order. Each thread has
    /// its own keys: a request may wait for a longer one with another key
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: u16,
    /// What happens to a request after its last attempt
    #[arg(long, value_enum, value_name = "FATE", default_value = "dead-letter")]
    pub(crate) poison: Fate,
    /// Wait this long before a second attempt; the wait doubles with each
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = super::time::parse_duration)]
    pub(crate) retry_first: Duration,
    /// Drop records that only clients hold which have not read a reply for this long; such a client gets
    /// an error at its next poll
    #[arg(long, value_name = "DURATION", value_parser = super::time::parse_duration)]
    pub(crate) abandoned_after: Option<Duration>,
    /// Print a line to standard error for each request, not only for failures
    #[arg(short, long)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) new: NewTopic,
}

/// What happens to a request that has failed too often.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Fate {
    /// It goes to SERVICE.dead
    DeadLetter,
    /// Later requests with its key wait for `deaddrop groups resume`
    StopLane,
}
