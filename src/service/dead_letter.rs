//! What a server appends when it is done with a request: its outcome, and the copy of one that it gives
//! up.

use super::envelope::{Envelope, Kind};
use super::open_topic;
use super::request_id::RequestId;
use super::server::Server;
use crate::error::{Error, Result};
use crate::reader::Start;
use crate::record::{OwnedRecord, Record};
use crate::topic::Topic;

impl Server {
    /// First the dead-letter topic, then the outcome: killed between them, the next start finds no
    /// outcome, and the copy by its id.
    pub(super) fn dead_letter(
        &mut self,
        record: &OwnedRecord,
        envelope: &Envelope,
        attempt: u32,
        why: &str,
    ) -> Result<()> {
        self.keep_dead(record, Some(&envelope.id), why)?;
        crate::sys::crash_point::crash_point!("serve.kept-dead");
        let mut outcome = envelope.outcome(Kind::DeadLettered, record.offset());
        outcome.attempt = attempt;
        outcome.error = why.to_owned();
        let replies = self.reply_topic(envelope.reply_topic.as_deref())?;
        answer(&replies, outcome, Record::default())
    }

    /// Copies a record to the dead-letter topic, with where it came from and why; once for each id.
    pub(super) fn keep_dead(
        &self,
        record: &OwnedRecord,
        id: Option<&RequestId>,
        why: &str,
    ) -> Result<()> {
        let dead = open_topic(&self.log, &format!("{}.dead", self.service), self.options.topic)?;
        let id = id.map_or_else(|| format!("offset {}", record.offset()), RequestId::to_string);
        if record.offset() < self.kept_below {
            let end = dead.settled_end()?;
            let mut reader = dead.reader(Start::First)?;
            while reader.offset() < end {
                let Some(kept) = reader.next()? else { break };
                if kept.header("dead-letter-id") == Some(id.as_bytes()) {
                    return Ok(());
                }
            }
        }
        let with_origin = |copy: Record| {
            copy.header("dead-letter-id", &id)
                .header("dead-letter-topic", self.requests.name())
                .header("dead-letter-offset", record.offset().to_string())
                .header("dead-letter-reason", shortened(why))
        };
        match dead.append(&with_origin(record.to_record())) {
            // No room for the headers beside its own: the original is where they say.
            Err(Error::Invalid { .. } | Error::TooLarge { .. }) => {
                dead.append(&with_origin(Record::default())).map(drop)
            }
            other => other.map(drop),
        }
    }
}

/// Appends an outcome. One that no frame can hold, because of what the handler returned, becomes
/// `Failed`: it would be so at every attempt.
pub(super) fn answer(replies: &Topic, mut outcome: Envelope, reply: Record) -> Result<()> {
    outcome.error = shortened(&outcome.error).to_owned();
    match replies.append(&outcome.seal(reply)) {
        Err(error @ (Error::Invalid { .. } | Error::TooLarge { .. })) => {
            outcome.kind = Kind::Failed;
            outcome.error = format!("its outcome cannot be appended: {error}");
            // The client knows it from the request.
            outcome.context.clear();
            replies.append(&outcome.seal(Record::default())).map(drop)
        }
        other => other.map(drop),
    }
}

/// The longest message of an error that goes into a record.
const MAX_MESSAGE_LEN: usize = 4096;

fn shortened(message: &str) -> &str {
    let mut len = message.len().min(MAX_MESSAGE_LEN);
    while !message.is_char_boundary(len) {
        len -= 1;
    }
    &message[..len]
}
