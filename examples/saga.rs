//! A chain of requests that is undone if a link fails: reserve, charge, and release the reserved goods if
//! the charge is refused. The next request is sent in the callback of the one before, so the chain
//! continues after a crash at any point; each request names the one that caused it.

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deaddrop::service::{Client, Completed, HandlerError, Outcome, Reply, RequestId, Running};
use deaddrop::{Log, Record};

const LONG: Duration = Duration::from_secs(30);
/// Its card is declined.
const POOR: u32 = 2;

/// The orders for which goods are reserved.
type Reserved = Arc<Mutex<Vec<u32>>>;
/// How each order ended, and its conversation.
type Ends = Arc<Mutex<BTreeMap<u32, (&'static str, RequestId)>>>;

/// A callback runs again if its process is killed before the callback returns, and sends the next request
/// again, with another id. So the services of a saga recognise an order by its number.
fn next(done: &Completed, step: (&str, &str)) -> Result<(), HandlerError> {
    let client = done.client()?;
    let order: u32 = done.context_json()?;
    let (service, callback) = step;
    let request = client.request(service, &Record::json(&order)?)?.with_key(order.to_string());
    request.caused_by(done).with_context_json(&order)?.send(callback)?;
    Ok(())
}

fn end(ends: &Ends, done: &Completed, how: &'static str) -> Result<(), HandlerError> {
    let mut ends = ends.lock().map_err(|_| HandlerError::retry("poisoned"))?;
    ends.insert(done.context_json()?, (how, done.conversation().clone()));
    Ok(())
}

fn start_shop(log: &Log, ends: &Ends) -> deaddrop::Result<Client> {
    let [no_stock, ended, undone] = [(); 3].map(|()| Arc::clone(ends));
    log.client("shop")
        .on("reserved", move |done| match done.outcome() {
            Outcome::Reply(_) => next(done, ("charge", "charged")),
            _ => end(&no_stock, done, "not in stock"),
        })
        .on("charged", move |done| match done.outcome() {
            Outcome::Reply(_) => end(&ended, done, "paid"),
            _ => next(done, ("release", "released")),
        })
        .on("released", move |done| match done.outcome() {
            Outcome::Reply(_) => end(&undone, done, "cancelled"),
            other => Err(HandlerError::retry(format!("still reserved: {other:?}"))),
        })
        .open()
}

fn start_services(log: &Log) -> deaddrop::Result<(Vec<Running>, Reserved)> {
    let reserved = Reserved::default();
    let (taking, giving) = (Arc::clone(&reserved), Arc::clone(&reserved));
    let reserve = log.server("reserve", move |request| {
        let mut reserved = taking.lock().map_err(|_| HandlerError::retry("poisoned"))?;
        let order: u32 = request.json()?;
        if !reserved.contains(&order) {
            reserved.push(order);
        }
        Ok(Reply::new("reserved"))
    })?;
    let charge = log.server("charge", |request| match request.json::<u32>()? {
        POOR => Err(HandlerError::terminal("the card is declined")),
        _ => Ok(Reply::new("charged")),
    })?;
    let release = log.server("release", move |request| {
        let mut reserved = giving.lock().map_err(|_| HandlerError::retry("poisoned"))?;
        let order: u32 = request.json()?;
        reserved.retain(|other| *other != order);
        Ok(Reply::new("released"))
    })?;
    Ok((vec![reserve.spawn()?, charge.spawn()?, release.spawn()?], reserved))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/target/examples-data");
    let dir = format!("{data}/saga-{}", std::process::id());
    let log = Log::open_or_create(&dir)?;
    let ends = Ends::default();
    let shop = start_shop(&log, &ends)?;
    let (services, reserved) = start_services(&log)?;

    let mut first_requests = Vec::new();
    for order in [1, POOR, 3] {
        let request = shop.request("reserve", &Record::json(&order)?)?.with_key(order.to_string());
        first_requests.push(request.with_context_json(&order)?.send("reserved")?);
    }
    while shop.outstanding_count() > 0 {
        shop.poll(LONG)?;
    }
    for service in services {
        service.stop()?;
    }

    let ends = ends.lock().map_err(|_| "a callback has panicked")?;
    for ((order, (how, conversation)), first) in ends.iter().zip(&first_requests) {
        println!("order {order}: {how}, conversation {conversation}");
        assert_eq!(conversation, first, "a conversation is named by its first request");
    }
    let how: Vec<&str> = ends.values().map(|(how, _)| *how).collect();
    assert_eq!(how, ["paid", "cancelled", "paid"]);
    let mut reserved = reserved.lock().map_err(|_| "a service has panicked")?;
    reserved.sort_unstable();
    assert_eq!(*reserved, [1, 3]);
    Ok(std::fs::remove_dir_all(dir)?)
}
