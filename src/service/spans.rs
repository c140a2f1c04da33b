//! Spans and events for the feature `tracing`, with the field names of OpenTelemetry's conventions
//! for messaging. Without the feature everything here is empty.
//!
//! The names of spans are constants; `otel.name` is the name with the destination, as the conventions
//! require. `traceparent` is the value that the request carries: an exporter that needs one trace across
//! processes creates a link from it.
#![cfg_attr(not(feature = "tracing"), allow(unused_variables))]

use std::ops::Range;
use std::time::Duration;

use super::envelope::Envelope;

/// A span that is exited when this is dropped.
pub(super) struct Entered {
    #[cfg(feature = "tracing")]
    _span: tracing::span::EnteredSpan,
}

macro_rules! entered {
    ($name:literal, $type:literal, $kind:literal, $service:expr, $envelope:expr, $($more:tt)*) => {
        Entered {
            #[cfg(feature = "tracing")]
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

macro_rules! event {
    ($level:ident, $what:literal, $($fields:tt)*) => {
        #[cfg(feature = "tracing")]
        tracing::event!(
            target: "deaddrop",
            tracing::Level::$level,
            { messaging.system = "deaddrop", $($fields)* },
            $what
        )
    };
}

pub(super) fn send(service: &str, envelope: &Envelope, body_len: usize) -> Entered {
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
pub(super) fn process(
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

pub(super) fn deliver(service: &str, envelope: &Envelope) -> Entered {
    entered!(
        "deliver",
        "process",
        "consumer",
        super::replies_of(service),
        envelope,
        messaging.consumer.group.name = envelope.id.client(),
        deaddrop.outcome = %envelope.kind,
        deaddrop.callback = envelope.callback.as_deref().unwrap_or_default(),
        deaddrop.attempt = envelope.attempt.unwrap_or(0),
    )
}

pub(super) fn callback_failed(
    envelope: &Envelope,
    attempt: u32,
    error: &str,
    wait: Option<Duration>,
) {
    event!(WARN, "a callback failed",
        messaging.message.id = %envelope.id,
        messaging.message.conversation_id = %envelope.conversation(),
        deaddrop.callback = envelope.callback.as_deref().unwrap_or_default(),
        deaddrop.attempt = attempt,
        deaddrop.next_wait_ms = wait.map(|wait| wait.as_millis() as u64),
        error.message = error,
    );
}

pub(super) fn abandoned(topic: &str, first: u64, consumers: &[String]) {
    event!(
        ERROR,
        "records were dropped that only abandoned clients held",
        messaging.destination.name = topic,
        deaddrop.first_offset = first,
        deaddrop.consumers = consumers.join(" "),
    );
}

pub(super) fn damaged(topic: &str, offsets: &Range<u64>) {
    event!(
        WARN,
        "records that are damaged or gone were skipped",
        messaging.destination.name = topic,
        deaddrop.first_offset = offsets.start,
        deaddrop.end_offset = offsets.end,
    );
}

macro_rules! about_a_request {
    ($name:ident, $what:literal) => {
        pub(super) fn $name(service: &str, envelope: &Envelope) {
            event!(WARN, $what,
                messaging.destination.name = service,
                messaging.message.id = %envelope.id,
                messaging.message.conversation_id = %envelope.conversation(),
                deaddrop.outcome = %envelope.kind,
            );
        }
    };
}

about_a_request!(late, "a record came after the outcome of its request");
about_a_request!(parked, "no callback took an outcome: it is parked");
about_a_request!(expired, "the deadline of a request passed: its outcome is appended");
