//! Reads a reply topic, and delivers outcomes to callbacks and waiting callers.

use std::time::Duration;

use parking_lot::MutexGuard;

use super::callbacks::Given;
use super::envelope::{Envelope, Kind};
use super::link::{Link, Position};
use super::outcome::{Completed, Outcome};
use super::recipient::Recipient;
use super::spans;
use crate::error::{Error, Result};
use crate::group::count;
use crate::record::OwnedRecord;
use crate::sys::clock;

/// How often a client's positions are made durable.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// An outcome that its call handle has not returned after this time is parked.
const UNTAKEN_MOST: Duration = Duration::from_millis(100);

/// The right to deliver the outcomes of one service: one thread at a time has it.
pub(super) struct Delivery<'a> {
    client: &'a Recipient,
    link: &'a Link,
    position: MutexGuard<'a, Position>,
}

impl<'a> Delivery<'a> {
    pub(super) fn lock(client: &'a Recipient, link: &'a Link) -> Delivery<'a> {
        Delivery { client, link, position: link.position.lock() }
    }

    pub(super) fn try_lock(client: &'a Recipient, link: &'a Link) -> Option<Delivery<'a>> {
        Delivery::try_lock_for(client, link, Duration::ZERO)
    }

    pub(super) fn try_lock_for(
        client: &'a Recipient,
        link: &'a Link,
        timeout: Duration,
    ) -> Option<Delivery<'a>> {
        let position = match timeout.is_zero() {
            true => link.position.try_lock(),
            false => link.position.try_lock_for(timeout),
        };
        Some(Delivery { client, link, position: position? })
    }

    /// Delivers the outcomes that are there, or waits up to `timeout` for the first. Returns the number of
    /// outcomes and notifications. After an error, the next call delivers the outcomes that were not taken.
    pub(super) fn poll(&mut self, timeout: Duration) -> Result<usize> {
        let delivered = self.deliver_all(timeout);
        if delivered.is_err() {
            let next = self.position.next;
            self.position.cursor.reader().seek_to(next);
        }
        delivered
    }

    fn deliver_all(&mut self, timeout: Duration) -> Result<usize> {
        let link = self.link;
        let mut delivered = 0;
        let mut wait = timeout;
        // Outcomes that arrive meanwhile are left to the next call, so that a caller that wants to stop can.
        let mut end = None;
        while end.is_none_or(|end| self.position.next < end) {
            if let Some(due) = link.state.lock().next_due() {
                let left = due.saturating_sub(clock::boottime());
                wait = wait.min(Duration::from_nanos(left));
            }
            let record = match self.position.cursor.wait_timeout(wait) {
                Err(error @ Error::Corrupt { .. }) => {
                    self.pass_over(&error)?;
                    wait = Duration::ZERO;
                    continue;
                }
                // Records that the client holds were trimmed: reported once.
                Err(error @ Error::Trimmed { .. }) => {
                    self.pass_over(&error)?;
                    return Err(error);
                }
                other => other?.map(|record| record.to_owned()),
            };
            link.expire()?;
            let Some(record) = record else { break };
            if end.is_none() {
                end = Some(link.replies.high_watermark()?);
            }
            delivered += usize::from(self.deliver(&record)?);
            wait = Duration::ZERO;
        }
        self.park_untaken()?;
        // Even while only other clients get replies: an idle client must not hold the topics.
        if self.position.synced_at.elapsed() >= SYNC_INTERVAL {
            link.sync(&mut self.position)?;
        }
        Ok(delivered)
    }

    /// Continues after records that are damaged or trimmed: one bad sector must not stop a client. A
    /// request whose outcome was among them stays outstanding.
    fn pass_over(&mut self, error: &Error) -> Result<()> {
        let offsets = match error {
            Error::Trimmed { first, .. } => {
                self.position.cursor.reader().seek_to(*first);
                self.position.next..*first
            }
            _ => self.position.cursor.skip_damage()?,
        };
        self.client.callbacks.counters.passed_over(self.link.replies.name(), &offsets);
        self.pass(offsets.end)
    }

    fn pass(&mut self, next: u64) -> Result<()> {
        self.position.next = next;
        self.link.commit(&mut self.position)
    }

    /// Parks outcomes that their call handles have not returned for a while, so that the position no longer
    /// waits for them.
    fn park_untaken(&mut self) -> Result<()> {
        let (client, link) = (self.client, self.link);
        loop {
            let Some(done) = link.state.lock().untaken_for(UNTAKEN_MOST) else { break };
            client.park(&link.service, &done, None)?;
            if !link.state.lock().is_parked_now(done.id()) {
                client.unpark(done.id())?;
            }
        }
        link.commit(&mut self.position)
    }

    /// Delivers one record of the reply topic: an outcome, a late record, or a record of another client. The
    /// position is committed after it when it was taken or parked.
    fn deliver(&mut self, record: &OwnedRecord) -> Result<bool> {
        let envelope = match Envelope::of(&record.as_ref()) {
            Some(Ok(envelope)) if envelope.id.client() == self.client.name => envelope,
            _ => return self.pass(record.offset() + 1).map(|()| false),
        };
        let is_known = self.deliver_own(record, envelope)?;
        crate::sys::crash_point::crash_point!("deliver.called-back");
        self.pass(record.offset() + 1)?;
        let link = self.link;
        link.raise_floor(&link.state.lock(), self.position.cursor.committed())?;
        Ok(is_known)
    }

    /// Delivers a record that names this client; returns true if it is the outcome of a request, or a later one.
    fn deliver_own(&self, record: &OwnedRecord, envelope: Envelope) -> Result<bool> {
        let (client, link) = (self.client, self.link);
        let Some(outcome) = Outcome::of(&envelope, record) else {
            if envelope.kind == Kind::Redriven {
                link.await_redriven(record, envelope)?;
            }
            return Ok(false);
        };
        let id = envelope.id.clone();
        let mut pending = link.state.lock().get(&id).cloned();
        if pending.is_none() && id.incarnation() != client.incarnation {
            pending = link.unreadable_request(record.offset(), &envelope)?;
        }
        let is_taken = pending.as_ref().is_some_and(|pending| pending.is_taken);
        let done = client.completed(&link.requests, envelope, outcome, pending);
        let counters = &client.callbacks.counters;
        match (&done.outcome, done.late) {
            (Outcome::Expired, false) => count(&counters.expired, 1),
            (Outcome::Cancelled, false) => count(&counters.cancelled, 1),
            _ => {}
        }
        let mut is_known = true;
        match done.late {
            _ if is_taken => count(&counters.completed, 1),
            // Ids come from untrusted bytes: an id that this client never sent belongs to no request.
            true if done.recovered || client.has_sent(id.sequence()) => {
                count(&counters.late, 1);
                spans::late(&link.service, &done.envelope);
                client.callbacks.deliver_late(&done);
            }
            true => {
                count(&counters.unknown, 1);
                is_known = false;
            }
            false => self.complete(record.offset(), done)?,
        }
        // Not if a call handle has the outcome: the request is kept until the handle returns it.
        link.state.lock().remove(&id);
        Ok(is_known)
    }

    /// Passes an outcome to its callback or call handle; parks it if there is none.
    fn complete(&self, offset: u64, done: Completed) -> Result<()> {
        let (client, link) = (self.client, self.link);
        let _span = spans::deliver(&link.service, &done.envelope);
        let callbacks = &client.callbacks;
        let Some(callback) = done.callback() else {
            let Some(done) = link.state.lock().hold(offset, done) else {
                count(&callbacks.counters.completed, 1);
                link.answered.notify_all();
                return Ok(());
            };
            return match done.recovered {
                true => client.park(&link.service, &done, None),
                // Its handle was dropped, so the outcome is discarded.
                false => Ok(()),
            };
        };
        if client.must_wait(callback) {
            // After the parked outcomes, which are older.
            return client.park(&link.service, &done, Some(Duration::ZERO));
        }
        match callbacks.deliver(&done, false) {
            (Given::Taken, had_failed) => {
                count(&callbacks.counters.completed, 1);
                if had_failed {
                    client.make_due(callback);
                }
                Ok(())
            }
            (Given::Failed, _) => {
                client.park(&link.service, &done, Some(callbacks.retry.parked_wait(1)))
            }
            (Given::Refused, _) => client.park(&link.service, &done, None),
        }
    }
}
