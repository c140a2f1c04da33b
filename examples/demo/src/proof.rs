//! The proof of a demo, from the log: read by a process that knows nothing else.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use deaddrop::service::{Envelope, Kind, RequestId};
use deaddrop::{Log, Start, Topic};

use crate::inventory::Shelf;
use crate::orders::{Answer, Note, Order, REJECTED, RESERVED};
use crate::watch::strong;
use crate::{Result, CLIENT, NOTES, REPLIES, REQUESTS};

/// At most this many offending ids are named.
const NAMED: usize = 20;

/// One claim that has to hold, and the orders that contradict it.
struct Claim {
    text: String,
    against: Vec<String>,
}

/// A request of an order.
struct Requested {
    order: String,
    outcomes: u32,
    status: &'static str,
}

/// Returns whether every claim holds.
pub(crate) fn run(dir: &Path, orders: &[Order]) -> Result<bool> {
    let claims = prove(&Log::open_read_only(dir)?, orders)?;
    for claim in &claims {
        let holds = match claim.against.len() {
            0 => "holds".to_owned(),
            count => format!("DOES NOT HOLD for {count}"),
        };
        println!("  {}: {}", claim.text, strong(&holds));
        for id in claim.against.iter().take(NAMED) {
            println!("    {id}");
        }
        if claim.against.len() > NAMED {
            println!("    and {} more", claim.against.len() - NAMED);
        }
    }
    Ok(claims.iter().all(|claim| claim.against.is_empty()))
}

fn prove(log: &Log, orders: &[Order]) -> Result<Vec<Claim>> {
    let count = orders.len();
    let mut once = Claim {
        text: format!("each of the {count} orders was requested exactly once"),
        against: Vec::new(),
    };
    let mut requests = requests(&log.open_topic(REQUESTS)?, orders, &mut once)?;
    let mut strays = Claim { text: "every reply names a request".to_owned(), against: Vec::new() };
    let mut stock =
        Claim { text: "nothing was sold that was not in stock".to_owned(), against: Vec::new() };
    replies(&log.open_topic(REPLIES)?, &mut requests, &mut strays, &mut stock)?;
    let mut answered = Claim {
        text: "every request has exactly one outcome, and it is a reply about its order".to_owned(),
        against: Vec::new(),
    };
    for (id, request) in &requests {
        if request.outcomes != 1 || !matches!(request.status, RESERVED | REJECTED) {
            answered.against.push(format!(
                "{} ({id}): {} outcomes{}",
                request.order, request.outcomes, request.status
            ));
        }
    }
    answered.against.sort();
    let noted = notes(&log.open_topic(NOTES)?, &requests)?;
    Ok(vec![once, answered, strays, stock, noted])
}

/// The requests by id. Adds to `once` each order that has none or several.
fn requests(
    topic: &Topic,
    orders: &[Order],
    once: &mut Claim,
) -> Result<HashMap<RequestId, Requested>> {
    let mut requests = HashMap::new();
    let mut of_order: HashMap<&str, u32> =
        orders.iter().map(|order| (order.order.as_str(), 0)).collect();
    let mut reader = topic.reader(Start::First)?;
    while let Some(record) = reader.next()? {
        let offset = record.offset();
        let key = record.key().and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
        let envelope = match Envelope::of(&record) {
            Some(Ok(envelope)) if envelope.kind == Kind::Request => envelope,
            _ => {
                once.against.push(format!("offset {offset}: not a request"));
                continue;
            }
        };
        match of_order.get_mut(key) {
            Some(count) if envelope.id.client() == CLIENT => *count += 1,
            _ => once.against.push(format!("offset {offset}: order {key:?} is not in the file")),
        }
        let request = Requested { order: key.to_owned(), outcomes: 0, status: "" };
        if requests.insert(envelope.id.clone(), request).is_some() {
            once.against.push(format!("{}: the id was used twice", envelope.id));
        }
    }
    let wrong = of_order.iter().filter(|(_, count)| **count != 1);
    let mut wrong: Vec<String> =
        wrong.map(|(order, count)| format!("{order}: {count} requests")).collect();
    wrong.sort();
    once.against.append(&mut wrong);
    Ok(requests)
}

/// Counts the outcomes of each request, and the articles that were sold.
fn replies(
    topic: &Topic,
    requests: &mut HashMap<RequestId, Requested>,
    strays: &mut Claim,
    stock: &mut Claim,
) -> Result<()> {
    let mut shelf = Shelf::default();
    let mut reader = topic.reader(Start::First)?;
    while let Some(record) = reader.next()? {
        let offset = record.offset();
        let Some(Ok(envelope)) = Envelope::of(&record) else {
            strays.against.push(format!("offset {offset}: not an outcome"));
            continue;
        };
        let Some(request) = requests.get_mut(&envelope.id) else {
            strays.against.push(format!("offset {offset}: {} was never requested", envelope.id));
            continue;
        };
        request.outcomes += 1;
        if request.outcomes > 1 {
            continue;
        }
        request.status = match record.json::<Answer>() {
            Ok(answer) if envelope.kind == Kind::Reply && answer.order == request.order => {
                let oversold = shelf.take(&answer.items);
                stock
                    .against
                    .extend(oversold.iter().map(|sku| format!("{sku} at offset {offset}")));
                if answer.reserved {
                    RESERVED
                } else {
                    REJECTED
                }
            }
            _ => ", and it is not a reply about this order",
        };
    }
    Ok(())
}

/// The callback ran for every order, and got its outcome.
fn notes(topic: &Topic, requests: &HashMap<RequestId, Requested>) -> Result<Claim> {
    let mut against = Vec::new();
    let outcomes: HashMap<&str, &str> =
        requests.values().map(|request| (request.order.as_str(), request.status)).collect();
    let mut noted = HashSet::new();
    let mut twice = 0;
    let mut reader = topic.reader(Start::First)?;
    while let Some(record) = reader.next()? {
        let note: Note = record.json()?;
        match outcomes.get(note.order.as_str()) {
            Some(status) if *status == note.status => {}
            status => against.push(format!(
                "{}: noted as {}, but the outcome is {}",
                note.order,
                note.status,
                status.copied().unwrap_or("unknown")
            )),
        }
        twice += u32::from(!noted.insert(note.order));
    }
    let missing = outcomes.keys().filter(|order| !noted.contains(**order));
    against.extend(missing.map(|order| format!("{order}: its callback never ran")));
    against.sort();
    let again = match twice {
        0 => String::new(),
        _ => format!(" ({twice} of them again after the kill)"),
    };
    let text = format!("the callback ran for every order with its outcome{again}");
    Ok(Claim { text, against })
}
