//! An exchange: a request and everything that the log says about it.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;

use deaddrop::service::{Envelope, Kind, RequestId};
use deaddrop::{Error, Log, RecordRef, Start, Topic};

use crate::failure::{note, Exit, Failure};

/// The services of a log, or the one that the user named.
pub(crate) fn services(log: &Log, only: Option<&str>) -> Result<Vec<String>, Failure> {
    let topics = log.topics()?;
    let services = topics.iter().filter_map(|topic| topic.strip_suffix(".requests"));
    let found: Vec<String> = services
        .filter(|service| only.is_none_or(|only| only == *service))
        .map(str::to_owned)
        .collect();
    match (only, found.is_empty()) {
        (Some(only), true) => Err(Failure::no(format_args!(
            "there is no service {only}: no request or server yet; `deaddrop ls` lists the topics"
        ))),
        _ => Ok(found),
    }
}

/// A topic that may not exist yet.
pub(crate) fn topic_if_there(log: &Log, name: &str) -> Result<Option<Topic>, Failure> {
    match log.open_topic(name) {
        Ok(topic) => Ok(Some(topic)),
        // The name of a reply topic comes from bytes of a request.
        Err(Error::NotFound { .. } | Error::InvalidName { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens one of all topics of a log. Returns `None` if the others are to be shown without it: it was deleted after
/// they were listed, its creation was interrupted, which is reported, or it cannot be opened, which also decides
/// `exit`.
pub(crate) fn one_of_all(log: &Log, name: &str, exit: &mut Exit) -> Option<Topic> {
    match log.open_topic(name) {
        Ok(topic) => return Some(topic),
        Err(Error::NotFound { what }) if what.starts_with("topic") => {}
        Err(error @ Error::NotFound { .. }) => note(format_args!("{name}: {error}")),
        Err(error) => {
            let failure = Failure::from(error);
            *exit = worse(*exit, failure.exit());
            note(format_args!("{name}: {failure}"));
        }
    }
    None
}

/// Calls `each` for the envelopes of a topic, from an offset to its current end. Damage is reported and
/// skipped; the result is then [`Exit::Corruption`].
pub(crate) fn for_each(
    topic: &Topic,
    from: u64,
    mut each: impl FnMut(&RecordRef<'_>, Envelope) -> ControlFlow<()>,
) -> Result<Exit, Failure> {
    let end = topic.high_watermark()?;
    let mut reader = topic.reader(Start::First)?;
    if from > reader.offset() {
        reader.seek(Start::Offset(from.min(end)))?;
    }
    let mut exit = Exit::Ok;
    while reader.offset() < end {
        match reader.next() {
            Ok(Some(record)) => {
                let Some(Ok(envelope)) = Envelope::of(&record) else { continue };
                if each(&record, envelope).is_break() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error @ Error::Corrupt { .. }) => {
                note(&error);
                let skipped = reader.skip_damage()?;
                note(format_args!("skipped offsets {}..{}", skipped.start, skipped.end));
                exit = Exit::Corruption;
            }
            // The reader has moved past them already.
            Err(error @ Error::Lost { .. }) => note(&error),
            // Retention drops records concurrently.
            Err(Error::Trimmed { .. }) => reader.seek(Start::First)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(exit)
}

/// The worse of two: corruption is remembered.
pub(crate) fn worse(one: Exit, other: Exit) -> Exit {
    if one == Exit::Ok {
        other
    } else {
        one
    }
}

/// Whether a record of this kind is the outcome of a request.
pub(crate) fn is_outcome(kind: Kind) -> bool {
    !matches!(kind, Kind::Request | Kind::Unparked | Kind::Redriven)
}

/// The outcome of a request, or a later record that names it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) offset: u64,
    pub(crate) at: u64,
    pub(crate) envelope: Envelope,
}

/// The state of the callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// The client has committed past the outcome.
    Delivered,
    NotYet,
    /// No callback took it.
    Parked,
}

impl Delivery {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Delivery::Delivered => "delivered",
            Delivery::NotYet => "not yet delivered",
            Delivery::Parked => "parked",
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) service: String,
    pub(crate) offset: u64,
    pub(crate) at: u64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload_len: usize,
    pub(crate) request: Envelope,
    pub(crate) outcome: Option<Answer>,
    pub(crate) late: Vec<Answer>,
    /// The offsets of its copies, which have the same id.
    pub(crate) doubled: Vec<u64>,
    pub(crate) delivery: Delivery,
}

impl Exchange {
    /// The time from the request to an answer to it, in nanoseconds.
    pub(crate) fn nanos_until(&self, answer: &Answer) -> u64 {
        whole(self.at, answer.at, answer.envelope.handler_nanos.unwrap_or(0))
    }

    /// The time from the request to the attempt that led to its outcome, in nanoseconds.
    pub(crate) fn queueing_nanos(&self) -> Option<u64> {
        let answer = self.outcome.as_ref()?;
        let begun_at = answer.envelope.begun_at?;
        let handler_nanos = answer.envelope.handler_nanos.unwrap_or(0);
        Some(queueing(self.at, answer.at, begun_at, handler_nanos))
    }
}

/// The time between two records, which includes the handler's time. Records are stamped with a clock that
/// ticks every few milliseconds, a handler is timed with one that does not: the handler's time can be the
/// larger one, and is then used.
fn whole(sent_at: u64, answered_at: u64, handler_nanos: u64) -> u64 {
    answered_at.saturating_sub(sent_at).max(handler_nanos)
}

/// The time before the handler: at most the rest of the whole.
fn queueing(sent_at: u64, answered_at: u64, begun_at: u64, handler_nanos: u64) -> u64 {
    let rest = whole(sent_at, answered_at, handler_nanos).saturating_sub(handler_nanos);
    begun_at.saturating_sub(sent_at).min(rest)
}

/// All exchanges of the selected conversations, in the order in which they were sent.
#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    pub(crate) all: Vec<Exchange>,
    by_id: HashMap<RequestId, usize>,
}

impl Exchanges {
    /// Reads every service's topics once, and keeps the exchanges of `conversations`.
    pub(crate) fn read(
        log: &Log,
        conversations: &BTreeSet<RequestId>,
    ) -> Result<(Exchanges, Exit), Failure> {
        let mut found = Exchanges::default();
        let mut exit = Exit::Ok;
        let mut reply_topics = BTreeSet::new();
        for service in services(log, None)? {
            let requests = topic_if_there(log, &format!("{service}.requests"))?;
            let Some(requests) = requests else { continue };
            let read = for_each(&requests, 0, |record, envelope| {
                if envelope.kind == Kind::Request && conversations.contains(envelope.conversation())
                {
                    let own = envelope.reply_topic.clone();
                    reply_topics.insert(own.unwrap_or_else(|| format!("{service}.replies")));
                    found.add_request(&service, record, envelope);
                }
                ControlFlow::Continue(())
            })?;
            exit = worse(exit, read);
        }
        found.all.sort_by_key(|exchange| exchange.at);
        found.by_id =
            found.all.iter().enumerate().map(|(at, one)| (one.request.id.clone(), at)).collect();
        for name in reply_topics {
            if let Some(replies) = topic_if_there(log, &name)? {
                exit = worse(exit, found.add_replies(&replies)?);
            }
        }
        let read = found.mark_parked(log)?;
        Ok((found, worse(exit, read)))
    }

    fn add_request(&mut self, service: &str, record: &RecordRef<'_>, envelope: Envelope) {
        if let Some(&at) = self.by_id.get(&envelope.id) {
            self.all[at].doubled.push(record.offset());
            return;
        }
        self.by_id.insert(envelope.id.clone(), self.all.len());
        self.all.push(Exchange {
            service: service.to_owned(),
            offset: record.offset(),
            at: record.timestamp_nanos(),
            key: record.key().map(<[u8]>::to_owned),
            payload_len: record.payload().len(),
            request: envelope,
            outcome: None,
            late: Vec::new(),
            doubled: Vec::new(),
            delivery: Delivery::NotYet,
        });
    }

    /// The outcome of a request is the first record of its reply topic that names its id.
    fn add_replies(&mut self, replies: &Topic) -> Result<Exit, Failure> {
        let delivered = committed_of(replies, "client.")?;
        for_each(replies, 0, |record, envelope| {
            let is_outcome = is_outcome(envelope.kind);
            let Some(&at) = self.by_id.get(&envelope.id).filter(|_| is_outcome) else {
                return ControlFlow::Continue(());
            };
            let exchange = &mut self.all[at];
            let own = exchange.request.reply_topic.as_deref();
            if own.map_or(replies.name() == format!("{}.replies", exchange.service), |own| {
                own == replies.name()
            }) {
                let (offset, at) = (record.offset(), record.timestamp_nanos());
                let past = delivered.get(envelope.id.client()).is_some_and(|&end| end > offset);
                let answer = Answer { offset, at, envelope };
                if exchange.outcome.is_some() {
                    exchange.late.push(answer);
                } else {
                    exchange.delivery = if past { Delivery::Delivered } else { Delivery::NotYet };
                    exchange.outcome = Some(answer);
                }
            }
            ControlFlow::Continue(())
        })
    }

    fn mark_parked(&mut self, log: &Log) -> Result<Exit, Failure> {
        let clients: BTreeSet<String> =
            self.all.iter().map(|one| one.request.id.client().to_owned()).collect();
        let mut exit = Exit::Ok;
        for client in clients {
            let Some(parked) = topic_if_there(log, &format!("{client}.parked"))? else { continue };
            let read = for_each(&parked, 0, |_, envelope| {
                if let Some(&at) = self.by_id.get(&envelope.id) {
                    self.all[at].delivery = match envelope.kind {
                        Kind::Unparked => Delivery::Delivered,
                        _ => Delivery::Parked,
                    };
                }
                ControlFlow::Continue(())
            })?;
            exit = worse(exit, read);
        }
        Ok(exit)
    }

    /// The exchanges as a tree, each before those that it caused, with its depth. All are returned, even
    /// if a cause is missing or causes form a circle.
    pub(crate) fn tree(&self) -> Vec<(usize, &Exchange)> {
        let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
        let mut roots = Vec::new();
        for (at, exchange) in self.all.iter().enumerate() {
            match exchange.request.cause.as_ref().and_then(|cause| self.by_id.get(cause)) {
                Some(&cause) if cause != at => children.entry(cause).or_default().push(at),
                _ => roots.push(at),
            }
        }
        let mut seen = vec![false; self.all.len()];
        let mut tree = Vec::with_capacity(self.all.len());
        // After the roots, those that are reachable only through a circle of causes.
        for start in roots.into_iter().chain(0..self.all.len()) {
            let mut stack = vec![(0, start)];
            while let Some((depth, at)) = stack.pop() {
                if std::mem::replace(&mut seen[at], true) {
                    continue;
                }
                tree.push((depth, &self.all[at]));
                let caused = children.get(&at).into_iter().flatten().rev();
                stack.extend(caused.map(|&child| (depth + 1, child)));
            }
        }
        tree
    }
}

/// The committed positions of the consumers whose names begin with `prefix`, by the rest of the name.
pub(crate) fn committed_of(topic: &Topic, prefix: &str) -> Result<HashMap<String, u64>, Failure> {
    let mut found = HashMap::new();
    for info in topic.consumers()? {
        if let (Some(name), Ok(committed)) = (info.name.strip_prefix(prefix), &info.committed) {
            found.insert(name.to_owned(), *committed);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_an_exchange_is_longer_than_the_whole_however_coarse_a_clock_is() {
        // Sent at, answered at, begun at, and the handler's time; then the whole and the queueing.
        for (times, expected) in [
            ((1_000, 9_000, 3_000, 5_000), (8_000, 2_000)),
            // The attempt began after the tick that stamped the outcome.
            ((1_000, 9_000, 9_500, 300), (8_000, 7_700)),
            // One tick stamped both records.
            ((1_000, 1_000, 1_200, 700), (700, 0)),
            // The clock was set back.
            ((9_000, 1_000, 500, 0), (0, 0)),
            ((0, u64::MAX, u64::MAX, u64::MAX), (u64::MAX, 0)),
        ] {
            let (sent_at, answered_at, begun_at, handler_nanos) = times;
            let found = whole(sent_at, answered_at, handler_nanos);
            let before = queueing(sent_at, answered_at, begun_at, handler_nanos);
            assert_eq!((found, before), expected, "{times:?}");
            assert!(before + handler_nanos <= found);
        }
    }
}
