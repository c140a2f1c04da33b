//! Reads a reply topic, and delivers outcomes to callbacks and waiting callers.

use std::sync::Weak;
use std::time::{Duration, Instant};

use super::callbacks::Given;
use super::client::ClientInner;
use super::envelope::{Envelope, Kind};
use super::link::Link;
use super::outcome::{Completed, Outcome};
use super::pending::Pending;
use super::spans;
use super::stats::count;
use crate::consumer::Consumer;
use crate::error::{Error, Result};
use crate::record::{OwnedRecord, Record};
use crate::sys::clock;

/// How often a client's positions are made durable.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// An outcome that its call handle has not returned after this time is parked.
const UNTAKEN_MOST: Duration = Duration::from_millis(100);

/// The position in a reply topic. The thread that holds it delivers.
pub(super) struct Delivery {
    pub(super) cursor: Consumer,
    /// Every record below it was delivered. The committed position stays below outcomes that their call
    /// handles have not returned.
    next: u64,
    synced_at: Instant,
    /// The last position that was made durable.
    synced: Option<u64>,
}

impl Delivery {
    pub(super) fn new(cursor: Consumer) -> Delivery {
        let next = cursor.committed();
        Delivery { cursor, next, synced_at: Instant::now(), synced: None }
    }

    /// Delivers the outcomes that are there, or waits up to `timeout` for the first. Returns the number of
    /// outcomes and notifications. After an error, the next call delivers the outcomes that were not taken.
    pub(super) fn poll(
        &mut self,
        client: &ClientInner,
        link: &Link,
        timeout: Duration,
    ) -> Result<usize> {
        let delivered = self.deliver_all(client, link, timeout);
        if delivered.is_err() {
            let next = self.next;
            self.cursor.reader().seek_to(next);
        }
        delivered
    }

    fn deliver_all(
        &mut self,
        client: &ClientInner,
        link: &Link,
        timeout: Duration,
    ) -> Result<usize> {
        let mut delivered = 0;
        let mut wait = timeout;
        // Outcomes that arrive meanwhile are left to the next call, so that a caller that wants to stop can.
        let mut end = None;
        while end.is_none_or(|end| self.next < end) {
            if let Some(due) = link.state.lock().next_due() {
                let left = due.saturating_sub(clock::boottime());
                wait = wait.min(Duration::from_nanos(left));
            }
            let record = match self.cursor.wait_timeout(wait) {
                Err(error @ Error::Corrupt { .. }) => {
                    self.pass_over(client, link, &error)?;
                    wait = Duration::ZERO;
                    continue;
                }
                // Records that the client holds were trimmed: reported once.
                Err(error @ Error::Trimmed { .. }) => {
                    self.pass_over(client, link, &error)?;
                    return Err(error);
                }
                other => other?.map(|record| record.to_owned()),
            };
            expire(client, link)?;
            let Some(record) = record else { break };
            if end.is_none() {
                end = Some(link.replies.high_watermark()?);
            }
            delivered += usize::from(self.deliver(client, link, &record)?);
            wait = Duration::ZERO;
        }
        self.park_untaken(client, link)?;
        // Even while only other clients get replies: an idle client must not hold the topics.
        if self.synced_at.elapsed() >= SYNC_INTERVAL {
            self.sync(link)?;
        }
        Ok(delivered)
    }

    /// Continues after records that are damaged or trimmed: one bad sector must not stop a client. A
    /// request whose outcome was among them stays outstanding.
    fn pass_over(&mut self, client: &ClientInner, link: &Link, error: &Error) -> Result<()> {
        let offsets = match error {
            Error::Trimmed { first, .. } => {
                self.cursor.reader().seek_to(*first);
                self.next..*first
            }
            _ => self.cursor.skip_damage()?,
        };
        client.callbacks.counters.passed_over(&offsets);
        spans::damaged(link.replies.name(), &offsets);
        self.next = offsets.end;
        self.commit(link)
    }

    /// Commits the delivered records, up to the first outcome that its call handle has not returned.
    pub(super) fn commit(&mut self, link: &Link) -> Result<()> {
        let untaken = link.state.lock().first_untaken().unwrap_or(u64::MAX);
        let to = untaken.min(self.next);
        if to > self.cursor.committed() {
            self.cursor.commit_to(to)?;
        }
        Ok(())
    }

    /// Parks outcomes that their call handles have not returned for a while, so that the position no longer
    /// waits for them.
    fn park_untaken(&mut self, client: &ClientInner, link: &Link) -> Result<()> {
        loop {
            let Some(done) = link.state.lock().untaken_for(UNTAKEN_MOST) else { break };
            client.park(&link.service, &done, None)?;
            if !link.state.lock().is_parked_now(done.id()) {
                client.unpark(done.id())?;
            }
        }
        self.commit(link)
    }

    /// Makes the positions durable, if they have moved.
    pub(super) fn sync(&mut self, link: &Link) -> Result<()> {
        self.commit(link)?;
        let committed = self.cursor.committed();
        link.raise_floor(&link.state.lock(), committed)?;
        if self.synced != Some(committed) {
            if let Some(last) = committed.checked_sub(1) {
                link.replies.wait_durable(last)?;
            }
            self.cursor.sync()?;
            self.synced = Some(committed);
        }
        link.sync_floor()?;
        self.synced_at = Instant::now();
        Ok(())
    }

    /// Delivers one record of the reply topic: an outcome, a late record, or a record of another client. The
    /// position is committed after it when it was taken or parked.
    fn deliver(&mut self, client: &ClientInner, link: &Link, record: &OwnedRecord) -> Result<bool> {
        let envelope = match Envelope::of(&record.as_ref()) {
            Some(Ok(envelope)) if envelope.id.client() == client.name => envelope,
            _ => {
                self.next = record.offset() + 1;
                self.commit(link)?;
                return Ok(false);
            }
        };
        let is_known = self.deliver_own(client, link, record, envelope)?;
        crate::sys::crash_point::crash_point!("deliver.called-back");
        self.next = record.offset() + 1;
        self.commit(link)?;
        link.raise_floor(&link.state.lock(), self.cursor.committed())?;
        Ok(is_known)
    }

    /// Delivers a record that names this client; returns true if it is the outcome of a request, or a later one.
    fn deliver_own(
        &mut self,
        client: &ClientInner,
        link: &Link,
        record: &OwnedRecord,
        envelope: Envelope,
    ) -> Result<bool> {
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
        let done = completed(client, link, envelope, outcome, pending);
        let counters = &client.callbacks.counters;
        match (&done.outcome, done.late) {
            (Outcome::Expired, false) => count(&counters.expired),
            (Outcome::Cancelled, false) => count(&counters.cancelled),
            _ => {}
        }
        let mut is_known = true;
        match done.late {
            _ if is_taken => count(&counters.completed),
            // Ids come from untrusted bytes: an id that this client never sent belongs to no request.
            true if done.recovered || id.sequence() < client.sequence() => {
                count(&counters.late);
                spans::late(&link.service, &done.envelope);
                client.callbacks.deliver_late(&done);
            }
            true => {
                count(&counters.unknown);
                is_known = false;
            }
            false => self.complete(client, link, record.offset(), done)?,
        }
        // Not if a call handle has the outcome: the request is kept until the handle returns it.
        link.state.lock().remove(&id);
        Ok(is_known)
    }

    /// Passes an outcome to its callback or call handle; parks it if there is none.
    fn complete(
        &self,
        client: &ClientInner,
        link: &Link,
        offset: u64,
        done: Completed,
    ) -> Result<()> {
        let _span = spans::deliver(&link.service, &done.envelope);
        let callbacks = &client.callbacks;
        if done.envelope.callback.is_empty() {
            let Some(done) = link.state.lock().hold(offset, done) else {
                count(&callbacks.counters.completed);
                link.answered.notify_all();
                return Ok(());
            };
            return match done.recovered {
                true => client.park(&link.service, &done, None),
                // Its handle was dropped, so the outcome is discarded.
                false => Ok(()),
            };
        }
        if client.must_wait(&done.envelope.callback) {
            // After the parked outcomes, which are older.
            return client.park(&link.service, &done, Some(Duration::ZERO));
        }
        match callbacks.deliver(&done, false) {
            (Given::Taken, had_failed) => {
                count(&callbacks.counters.completed);
                if had_failed {
                    client.make_due(&done.envelope.callback);
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

/// Builds the outcome of a request; `pending` is the state of the request, unless it already had an outcome.
pub(super) fn completed(
    client: &ClientInner,
    link: &Link,
    mut envelope: Envelope,
    outcome: Outcome,
    pending: Option<Pending>,
) -> Completed {
    let late = pending.is_none();
    if let Some(pending) = pending {
        // From the request itself, not from the copy in the reply.
        envelope.callback = pending.envelope.callback;
        envelope.context = pending.envelope.context;
        envelope.conversation = pending.envelope.conversation;
        envelope.cause = pending.envelope.cause;
        envelope.traceparent = pending.envelope.traceparent;
        if !pending.is_announced || envelope.request_offset.is_none() {
            envelope.request_offset = Some(pending.offset);
        }
    }
    let recovered = envelope.id.incarnation() != client.incarnation;
    let client = Weak::clone(&client.this);
    let requests = Some(link.requests.clone());
    Completed { envelope, outcome, late, recovered, requests, client }
}

/// Appends the outcome `Expired` for every request whose deadline has passed. It is the outcome only if
/// it is the first, which is known when it is read.
pub(super) fn expire(client: &ClientInner, link: &Link) -> Result<()> {
    let now = clock::boottime();
    loop {
        let Some((id, pending)) = link.state.lock().take_due(now) else { return Ok(()) };
        match close(client, link, &pending, Kind::Expired) {
            Ok(()) => spans::expired(&link.service, &pending.envelope),
            // It was appended, and is delivered when it is read.
            Err(error @ Error::Unknown { .. }) => return Err(error),
            Err(error) => {
                link.state.lock().set_due(&id, now);
                return Err(error);
            }
        }
    }
}

/// Appends an outcome that the client itself decides, unless the request already has one.
pub(super) fn close(
    client: &ClientInner,
    link: &Link,
    pending: &Pending,
    kind: Kind,
) -> Result<()> {
    debug_assert_eq!(pending.envelope.id.client(), client.name);
    let envelope = pending.envelope.outcome(kind, link.offset_of(pending)?);
    link.replies.append(&envelope.seal(Record::default())).map(drop)
}
