//! The order service: asks for the stock of every order, without waiting for the answers.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use deaddrop::service::{Client, Completed, Envelope, HandlerError, Kind, Outcome};
use deaddrop::{Log, Record, Start, Stop, Topic};

use crate::orders::{Answer, Check, Context, Note, Order, REJECTED, RESERVED};
use crate::{stop_at_end_of_input, Result, Setting, CALLBACK, CLIENT, NOTES, REQUESTS, SERVICE};

/// How often it checks whether all outcomes have arrived.
const LOOK: Duration = Duration::from_millis(5);

pub(crate) fn run(setting: &Setting, orders: &[Order]) -> Result<()> {
    let stop = stop_at_end_of_input();
    let log = Log::open_or_create(&setting.dir)?;
    let notes = log.topic_with(NOTES, setting.topic_options())?;
    let client = log
        .client(CLIENT)
        .with_topic_options(setting.topic_options())
        .on(CALLBACK, move |done| note(&notes, done))
        .open()?;
    // From here on outcomes arrive, including those of requests that a predecessor sent.
    let running = client.spawn()?;
    let requested = requested(&log)?;
    let open = orders.iter().filter(|order| !requested.contains(order.order.as_bytes()));
    let pause = setting.over / u32::try_from(orders.len()).unwrap_or(u32::MAX);
    let started = Instant::now();
    for (index, order) in open.enumerate() {
        if stop.is_stopped() {
            return Ok(());
        }
        let due = pause * u32::try_from(index).unwrap_or(u32::MAX);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
        request(&client, order)?;
    }
    wait_for_outcomes(&client, &stop, || running.has_ended())?;
    running.stop()?;
    Ok(())
}

/// The orders that were requested already, by this or an earlier process.
///
/// A request is one append, and its record carries the order as its key. So the request topic itself
/// shows which orders were requested, and no second place can contradict it, whenever this process is
/// killed. Opening the client has settled the append that a killed predecessor was just writing.
fn requested(log: &Log) -> Result<HashSet<Vec<u8>>> {
    let mut requested = HashSet::new();
    let topic = match log.open_topic(REQUESTS) {
        Err(deaddrop::Error::NotFound { .. }) => return Ok(requested),
        other => other?,
    };
    let mut reader = topic.reader(Start::First)?;
    while let Some(record) = reader.next()? {
        let Some(Ok(envelope)) = Envelope::of(&record) else { continue };
        if envelope.kind == Kind::Request && envelope.id.client() == CLIENT {
            requested.extend(record.key().map(<[u8]>::to_vec));
        }
    }
    Ok(requested)
}

fn request(client: &Client, order: &Order) -> Result<()> {
    let check = Check { order: order.order.clone(), items: order.items.clone() };
    let context = Context { order: order.order.clone(), sent_at: now() };
    client
        .request(SERVICE, &Record::json(&check)?)?
        .with_key(&order.order)
        .with_context_json(&context)?
        .send(CALLBACK)?;
    Ok(())
}

fn wait_for_outcomes(client: &Client, stop: &Stop, has_ended: impl Fn() -> bool) -> Result<()> {
    while !stop.is_stopped() && !has_ended() {
        if client.outstanding()?.is_empty() {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// The callback. It may run twice for one outcome if the process is killed in between; it then notes the
/// same outcome twice.
fn note(notes: &Topic, done: &Completed) -> std::result::Result<(), HandlerError> {
    let context: Context = done.context_json()?;
    let status = match done.outcome() {
        Outcome::Reply(reply) => {
            let answer: Answer = reply.as_ref().json()?;
            if answer.reserved { RESERVED } else { REJECTED }.to_owned()
        }
        other => format!("{other:?}"),
    };
    let latency_us = now().saturating_sub(context.sent_at) / 1000;
    let note = Note { order: context.order, status, latency_us };
    notes.append(&Record::json(&note)?.with_key(&note.order))?;
    Ok(())
}

/// Nanoseconds since the Unix epoch.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos() as u64
}
