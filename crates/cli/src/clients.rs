//! `clients`: lists the clients of services, and the records that they keep in the log.

use std::io::Write;

use deaddrop::service::ClientInfo;
use deaddrop::Error;
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::clients::{Action, Clients};
use crate::failure::{Exit, Failure};
use crate::missing::say_recovery_of_client;
use crate::output::Out;
use crate::Global;

impl Clients {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        match &self.action {
            None | Some(Action::Ls) => list(global, out),
            Some(Action::Retire { name, discard, execute }) => {
                retire(global, out, name, *discard, *execute)
            }
        }
    }
}

/// A client at a service.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Row<'a> {
    /// Its name.
    client: &'a str,
    /// The process that is this client.
    owner: Option<u32>,
    /// The service.
    service: &'a str,
    /// Requests whose outcome it has not taken.
    outstanding: usize,
    /// Records of the request topic that its position keeps.
    requests_held: u64,
    /// Records of the reply topic that its positions keep.
    replies_held: u64,
    /// Whether it has a topic of parked outcomes.
    parked: bool,
}

/// The result of retire.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Retired<'a> {
    /// The client's name.
    client: &'a str,
    /// Whether it was done, which takes --execute.
    executed: bool,
}

fn list(global: &Global, out: &mut Out) -> Result<Exit, Failure> {
    let clients = global.open_read_only()?.clients()?;
    let mut rows = Vec::new();
    for client in &clients {
        for at in &client.services {
            if out.is_json() {
                out.object(&Row {
                    client: &client.name,
                    owner: client.owner,
                    service: &at.service,
                    outstanding: at.outstanding,
                    requests_held: at.requests_held,
                    replies_held: at.replies_held,
                    parked: client.has_parked,
                })?;
                continue;
            }
            rows.push(vec![
                client.name.clone(),
                client.owner.map_or("-".to_owned(), |pid| format!("process {pid}")),
                at.service.clone(),
                at.outstanding.to_string(),
                at.requests_held.to_string(),
                at.replies_held.to_string(),
            ]);
        }
    }
    if out.is_json() {
        return Ok(Exit::Ok);
    }
    if rows.is_empty() {
        writeln!(out, "no clients")?;
        return Ok(Exit::Ok);
    }
    let heading = ["CLIENT", "OWNER", "SERVICE", "OUTSTANDING", "REQUESTS HELD", "REPLIES HELD"];
    Ok(out.table(&heading, &[3, 4, 5], &rows).map(|()| Exit::Ok)?)
}

fn retire(
    global: &Global,
    out: &mut Out,
    name: &str,
    discard: bool,
    execute: bool,
) -> Result<Exit, Failure> {
    if execute {
        let log = global.open_existing()?;
        let _held = say_recovery_of_client(&log, name, true)?;
        log.retire_client(name, discard)?;
    } else {
        let found = global.open_read_only()?.clients()?.into_iter().find(|one| one.name == name);
        let client = found
            .ok_or_else(|| Failure::from(Error::NotFound { what: format!("client {name}") }))?;
        check(&client, discard)?;
    }
    if out.is_json() {
        out.object(&Retired { client: name, executed: execute })?;
    } else if execute {
        writeln!(out, "{name} retired")?;
    } else {
        writeln!(out, "{name} would be retired")?;
        writeln!(out, "nothing was changed: add --execute to do it")?;
    }
    Ok(Exit::Ok)
}

/// The errors with which retiring would be refused.
fn check(client: &ClientInfo, discard: bool) -> Result<(), Failure> {
    let name = &client.name;
    if client.owner.is_some() {
        return Err(Error::Locked { what: format!("client {name}"), pid: client.owner }.into());
    }
    let outstanding: usize = client.services.iter().map(|at| at.outstanding).sum();
    if outstanding > 0 && !discard {
        return Err(Failure::no(format_args!(
            "client {name} has {outstanding} requests outstanding: --discard retires it anyway, \
             and no client gets their outcomes"
        )));
    }
    Ok(())
}
