//! `import`: appends the records that `export` wrote.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use crate::append::{Appending, Input, Kind, Summary};
use crate::args::import::Import;
use crate::failure::{note, Exit, Failure};
use crate::missing::say_recovery;
use crate::output::Out;
use crate::record::{Reserved, Taking};
use crate::{units, Global};

/// The summary at the end.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Imported<'a> {
    #[serde(flatten)]
    summary: &'a Summary,
    /// Reserved headers that were left out, because --reserved was not given.
    reserved_left: u64,
}

impl Import {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let left = Arc::new(AtomicU64::new(0));
        let input = Input {
            kind: Kind::Json,
            files: self.files.clone(),
            headers: Vec::new(),
            taking: Taking {
                key: None,
                reserved: if self.reserved {
                    Reserved::Restore
                } else {
                    Reserved::Drop(Arc::clone(&left))
                },
                origin: self.origin,
            },
        };
        let log = global.open_saying(self.quiet)?;
        let topic = self.new.open(&log, &self.topic, self.reserved)?;
        let exit = say_recovery(&topic);
        let appending = Appending::new(topic, false);
        let summary = appending.run(input, out)?;
        let imported = Imported { summary: &summary, reserved_left: left.load(Ordering::Relaxed) };
        if out.is_json() {
            out.object(&imported)?;
        } else if !self.quiet {
            summary.say("imported");
            if imported.reserved_left > 0 {
                note(format_args!(
                    "{} of requests and replies left out: --reserved restores them",
                    units::count(imported.reserved_left, "header")
                ));
            }
        }
        Ok(exit)
    }
}
