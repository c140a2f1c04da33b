//! An order service asks an inventory service, which is down. The order service is restarted before the
//! answer arrives; the callback that it registered by name still gets it.

#![allow(clippy::print_stdout)]

use std::sync::mpsc;
use std::time::Duration;

use deaddrop::service::{Client, HandlerError, Outcome, Reply};
use deaddrop::{Log, Record};

const LONG: Duration = Duration::from_secs(30);

/// The start-up code of the order service.
fn start_orders(log: &Log, confirmed: mpsc::Sender<String>) -> deaddrop::Result<Client> {
    let stock_checked = move |done: &deaddrop::service::Completed| -> Result<(), HandlerError> {
        let order: u32 = done.context_json()?;
        let Outcome::Reply(reply) = done.outcome() else {
            return Err(HandlerError::terminal(format!("{:?}", done.outcome())));
        };
        confirmed.send(format!("order {order}: {}", String::from_utf8_lossy(reply.payload())))?;
        Ok(())
    };
    log.client("order-service").on("stock-checked", stock_checked).open()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/target/examples-data");
    let dir = format!("{data}/order_inventory-{}", std::process::id());
    let log = Log::open_or_create(&dir)?;
    let (confirmed, confirmations) = mpsc::channel();

    let orders = start_orders(&log, confirmed.clone())?;
    let request = Record::new("item 7").with_key("item 7");
    let id =
        orders.request("inventory", &request)?.with_context_json(&4711)?.send("stock-checked")?;
    println!("sent {id}; no server runs yet");
    drop(orders);

    // The inventory service starts, answers the waiting requests, and ends.
    let mut inventory = log.server("inventory", |request| {
        let item = String::from_utf8_lossy(request.payload());
        Ok(Reply::new(format!("3 of {item} are there")))
    })?;
    while inventory.poll(LONG)? == 0 {}
    drop(inventory);

    let orders = start_orders(&log, confirmed)?;
    while !orders.outstanding()?.is_empty() {
        orders.poll(LONG)?;
    }
    let confirmation = confirmations.try_recv().expect("the callback ran on this thread");
    println!("{confirmation}");
    assert_eq!(confirmation, "order 4711: 3 of item 7 are there");
    Ok(std::fs::remove_dir_all(dir)?)
}
