//! Two subscribers, each with a position of its own, on one topic. Both get every record in order.

#![allow(clippy::print_stdout)]

use deaddrop::{Log, Record, Start, Topic};

/// The records that a subscriber, which runs now and then, has not seen yet.
fn catch_up(topic: &Topic, name: &str) -> deaddrop::Result<Vec<String>> {
    let mut consumer = topic.consumer(name, Start::First)?;
    let mut seen = Vec::new();
    while let Some(record) = consumer.next()? {
        seen.push(String::from_utf8_lossy(record.payload()).into_owned());
    }
    // After the work, not before: a record that was not committed is delivered again.
    consumer.commit()?;
    Ok(seen)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/target/examples-data");
    let dir = format!("{data}/publish_subscribe-{}", std::process::id());
    let log = Log::open_or_create(&dir)?;
    let orders = log.topic("orders")?;

    orders.append(&Record::new("order 1"))?;
    assert_eq!(catch_up(&orders, "billing")?, ["order 1"]);

    // A batch is stored as a whole or not at all.
    orders.append_batch(&[Record::new("order 2"), Record::new("order 3")])?;
    assert_eq!(catch_up(&orders, "billing")?, ["order 2", "order 3"]);
    assert_eq!(catch_up(&orders, "shipping")?, ["order 1", "order 2", "order 3"]);

    for consumer in orders.consumers()? {
        println!("{} has {} records left to read", consumer.name, consumer.lag);
        assert_eq!(consumer.lag, 0);
    }
    Ok(std::fs::remove_dir_all(dir)?)
}
