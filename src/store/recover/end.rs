//! The end of a topic without living members, for a process that only reads: where a recovery would find it.

use super::scan::{look_at_header, possible_end, promised_boundary, Scan};
use super::Recovery;
use crate::control::Words;
use crate::error::{Error, Result};
use crate::format::segment as layout;
use crate::segment::{Batches, Frames};
use crate::store::frontier::FoundEnd;
use crate::store::{Durability, Frontier, Store};

/// Scans for the end; later calls continue from where it was `found`, into new segments. `left`: the words of
/// dead members.
pub(crate) fn find_end(
    topic: &Store,
    left: Option<&Words>,
    found: &mut Option<FoundEnd>,
) -> Result<Frontier> {
    let found = match found {
        Some(found) => found,
        None => match scan(topic, left)? {
            Ok(scanned) => found.insert(scanned),
            Err(frontier) => return Ok(frontier),
        },
    };
    found.follow(topic)
}

impl FoundEnd {
    /// Continues to the present end.
    fn follow(&mut self, topic: &Store) -> Result<Frontier> {
        let batches = &mut self.batches;
        batches.retry();
        loop {
            batches.walk()?;
            let (base, end) = (batches.segment().base(), batches.end);
            let frames = if !topic.segments.is_current(batches.segment())? {
                // Extended for a record larger than a segment, or copied by a recovery.
                Frames::from(&topic.segment(base)?, batches.end_position, end)
            } else if end == base || !topic.segments.has_file(end) {
                break;
            } else {
                let segment = match topic.segment(end) {
                    // It has a name but no header, so no record in it was promised.
                    Err(Error::Corrupt { path, .. }) if look_at_header(topic, &path)?.0 => break,
                    segment => segment?,
                };
                Frames::of(&segment)
            };
            *batches = Batches::of(frames);
        }
        let end = batches.end;
        Ok(Frontier {
            high_watermark: end.min(self.visible),
            end,
            durable_end: self.durable_end.min(end),
            active: batches.segment().base(),
            position: batches.end_position,
        })
    }
}

/// Finds the end as a recovery would, or how far the log goes if the newest header is damaged.
fn scan(topic: &Store, left: Option<&Words>) -> Result<std::result::Result<FoundEnd, Frontier>> {
    let bases = topic.segments.refresh(topic.words())?;
    let left = match left {
        // They may lack the last writes of the last member.
        Some(words) if !(Recovery { topic, words }).is_overtaken(&bases)? => Some(words),
        _ => None,
    };
    let durability = topic.options.durability;
    let shown = left.map_or(0, |words| Frontier::of(words, durability).high_watermark);
    let durable_end = promised_boundary(topic, &bases)?;
    let boundary = durable_end.max(possible_end(topic, &bases, shown));
    let is_synced = durability == Durability::PowerLoss;
    let visible = if left.is_some() && is_synced { boundary } else { u64::MAX };
    let scan = Scan::run(topic, &bases, boundary)?;
    // The report of any thread that scans will do.
    topic.recovery.get_or_init(|| scan.report());
    let (end, position) = (scan.end, scan.position);
    Ok(match scan.segment {
        Some(segment) => {
            let batches = Batches::of(Frames::from(&segment, position, end));
            Ok(FoundEnd { batches, visible, durable_end })
        }
        // The bytes after the newest header cannot be checked.
        None => Err(Frontier {
            high_watermark: end,
            end,
            durable_end: 0,
            active: bases.last().copied().unwrap_or(0),
            position: layout::FIRST_FRAME_AT,
        }),
    })
}
