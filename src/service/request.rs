//! Builds a request, and sends it.

use std::sync::Arc;
use std::time::Duration;

use super::call::Call;
use super::cause::Cause;
use super::client::Client;
use super::envelope::{Envelope, Kind};
use super::link::{boot_time_of, Link};
use super::pending::{Pending, Slot};
use super::request_id::RequestId;
use super::spans;
use super::traceparent::check_traceparent;
use crate::error::{Error, Result};
use crate::group::count;
use crate::record::Record;
use crate::sys::clock;

/// A request that is not sent yet.
#[must_use = "a request is sent by `send` or `call`"]
pub struct RequestBuilder<'a> {
    pub(super) client: &'a Client,
    pub(super) link: Arc<Link>,
    pub(super) record: Record,
    /// All but the callback and the deadline.
    pub(super) envelope: Envelope,
    pub(super) deadline: Option<Duration>,
}

impl std::fmt::Debug for RequestBuilder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestBuilder").field("record", &self.record).finish_non_exhaustive()
    }
}

impl Client {
    /// Starts building a request to a service. The service need not be running, nor ever have run.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], and as [`Log::topic`](crate::Log::topic).
    #[doc(alias("rpc", "send", "call"))]
    pub fn request(&self, service: &str, record: &Record) -> Result<RequestBuilder<'_>> {
        Error::check_name(service)?;
        let link = self.inner.link(service)?;
        Ok(RequestBuilder {
            client: self,
            link,
            record: record.clone(),
            envelope: Envelope::new(Kind::Request, self.inner.recipient.next_id()),
            deadline: None,
        })
    }
}

impl RequestBuilder<'_> {
    /// Returns the id that the request is sent under. Copy it before the send to know which request
    /// [`Error::Unknown`] refers to.
    pub fn id(&self) -> &RequestId {
        &self.envelope.id
    }

    /// Sets bytes that come back with the outcome, even after a restart.
    pub fn with_context(mut self, context: impl Into<Vec<u8>>) -> Self {
        self.envelope.context = context.into();
        self
    }

    /// Adds a value that comes back with the outcome, as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`] if it cannot be written as JSON.
    #[cfg(feature = "json")]
    pub fn with_context_json<T: serde::Serialize + ?Sized>(self, context: &T) -> Result<Self> {
        Ok(self.with_context(crate::record::to_json(context)?))
    }

    /// Expires the request if it has no outcome after this time. Client and server may both expire it; the
    /// first record wins. The client uses `CLOCK_BOOTTIME`, a clock that cannot be set, while it lives, and
    /// after a restart the wall clock for the requests that it had sent before. A server checks its wall clock
    /// before it calls the handler. If that clock is fast, the server expires requests too early, each once,
    /// and the log says so; if it is slow, the server handles requests whose outcome is no longer needed.
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Gives the request a key: requests with the same key are handled in order.
    pub fn with_key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.record = self.record.with_key(key);
        self
    }

    /// Adds a header. Names that start with `deaddrop.` are reserved; sending a request with one fails.
    pub fn with_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.record = self.record.with_header(name, value);
        self
    }

    /// Names the cause of this request: inside a handler the `request`, inside a callback `done`. The request
    /// then belongs to the same conversation, and carries the same trace context.
    pub fn caused_by(mut self, cause: impl Into<Cause>) -> Self {
        cause.into().mark(&mut self.envelope);
        self
    }

    /// Carries a W3C trace context to the handler and back to the callback, in the form of the HTTP header
    /// `traceparent`. If called after [`caused_by`](Self::caused_by), it replaces the trace context of the cause.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if it is not well-formed.
    pub fn with_traceparent(mut self, traceparent: &str) -> Result<Self> {
        check_traceparent(traceparent)
            .map_err(|why| Error::Invalid { what: format!("the traceparent: {why}") })?;
        self.envelope.traceparent = Some(traceparent.to_owned());
        Ok(self)
    }

    /// Sends the request with one append. Its outcome goes to the callback of this name. On return the request
    /// is as durable as the request topic promises.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if no callback has this name, and as
    /// [`Topic::append`](crate::Topic::append). After [`Error::Unknown`] the request is in the log and
    /// outstanding under its [`id`](Self::id): its outcome goes to the callback, unless
    /// [`Client::cancel`] cancels it. Sending it again makes a second request. After every other error
    /// it was not sent.
    ///
    /// ```
    /// # fn main() -> deaddrop::Result<()> {
    /// # let dir = deaddrop::doc_dir();
    /// # let log = deaddrop::Log::open_or_create(&dir)?;
    /// # let client = log.client("order-service").on("checked", |_| Ok(())).open()?;
    /// use deaddrop::{Error, Record};
    /// let request = client.request("inventory", &Record::new("item 7"))?;
    /// let id = request.id().clone();
    /// match request.send("checked") {
    ///     // Do not send it again: if it survives, it is answered.
    ///     Ok(_) | Err(Error::Unknown { .. }) => {}
    ///     Err(error) => return Err(error),
    /// }
    /// assert_eq!(client.outstanding()?[0].id, id);
    /// # Ok(()) }
    /// ```
    pub fn send(self, callback: &str) -> Result<RequestId> {
        if !self.client.inner.recipient.callbacks.has(callback) {
            return Err(Error::Invalid {
                what: format!("no callback {callback:?} is registered: the request was not sent"),
            });
        }
        let id = self.id().clone();
        self.append(Some(callback))?;
        Ok(id)
    }

    /// Sends the request, and returns a handle that waits for the outcome in this process. After a restart,
    /// [`Client::attach`] returns a new handle.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send). After [`Error::Unknown`], [`Client::attach`] returns the handle.
    pub fn call(self) -> Result<Call> {
        let (client, link, id) = (self.client.clone(), Arc::clone(&self.link), self.id().clone());
        link.state.lock().calls.insert(id.clone(), Slot::Waiting);
        match self.append(None) {
            Ok(()) => Ok(Call { client, link, id }),
            // The outcome, which may have arrived, waits for another handle.
            Err(error @ Error::Unknown { .. }) => Err(error),
            Err(error) => {
                link.state.lock().calls.remove(&id);
                Err(error)
            }
        }
    }

    fn append(self, callback: Option<&str>) -> Result<()> {
        let now = clock::wall();
        let mut envelope = self.envelope;
        let id = envelope.id.clone();
        envelope.callback = callback.map(str::to_owned);
        envelope.deadline = self.deadline.map(|after| now.saturating_add(clock::nanos(after)));
        let _span = spans::send(&self.link.service, &envelope, self.record.payload().len());
        let reply_floor = self.link.replies.end_offset()?;
        envelope.reply_floor = Some(reply_floor);
        let sealed = envelope.seal(self.record);
        let pending = Pending {
            offset: self.link.requests.end_offset()?,
            reply_floor,
            due: envelope.deadline.map(boot_time_of),
            envelope,
            sent_at: now,
            is_taken: false,
            is_announced: false,
        };
        // Before the append, because the reply may arrive before the append returns.
        self.link.state.lock().insert(pending);
        let appended = self.link.requests.append(&sealed);
        let mut state = self.link.state.lock();
        match &appended {
            Ok(offset) | Err(Error::Unknown { offset, .. }) => {
                count(&self.client.inner.recipient.callbacks.counters.sent, 1);
                state.sent(&id, *offset);
            }
            Err(_) => drop(state.remove(&id)),
        }
        appended.map(drop)
    }
}
