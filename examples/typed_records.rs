//! Payloads of your own type, as JSON, with a key and headers; and reading from a time.

#![allow(clippy::print_stdout)]

use std::time::SystemTime;

use deaddrop::{Error, Log, Record, Start};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    customer: String,
    item: u32,
    count: u32,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/target/examples-data");
    let dir = format!("{data}/typed_records-{}", std::process::id());
    let log = Log::open_or_create(&dir)?;
    let orders = log.topic("orders")?;

    let order = Order { customer: "customer-12".into(), item: 7, count: 3 };
    let record = Record::json(&order)?.with_key(&order.customer).with_header("trace", "4bf92f35");
    let offset = orders.append(&record)?;
    // Only if no writer has appended in between: the end is then where this writer saw it.
    orders.append_if_end(offset + 1, &Record::new("not JSON"))?;
    let refused = orders.append_if_end(offset + 1, &Record::json(&order)?);
    assert!(matches!(refused, Err(Error::EndMoved { end: 2, .. })));

    let mut reader = orders.reader(Start::Time(SystemTime::UNIX_EPOCH))?;
    let record = reader.next()?.expect("appended above");
    assert_eq!(record.json::<Order>()?, order);
    assert_eq!(record.key(), Some(&b"customer-12"[..]));
    assert_eq!(record.header("trace"), Some(&b"4bf92f35"[..]));
    println!("{}: {:?}", record.offset(), record.json::<Order>()?);

    let record = reader.next()?.expect("appended above");
    assert!(matches!(record.json::<Order>(), Err(Error::Decode { .. })));
    Ok(std::fs::remove_dir_all(dir)?)
}
