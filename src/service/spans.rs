//! Spans and events for the feature `tracing`, with the field names of OpenTelemetry's conventions
//! for messaging. Without the feature everything here is empty.
//!
//! The names of spans are constants; `otel.name` is the name with the destination, as the conventions
//! require. `traceparent` is the value that the request carries: an exporter that needs one trace across
//! processes creates a link from it.

use super::envelope::Envelope;

/// A span that is exited when this is dropped.
pub(super) struct Entered {
    #[cfg(feature = "tracing")]
    _span: tracing::span::EnteredSpan,
}

#[cfg(feature = "tracing")]
mod on {
    use super::{Entered, Envelope};

    macro_rules! entered {
        ($name:literal, $type:literal, $kind:literal, $service:expr, $envelope:expr, $($more:tt)*) => {
            Entered {
                _span: tracing::info_span!(
                    target: "deaddrop",
                    $name,
                    otel.name = %format_args!("{} {}", $name, $service),
                    otel.kind = $kind,
                    messaging.system = "deaddrop",
                    messaging.operation.name = $name,
                    messaging.operation.type = $type,
                    messaging.destination.name = $service,
                    messaging.message.id = %$envelope.id,
                    messaging.message.conversation_id = %$envelope.conversation(),
                    traceparent = $envelope.traceparent(),
                    $($more)*
                )
                .entered(),
            }
        };
    }

    pub(in super::super) fn send(service: &str, envelope: &Envelope, body_len: usize) -> Entered {
        entered!(
            "send",
            "send",
            "producer",
            service,
            envelope,
            messaging.client.id = envelope.id.client(),
            messaging.message.body.size = body_len,
        )
    }

    /// Entered by a server around each call of its handler.
    pub(in super::super) fn process(
        service: &str,
        envelope: &Envelope,
        attempt: u32,
        body_len: usize,
    ) -> Entered {
        entered!(
            "process",
            "process",
            "consumer",
            service,
            envelope,
            messaging.consumer.group.name = "server",
            messaging.message.body.size = body_len,
            deaddrop.attempt = attempt,
        )
    }

    pub(in super::super) fn deliver(service: &str, envelope: &Envelope) -> Entered {
        entered!(
            "deliver",
            "process",
            "consumer",
            super::super::replies_of(service),
            envelope,
            messaging.consumer.group.name = envelope.id.client(),
            deaddrop.outcome = %envelope.kind,
            deaddrop.callback = envelope.callback.as_deref().unwrap_or_default(),
            deaddrop.attempt = envelope.attempt.unwrap_or(0),
        )
    }

    pub(in super::super) fn callback_failed(
        envelope: &Envelope,
        attempt: u32,
        error: &str,
        wait: Option<std::time::Duration>,
    ) {
        tracing::event!(
            target: "deaddrop",
            tracing::Level::WARN,
            {
                messaging.system = "deaddrop",
                messaging.message.id = %envelope.id,
                messaging.message.conversation_id = %envelope.conversation(),
                deaddrop.callback = envelope.callback.as_deref().unwrap_or_default(),
                deaddrop.attempt = attempt,
                deaddrop.next_wait_ms = wait.map(|wait| wait.as_millis() as u64),
                error.message = error,
            },
            "a callback failed"
        );
    }

    macro_rules! event {
        ($name:ident, $what:literal) => {
            pub(in super::super) fn $name(service: &str, envelope: &Envelope) {
                tracing::event!(
                    target: "deaddrop",
                    tracing::Level::WARN,
                    {
                        messaging.system = "deaddrop",
                        messaging.destination.name = service,
                        messaging.message.id = %envelope.id,
                        messaging.message.conversation_id = %envelope.conversation(),
                        deaddrop.outcome = %envelope.kind,
                    },
                    $what
                );
            }
        };
    }

    pub(in super::super) fn abandoned(topic: &str, first: u64, consumers: &[String]) {
        tracing::event!(
            target: "deaddrop",
            tracing::Level::ERROR,
            {
                messaging.system = "deaddrop",
                messaging.destination.name = topic,
                deaddrop.first_offset = first,
                deaddrop.consumers = consumers.join(" "),
            },
            "records were dropped that only abandoned clients held"
        );
    }

    pub(in super::super) fn damaged(topic: &str, offsets: &std::ops::Range<u64>) {
        tracing::event!(
            target: "deaddrop",
            tracing::Level::WARN,
            {
                messaging.system = "deaddrop",
                messaging.destination.name = topic,
                deaddrop.first_offset = offsets.start,
                deaddrop.end_offset = offsets.end,
            },
            "records that are damaged or gone were skipped"
        );
    }

    event!(late, "a record came after the outcome of its request");
    event!(parked, "no callback took an outcome: it is parked");
    event!(expired, "the deadline of a request passed: its outcome is appended");
}

#[cfg(not(feature = "tracing"))]
mod on {
    use super::{Entered, Envelope};

    pub(in super::super) fn send(_: &str, _: &Envelope, _: usize) -> Entered {
        Entered {}
    }
    pub(in super::super) fn process(_: &str, _: &Envelope, _: u32, _: usize) -> Entered {
        Entered {}
    }

    pub(in super::super) fn deliver(_: &str, _: &Envelope) -> Entered {
        Entered {}
    }

    pub(in super::super) fn abandoned(_: &str, _: u64, _: &[String]) {}

    pub(in super::super) fn damaged(_: &str, _: &std::ops::Range<u64>) {}

    pub(in super::super) fn callback_failed(
        _: &Envelope,
        _: u32,
        _: &str,
        _: Option<std::time::Duration>,
    ) {
    }

    pub(in super::super) fn late(_: &str, _: &Envelope) {}

    pub(in super::super) fn parked(_: &str, _: &Envelope) {}

    pub(in super::super) fn expired(_: &str, _: &Envelope) {}
}
pub(super) use on::{
    abandoned, callback_failed, damaged, deliver, expired, late, parked, process, send,
};
