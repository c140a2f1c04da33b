//! `trace`: shows a conversation as a tree.

use std::collections::BTreeSet;
use std::io::Write;
use std::ops::ControlFlow;
use std::time::Duration;

use deaddrop::service::{Kind, RequestId};
use deaddrop::Log;
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::trace::Trace;
use crate::exchange::{for_each, one_of_all, services, worse, Answer, Exchange, Exchanges};
use crate::failure::{note, Exit, Failure};
use crate::output::{escape, Colour, Out};
use crate::{units, Global};

/// At most this many requests with one key are followed.
const KEY_COUNT: usize = 100;

impl Trace {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let id = self
            .id
            .as_deref()
            .map(|id| id.parse::<RequestId>().map_err(|error| Failure::invalid(id, "[ID]", error)));
        let id = id.transpose()?;
        let log = global.open_read_only()?;
        let (conversations, exit) = self.conversations(&log, id.as_ref())?;
        let (exchanges, read) = Exchanges::read(&log, &conversations)?;
        if exchanges.all.is_empty() {
            return Err(match id {
                Some(id) => Failure::no(format_args!(
                    "no request {id} is in the log: it was never sent, or it was trimmed"
                )),
                None => Failure::no(self.nothing_found()),
            });
        }
        for (depth, exchange) in exchanges.tree() {
            if out.is_json() {
                out.object(&Row::of(depth, exchange))?;
            } else {
                print(out, depth, exchange)?;
            }
        }
        Ok(worse(exit, read))
    }

    /// The reason why no request is shown, if no id was given.
    fn nothing_found(&self) -> String {
        match (&self.key, &self.service) {
            (Some(key), _) => {
                format!("no request with key {} is in this log", escape(key.as_bytes()))
            }
            (None, Some(service)) => format!("there are no requests to {service} in this log"),
            (None, None) => "there are no requests in this log".to_owned(),
        }
    }

    /// The selected conversations, named by the requests that began them.
    fn conversations(
        &self,
        log: &Log,
        id: Option<&RequestId>,
    ) -> Result<(BTreeSet<RequestId>, Exit), Failure> {
        let mut newest: Vec<(u64, RequestId)> = Vec::new();
        let mut exit = Exit::Ok;
        let limit = self.last.map_or(KEY_COUNT, |last| last as usize);
        for service in services(log, self.service.as_deref())? {
            let requests = one_of_all(log, &format!("{service}.requests"), &mut exit);
            let Some(requests) = requests else { continue };
            let from = self.last.map_or(0, |last| {
                requests.high_watermark().map_or(0, |end| end.saturating_sub(last))
            });
            let read = for_each(&requests, from, |record, envelope| {
                let wanted = match (id, &self.key) {
                    (Some(id), _) => envelope.id == *id,
                    (_, Some(key)) => record.key() == Some(key.as_bytes()),
                    _ => true,
                };
                if wanted && envelope.kind == Kind::Request {
                    newest.push((record.timestamp_nanos(), envelope.conversation().clone()));
                    if newest.len() > 2 * limit {
                        keep_newest(&mut newest, limit);
                    }
                }
                match wanted && id.is_some() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            })?;
            exit = worse(exit, read);
        }
        if self.key.is_some() && newest.len() > limit {
            note(format_args!("more than {limit} requests have this key: the newest are shown"));
        }
        keep_newest(&mut newest, limit);
        Ok((newest.into_iter().map(|(_, conversation)| conversation).collect(), exit))
    }
}

fn keep_newest(all: &mut Vec<(u64, RequestId)>, limit: usize) {
    all.sort();
    all.drain(..all.len().saturating_sub(limit));
}

/// A time between two records, as users read it.
fn span(nanos: u64) -> String {
    match Duration::from_nanos(nanos) {
        time if time < Duration::from_micros(1) => "less than 1 us".to_owned(),
        time if time < Duration::from_secs(100) => units::nanos(nanos),
        time => humantime::format_duration(Duration::from_secs(time.as_secs())).to_string(),
    }
}

fn print(out: &mut Out, depth: usize, exchange: &Exchange) -> std::io::Result<()> {
    // As deep as a line can show; stored bytes determine how deep causes go.
    let indent = "    ".repeat(depth.min(20));
    let id = out.paint(Colour::Strong, exchange.request.id.to_string());
    let key = exchange.key.as_ref().map_or(String::new(), |key| format!(" key {}", escape(key)));
    let (client, service, offset) =
        (exchange.request.id.client(), &exchange.service, exchange.offset);
    writeln!(out, "{indent}{id}")?;
    writeln!(
        out,
        "{indent}  request   {client} -> {service} offset {offset} at {}, {}{key}",
        units::time(exchange.at),
        units::count(exchange.payload_len as u64, "byte"),
    )?;
    if let Some(id) = &exchange.request.redrive_of {
        writeln!(out, "{indent}  redrive   of the dead letter of {id}")?;
    }
    if let Some(outcome) = &exchange.outcome {
        if let Some(queueing) = exchange.queueing_nanos() {
            let took = outcome.envelope.handler_nanos.map_or("?".to_owned(), span);
            writeln!(out, "{indent}  queueing  {}", span(queueing))?;
            writeln!(
                out,
                "{indent}  handler   {took}, attempt {}",
                outcome.envelope.attempt.unwrap_or(0)
            )?;
        }
        writeln!(out, "{indent}  outcome   {}", describe(exchange, outcome))?;
    } else {
        let deadline = exchange.request.deadline;
        let until = deadline.map_or(String::new(), |at| format!(", deadline {}", units::time(at)));
        writeln!(out, "{indent}  outcome   none yet{until}")?;
    }
    let callback = match &exchange.request.callback {
        None => "call handle".to_owned(),
        Some(name) => escape(name.as_bytes()),
    };
    writeln!(out, "{indent}  callback  {callback}: {}", exchange.delivery.name())?;
    for late in &exchange.late {
        writeln!(out, "{indent}  late      {}", describe(exchange, late))?;
    }
    for offset in &exchange.doubled {
        writeln!(out, "{indent}  copy      offset {offset}")?;
    }
    Ok(())
}

fn describe(exchange: &Exchange, answer: &Answer) -> String {
    let why = match &answer.envelope.error {
        None => String::new(),
        Some(error) => format!(": {}", escape(error.as_bytes())),
    };
    format!(
        "{} offset {} after {}{why}",
        answer.envelope.kind,
        answer.offset,
        span(exchange.nanos_until(answer))
    )
}

/// An outcome.
#[derive(Debug, JsonSchema, Serialize)]
struct JsonOutcome<'a> {
    /// reply, failed, dead-lettered, expired, cancelled.
    kind: String,
    /// Its offset in the reply topic.
    offset: u64,
    /// When it was appended: RFC 3339, UTC.
    time: String,
    /// The attempt that it is from.
    attempt: u32,
    /// When that attempt began.
    begun_at: Option<String>,
    /// Time that the handler took.
    handler_nanos: Option<u64>,
    /// Why there is no reply.
    error: Option<&'a str>,
}

impl JsonOutcome<'_> {
    fn of(answer: &Answer) -> JsonOutcome<'_> {
        let envelope = &answer.envelope;
        JsonOutcome {
            kind: envelope.kind.to_string(),
            offset: answer.offset,
            time: units::time(answer.at),
            attempt: envelope.attempt.unwrap_or(0),
            begun_at: envelope.begun_at.map(units::time),
            handler_nanos: envelope.handler_nanos,
            error: envelope.error.as_deref(),
        }
    }
}

/// A request. The requests that it caused follow it.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Row<'a> {
    /// Its id.
    id: String,
    /// The length of the chain of requests that it comes from.
    depth: usize,
    /// Id of the request that began the conversation.
    conversation: String,
    /// Id of the request that it comes from.
    cause: Option<String>,
    /// Id of the dead-lettered request that it sends again.
    redrive_of: Option<String>,
    /// Its W3C trace context.
    traceparent: Option<&'a str>,
    /// The client that sent it.
    client: &'a str,
    /// The service that it was sent to.
    service: &'a str,
    /// Its offset in SERVICE.requests.
    offset: u64,
    /// When it was sent: RFC 3339, UTC.
    time: String,
    /// Bytes of its payload.
    payload_len: usize,
    /// Its deadline.
    deadline: Option<String>,
    /// Time until a handler had it, never more than the time until the outcome.
    queueing_nanos: Option<u64>,
    /// Its outcome.
    outcome: Option<JsonOutcome<'a>>,
    /// Callback of the client.
    callback: &'a str,
    /// delivered, not yet delivered, parked.
    delivery: &'static str,
    /// Outcomes that came after it.
    late: Vec<JsonOutcome<'a>>,
    /// Offsets of copies of it, with its id.
    doubled: &'a [u64],
}

impl Row<'_> {
    fn of(depth: usize, exchange: &Exchange) -> Row<'_> {
        let request = &exchange.request;
        Row {
            id: request.id.to_string(),
            depth,
            conversation: request.conversation().to_string(),
            cause: request.cause.as_ref().map(RequestId::to_string),
            redrive_of: request.redrive_of.as_ref().map(RequestId::to_string),
            traceparent: request.traceparent(),
            client: request.id.client(),
            service: &exchange.service,
            offset: exchange.offset,
            time: units::time(exchange.at),
            payload_len: exchange.payload_len,
            deadline: request.deadline.map(units::time),
            queueing_nanos: exchange.queueing_nanos(),
            outcome: exchange.outcome.as_ref().map(JsonOutcome::of),
            callback: request.callback.as_deref().unwrap_or_default(),
            delivery: exchange.delivery.name(),
            late: exchange.late.iter().map(JsonOutcome::of).collect(),
            doubled: &exchange.doubled,
        }
    }
}
