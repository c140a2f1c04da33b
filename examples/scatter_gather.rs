//! One question to several services, whose answers are collected. Each request carries as context which
//! question it belongs to and which service gets it. (The answers are kept in memory here; a service that
//! has to continue after a restart keeps them in a database.)

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deaddrop::service::{Completed, HandlerError, Outcome, Reply};
use deaddrop::{Log, Record};

const LONG: Duration = Duration::from_secs(30);
const CARRIERS: [(&str, u32); 3] = [("post", 490), ("courier", 1250), ("bicycle", 700)];

/// The price of each carrier that has answered, or the reason why it has none.
type Offers = BTreeMap<String, Result<u32, String>>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/target/examples-data");
    let dir = format!("{data}/scatter_gather-{}", std::process::id());
    let log = Log::open_or_create(&dir)?;

    let gathered = Arc::new(Mutex::new(BTreeMap::<u32, Offers>::new()));
    let offers = Arc::clone(&gathered);
    let shop = log.client("shop").on("offer", move |done: &Completed| {
        let (parcel, carrier): (u32, String) = done.context_json()?;
        let offer = match done.outcome() {
            Outcome::Reply(reply) => Ok(reply.json()?),
            other => Err(format!("{other:?}")),
        };
        let mut offers = offers.lock().map_err(|_| HandlerError::retry("poisoned"))?;
        // By carrier: an outcome that is delivered again after a crash changes nothing.
        offers.entry(parcel).or_default().insert(carrier, offer);
        Ok(())
    });
    let shop = shop.open()?;

    for (carrier, _) in CARRIERS {
        let request = shop.request(carrier, &Record::new("2 kg to Kiel"))?;
        request.with_context_json(&(4711, carrier))?.with_deadline(LONG).send("offer")?;
    }

    let mut servers = Vec::new();
    for (carrier, price) in CARRIERS {
        let server = log.server(carrier, move |_| match carrier {
            "bicycle" => Err(HandlerError::terminal("that is too far")),
            _ => Ok(Reply::json(&price)?),
        })?;
        servers.push(server.spawn()?);
    }
    while shop.outstanding_count() > 0 {
        shop.poll(LONG)?;
    }
    for server in servers {
        server.stop()?;
    }

    let gathered = gathered.lock().map_err(|_| "a callback has panicked")?;
    let offers = &gathered[&4711];
    for (carrier, offer) in offers {
        println!("{carrier}: {offer:?}");
    }
    let best = offers.iter().filter_map(|(carrier, offer)| Some((offer.as_ref().ok()?, carrier)));
    let best = best.min().ok_or("no carrier accepts")?;
    println!("chosen: {} for {}", best.1, best.0);
    assert_eq!((offers.len(), best.1.as_str()), (CARRIERS.len(), "post"));
    Ok(std::fs::remove_dir_all(dir)?)
}
