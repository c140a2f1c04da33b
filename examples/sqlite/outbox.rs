//! An outbox: an announcement of a business transaction is a row of the same transaction. A relay appends
//! the rows to a topic and deletes them; if it is killed in between, it appends some again, with the
//! row's number as the key, by which the consumer recognises repeats.

#![allow(clippy::print_stdout)]

use std::path::Path;

use deaddrop::{Log, Record, Start, Topic};
use rusqlite::{params, Connection};

const ORDERS: u32 = 20;

fn open_database(path: &Path) -> rusqlite::Result<Connection> {
    let database = Connection::open(path)?;
    // AUTOINCREMENT: a row's number is never used twice, even after the row was deleted.
    database.execute_batch(
        "CREATE TABLE orders (number INTEGER PRIMARY KEY);
         CREATE TABLE outbox (row INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT NOT NULL);
         CREATE TABLE seen (row INTEGER PRIMARY KEY);
         CREATE TABLE billed (what TEXT NOT NULL);",
    )?;
    Ok(database)
}

/// The business transaction: stores the order and its row, or neither.
fn place_order(database: &mut Connection, order: u32) -> rusqlite::Result<()> {
    let transaction = database.transaction()?;
    transaction.execute("INSERT INTO orders VALUES (?1)", [order])?;
    let what = format!("order {order} is placed");
    transaction.execute("INSERT INTO outbox (what) VALUES (?1)", [what])?;
    transaction.commit()
}

/// Appends the rows of the outbox, then deletes them: in the other order, a crash would lose them.
fn relay(
    database: &Connection,
    topic: &Topic,
    is_killed: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut query = database.prepare("SELECT row, what FROM outbox ORDER BY row LIMIT 10")?;
    let rows: Vec<(u64, String)> =
        query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let Some((last, _)) = rows.last() else { return Ok(()) };
    let record = |(row, what): &(u64, String)| Record::new(what.as_str()).with_key(row.to_string());
    topic.append_batch(&rows.iter().map(record).collect::<Vec<_>>())?;
    if !is_killed {
        database.execute("DELETE FROM outbox WHERE row <= ?1", [last])?;
    }
    Ok(())
}

/// Bills each order once: the effect and the row's number are stored in one transaction.
fn bill(database: &mut Connection, topic: &Topic) -> Result<u32, Box<dyn std::error::Error>> {
    let mut consumer = topic.consumer("billing", Start::First)?;
    let mut repeats = 0;
    while let Some(record) = consumer.next()? {
        let row: u64 = std::str::from_utf8(record.key().ok_or("no key")?)?.parse()?;
        let what = std::str::from_utf8(record.payload())?.to_owned();
        let transaction = database.transaction()?;
        let is_new = transaction.execute("INSERT OR IGNORE INTO seen VALUES (?1)", [row])? == 1;
        if is_new {
            transaction.execute("INSERT INTO billed VALUES (?1)", params![what])?;
        }
        repeats += u32::from(!is_new);
        transaction.commit()?;
        consumer.commit()?;
    }
    Ok(repeats)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/examples-data");
    let dir = Path::new(data).join(format!("outbox-{}", std::process::id()));
    let log = Log::open_or_create(&dir)?;
    let mut database = open_database(&dir.join("shop.db"))?;
    let placed = log.topic("placed")?;

    for order in 0..ORDERS {
        place_order(&mut database, order)?;
    }
    relay(&database, &placed, true)?; // as if it were killed between the append and the delete
    relay(&database, &placed, false)?;
    relay(&database, &placed, false)?;

    let repeats = bill(&mut database, &placed)?;
    let billed: u32 =
        database.query_row("SELECT count(DISTINCT what) FROM billed", [], |row| row.get(0))?;
    let rows: u32 = database.query_row("SELECT count(*) FROM billed", [], |row| row.get(0))?;
    println!("{} records, {repeats} of them repeats, {billed} orders billed", ORDERS + repeats);
    assert_eq!((billed, rows, repeats), (ORDERS, ORDERS, 10));
    drop(database);
    Ok(std::fs::remove_dir_all(dir)?)
}
