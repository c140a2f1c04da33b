//! The cause of a request: another request, its conversation, and the sender's trace context.

use super::envelope::Envelope;
use super::handler::Request;
use super::outcome::Completed;
use super::request_id::RequestId;

/// The request that causes another one: `&Request` inside a handler and `&Completed` inside a
/// callback convert into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    id: RequestId,
    conversation: RequestId,
    traceparent: Option<String>,
}

impl Cause {
    fn of(envelope: &Envelope) -> Cause {
        Cause {
            id: envelope.id.clone(),
            conversation: envelope.conversation().clone(),
            traceparent: envelope.traceparent().map(str::to_owned),
        }
    }

    /// Records the cause in the envelope of the request that it caused.
    pub(super) fn mark(self, envelope: &mut Envelope) {
        envelope.cause = Some(self.id);
        envelope.conversation = Some(self.conversation);
        envelope.traceparent = self.traceparent;
    }
}

impl From<&Request<'_>> for Cause {
    fn from(request: &Request<'_>) -> Cause {
        Cause::of(request.envelope)
    }
}

impl From<&Completed> for Cause {
    fn from(done: &Completed) -> Cause {
        Cause::of(&done.envelope)
    }
}
