//! The handle of a caller that waits for the outcome of a request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::callbacks::is_inside;
use super::client::{left_until, Client};
use super::delivery::Delivery;
use super::envelope::Envelope;
use super::link::Link;
use super::outcome::{Completed, Outcome};
use super::pending::{Pending, Slot};
use super::request_id::RequestId;
use super::LOOK;
use crate::error::{Error, Result};
use crate::reader::Start;
use crate::stop::Stop;

/// Waits for the outcome of one request in this process.
///
/// The client keeps the outcome until [`wait_timeout`](Self::wait_timeout) has returned it: if the process
/// is killed before, or a moment after, the next start of the client has it, for [`Client::attach`].
/// Dropping the handle discards the outcome when it arrives, but does not cancel the request
/// ([`Client::cancel`] does that). The drop is not recorded in the log: if the process ends before the
/// outcome arrives, the next start keeps the outcome like those of calls that were never dropped, and
/// [`Client::discard_parked`] drops it there.
#[must_use = "dropping it discards the outcome: use `send` for a callback"]
pub struct Call {
    pub(super) client: Client,
    pub(super) link: Arc<Link>,
    pub(super) id: RequestId,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Client {
    /// Returns a handle for a request that was sent with [`call`](super::RequestBuilder::call), by this or an
    /// earlier start of the client, if no handle has returned its outcome yet.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no such request, or if its handle was dropped, which discards its
    /// outcome.
    pub fn attach(&self, id: &RequestId) -> Result<Call> {
        for link in self.inner.links() {
            let mut state = link.state.lock();
            let is_open = state.get(id).is_some_and(|pending| pending.envelope.callback.is_none());
            if is_open || state.calls.contains_key(id) {
                state.calls.entry(id.clone()).or_insert(Slot::Waiting);
                drop(state);
                return Ok(Call { client: self.clone(), link, id: id.clone() });
            }
        }
        let not_found = || Error::NotFound { what: format!("call {id}") };
        let found = {
            let guard = self.inner.recipient.parked.lock();
            let parked = guard.as_ref().filter(|parked| parked.has_call(id));
            parked
                .ok_or_else(not_found)?
                .find(&self.inner.recipient.log, id)?
                .ok_or_else(not_found)?
        };
        let link = self.inner.link(&found.service)?;
        let done = Box::new(self.inner.recipient.found(found));
        link.state.lock().calls.insert(id.clone(), Slot::Parked(done));
        Ok(Call { client: self.clone(), link, id: id.clone() })
    }
}

impl Call {
    /// Returns the request's id: keep it to [`attach`](Client::attach) again after a restart.
    pub fn id(&self) -> &RequestId {
        &self.id
    }

    /// Returns the outcome; `None` if there is none yet, which does not mean that the request failed. Delivers
    /// other outcomes as well if no thread of the client does, but not from inside a callback.
    ///
    /// # Errors
    ///
    /// An error of a topic; [`Error::NotFound`] if the outcome was returned before.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<Completed>> {
        self.wait_for(timeout, &Stop::new())
    }

    /// Does what [`wait_timeout`](Self::wait_timeout) does, but returns `None` when `stop` is set as well.
    ///
    /// # Errors
    ///
    /// As [`wait_timeout`](Self::wait_timeout).
    pub fn wait_for(&mut self, timeout: Duration, stop: &Stop) -> Result<Option<Completed>> {
        let until = Instant::now().checked_add(timeout);
        // Even with a timeout of zero: outcomes that are there are delivered.
        let mut has_looked = false;
        loop {
            let mut state = self.link.state.lock();
            if let Some((done, is_parked)) = state.take_slot(&self.id) {
                drop(state);
                return self.returned(done, is_parked).map(Some);
            }
            if !state.calls.contains_key(&self.id) {
                return Err(Error::NotFound { what: format!("call {}", self.id) });
            }
            let Some(pending) = state.get(&self.id).cloned() else {
                drop(state);
                return self.take_parked();
            };
            let left = left_until(until);
            if (left.is_zero() || stop.is_stopped()) && has_looked {
                return Ok(None);
            }
            has_looked = true;
            if is_inside() {
                drop(state);
                return self.look_for_it(pending, until, stop);
            }
            match Delivery::try_lock(&self.client.inner.recipient, &self.link) {
                Some(mut delivery) => {
                    drop(state);
                    delivery.poll(left.min(LOOK))?;
                }
                None => {
                    self.link.answered.wait_for(&mut state, left.min(LOOK));
                }
            }
        }
    }

    /// Records that the caller has the outcome from now on.
    fn returned(&self, done: Completed, is_parked: bool) -> Result<Completed> {
        if is_parked {
            if let Err(error) = self.client.inner.recipient.unpark(&self.id) {
                // It is returned by the next call.
                let slot = Slot::Parked(Box::new(done));
                self.link.state.lock().calls.insert(self.id.clone(), slot);
                return Err(error);
            }
        } else if let Some(mut position) = self.link.position.try_lock() {
            self.link.commit(&mut position)?;
        }
        Ok(done)
    }

    /// Returns the outcome, if it was parked while this handle was created.
    fn take_parked(&self) -> Result<Option<Completed>> {
        let not_found = || Error::NotFound { what: format!("call {}", self.id) };
        let recipient = &self.client.inner.recipient;
        let mut guard = recipient.parked.lock();
        let parked = guard.as_mut().ok_or_else(not_found)?;
        let found = parked.find(&recipient.log, &self.id)?.ok_or_else(not_found)?;
        parked.taken(&self.id)?;
        drop(guard);
        self.link.state.lock().calls.remove(&self.id);
        Ok(Some(recipient.found(found)))
    }

    /// Reads the replies for this request's outcome: inside a callback nothing can be delivered.
    fn look_for_it(
        &self,
        pending: Pending,
        until: Option<Instant>,
        stop: &Stop,
    ) -> Result<Option<Completed>> {
        let (recipient, link) = (&self.client.inner.recipient, &self.link);
        let from = pending.reply_floor.min(link.replies.high_watermark()?);
        let from = from.max(link.replies.first_offset()?);
        let mut reader = link.replies.reader(Start::Offset(from))?;
        reader.pass_over_lost();
        loop {
            let left = left_until(until);
            let record = match reader.wait_timeout(left.min(LOOK)) {
                Err(Error::Corrupt { .. }) => {
                    // The delivery counts the damage.
                    reader.skip_damage()?;
                    continue;
                }
                other => other?,
            };
            let Some(record) = record else {
                if left.is_zero() || stop.is_stopped() {
                    return Ok(None);
                }
                link.expire()?;
                continue;
            };
            let Some(Ok(envelope)) = Envelope::of(&record) else { continue };
            if envelope.id != self.id {
                continue;
            }
            if let Some(outcome) = Outcome::of(&envelope, &record.to_owned()) {
                link.state.lock().take_call(&self.id);
                let pending = Some(pending);
                return Ok(Some(recipient.completed(&link.requests, envelope, outcome, pending)));
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let taken = self.link.state.lock().take_slot(&self.id);
        self.link.state.lock().calls.remove(&self.id);
        if taken.is_some_and(|(_, is_parked)| is_parked) {
            // If this fails, the outcome stays parked for the next start.
            drop(self.client.inner.recipient.unpark(&self.id));
        }
    }
}
