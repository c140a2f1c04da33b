//! A handler whose effect is in a database has its effect once, although requests are handled at least
//! once: it stores the request's id and the effect in one transaction, and a repeat finds the id.

#![allow(clippy::print_stdout)]

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use deaddrop::service::{HandlerError, Outcome, Reply, Request, Server};
use deaddrop::{Log, Record};
use rusqlite::{params, Connection, OptionalExtension};

const LONG: Duration = Duration::from_secs(30);

fn open_database(path: &Path) -> rusqlite::Result<Connection> {
    let database = Connection::open(path)?;
    database.execute_batch(
        "CREATE TABLE IF NOT EXISTS stock (item TEXT PRIMARY KEY, left INTEGER NOT NULL);
         CREATE TABLE IF NOT EXISTS handled (request TEXT PRIMARY KEY, reply TEXT NOT NULL);",
    )?;
    Ok(database)
}

/// Takes one piece off the stock, once for each request; a repeat returns the first reply.
fn take_one(database: &mut Connection, request: &Request<'_>) -> Result<String, HandlerError> {
    let (id, item) = (request.id().to_string(), std::str::from_utf8(request.payload())?);
    let transaction = database.transaction()?;
    let known = transaction
        .query_row("SELECT reply FROM handled WHERE request = ?1", [&id], |row| row.get(0))
        .optional()?;
    if let Some(reply) = known {
        return Ok(reply);
    }
    transaction.execute("UPDATE stock SET left = left - 1 WHERE item = ?1", [item])?;
    let left: i64 =
        transaction
            .query_row("SELECT left FROM stock WHERE item = ?1", [item], |row| row.get(0))?;
    let reply = format!("{left} of {item} left");
    transaction.execute("INSERT INTO handled VALUES (?1, ?2)", params![id, reply])?;
    transaction.commit()?;
    Ok(reply)
}

/// A server; if it is `clumsy`, it fails after its first commit, as if it were killed there.
fn start(log: &Log, path: &Path, clumsy: bool) -> Result<Server, Box<dyn std::error::Error>> {
    let database = Mutex::new(open_database(path)?);
    Ok(log.server("inventory", move |request| {
        let mut database = database.lock().map_err(|_| HandlerError::retry("poisoned"))?;
        let reply = take_one(&mut database, request)?;
        if clumsy && request.attempt() == 1 {
            return Err(HandlerError::retry("down between the commit and the reply"));
        }
        Ok(Reply::new(reply))
    })?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/examples-data");
    let dir = Path::new(data).join(format!("idempotent_sqlite-{}", std::process::id()));
    let log = Log::open_or_create(&dir)?;
    let path = dir.join("inventory.db");
    let stock = open_database(&path)?;
    stock.execute("INSERT INTO stock VALUES ('item 7', 10)", [])?;

    let client = log.client("shop").open()?;
    let mut call = client.request("inventory", &Record::new("item 7"))?.call()?;
    let server = start(&log, &path, true)?.spawn()?;
    let done = call.wait_timeout(LONG)?.ok_or("no reply")?;
    server.stop()?;

    let Outcome::Reply(reply) = done.outcome() else { return Err("it failed".into()) };
    let reply = String::from_utf8_lossy(reply.payload()).into_owned();
    let left: i64 = stock.query_row("SELECT left FROM stock", [], |row| row.get(0))?;
    let attempts = done.attempt().unwrap_or(0);
    println!("after {attempts} attempts: {reply}; in the database: {left}");
    assert_eq!((reply.as_str(), left, attempts), ("9 of item 7 left", 9, 2));
    drop(stock);
    Ok(std::fs::remove_dir_all(dir)?)
}
