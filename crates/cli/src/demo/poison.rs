//! The last scene of the demo: a request that cannot be answered, and how the tool shows it.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Parser;
use deaddrop::service::{HandlerError, Outcome, ServerOptions};
use deaddrop::{Durability, Log, Record, TopicOptions};

use crate::failure::{Exit, Failure};
use crate::output::{Colour, Out};

const ATTEMPTS: u32 = 3;
/// No attempt waits longer, unless something is wrong.
const LIMIT: Duration = Duration::from_secs(60);

/// Lets a request fail until it is dead-lettered, then shows it with the tool's own commands.
pub(super) fn play(dir: &Path, out: &mut Out) -> Result<Exit, Failure> {
    let log = Log::open(dir)?;
    let topic = TopicOptions::durability(Durability::ProcessCrash);
    let client = log.client("order-service-2").topic_options(topic).open()?;
    let request = client.request("pricing", &Record::new("{\"sku\":\"unknown item\"}"))?;
    let mut call = request.key("unknown item").call()?;
    let options = ServerOptions {
        topic: Some(topic),
        max_attempts: ATTEMPTS,
        retry_first: Duration::from_millis(20),
        ..ServerOptions::default()
    };
    let mut server = log.server_with("pricing", options, |_| {
        Err(HandlerError::retry("the price list is not available"))
    })?;
    let begun = Instant::now();
    let done = loop {
        server.poll(Duration::from_millis(50))?;
        match call.wait_timeout(Duration::ZERO)? {
            Some(done) => break done,
            None if begun.elapsed() < LIMIT => {}
            None => return Err(Failure::no("the request that cannot be answered has no outcome")),
        }
    };
    drop((server, client));
    let Outcome::DeadLettered(why) = done.outcome() else {
        return Err(Failure::no(format_args!("not a dead letter: {done:?}")));
    };
    writeln!(out, "\nA request that fails {ATTEMPTS} times ends as a dead letter ({why}):")?;
    let id = done.id().to_string();
    for command in [&["trace", &id][..], &["dead", "pricing.dead"], &["groups", "pricing.requests"]]
    {
        let line = out.paint(Colour::Strong, format!("deaddrop {}", command.join(" ")));
        writeln!(out, "\n{line}")?;
        let dir = dir.as_os_str();
        let args = ["deaddrop", "-d"].map(std::ffi::OsStr::new).into_iter().chain([dir]);
        let args = args.chain(command.iter().map(std::ffi::OsStr::new));
        let cli =
            crate::Cli::try_parse_from(args).map_err(|error| Failure::usage(error.to_string()))?;
        crate::run(&cli, out)?;
    }
    Ok(Exit::Ok)
}
