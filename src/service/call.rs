//! The handle of a request whose outcome is waited for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::callbacks::is_inside;
use super::client::Client;
use super::delivery::{completed, expire};
use super::envelope::Envelope;
use super::link::Link;
use super::outcome::{Completed, Outcome};
use super::pending::Pending;
use super::request_id::RequestId;
use super::LOOK;
use crate::error::{Error, Result};
use crate::reader::Start;

/// Waits for the outcome of one request in this process. Dropping it does not take the request back.
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

impl Call {
    /// The request's id: keep it to [`attach`](Client::attach) again after a restart.
    pub fn id(&self) -> &RequestId {
        &self.id
    }

    /// The outcome; `None`: not yet, which does not mean that it failed. Delivers other outcomes as
    /// well if no thread of the client does, but not from inside a callback.
    ///
    /// # Errors
    ///
    /// An error of a topic; [`Error::NotFound`] if the outcome was returned before.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<Completed>> {
        let until = Instant::now() + timeout;
        // Also without a moment to wait: what is there is delivered.
        let mut has_looked = false;
        loop {
            let mut state = self.link.state.lock();
            let pending = match state.calls.get(&self.id) {
                None => return Err(self.not_found()),
                Some(Some(_)) => return Ok(state.calls.remove(&self.id).flatten()),
                Some(None) => state.get(&self.id).cloned(),
            };
            let Some(pending) = pending else {
                drop(state);
                return self.take_parked();
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() && has_looked {
                return Ok(None);
            }
            has_looked = true;
            if is_inside() {
                drop(state);
                return self.look_for_it(pending, until);
            }
            match self.link.delivery.try_lock() {
                Some(mut delivery) => {
                    drop(state);
                    delivery.poll(&self.client.inner, &self.link, left.min(LOOK))?;
                }
                None => {
                    self.link.answered.wait_for(&mut state, left.min(LOOK));
                }
            }
        }
    }

    fn not_found(&self) -> Error {
        Error::NotFound { what: format!("call {}", self.id) }
    }

    /// The outcome, if it was parked while this handle was made.
    fn take_parked(&self) -> Result<Option<Completed>> {
        let mut guard = self.client.inner.parked.lock();
        let parked = guard.as_mut().ok_or_else(|| self.not_found())?;
        let done = parked.find(&self.client.inner.log, |parked| parked.id == self.id)?;
        let done = done.ok_or_else(|| self.not_found())?;
        parked.taken(&self.id)?;
        drop(guard);
        self.link.state.lock().calls.remove(&self.id);
        Ok(Some(done))
    }

    /// Inside a callback nothing can be delivered: reads the replies for this one's.
    fn look_for_it(&self, pending: Pending, until: Instant) -> Result<Option<Completed>> {
        let (client, link) = (&self.client.inner, &self.link);
        let from = pending.reply_floor.min(link.replies.high_watermark()?);
        let from = from.max(link.replies.first_offset()?);
        let mut reader = link.replies.reader(Start::Offset(from))?;
        reader.pass_over_lost();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Some(record) = reader.wait_timeout(left.min(LOOK))? else {
                if left.is_zero() {
                    return Ok(None);
                }
                expire(client, link)?;
                continue;
            };
            let Some(Ok(envelope)) = Envelope::of(&record) else { continue };
            if envelope.id != self.id {
                continue;
            }
            if let Some(outcome) = Outcome::of(&envelope, &record.to_owned()) {
                link.state.lock().take_call(&self.id);
                return Ok(Some(completed(client, link, envelope, outcome, Some(pending))));
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.link.state.lock().calls.remove(&self.id);
    }
}
