use deaddrop::{Log, Record, Start};

fn main() -> deaddrop::Result<()> {
    let orders = Log::open_or_create("./drop")?.topic("orders")?; // other processes can open it at the same time
    orders.append(&Record::new("3 of item 7").with_key("customer-12"))?; // on disk when it returns
    let mut billing = orders.consumer("billing", Start::First)?; // here or in any other process
    while let Some(order) = billing.next()? {
        println!("bill {}: {}", order.offset(), String::from_utf8_lossy(order.payload()));
        billing.commit()?; // survives kill -9 at once, a power loss within a second
    }
    Ok(())
}
