//! `request`: sends a request to a service and waits for its outcome.

use std::io::{IsTerminal, Read, Write};
use std::path::Path;

use deaddrop::service::{Call, Client, Completed, Outcome, RequestId};
use deaddrop::{Error, Log, Record};
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::request::Request;
use crate::exchange::topic_if_there;
use crate::failure::{note, At, Exit, Failure};
use crate::missing::{say_recovery_of_client, say_recovery_of_service};
use crate::output::Out;
use crate::record::{json_payload, Payload};
use crate::Global;

/// At most this many commands without a name of their own can wait at once.
const DEFAULT_CLIENTS: usize = 64;

impl Request {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        if let Some(id) = &self.attach {
            let id: &RequestId =
                &id.parse().map_err(|error| Failure::invalid(id, "--attach <ID>", error))?;
            let log = global.open_existing()?;
            let _held = say_recovery_of_client(&log, id.client(), false)?;
            let client = log.client(id.client()).open()?;
            let call = client.attach(id).map_err(|error| match error {
                Error::NotFound { .. } => Failure::no(format_args!(
                    "{id} is not a waiting request, or its outcome was taken: `deaddrop dump \
                     SERVICE.replies` shows the outcomes"
                )),
                other => other.into(),
            })?;
            return self.wait(out, call);
        }
        let service = self.service.as_deref().unwrap_or_default();
        let record = self.record()?;
        let log = global.open()?;
        let client = self.open_client(&log)?;
        // Before the topics of a new service are created.
        let warning = if self.no_wait { None } else { not_served(&log, service)? };
        let mut request = client.request(service, &record)?;
        warning.into_iter().for_each(note);
        if let Some(deadline) = self.deadline {
            request = request.with_deadline(deadline);
        }
        let call = request.call()?;
        say_recovery_of_service(&log, service)?;
        if self.no_wait {
            let id = call.id().to_string();
            if out.is_json() {
                out.object(&Sent { id })?;
            } else {
                writeln!(out, "{id}")?;
            }
            return Ok(Exit::Ok);
        }
        self.wait(out, call)
    }

    fn record(&self) -> Result<Record, Failure> {
        let payload = match self.payload.as_deref() {
            None | Some("-") => {
                let mut bytes = Vec::new();
                if std::io::stdin().is_terminal() {
                    note("reading the payload from standard input: end it with Ctrl-D");
                }
                std::io::stdin()
                    .read_to_end(&mut bytes)
                    .at("reading", Path::new("standard input"))?;
                bytes
            }
            Some(payload) => payload.as_bytes().to_owned(),
        };
        let record = match &self.key {
            Some(key) => Record::new(payload).with_key(key),
            None => Record::new(payload),
        };
        Ok(self
            .headers
            .iter()
            .fold(record, |record, (name, value)| record.with_header(name, value)))
    }

    fn open_client(&self, log: &Log) -> Result<Client, Failure> {
        let open = |name: &str| {
            let builder = log.client(name);
            match self.new.of_service() {
                Some(options) => builder.with_topic_options(options).open(),
                None => builder.open(),
            }
        };
        if let Some(name) = &self.client {
            return Ok(open(name)?);
        }
        let names = (1..DEFAULT_CLIENTS).map(|number| format!("cli-{number}"));
        let mut last = None;
        for name in ["cli".to_owned()].into_iter().chain(names) {
            match open(&name) {
                Err(error @ Error::Locked { .. }) => last = Some(error),
                other => return Ok(other?),
            }
        }
        let locked = last.map_or_else(|| Failure::usage("no client name is left"), Failure::from);
        Err(locked.and("name one with --client"))
    }

    fn wait(&self, out: &mut Out, mut call: Call) -> Result<Exit, Failure> {
        match call.wait_timeout(self.timeout)? {
            Some(done) => print(out, &done),
            None => {
                let id = call.id();
                if out.is_json() {
                    out.object(&Unanswered { id: id.to_string(), outcome: () })?;
                }
                out.flush()?;
                Err(Failure::new(
                    Exit::TimedOut,
                    format_args!(
                        "no outcome yet: `deaddrop request --attach {id}` continues to wait"
                    ),
                ))
            }
        }
    }
}

/// A warning if no server of a service owns a lane: the service's name may be misspelt.
fn not_served(log: &Log, service: &str) -> Result<Option<String>, Failure> {
    let Some(requests) = topic_if_there(log, &format!("{service}.requests"))? else {
        return Ok(Some(format!(
            "{service} is a new service: the request waits for its first server"
        )));
    };
    let groups = requests.groups()?;
    let server = groups.iter().find(|(name, _)| name == "server").map(|(_, info)| info);
    let is_served = match server {
        Some(Ok(info)) => info.lanes.iter().any(|lane| lane.owner.is_some()),
        // Its server reports why its file is unreadable.
        Some(Err(_)) => true,
        None => false,
    };
    let warning = format!("no server of {service} is running: the request waits for one");
    Ok((!is_served).then_some(warning))
}

/// A reply.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Replied<'a> {
    /// The request's id.
    id: String,
    /// reply.
    outcome: &'static str,
    /// The attempt that it is from.
    attempt: u32,
    #[serde(flatten)]
    payload: Payload<'a>,
}

/// Another outcome.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Ended<'a> {
    /// The request's id.
    id: String,
    /// failed, dead-lettered, expired, cancelled.
    outcome: &'static str,
    /// The last attempt.
    attempt: u32,
    /// Why there is no reply.
    error: &'a str,
}

/// No outcome in time.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Unanswered {
    /// The request's id.
    id: String,
    /// null.
    outcome: (),
}

/// With --no-wait.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Sent {
    /// The request's id.
    id: String,
}

fn print(out: &mut Out, done: &Completed) -> Result<Exit, Failure> {
    let (name, why) = match done.outcome() {
        Outcome::Reply(reply) => {
            if out.is_json() {
                out.object(&Replied {
                    id: done.id().to_string(),
                    outcome: "reply",
                    attempt: done.attempt().unwrap_or(0),
                    payload: json_payload(reply.payload()),
                })?;
            } else {
                out.write_all(reply.payload())?;
                if !reply.payload().ends_with(b"\n") {
                    out.write_all(b"\n")?;
                }
            }
            return Ok(Exit::Ok);
        }
        Outcome::Failed(why) => ("failed", why.as_str()),
        Outcome::DeadLettered(why) => ("dead-lettered", why.as_str()),
        Outcome::Expired => ("expired", "its deadline passed"),
        Outcome::Cancelled => ("cancelled", "it was cancelled"),
        _ => ("unknown", "this release does not know the outcome: use a newer one"),
    };
    if out.is_json() {
        out.object(&Ended {
            id: done.id().to_string(),
            outcome: name,
            attempt: done.attempt().unwrap_or(0),
            error: why,
        })?;
        return Ok(Exit::No);
    }
    Err(Failure::no(format_args!("request {} {name}: {why}", done.id())))
}
