//! Copies of records that were given up, in a topic of their own.

use crate::error::{Error, Result};
use crate::reader::Start;
use crate::record::{OwnedRecord, Record, RecordRef};
use crate::topic::Topic;

const ID: &str = "dead-letter-id";
const TOPIC: &str = "dead-letter-topic";
const OFFSET: &str = "dead-letter-offset";
const GROUP: &str = "dead-letter-group";
const ATTEMPTS: &str = "dead-letter-attempts";
const REASON: &str = "dead-letter-reason";

/// The longest reason that is stored.
const MAX_REASON_LEN: usize = 4096;

/// What a record of a dead-letter topic says of itself: untrusted bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Identifies the record: a request's id, or its offset.
    pub id: String,
    /// The topic that it was in.
    pub topic: String,
    /// Where it was there.
    pub offset: u64,
    /// The group that gave it up.
    pub group: String,
    /// The attempts that it has had.
    pub attempts: u32,
    /// Why.
    pub reason: String,
}

impl DeadLetter {
    /// What `record` says; `None` if it is no dead letter.
    pub fn of(record: &RecordRef<'_>) -> Option<DeadLetter> {
        let text =
            |name| record.header(name).map(String::from_utf8_lossy).map(|text| text.into_owned());
        Some(DeadLetter {
            id: text(ID)?,
            topic: text(TOPIC)?,
            offset: text(OFFSET)?.parse().ok()?,
            group: text(GROUP).unwrap_or_default(),
            attempts: text(ATTEMPTS).and_then(|text| text.parse().ok()).unwrap_or(0),
            reason: text(REASON).unwrap_or_default(),
        })
    }

    /// The id of a record that has none of its own. Offsets can be used again after a power cut.
    pub(crate) fn id_of(topic: &Topic, record: &OwnedRecord) -> String {
        format!("{}@{}@{}", topic.name(), record.offset(), record.as_ref().timestamp_nanos())
    }

    /// Appends a copy; `once` looks first whether there is one of this id.
    pub(crate) fn keep(&self, dead: &Topic, record: &OwnedRecord, once: bool) -> Result<()> {
        if once && is_there(dead, &self.id)? {
            return Ok(());
        }
        let with_origin = |copy: Record| {
            copy.header(ID, &self.id)
                .header(TOPIC, &self.topic)
                .header(OFFSET, self.offset.to_string())
                .header(GROUP, &self.group)
                .header(ATTEMPTS, self.attempts.to_string())
                .header(REASON, shortened(&self.reason))
        };
        let offset = match dead.append(&with_origin(record.to_record())) {
            // No room for the headers beside its own: the original is where they say.
            Err(Error::Invalid { .. } | Error::TooLarge { .. }) => {
                dead.append(&with_origin(Record::default()))?
            }
            other => other?,
        };
        // Whoever makes the lane's position durable later may not know of this topic.
        dead.wait_durable(offset)
    }
}

fn is_there(dead: &Topic, id: &str) -> Result<bool> {
    let end = dead.settled_end()?;
    let mut reader = dead.reader(Start::First)?;
    reader.pass_over_lost();
    while reader.offset() < end {
        let kept = match reader.next() {
            Err(Error::Corrupt { .. }) => {
                reader.skip_damage()?;
                continue;
            }
            other => other?,
        };
        let Some(kept) = kept else { break };
        if kept.header(ID) == Some(id.as_bytes()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A reason, no longer than is stored.
pub(crate) fn shortened(reason: &str) -> &str {
    let mut len = reason.len().min(MAX_REASON_LEN);
    while !reason.is_char_boundary(len) {
        len -= 1;
    }
    &reason[..len]
}
