//! `export`: writes records as JSON lines, with everything that the log stores about them.

use std::io::Write;

use crate::args::export::Export;
use crate::args::range::Range;
use crate::cat::{reader_at, say_beyond, Stretch};
use crate::failure::{Exit, Failure};
use crate::output::Out;
use crate::progress;
use crate::record::JsonRecord;
use crate::Global;

impl Export {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let topic = global.open_read_only()?.open_topic(&self.topic)?;
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
        // The records before the damage are a valid answer, as far as it goes.
        out.flush()?;
        say_beyond(&topic, offsets.end, exit?)
    }
}
