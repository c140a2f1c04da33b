//! `cancel`: cancels a request.

use std::io::Write;

use deaddrop::service::RequestId;
use deaddrop::Error;
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::cancel::Cancel;
use crate::failure::{Exit, Failure};
use crate::missing::say_recovery_of_client;
use crate::output::Out;
use crate::Global;

/// The request.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Cancelled {
    /// Its id.
    id: String,
    /// true.
    cancelled: bool,
}

impl Cancel {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let id: RequestId =
            self.id.parse().map_err(|error| Failure::invalid(&self.id, "<ID>", error))?;
        let log = global.open_existing()?;
        let _held = say_recovery_of_client(&log, id.client(), false)?;
        let client = log.client(id.client()).open()?;
        client.cancel(&id).map_err(|error| match error {
            Error::NotFound { .. } => {
                Failure::no(format_args!("{id} is not outstanding: `deaddrop trace {id}` shows it"))
            }
            other => other.into(),
        })?;
        if out.is_json() {
            out.object(&Cancelled { id: id.to_string(), cancelled: true })?;
        } else {
            writeln!(out, "{id} cancelled")?;
        }
        Ok(Exit::Ok)
    }
}
