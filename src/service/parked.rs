//! The outcomes of a client that no callback and no caller took: kept in a topic of its own, and retried.
//!
//! An outcome is appended here before the position of the delivery passes it, so none is lost;
//! a record of kind `Unparked` says that it was taken. The time of the next retry of each outcome is in
//! memory only: a new start retries all of them at once.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::time::{Duration, Instant, SystemTime};

use super::envelope::{Envelope, Kind};
use super::outcome::{Outcome, Parked};
use super::request_id::RequestId;
use super::stats::Counters;
use super::{open_topic, record_at, requests_of, topic_if_there};
use crate::consumer::Consumer;
use crate::error::Result;
use crate::log::Log;
use crate::reader::{self, Start};
use crate::record::{Record, RecordRef};
use crate::topic::{Topic, TopicOptions};

/// How often due outcomes are looked for while their callbacks may not be called yet.
const LOOK_LEAST: Duration = Duration::from_millis(5);
const LOOK_MOST: Duration = Duration::from_secs(1);

const SERVICE_HEADER: &str = "parked-service";

/// The parked outcomes; see the module.
pub(super) struct ParkedTopic {
    topic: Topic,
    /// The position in the topic: everything below it was taken.
    cursor: Consumer,
    entries: BTreeMap<u64, Entry>,
    by_id: HashMap<RequestId, u64>,
    /// Nothing is due before this time.
    look_at: Instant,
}

struct Entry {
    parked: Parked,
    /// `None`: not retried unless a caller asks for it.
    due: Option<Instant>,
    /// Failed retries since it was parked.
    tries: u32,
    /// Whether its callback is running.
    is_in_hand: bool,
    /// Its callback took it, but the `Unparked` record could not be appended yet.
    is_taken: bool,
}

/// An outcome read from the topic.
pub(super) struct Found {
    pub(super) envelope: Envelope,
    pub(super) outcome: Outcome,
    pub(super) service: String,
    /// The service's request topic.
    pub(super) requests: Option<Topic>,
}

impl ParkedTopic {
    fn name(client: &str) -> String {
        format!("{client}.parked")
    }

    /// Reads the parked outcomes; returns `None` if none was ever parked and `create` is not set.
    pub(super) fn open(
        log: &Log,
        client: &str,
        options: Option<TopicOptions>,
        create: bool,
        counters: &Counters,
    ) -> Result<Option<ParkedTopic>> {
        let name = ParkedTopic::name(client);
        let topic = match topic_if_there(log, &name)? {
            None if !create => return Ok(None),
            None => open_topic(log, &name, options)?,
            Some(topic) => topic,
        };
        let cursor = topic.consumer("client", Start::First)?;
        let (end, from) = (topic.settled_end()?, cursor.committed());
        let (entries, by_id) = (BTreeMap::new(), HashMap::new());
        let mut parked = ParkedTopic { topic, cursor, entries, by_id, look_at: Instant::now() };
        let missing = reader::scan(&parked.topic.clone(), from.min(end)..end, |record| {
            parked.take_in(client, record);
            ControlFlow::Continue(())
        })?;
        for offsets in missing {
            counters.passed_over(&name, &offsets);
        }
        Ok(Some(parked))
    }

    /// Applies a record of the topic.
    fn take_in(&mut self, client: &str, record: &RecordRef<'_>) {
        let Some(Ok(envelope)) = Envelope::of(record) else { return };
        if envelope.kind == Kind::Unparked {
            self.remove(&envelope.id);
            return;
        }
        // A request may name any topic for its reply, so records that this client has not parked are ignored.
        let service = match record.header(SERVICE_HEADER) {
            Some(service) if envelope.id.client() == client => service,
            _ => return,
        };
        let service = String::from_utf8_lossy(service).into_owned();
        let due = envelope.callback.is_some().then(Instant::now);
        self.insert(record.offset(), service, envelope, record.timestamp(), due);
    }

    fn insert(
        &mut self,
        offset: u64,
        service: String,
        envelope: Envelope,
        parked_at: SystemTime,
        due: Option<Instant>,
    ) {
        let id = envelope.id.clone();
        // The first of two records with the same id counts.
        if self.by_id.contains_key(&id) {
            return;
        }
        let parked = Parked {
            id: envelope.id,
            service,
            callback: envelope.callback,
            kind: envelope.kind,
            parked_at,
        };
        self.by_id.insert(id, offset);
        self.look_at = self.look_at.min(due.unwrap_or(self.look_at));
        let entry = Entry { parked, due, tries: 0, is_in_hand: false, is_taken: false };
        self.entries.insert(offset, entry);
    }

    fn entry(&mut self, id: &RequestId) -> Option<&mut Entry> {
        self.entries.get_mut(self.by_id.get(id)?)
    }

    fn remove(&mut self, id: &RequestId) {
        if let Some(offset) = self.by_id.remove(id) {
            self.entries.remove(&offset);
        }
    }

    /// Parks an outcome; once for each id. It is retried when it is due.
    pub(super) fn park(
        &mut self,
        service: &str,
        envelope: &Envelope,
        outcome: &Outcome,
        due: Option<Instant>,
    ) -> Result<()> {
        if self.by_id.contains_key(&envelope.id) {
            return Ok(());
        }
        let record = match outcome {
            Outcome::Reply(record) => record.to_record(),
            _ => Record::default(),
        };
        let sealed = envelope.seal(record.with_header(SERVICE_HEADER, service));
        let offset = self.topic.append(&sealed)?;
        self.insert(offset, service.to_owned(), envelope.clone(), SystemTime::now(), due);
        Ok(())
    }

    /// Returns the parked outcomes, oldest first.
    pub(super) fn list(&self) -> Vec<Parked> {
        let there = self.entries.values().filter(|entry| !entry.is_taken);
        there.map(|entry| entry.parked.clone()).collect()
    }

    /// Returns whether an outcome for this callback is parked that will be retried.
    pub(super) fn awaits(&self, callback: &str) -> bool {
        let mut there = self.entries.values().filter(|entry| !entry.is_taken);
        there.any(|entry| entry.due.is_some() && entry.parked.callback.as_deref() == Some(callback))
    }

    /// Returns the oldest outcome that is due and whose callback may be called. It is in flight until
    /// [`failed`](Self::failed) or [`taken`](Self::taken).
    pub(super) fn next_due(&mut self, may_call: impl Fn(&str) -> bool) -> Option<RequestId> {
        let now = Instant::now();
        if now < self.look_at {
            return None;
        }
        // The whole set is searched only from time to time, however large it is.
        let mut look_at = now + LOOK_MOST;
        for entry in self.entries.values_mut().filter(|entry| !entry.is_in_hand) {
            match entry.due {
                Some(due) if due > now => look_at = look_at.min(due),
                Some(_)
                    if entry.is_taken
                        || entry.parked.callback.as_deref().is_some_and(&may_call) =>
                {
                    entry.is_in_hand = true;
                    return Some(entry.parked.id.clone());
                }
                Some(_) => look_at = look_at.min(now + LOOK_LEAST),
                None => {}
            }
        }
        self.look_at = look_at;
        None
    }

    /// Records that an outcome in flight was not taken. `wait` gives the time to the next retry for the number
    /// of failed ones; `None` means that it is not retried unless a caller asks.
    pub(super) fn failed(&mut self, id: &RequestId, wait: impl Fn(u32) -> Option<Duration>) {
        let Some(entry) = self.entry(id) else { return };
        entry.tries = entry.tries.saturating_add(1);
        entry.is_in_hand = false;
        entry.due = wait(entry.tries).and_then(|wait| Instant::now().checked_add(wait));
        let due = entry.due;
        self.look_at = self.look_at.min(due.unwrap_or(self.look_at));
    }

    /// A callback took an outcome, but [`taken`](Self::taken) failed: it is due again after `wait`, without
    /// another call of the callback.
    pub(super) fn owe_mark(&mut self, id: &RequestId, wait: impl Fn(u32) -> Option<Duration>) {
        if let Some(entry) = self.entry(id) {
            entry.is_taken = true;
        }
        self.failed(id, wait);
    }

    /// Whether an outcome lacks only its `Unparked` record.
    pub(super) fn owes_mark(&mut self, id: &RequestId) -> bool {
        self.entry(id).is_some_and(|entry| entry.is_taken)
    }

    /// Makes outcomes due now: those of this callback that wait for their next try, or of all, also
    /// those that wait for none. Returns how many.
    pub(super) fn make_due(&mut self, callback: Option<&str>) -> usize {
        let now = Instant::now();
        self.look_at = now;
        let mut count = 0;
        for entry in self.entries.values_mut().filter(|entry| !entry.is_taken) {
            let is_meant = match callback {
                Some(callback) => {
                    entry.due.is_some() && entry.parked.callback.as_deref() == Some(callback)
                }
                None => entry.parked.callback.is_some(),
            };
            if is_meant {
                entry.due = Some(now);
                count += 1;
            }
        }
        count
    }

    /// Returns the parked outcome of a request.
    pub(super) fn find(&self, log: &Log, id: &RequestId) -> Result<Option<Found>> {
        let Some((offset, entry)) =
            self.by_id.get(id).and_then(|offset| Some((*offset, self.entries.get(offset)?)))
        else {
            return Ok(None);
        };
        let Some(record) = record_at(&self.topic, offset)? else { return Ok(None) };
        let Some(Ok(envelope)) = Envelope::of(&record.as_ref()) else { return Ok(None) };
        let Some(outcome) = Outcome::of(&envelope, &record) else { return Ok(None) };
        let service = entry.parked.service.clone();
        let requests = topic_if_there(log, &requests_of(&service))?;
        Ok(Some(Found { envelope, outcome, service, requests }))
    }

    /// Returns whether the outcome of a call is parked.
    pub(super) fn has_call(&self, id: &RequestId) -> bool {
        let entry = self.by_id.get(id).and_then(|offset| self.entries.get(offset));
        entry.is_some_and(|entry| entry.parked.callback.is_none())
    }

    /// Records that an outcome was taken; returns false if it is not parked.
    pub(super) fn taken(&mut self, id: &RequestId) -> Result<bool> {
        if !self.by_id.contains_key(id) {
            return Ok(false);
        }
        let marker = Envelope::new(Kind::Unparked, id.clone()).seal(Record::default());
        let offset = self.topic.append(&marker)?;
        self.remove(id);
        let floor = self.entries.keys().next().copied().unwrap_or(offset + 1);
        if floor > self.cursor.committed() {
            self.cursor.set_position(floor)?;
            self.topic.wait_durable_to(floor)?;
            self.cursor.sync()?;
        }
        Ok(true)
    }
}
