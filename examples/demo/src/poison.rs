//! The last scene of the demo: a request that fails in every attempt, and how it ends.

use std::path::Path;
use std::time::{Duration, Instant};

use deaddrop::service::{HandlerError, Outcome, ServerOptions};
use deaddrop::{Durability, Log, Record, TopicOptions};

use crate::watch::{strong, TOOL};
use crate::Result;

const ATTEMPTS: u32 = 3;
/// No attempt takes longer, unless something is wrong.
const LIMIT: Duration = Duration::from_secs(60);

/// Has a request fail until it is a dead letter, then names the commands that show it.
pub(crate) fn play(dir: &Path) -> Result<()> {
    let log = Log::open_or_create(dir)?;
    let topic = TopicOptions::default().with_durability(Durability::ProcessCrash);
    let client = log.client("order-service-2").with_topic_options(topic).open()?;
    let request = client.request("pricing", &Record::new("{\"sku\":\"an unknown item\"}"))?;
    let mut call = request.with_key("an unknown item").call()?;
    let options = ServerOptions::default()
        .with_topic(topic)
        .with_max_attempts(ATTEMPTS)
        .with_retry_first(Duration::from_millis(20));
    let mut server = log.server_with("pricing", options, |_| {
        Err(HandlerError::retry("the price list is unavailable"))
    })?;
    let begun = Instant::now();
    let done = loop {
        server.poll(Duration::from_millis(50))?;
        match call.wait_timeout(Duration::ZERO)? {
            Some(done) => break done,
            None if begun.elapsed() < LIMIT => {}
            None => return Err("the request that fails in every attempt has no outcome".into()),
        }
    };
    let Outcome::DeadLettered(why) = done.outcome() else {
        return Err(format!("not a dead letter: {done:?}").into());
    };
    println!("\nA request that fails {ATTEMPTS} times ends as a dead letter ({why}):");
    let trace = format!("trace {}", done.id());
    for command in [trace.as_str(), "dead pricing.dead", "groups pricing.requests"] {
        println!("  {}", strong(&format!("{TOOL} -d {} {command}", dir.display())));
    }
    Ok(())
}
