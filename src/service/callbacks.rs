//! The named callbacks of a client, and the outcomes that nobody took.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;

use super::envelope::{Envelope, Kind};
use super::outcome::{Completed, Outcome, Parked};
use super::request_id::RequestId;
use super::stats::{count, Counters};
use super::{open_topic, requests_of};
use crate::consumer::Consumer;
use crate::error::Result;
use crate::group::{backoff, guarded, HandlerError};
use crate::log::Log;
use crate::reader::Start;
use crate::record::{OwnedRecord, Record};
use crate::topic::{Topic, TopicOptions};

/// A callback, called by one thread at a time.
pub(super) type Callback = Box<dyn FnMut(&Completed) -> Result<(), HandlerError> + Send>;

/// A callback that fails is called so often; then the outcome is parked.
const ATTEMPTS: u32 = 5;
const RETRY_FIRST: Duration = Duration::from_millis(5);
const RETRY_MOST: Duration = Duration::from_millis(200);

const SERVICE_HEADER: &str = "parked-service";

/// See the module.
#[derive(Default)]
pub(super) struct Callbacks {
    pub(super) named: HashMap<String, Mutex<Callback>>,
    pub(super) late: Option<Mutex<Callback>>,
    pub(super) counters: Counters,
}

impl Callbacks {
    /// Calls the callback for an outcome; false if nobody takes it.
    pub(super) fn deliver(&self, done: &Completed) -> bool {
        self.named.get(done.callback()).is_some_and(|callback| self.call(callback, done))
    }

    /// Tells of a record that came after the outcome.
    pub(super) fn deliver_late(&self, done: &Completed) {
        if let Some(callback) = &self.late {
            // A notification: what nobody takes is in the log all the same.
            self.call(callback, done);
        }
    }

    fn call(&self, callback: &Mutex<Callback>, done: &Completed) -> bool {
        for attempt in 1..=ATTEMPTS {
            let called = guarded(|| {
                let mut callback = callback.lock();
                IS_INSIDE.set(true);
                callback(done)
            });
            IS_INSIDE.set(false);
            match called {
                Ok(()) => return true,
                Err(error) if error.terminal || attempt == ATTEMPTS => return false,
                Err(_) => std::thread::sleep(backoff(attempt, RETRY_FIRST, RETRY_MOST)),
            }
            count(&self.counters.callback_retries);
        }
        false
    }
}

thread_local! {
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a callback. It must not call another one: that may be the same one,
/// which has not returned, or one that another thread is in, which waits for this one.
pub(super) fn is_inside() -> bool {
    IS_INSIDE.get()
}

/// A client's topic of parked outcomes: appended before the reply's position is committed, so that
/// none is dropped.
pub(super) struct ParkedTopic {
    topic: Topic,
    /// Its position: everything below it was taken.
    cursor: Consumer,
    records: BTreeMap<u64, (Parked, OwnedRecord)>,
    /// Those that were parked before this start, as far as it has not tried to deliver them.
    untried: VecDeque<RequestId>,
}

impl ParkedTopic {
    fn name(client: &str) -> String {
        format!("{client}.parked")
    }

    /// Reads what is parked; `None` if nothing ever was and `create` is not set.
    pub(super) fn open(
        log: &Log,
        client: &str,
        options: Option<TopicOptions>,
        create: bool,
    ) -> Result<Option<ParkedTopic>> {
        let name = ParkedTopic::name(client);
        let topic = match log.existing_topic(&name) {
            Err(crate::Error::NotFound { .. }) if !create => return Ok(None),
            Err(crate::Error::NotFound { .. }) => open_topic(log, &name, options)?,
            other => other?,
        };
        let mut cursor = topic.consumer("client", Start::First)?;
        cursor.reader().pass_over_lost();
        let end = topic.settled_end()?;
        let mut records = BTreeMap::new();
        while cursor.reader().offset() < end {
            let Some(record) = cursor.next()?.map(|record| record.to_owned()) else { break };
            let Some(Ok(envelope)) = Envelope::of(&record.as_ref()) else { continue };
            if envelope.kind == Kind::Unparked {
                records.retain(|_, (parked, _): &mut (Parked, _)| parked.id != envelope.id);
                continue;
            }
            // A request may name any topic for its reply: what this client has not parked is none of it.
            let service = match record.as_ref().header(SERVICE_HEADER) {
                Some(service) if envelope.id.client() == client => service,
                _ => continue,
            };
            let parked = Parked {
                id: envelope.id,
                service: String::from_utf8_lossy(service).into_owned(),
                callback: envelope.callback,
                kind: envelope.kind,
            };
            records.insert(record.offset(), (parked, record));
        }
        let untried = records.values().map(|(parked, _)| parked.id.clone()).collect();
        Ok(Some(ParkedTopic { topic, cursor, records, untried }))
    }

    /// An outcome from before this start; each is returned once.
    pub(super) fn next_untried(&mut self) -> Option<RequestId> {
        self.untried.pop_front()
    }

    /// Parks an outcome; once for each id.
    pub(super) fn park(&mut self, service: &str, done: &Completed) -> Result<()> {
        if self.records.values().any(|(parked, _)| parked.id == *done.id()) {
            return Ok(());
        }
        let record = match &done.outcome {
            Outcome::Reply(record) => record.to_record(),
            _ => Record::default(),
        };
        let sealed = done.envelope.seal(record.header(SERVICE_HEADER, service));
        let offset = self.topic.append(&sealed)?;
        let mut reader = self.topic.reader(Start::Offset(offset))?;
        if let Some(record) = reader.next()? {
            let parked = Parked {
                id: done.id().clone(),
                service: service.to_owned(),
                callback: done.callback().to_owned(),
                kind: done.envelope.kind,
            };
            self.records.insert(offset, (parked, record.to_owned()));
        }
        Ok(())
    }

    /// What is parked, oldest first.
    pub(super) fn list(&self) -> Vec<Parked> {
        self.records.values().map(|(parked, _)| parked.clone()).collect()
    }

    /// The parked outcome of a request, or the first whose callback `wanted` accepts.
    pub(super) fn find(
        &self,
        log: &Log,
        wanted: impl Fn(&Parked) -> bool,
    ) -> Result<Option<Completed>> {
        let Some((parked, record)) = self.records.values().find(|(parked, _)| wanted(parked))
        else {
            return Ok(None);
        };
        let Some(Ok(envelope)) = Envelope::of(&record.as_ref()) else { return Ok(None) };
        let Some(outcome) = Outcome::of(&envelope, record) else { return Ok(None) };
        let requests = log.existing_topic(&requests_of(&parked.service)).ok();
        Ok(Some(Completed { envelope, outcome, late: false, recovered: true, requests }))
    }

    /// Notes that an outcome was taken.
    pub(super) fn taken(&mut self, id: &RequestId) -> Result<()> {
        let marker = Envelope::new(Kind::Unparked, id.clone()).seal(Record::default());
        let offset = self.topic.append(&marker)?;
        self.records.retain(|_, (parked, _)| parked.id != *id);
        let floor = self.records.keys().next().copied().unwrap_or(offset + 1);
        self.cursor.set_position(floor)?;
        if let Some(last) = floor.checked_sub(1) {
            self.topic.wait_durable(last)?;
        }
        self.cursor.sync()
    }
}
