//! `delete`: deletes a topic with its contents.

use std::io::Write;

use deaddrop::Log;
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::delete::Delete;
use crate::failure::{note, Exit, Failure};
use crate::ls::segments;
use crate::output::Out;
use crate::{units, Global};

/// The contents that are deleted.
#[derive(Default, JsonSchema, Serialize)]
pub(crate) struct Contents {
    /// The topic.
    topic: String,
    /// Records that are retained.
    records: u64,
    /// Bytes on the disk.
    bytes: u64,
    /// Consumers.
    consumers: usize,
    /// Groups.
    groups: usize,
    /// Whether it was done, which takes --execute.
    executed: bool,
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
                Contents { topic: self.topic.clone(), executed: true, ..Contents::default() }
            }
            other => other?,
        };
        if out.is_json() {
            out.object(&contents)?;
            return Ok(Exit::Ok);
        }
        let Contents { records, bytes, consumers, groups, .. } = contents;
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
        let topic = log.open_topic(&self.topic)?;
        Ok(Contents {
            topic: self.topic.clone(),
            executed: self.execute,
            records: topic.high_watermark()?.saturating_sub(topic.first_offset()?),
            bytes: segments(&topic).iter().map(|segment| segment.bytes).sum(),
            consumers: topic.consumers()?.len(),
            groups: topic.groups()?.len(),
        })
    }
}
