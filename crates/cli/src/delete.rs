//! `delete`: deletes a topic with its contents.

use std::io::Write;

use deaddrop::Log;
use serde_json::json;

use crate::args::delete::Delete;
use crate::failure::{note, Exit, Failure};
use crate::ls::segments;
use crate::output::Out;
use crate::{units, Global};

/// The contents that are deleted; zeros if they are not known.
#[derive(Default)]
struct Contents {
    records: u64,
    bytes: u64,
    consumers: usize,
    groups: usize,
}

impl Delete {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let contents = self.contents(&global.open_read_only()?);
        if self.execute {
            global.open_existing()?.delete_topic(&self.topic)?;
        }
        let contents = match contents {
            // A topic that cannot be read can still be deleted.
            Err(failure) if self.execute => {
                note(format_args!("its contents are not known: {failure}"));
                Contents::default()
            }
            other => other?,
        };
        let Contents { records, bytes, consumers, groups } = contents;
        if out.is_json() {
            out.object(&json!({
                "topic": self.topic,
                "records": records,
                "bytes": bytes,
                "consumers": consumers,
                "groups": groups,
                "executed": self.execute,
            }))?;
            return Ok(Exit::Ok);
        }
        let would = if self.execute { "" } else { "would be " };
        writeln!(
            out,
            "{}: {}, {}, {}, {}: {would}deleted",
            self.topic,
            units::count(records, "record"),
            units::size(bytes),
            units::count(consumers as u64, "consumer"),
            units::count(groups as u64, "group"),
        )?;
        if !self.execute {
            writeln!(out, "nothing was changed: add --execute to do it")?;
        }
        Ok(Exit::Ok)
    }

    fn contents(&self, log: &Log) -> Result<Contents, Failure> {
        let topic = log.existing_topic(&self.topic)?;
        Ok(Contents {
            records: topic.high_watermark()?.saturating_sub(topic.first_offset()?),
            bytes: segments(&topic).iter().map(|segment| segment.bytes).sum(),
            consumers: topic.consumers()?.len(),
            groups: topic.groups()?.len(),
        })
    }
}
