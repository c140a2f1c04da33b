//! A request that is being put together, and its sending.

use std::sync::Arc;
use std::time::Duration;

use super::call::Call;
use super::client::Client;
use super::envelope::{Envelope, Kind};
use super::link::{boot_time_of, Link, Pending};
use super::request_id::RequestId;
use crate::error::{Error, Result};
use crate::record::Record;
use crate::sys::clock;

/// A request that is being put together.
#[must_use = "a request is sent by `send` or `call`"]
pub struct RequestBuilder<'a> {
    pub(super) client: &'a Client,
    pub(super) link: Arc<Link>,
    pub(super) record: Record,
    pub(super) context: Vec<u8>,
    pub(super) deadline: Option<Duration>,
}

impl std::fmt::Debug for RequestBuilder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestBuilder").field("record", &self.record).finish_non_exhaustive()
    }
}

impl RequestBuilder<'_> {
    /// Bytes that come back with the outcome, also after a restart.
    pub fn context(mut self, context: impl Into<Vec<u8>>) -> Self {
        self.context = context.into();
        self
    }

    /// A value that comes back with the outcome, as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`] if it cannot be written as JSON.
    #[cfg(feature = "json")]
    pub fn context_json<T: serde::Serialize + ?Sized>(self, context: &T) -> Result<Self> {
        Ok(self.context(crate::record::to_json(context)?))
    }

    /// After so long without an outcome, the outcome is `Expired`.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Gives the request a key: requests with one key are handled in their order.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.record = self.record.key(key);
        self
    }

    /// Sends it: one append. Its outcome goes to the callback of this name. On return the request is
    /// as durable as the request topic promises.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if no callback has this name, and as
    /// [`Topic::append`](crate::Topic::append): except after [`Error::Unknown`], it was not sent.
    pub fn send(self, callback: &str) -> Result<RequestId> {
        if !self.client.inner.callbacks.named.contains_key(callback) {
            return Err(Error::Invalid {
                what: format!("no callback {callback:?} is registered: the request was not sent"),
            });
        }
        let id = self.client.next_id();
        self.append(callback, &id)?;
        Ok(id)
    }

    /// Sends it, and returns a handle that waits for the outcome in this process. After a restart,
    /// [`Client::attach`] makes the handle anew.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn call(self) -> Result<Call> {
        let id = self.client.next_id();
        let (client, link) = (self.client.clone(), Arc::clone(&self.link));
        link.state.lock().calls.insert(id.clone(), None);
        // Dropped on error, the handle forgets the call.
        let call = Call { client, link, id: id.clone() };
        self.append("", &id)?;
        Ok(call)
    }

    fn append(self, callback: &str, id: &RequestId) -> Result<()> {
        let now = clock::wall();
        let deadline = self.deadline.map(|after| now.saturating_add(clock::nanos(after)));
        let mut envelope = Envelope::new(Kind::Request, id.clone());
        envelope.callback = callback.to_owned();
        envelope.context = self.context.clone();
        envelope.deadline = deadline;
        let pending = Pending {
            offset: self.link.requests.end_offset()?,
            reply_floor: self.link.replies.end_offset()?,
            callback: callback.to_owned(),
            context: self.context,
            deadline,
            due: deadline.map(boot_time_of),
            sent_at: now,
            is_taken: false,
        };
        // Before the append: the reply may come before it returns.
        self.link.state.lock().insert(id.clone(), pending);
        match self.link.requests.append(&envelope.seal(self.record)) {
            Ok(offset) => {
                self.link.state.lock().sent(id, offset);
                Ok(())
            }
            Err(Error::Unknown { offset, source }) => {
                self.link.state.lock().sent(id, offset);
                Err(Error::Unknown { offset, source })
            }
            Err(other) => {
                self.link.state.lock().remove(id);
                Err(other)
            }
        }
    }
}
