//! The data that services keep in a record, in one reserved header.
//!
//! A version byte, then fields: u8 tag, u32 length, bytes. Fields with unknown tags are skipped, so
//! later releases can add fields; an unknown version byte is an error.

use std::fmt;

use byteorder::{ByteOrder, LittleEndian as LE};

use super::request_id::RequestId;
use super::traceparent::check_traceparent;
use crate::error::{Error, Result};
use crate::format::names;
use crate::record::{OwnedRecord, Record, RecordRef};

/// The name of the header.
pub(crate) const HEADER: &str = "deaddrop.service";
const VERSION: u8 = 1;

const KIND: u8 = 1;
const CLIENT: u8 = 2;
const INCARNATION: u8 = 3;
const SEQUENCE: u8 = 4;
const CALLBACK: u8 = 5;
const CONTEXT: u8 = 6;
const DEADLINE: u8 = 7;
const REPLY_TOPIC: u8 = 8;
const ATTEMPT: u8 = 9;
const ERROR: u8 = 10;
const REQUEST_OFFSET: u8 = 11;
const CONVERSATION: u8 = 12;
const CAUSE: u8 = 13;
const TRACEPARENT: u8 = 14;
const BEGUN_AT: u8 = 15;
const HANDLER_NANOS: u8 = 16;
const REDRIVE_OF: u8 = 17;
const REPLY_FLOOR: u8 = 18;

/// The role of a record in a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A request.
    Request,
    /// A reply.
    Reply,
    /// The handler refused the request with a terminal error.
    Failed,
    /// The request failed too often and is no longer retried; it is in the dead-letter topic.
    DeadLettered,
    /// The deadline passed first.
    Expired,
    /// The client cancelled the request first.
    Cancelled,
    /// In a client's parked topic: the parked outcome was delivered.
    Unparked,
    /// In a reply topic: a dead-lettered request is sent again, as the request with this id. Its client
    /// waits for the outcome from here on.
    Redriven,
}

const KINDS: [(Kind, u64, &str); 8] = [
    (Kind::Request, 1, "request"),
    (Kind::Reply, 2, "reply"),
    (Kind::Failed, 3, "failed"),
    (Kind::DeadLettered, 4, "dead-lettered"),
    (Kind::Expired, 5, "expired"),
    (Kind::Cancelled, 6, "cancelled"),
    (Kind::Unparked, 7, "unparked"),
    (Kind::Redriven, 8, "redriven"),
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = KINDS.iter().find(|(kind, ..)| kind == self).map_or("?", |(.., name)| name);
        f.write_str(name)
    }
}

/// The envelope of a record: untrusted bytes until a topic's own state confirms them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Envelope {
    /// The kind of the record.
    pub kind: Kind,
    /// The id of the request that the record is, or is about.
    pub id: RequestId,
    /// The callback that waits for the outcome; `None` for a call handle.
    pub callback: Option<String>,
    /// The bytes that the client sent as the context.
    pub context: Vec<u8>,
    /// The wall-clock time (nanoseconds since the Unix epoch) after which the reply is no longer needed.
    pub deadline: Option<u64>,
    /// The topic that the outcome goes to; `None`: the service's reply topic.
    pub reply_topic: Option<String>,
    /// The attempt that led to this outcome, if a server handled the request.
    pub attempt: Option<u32>,
    /// The reason of a failure.
    pub error: Option<String>,
    /// The offset of the request when it was answered: a hint.
    pub request_offset: Option<u64>,
    /// The request that the conversation began with; `None`: this one.
    pub conversation: Option<RequestId>,
    /// The request whose handling, or whose outcome, led to this one.
    pub cause: Option<RequestId>,
    /// The W3C trace context of the sender, in the form of the `traceparent` header.
    pub traceparent: Option<String>,
    /// In an outcome: the wall-clock time at which the handler was called.
    pub begun_at: Option<u64>,
    /// In an outcome: how long the handler ran.
    pub handler_nanos: Option<u64>,
    /// The dead-lettered request that this one sends again.
    pub redrive_of: Option<RequestId>,
    /// In a request: an end of the reply topic before the request was sent. Its outcome is at this offset or
    /// after it.
    pub reply_floor: Option<u64>,
}

impl Envelope {
    pub(crate) fn new(kind: Kind, id: RequestId) -> Envelope {
        Envelope {
            kind,
            id,
            callback: None,
            context: Vec::new(),
            deadline: None,
            reply_topic: None,
            attempt: None,
            error: None,
            request_offset: None,
            conversation: None,
            cause: None,
            traceparent: None,
            begun_at: None,
            handler_nanos: None,
            redrive_of: None,
            reply_floor: None,
        }
    }

    /// Returns the envelope of an outcome of the request `self`. It repeats callback and context, so the
    /// outcome is complete even if the request was trimmed.
    pub(crate) fn outcome(&self, kind: Kind, request_offset: u64) -> Envelope {
        Envelope {
            callback: self.callback.clone(),
            context: self.context.clone(),
            request_offset: Some(request_offset),
            conversation: self.conversation.clone(),
            cause: self.cause.clone(),
            traceparent: self.traceparent.clone(),
            redrive_of: self.redrive_of.clone(),
            ..Envelope::new(kind, self.id.clone())
        }
    }

    /// Returns the id of the request that the conversation began with.
    pub fn conversation(&self) -> &RequestId {
        self.conversation.as_ref().unwrap_or(&self.id)
    }

    /// Returns the trace context if it is well-formed: the field holds untrusted bytes.
    pub fn traceparent(&self) -> Option<&str> {
        self.traceparent.as_deref().filter(|text| check_traceparent(text).is_ok())
    }

    /// Decodes the envelope of a record, if it has one.
    pub fn of(record: &RecordRef<'_>) -> Option<Result<Envelope>> {
        record.header(HEADER).map(Envelope::decode)
    }

    /// Returns whether `record` names the request of this envelope. Offsets are hints: after a power loss another
    /// record can have one.
    pub(super) fn is_about(&self, record: &OwnedRecord) -> bool {
        matches!(Envelope::of(&record.as_ref()), Some(Ok(found)) if found.id == self.id)
    }

    /// Returns `record` with this envelope.
    pub(crate) fn seal(&self, record: Record) -> Record {
        record.reserved_header(HEADER, &self.encode())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        let mut field = |tag: u8, value: &[u8]| {
            let mut len = [0; 4];
            LE::write_u32(&mut len, value.len() as u32);
            bytes.push(tag);
            bytes.extend_from_slice(&len);
            bytes.extend_from_slice(value);
        };
        let kind =
            KINDS.iter().find(|(kind, ..)| *kind == self.kind).map_or(0, |(_, code, _)| *code);
        field(KIND, &kind.to_le_bytes());
        field(CLIENT, self.id.client().as_bytes());
        field(INCARNATION, &self.id.incarnation().to_le_bytes());
        field(SEQUENCE, &self.id.sequence().to_le_bytes());
        if let Some(callback) = &self.callback {
            field(CALLBACK, callback.as_bytes());
        }
        if !self.context.is_empty() {
            field(CONTEXT, &self.context);
        }
        if let Some(deadline) = self.deadline {
            field(DEADLINE, &deadline.to_le_bytes());
        }
        if let Some(topic) = &self.reply_topic {
            field(REPLY_TOPIC, topic.as_bytes());
        }
        if let Some(attempt) = self.attempt {
            field(ATTEMPT, &u64::from(attempt).to_le_bytes());
        }
        if let Some(error) = &self.error {
            field(ERROR, error.as_bytes());
        }
        if let Some(offset) = self.request_offset {
            field(REQUEST_OFFSET, &offset.to_le_bytes());
        }
        let ids = [
            (CONVERSATION, &self.conversation),
            (CAUSE, &self.cause),
            (REDRIVE_OF, &self.redrive_of),
        ];
        for (tag, id) in ids {
            if let Some(id) = id {
                field(tag, id.to_string().as_bytes());
            }
        }
        if let Some(traceparent) = &self.traceparent {
            field(TRACEPARENT, traceparent.as_bytes());
        }
        let numbers = [
            (BEGUN_AT, self.begun_at),
            (HANDLER_NANOS, self.handler_nanos),
            (REPLY_FLOOR, self.reply_floor),
        ];
        for (tag, number) in numbers {
            if let Some(number) = number {
                field(tag, &number.to_le_bytes());
            }
        }
        bytes
    }

    /// Decodes an envelope from untrusted bytes: the value of the header `deaddrop.service`.
    ///
    /// # Errors
    ///
    /// [`Error::Decode`] if the bytes are not an envelope.
    pub fn decode(bytes: &[u8]) -> Result<Envelope> {
        let bad = |what: &str| Error::Decode { what: format!("a service envelope: {what}") };
        let (&version, mut rest) = bytes.split_first().ok_or_else(|| bad("empty"))?;
        if version != VERSION {
            return Err(bad(&format!("version {version}, this library knows {VERSION}")));
        }
        let mut kind = None;
        let (mut client, mut incarnation, mut sequence) = (None, None, None);
        let id = RequestId::new("-", 0, 0);
        let mut envelope = Envelope::new(Kind::Request, id);
        while !rest.is_empty() {
            let len = rest.get(1..5).map(|len| LE::read_u32(len) as usize);
            let value = len.and_then(|len| rest.get(5..5usize.checked_add(len)?));
            let value = value.ok_or_else(|| bad("a field is cut off"))?;
            let number = || value.try_into().map(u64::from_le_bytes).map_err(|_| bad("a number"));
            let text = || String::from_utf8(value.to_owned()).map_err(|_| bad("a text"));
            // An empty text, and an attempt 0, are those of an absent field.
            let some_text = || text().map(|text| Some(text).filter(|text| !text.is_empty()));
            let id_of = |text: String| text.parse().map_err(|_| bad("an id"));
            match rest[0] {
                KIND => {
                    let code = number()?;
                    let found = KINDS.iter().find(|(_, known, _)| *known == code);
                    kind = Some(found.ok_or_else(|| bad("its kind is unknown"))?.0);
                }
                CLIENT => client = Some(text()?),
                INCARNATION => incarnation = Some(number()?),
                SEQUENCE => sequence = Some(number()?),
                CALLBACK => envelope.callback = some_text()?,
                CONTEXT => envelope.context = value.to_owned(),
                DEADLINE => envelope.deadline = Some(number()?),
                REPLY_TOPIC => envelope.reply_topic = Some(text()?),
                ATTEMPT => {
                    let attempt = u32::try_from(number()?).unwrap_or(u32::MAX);
                    envelope.attempt = Some(attempt).filter(|attempt| *attempt != 0);
                }
                ERROR => envelope.error = some_text()?,
                REQUEST_OFFSET => envelope.request_offset = Some(number()?),
                CONVERSATION => envelope.conversation = Some(id_of(text()?)?),
                CAUSE => envelope.cause = Some(id_of(text()?)?),
                TRACEPARENT => envelope.traceparent = some_text()?,
                BEGUN_AT => envelope.begun_at = Some(number()?),
                HANDLER_NANOS => envelope.handler_nanos = Some(number()?),
                REDRIVE_OF => envelope.redrive_of = Some(id_of(text()?)?),
                REPLY_FLOOR => envelope.reply_floor = Some(number()?),
                _ => {}
            }
            rest = &rest[5 + value.len()..];
        }
        let missing = || bad("a field of the id is missing");
        let client = client.ok_or_else(missing)?;
        names::check(&client).map_err(|why| bad(&format!("the client's name: {why}")))?;
        envelope.kind = kind.ok_or_else(|| bad("its kind is missing"))?;
        envelope.id = RequestId::new(
            &client,
            incarnation.ok_or_else(missing)?,
            sequence.ok_or_else(missing)?,
        );
        Ok(envelope)
    }
}

/// What a handler and a callback read from the envelope of the request.
macro_rules! envelope_getters {
    ($of:ty) => {
        impl $of {
            /// Returns the id of the request that the conversation began with: this one, unless it was
            /// [`caused_by`](super::RequestBuilder::caused_by) another.
            pub fn conversation(&self) -> &RequestId {
                self.envelope.conversation()
            }

            /// Returns the id of the request that caused this one.
            pub fn cause(&self) -> Option<&RequestId> {
                self.envelope.cause.as_ref()
            }

            /// Returns the id of the dead-lettered request that this one repeats, if it is a redrive.
            pub fn redrive_of(&self) -> Option<&RequestId> {
                self.envelope.redrive_of.as_ref()
            }

            /// Returns the W3C trace context that the request was sent with, if it is well-formed.
            pub fn traceparent(&self) -> Option<&str> {
                self.envelope.traceparent()
            }
        }
    };
}
pub(super) use envelope_getters;

impl fmt::Display for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.id)?;
        if let Some(callback) = &self.callback {
            write!(f, " callback={callback}")?;
        }
        if !self.context.is_empty() {
            write!(f, " context={}B", self.context.len())?;
        }
        if let Some(topic) = &self.reply_topic {
            write!(f, " reply-topic={topic}")?;
        }
        if let Some(attempt) = self.attempt {
            write!(f, " attempt={attempt}")?;
        }
        if let Some(offset) = self.request_offset {
            write!(f, " request-offset={offset}")?;
        }
        let ids = [
            ("conversation", &self.conversation),
            ("cause", &self.cause),
            ("redrive-of", &self.redrive_of),
        ];
        for (name, id) in ids {
            if let Some(id) = id {
                write!(f, " {name}={id}")?;
            }
        }
        if let Some(error) = &self.error {
            write!(f, " error={error:?}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_comes_back_and_no_cut_of_it_is_taken_for_one() {
        let mut envelope = Envelope::new(Kind::Failed, RequestId::new("a-b", 1 << 63, 3));
        envelope.callback = Some("done".into());
        envelope.context = vec![0, 255];
        envelope.deadline = Some(5);
        envelope.reply_topic = Some("x.replies".into());
        envelope.attempt = Some(2);
        envelope.error = Some("no".into());
        envelope.request_offset = Some(9);
        envelope.conversation = Some(RequestId::new("b", 1, 1));
        envelope.cause = Some(RequestId::new("c", 2, 2));
        envelope.traceparent =
            Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
        envelope.begun_at = Some(11);
        envelope.handler_nanos = Some(12);
        envelope.redrive_of = Some(RequestId::new("d", 3, 3));
        envelope.reply_floor = Some(13);
        let bytes = envelope.encode();
        assert_eq!(Envelope::decode(&bytes).unwrap(), envelope);
        for len in 0..bytes.len() {
            if let Ok(shorter) = Envelope::decode(&bytes[..len]) {
                assert_eq!(shorter.id, envelope.id, "the id is whole or it is an error");
            }
        }
        let mut later = bytes.clone();
        later.extend([200, 1, 0, 0, 0, 7]);
        assert_eq!(Envelope::decode(&later).unwrap(), envelope, "unknown fields are passed over");
        later[0] = 2;
        assert!(Envelope::decode(&later).is_err(), "an unknown version is an error");
    }
}
