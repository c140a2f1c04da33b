//! `delete`: a topic with all that is in it.

use std::io::Write;

use serde_json::json;

use crate::args::delete::Delete;
use crate::failure::{Exit, Failure};
use crate::ls::segments;
use crate::output::Out;
use crate::{units, Global};

impl Delete {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let topic = global.open_read_only()?.existing_topic(&self.topic)?;
        let records = topic.high_watermark()?.saturating_sub(topic.first_offset()?);
        let bytes: u64 = segments(&topic).iter().map(|segment| segment.bytes).sum();
        let (consumers, groups) = (topic.consumers()?.len(), topic.groups()?.len());
        drop(topic);
        if self.execute {
            global.open_existing()?.delete_topic(&self.topic)?;
        }
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
}
