//! A client as the one that outcomes are for: its name, its callbacks, and the outcomes that none of them took.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Weak;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::callbacks::{Callbacks, Given};
use super::envelope::Envelope;
use super::outcome::{Completed, Outcome};
use super::parked::{Found, ParkedTopic};
use super::pending::Pending;
use super::request_id::RequestId;
use super::spans;
use crate::error::Result;
use crate::group::count;
use crate::log::Log;
use crate::topic::{Topic, TopicOptions};

/// Most parked outcomes that are retried in one pass.
const PARKED_MOST: usize = 64;

/// See the module.
pub(super) struct Recipient {
    /// For [`Completed::client`], in outcomes that callbacks receive.
    pub(super) client: Weak<dyn Any + Send + Sync>,
    pub(super) log: Log,
    pub(super) name: String,
    pub(super) incarnation: u64,
    pub(super) sequence: AtomicU64,
    pub(super) callbacks: Callbacks,
    pub(super) parked: Mutex<Option<ParkedTopic>>,
    pub(super) topic: Option<TopicOptions>,
}

impl Recipient {
    /// Returns the id of the next request.
    pub(super) fn next_id(&self) -> RequestId {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        RequestId::new(&self.name, self.incarnation, sequence)
    }

    /// Returns whether this start of the client has sent a request with this number.
    pub(super) fn has_sent(&self, sequence: u64) -> bool {
        sequence < self.sequence.load(Ordering::Relaxed)
    }

    /// Builds the outcome of a request; `pending` is the state of the request, unless it already had an outcome.
    pub(super) fn completed(
        &self,
        requests: &Topic,
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
        self.outcome_of(envelope, outcome, late, Some(requests.clone()))
    }

    /// Returns the outcome that was found in the topic of parked outcomes.
    pub(super) fn found(&self, found: Found) -> Completed {
        self.outcome_of(found.envelope, found.outcome, false, found.requests)
    }

    fn outcome_of(
        &self,
        envelope: Envelope,
        outcome: Outcome,
        late: bool,
        requests: Option<Topic>,
    ) -> Completed {
        let recovered = envelope.id.incarnation() != self.incarnation;
        let client = Weak::clone(&self.client);
        Completed { envelope, outcome, late, recovered, requests, client }
    }

    /// Parks an outcome that was not taken. It is retried after `wait`, or, if that is `None`, when a caller
    /// asks.
    pub(super) fn park(
        &self,
        service: &str,
        done: &Completed,
        wait: Option<Duration>,
    ) -> Result<()> {
        let counters = &self.callbacks.counters;
        count(&counters.parked, 1);
        spans::parked(service, &done.envelope);
        let mut parked = self.parked.lock();
        if parked.is_none() {
            *parked = ParkedTopic::open(&self.log, &self.name, self.topic, true, counters)?;
        }
        let due = wait.and_then(|wait| Instant::now().checked_add(wait));
        match &mut *parked {
            Some(parked) => parked.park(service, &done.envelope, &done.outcome, due),
            None => Ok(()),
        }
    }

    /// Returns whether an outcome for this callback must wait for others, which are parked because it failed.
    pub(super) fn must_wait(&self, callback: &str) -> bool {
        !self.callbacks.may_call(callback)
            && self.parked.lock().as_ref().is_some_and(|parked| parked.awaits(callback))
    }

    /// Makes the parked outcomes of a callback due, because it takes outcomes again.
    pub(super) fn make_due(&self, callback: &str) {
        if let Some(parked) = &mut *self.parked.lock() {
            parked.make_due(Some(callback));
        }
    }

    /// Records that the call handle of a parked outcome returned or discarded it.
    pub(super) fn unpark(&self, id: &RequestId) -> Result<()> {
        match &mut *self.parked.lock() {
            Some(parked) => parked.taken(id).map(drop),
            None => Ok(()),
        }
    }

    /// Notes that a callback took a parked outcome. If that fails, it is retried later: the outcome is
    /// delivered.
    fn mark_taken(&self, parked: &mut ParkedTopic, id: &RequestId) -> Result<()> {
        let marked = parked.taken(id).map(drop);
        if marked.is_err() {
            parked.owe_mark(id, |tries| Some(self.callbacks.retry.parked_wait(tries)));
        }
        marked
    }

    /// Brings parked outcomes to their callbacks, those that are due. Returns how many were taken.
    pub(super) fn deliver_parked(&self) -> Result<usize> {
        let (mut delivered, mut failed) = (0, 0);
        // Between passes the delivering thread reads replies, and checks whether it is to stop.
        while failed + delivered < PARKED_MOST {
            let done = {
                let mut guard = self.parked.lock();
                let Some(parked) = &mut *guard else { break };
                let Some(id) = parked.next_due(|name| self.callbacks.may_call(name)) else { break };
                if parked.owes_mark(&id) {
                    self.mark_taken(parked, &id)?;
                    continue;
                }
                match parked.find(&self.log, &id) {
                    Ok(Some(found)) => self.found(found),
                    Ok(None) => {
                        parked.failed(&id, |_| None);
                        count(&self.callbacks.counters.damaged, 1);
                        continue;
                    }
                    Err(error) => {
                        parked.failed(&id, |tries| Some(self.callbacks.retry.parked_wait(tries)));
                        return Err(error);
                    }
                }
            };
            // Without the lock, because the callback may use this client.
            let (given, had_failed) = self.callbacks.deliver(&done, true);
            let mut guard = self.parked.lock();
            let Some(parked) = &mut *guard else { break };
            match given {
                Given::Taken => {
                    self.mark_taken(parked, done.id())?;
                    count(&self.callbacks.counters.completed, 1);
                    delivered += 1;
                    if had_failed {
                        parked.make_due(done.callback());
                    }
                }
                Given::Refused => parked.failed(done.id(), |_| None),
                Given::Failed => {
                    failed += 1;
                    count(&self.callbacks.counters.callback_retries, 1);
                    let retry = self.callbacks.retry;
                    parked.failed(done.id(), |tries| Some(retry.parked_wait(tries)));
                }
            }
        }
        Ok(delivered)
    }
}
