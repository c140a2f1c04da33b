//! `export`: records as JSON lines, with all that the log has of them.

use std::io::Write;

use crate::cat::{reader_at, Stretch};
use crate::failure::{Exit, Failure};
use crate::output::Out;
use crate::progress;
use crate::range::{Range, Selection};
use crate::record::JsonRecord;
use crate::Global;

/// Write the records of a topic as JSON, one object a line, for `import`
///
/// Any bytes come through: keys, header values and payloads that are not UTF-8 are in base64. Headers
/// of requests and replies are written as well; `import` restores them only if it is told to. What is
/// not kept: which records were one batch.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// The topic
    topic: String,
    #[command(flatten)]
    selection: Selection,
    /// Pass over damaged records and report them; the exit code is 4 all the same
    #[arg(long)]
    skip_damage: bool,
}

impl Export {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let topic = global.open_read_only()?.existing_topic(&self.topic)?;
        let offsets = self.selection.range().unwrap_or(Range::ALL).resolve(&topic)?;
        let reader = reader_at(&topic, offsets.start)?;
        let end = offsets.end.min(topic.high_watermark()?);
        let total = end.saturating_sub(offsets.start);
        let bar = progress::bar(Some(total), true).with_message(self.topic.clone());
        let stretch = Stretch { reader, end, most: None, skip_damage: self.skip_damage };
        let exit = stretch.each(|record| {
            out.object(&JsonRecord::new(&self.topic, record))?;
            bar.set_position(record.offset() + 1 - offsets.start);
            Ok(())
        });
        bar.finish_and_clear();
        // What was read before the damage is the answer as far as it goes.
        out.flush()?;
        exit
    }
}
