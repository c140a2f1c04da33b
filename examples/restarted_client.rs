//! An order service is killed in the middle of a request, and still gets the reply. The order service is
//! a process of its own: this program, started by itself. It sends its request and is killed; the
//! inventory service answers; the order service is started again, and the callback that it registers by
//! name gets the outcome of the request of its first run.

#![allow(clippy::print_stdout)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use deaddrop::service::{Completed, Outcome, Reply};
use deaddrop::{Log, Record};

const LONG: Duration = Duration::from_secs(30);

fn order_service(log: &Log) -> deaddrop::Result<()> {
    let client = log.client("order-service").on("stock-checked", |done: &Completed| {
        let order: u32 = done.context_json()?; // stored with the request
        if let Outcome::Reply(reply) = done.outcome() {
            println!("order {order}: {}", String::from_utf8_lossy(reply.payload()));
        }
        Ok(())
    });
    let client = client.open()?; // finds requests of an earlier run
    if client.outstanding_count() == 0 {
        let request = client.request("inventory", &Record::new("item 7"))?;
        let id = request.with_context_json(&4711)?.send("stock-checked")?;
        println!("sent {id}");
        std::thread::sleep(LONG); // killed here
    }
    while client.outstanding_count() > 0 {
        client.poll(LONG)?;
    }
    Ok(())
}

fn inventory(log: &Log) -> deaddrop::Result<()> {
    let mut server = log.server("inventory", |request| {
        let item = String::from_utf8_lossy(request.payload());
        Ok(Reply::new(format!("3 of {item} are there")))
    })?;
    while server.poll(LONG)? == 0 {}
    Ok(())
}

/// The order service, and the first line that it prints.
fn start(dir: &Path) -> Result<(Child, String), Box<dyn std::error::Error>> {
    let mut child =
        Command::new(std::env::current_exe()?).arg(dir).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("it is piped")?).read_line(&mut line)?;
    println!("order service: {}", line.trim_end());
    Ok((child, line))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Some(dir) = std::env::args_os().nth(1) {
        return Ok(order_service(&Log::open_or_create(dir)?)?);
    }
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/target/examples-data");
    let dir = Path::new(data).join(format!("restarted_client-{}", std::process::id()));
    let log = Log::open_or_create(&dir)?;

    let (mut first, _) = start(&dir)?;
    first.kill()?; // SIGKILL
    first.wait()?;
    println!("killed; now the inventory service answers");
    inventory(&log)?;

    let (mut second, line) = start(&dir)?;
    assert!(second.wait()?.success());
    assert_eq!(line, "order 4711: 3 of item 7 are there\n");
    Ok(std::fs::remove_dir_all(dir)?)
}
