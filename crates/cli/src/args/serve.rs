//! The arguments of `serve`.

use std::time::Duration;

use super::new_topic::NewTopic;

/// Answer the requests of a service: a command runs for each
///
/// The command gets the payload on standard input and, in the environment, DEADDROP_REQUEST_ID,
/// DEADDROP_ATTEMPT, DEADDROP_CLIENT and, if there is a key, DEADDROP_KEY_BASE64 and DEADDROP_KEY,
/// which is left out if the key has a NUL byte. Exit code 0: what it wrote to standard output is the
/// reply. 1 to 99, or a signal: it is run again later. 100 and above: the request has failed for good,
/// with what it wrote to standard error.
///
/// SIGTERM, SIGINT or SIGHUP: no more requests are taken, the commands that run are waited for, and
/// the exit code is 0. A second signal is passed on to the commands, and ends this one at once.
///
/// A request is answered once, however often this command is killed; the command may run again for a
/// request that was in hand then (DEADDROP_ATTEMPT says so), but not before its first command, and
/// whatever that has started and passed its open files to, has ended. Any number of these commands may
/// serve one service: requests of one key run in order, one at a time.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// The service
    pub(crate) service: String,
    /// The command and its arguments
    #[arg(last = true, required = true, num_args = 1..)]
    pub(crate) command: Vec<String>,
    /// End after so many requests, answered or given up
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub(crate) count: Option<u64>,
    /// After so many attempts a request is given up; 0: never
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    pub(crate) max_attempts: u32,
    /// Answer up to so many requests at a time; those of one key in their order. Each thread has keys
    /// of its own: a request may wait for a longer one of another key
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: u16,
    /// What becomes of a request after its last attempt
    #[arg(long, value_enum, value_name = "FATE", default_value = "dead-letter")]
    pub(crate) poison: Fate,
    /// The wait before a second attempt; it doubles with each
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = super::time::parse_duration)]
    pub(crate) retry_first: Duration,
    /// Print a line to standard error for each request, not only for failures
    #[arg(short, long)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) new: NewTopic,
}

/// What becomes of a request that has failed too often.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Fate {
    /// It goes to SERVICE.dead
    DeadLetter,
    /// Later ones of its key wait for `deaddrop groups resume`
    StopLane,
}
