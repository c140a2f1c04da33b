//! The records that a server appends when a request is settled: its outcome, and the dead letter of a
//! request that is no longer retried.

use super::envelope::{Envelope, Kind};
use super::open_topic;
use super::server::Server;
use crate::error::{Error, Result};
use crate::group::claim::Claim;
use crate::group::{shortened, DeadLetter, Job};
use crate::record::Record;
use crate::topic::Topic;

impl Server {
    /// Appends to the dead-letter topic first, then the outcome. If the process is killed between them, the
    /// next owner of the lane finds no outcome, and finds the copy by its id.
    pub(super) fn dead_letter(
        &mut self,
        job: &Job,
        envelope: &Envelope,
        replies: &Topic,
        why: &str,
    ) -> Result<()> {
        self.keep_dead(job, Some(envelope), why)?;
        crate::sys::crash_point::crash_point!("serve.kept-dead");
        let mut outcome = envelope.outcome(Kind::DeadLettered, job.offset());
        outcome.attempt = job.attempt;
        outcome.error = why.to_owned();
        answer(replies, outcome, Record::default())
    }

    /// Copies a record to the dead-letter topic, with its origin and the reason; once for each id.
    pub(super) fn keep_dead(
        &mut self,
        job: &Job,
        envelope: Option<&Envelope>,
        why: &str,
    ) -> Result<()> {
        if self.dead.is_none() {
            let name = Claim::Service(&self.service).dead_topic();
            self.dead = Some(open_topic(&self.log, &name, self.options.topic)?);
        }
        let dead = self.dead.as_ref().expect("opened above");
        let id = envelope.map(|envelope| envelope.id.to_string());
        let letter = DeadLetter {
            id: id.unwrap_or_else(|| DeadLetter::id_of(&self.requests, &job.record)),
            topic: self.requests.name().to_owned(),
            offset: job.offset(),
            group: super::server::GROUP.to_owned(),
            attempts: job.attempt,
            sent_at: job.record().timestamp_nanos(),
            reason: why.to_owned(),
        };
        let is_repeated = job.may_be_kept || job.attempt > 1;
        letter.keep(dead, &job.record, is_repeated.then_some(&mut self.kept))
    }
}

/// Appends an outcome. If the handler's result makes it too large for a frame, it becomes `Failed`,
/// because every attempt would have the same result.
pub(super) fn answer(replies: &Topic, outcome: Envelope, reply: Record) -> Result<()> {
    append_with(outcome, reply, |record| replies.append(record))
}

/// Appends an outcome without a reply. Does not wait for the disk: a lane's position becomes durable later.
pub(super) fn answer_later(replies: &Topic, outcome: Envelope) -> Result<()> {
    append_with(outcome, Record::default(), |record| replies.append_unsynced(record))
}

fn append_with(
    mut outcome: Envelope,
    reply: Record,
    append: impl Fn(&Record) -> Result<u64>,
) -> Result<()> {
    outcome.error = shortened(&outcome.error).to_owned();
    match append(&outcome.seal(reply)) {
        Err(error @ (Error::Invalid { .. } | Error::TooLarge { .. })) => {
            outcome.kind = Kind::Failed;
            outcome.error = format!("its outcome cannot be appended: {error}");
            // The client has it from the request.
            outcome.context.clear();
            append(&outcome.seal(Record::default())).map(drop)
        }
        other => other.map(drop),
    }
}
