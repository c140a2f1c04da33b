//! A work queue: three workers share the orders of a shop. Orders of one customer are handled in
//! sequence, orders of different customers concurrently; an order that can never be shipped is
//! dead-lettered.

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deaddrop::group::{DeadLetter, GroupOptions, WorkerOptions};
use deaddrop::service::HandlerError;
use deaddrop::{Log, Record, Start};

const LONG: Duration = Duration::from_secs(30);
const ORDERS: u32 = 30;
const CUSTOMERS: u32 = 5;
const BROKEN: u32 = 17;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/target/examples-data");
    let dir = format!("{data}/work_queue-{}", std::process::id());
    let log = Log::open_or_create(&dir)?;
    let orders = log.topic("orders")?;
    let records: Vec<Record> = (0..ORDERS)
        .map(|order| {
            Record::new(order.to_string()).with_key(format!("customer-{}", order % CUSTOMERS))
        })
        .collect();
    let appended = orders.append_batch(&records)?;

    let shipping = orders.group("shipping", GroupOptions::default())?;
    let shipped = Arc::new(Mutex::new(BTreeMap::<Vec<u8>, Vec<u32>>::new()));
    // Three threads here; three processes would work the same way.
    let mut workers = Vec::new();
    for _ in 0..3 {
        let shipped = Arc::clone(&shipped);
        let options = WorkerOptions::default()
            .with_max_attempts(3)
            .with_retry_first(Duration::from_millis(1));
        let worker = shipping.worker(options, move |job| {
            let order: u32 = std::str::from_utf8(job.payload())?.parse()?;
            if order == BROKEN {
                return Err(HandlerError::retry("the address does not exist"));
            }
            let customer = job.key().unwrap_or_default().to_vec();
            let mut shipped = shipped.lock().map_err(|_| HandlerError::retry("poisoned"))?;
            shipped.entry(customer).or_default().push(order);
            Ok(())
        })?;
        workers.push(worker.spawn()?);
    }
    for offset in appended {
        assert!(shipping.wait_for(offset, LONG)?, "order {offset} is not done");
    }
    for worker in workers {
        worker.stop()?;
    }

    let shipped = shipped.lock().map_err(|_| "a worker has panicked")?;
    for (customer, orders) in shipped.iter() {
        println!("{}: {orders:?}", String::from_utf8_lossy(customer));
        assert!(orders.is_sorted(), "a customer's orders are shipped in their order");
    }
    assert_eq!(shipped.values().map(Vec::len).sum::<usize>(), ORDERS as usize - 1);

    let mut dead = log.open_topic("orders.shipping.dead")?.reader(Start::First)?;
    let record = dead.next()?.ok_or("no dead letter")?;
    let letter = DeadLetter::of(&record).ok_or("it does not say what it is")?;
    println!(
        "dead after {} attempts: order {} ({})",
        letter.attempts,
        String::from_utf8_lossy(record.payload()),
        letter.reason
    );
    assert_eq!((letter.offset, letter.attempts), (BROKEN.into(), 3));
    Ok(std::fs::remove_dir_all(dir)?)
}
