//! Sending a request that was given up once more.

use super::envelope::Envelope;
use crate::error::{Error, Result};
use crate::reader::Start;
use crate::topic::Topic;

/// Appends a record of a request topic to it again, whole: what was at `offset` when its copy went to
/// the dead-letter topic. The request keeps its id and so its outcome, which was `DeadLettered`: what
/// a server answers now is late, and [`ClientBuilder::on_late`](super::ClientBuilder::on_late) gets
/// it. Returns the new offset.
///
/// # Errors
///
/// [`Error::Trimmed`] if the record is gone, [`Error::NotFound`] if there is none yet, and as
/// [`Topic::append`].
pub fn redrive(requests: &Topic, offset: u64) -> Result<u64> {
    let not_found = || Error::NotFound { what: format!("offset {offset} of {}", requests.name()) };
    if offset >= requests.high_watermark()? {
        return Err(not_found());
    }
    let mut reader = requests.reader(Start::Offset(offset))?;
    let original = reader.next()?.ok_or_else(not_found)?.to_owned();
    let record = match Envelope::of(&original.as_ref()) {
        Some(envelope) => envelope?.seal(original.to_record()),
        None => original.to_record(),
    };
    requests.append(&record)
}
