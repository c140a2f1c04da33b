//! The clients of a log, as other processes see them: which positions hold which records, retiring a client
//! that never comes back, and releasing records that a killed client held without need.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use super::envelope::{Envelope, Kind};
use super::link::{cursor_name, patient, GUARD_PREFIX};
use super::request_id::RequestId;
use super::settle::{is_outcome, scan};
use super::spans;
use super::{replies_of, requests_of, topic_if_there};
use crate::consumer::{Consumer, ConsumerInfo};
use crate::error::{Error, Result};
use crate::log::Log;
use crate::ownership::Ownership;
use crate::reader::Start;
use crate::topic::Topic;

/// The state of a client.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientInfo {
    /// The client's name.
    pub name: String,
    /// The process that is this client; `None` if no process is.
    pub owner: Option<u32>,
    /// The services that the client has used.
    pub services: Vec<ClientService>,
    /// Whether the client has a topic of parked outcomes.
    pub has_parked: bool,
}

/// The state of a client at one service.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientService {
    /// The service.
    pub service: String,
    /// Requests whose outcome the client has not taken.
    pub outstanding: usize,
    /// Records of the request topic that the client's position keeps: those from it on.
    pub requests_held: u64,
    /// Records of the reply topic from the client's positions on.
    pub replies_held: u64,
}

/// The positions of a client at a service.
struct Positions {
    requests: Topic,
    replies: Topic,
    /// The position of the oldest request without an outcome.
    oldest: u64,
    /// Replies below it were delivered.
    delivered: u64,
    /// From here on there may be replies to requests from `oldest` on.
    floor: u64,
    /// One of their files is damaged: that position counts as 0, as it does for retention.
    is_damaged: bool,
}

/// The unfinished work of a client at a service.
struct Open {
    /// Requests without a delivered outcome.
    requests: HashSet<RequestId>,
    /// Damaged records may be more of these requests.
    is_partial: bool,
    /// The first record of the reply topic that it has not read and that names it, or the end.
    unread: u64,
    requests_end: u64,
}

impl Positions {
    fn of(log: &Log, client: &str, service: &str) -> Result<Option<Positions>> {
        let existing = |name: String| topic_if_there(log, &name);
        let Some(requests) = existing(requests_of(service))? else { return Ok(None) };
        let Some(replies) = existing(replies_of(service))? else { return Ok(None) };
        let mut is_damaged = false;
        let mut find = |all: Vec<ConsumerInfo>, name: &str| {
            let found = all.into_iter().find(|info| info.name == name);
            found.map(|info| match info.committed {
                Err(Error::Corrupt { .. }) => {
                    is_damaged = true;
                    Ok(0)
                }
                other => other,
            })
        };
        let guard = format!("{GUARD_PREFIX}{client}");
        let Some(oldest) = find(requests.consumers()?, &cursor_name(client)).transpose()? else {
            return Ok(None);
        };
        let delivered = find(replies.consumers()?, &cursor_name(client)).unwrap_or(Ok(0))?;
        let floor = find(replies.consumers()?, &guard).unwrap_or(Ok(0))?.min(delivered);
        Ok(Some(Positions { requests, replies, oldest, delivered, floor, is_damaged }))
    }

    /// Reads the client's unfinished work.
    fn open(&self, client: &str) -> Result<Open> {
        let requests_end = self.requests.high_watermark()?;
        let mut open = HashSet::new();
        let window = self.oldest.min(requests_end)..requests_end;
        let missing = scan(&self.requests, window, |_, _, envelope| {
            if envelope.kind == Kind::Request && envelope.id.client() == client {
                open.insert(envelope.id);
            }
        })?;
        let first = self.requests.first_offset()?;
        let is_partial = missing.iter().any(|range| range.end > first);
        let end = self.replies.high_watermark()?;
        let mut unread = end;
        scan(&self.replies, self.floor.min(end)..end, |offset, _, envelope| {
            if envelope.id.client() != client {
                return;
            }
            if offset >= self.delivered {
                unread = unread.min(offset);
            } else if is_outcome(envelope.kind) {
                open.remove(&envelope.id);
            } else if envelope.kind == Kind::Redriven {
                open.insert(envelope.id);
            }
        })?;
        Ok(Open { requests: open, is_partial, unread, requests_end })
    }
}

impl Log {
    /// Describes all clients of services, by name, without taking their place, also while they run. It reads
    /// the records that they hold. A position whose file is damaged counts as 0.
    ///
    /// # Errors
    ///
    /// As [`topic`](Self::topic).
    pub fn clients(&self) -> Result<Vec<ClientInfo>> {
        let mut found: BTreeMap<String, ClientInfo> = BTreeMap::new();
        let topics = self.topics()?;
        for service in topics.iter().filter_map(|topic| topic.strip_suffix(".requests")) {
            let Some(requests) = topic_if_there(self, &requests_of(service))? else { continue };
            for info in requests.consumers()? {
                let Some(name) = info.name.strip_prefix("client.") else { continue };
                let Some(positions) = Positions::of(self, name, service)? else { continue };
                let open = positions.open(name)?;
                let client = found.entry(name.to_owned()).or_insert_with(|| ClientInfo {
                    name: name.to_owned(),
                    owner: None,
                    services: Vec::new(),
                    has_parked: topics.iter().any(|topic| *topic == format!("{name}.parked")),
                });
                client.owner = client.owner.or(info.owner);
                client.services.push(ClientService {
                    service: service.to_owned(),
                    outstanding: open.requests.len(),
                    requests_held: open.requests_end.saturating_sub(positions.oldest),
                    replies_held: positions
                        .replies
                        .high_watermark()?
                        .saturating_sub(positions.floor),
                });
            }
        }
        Ok(found.into_values().collect())
    }

    /// Retires a client that never comes back: removes its positions, and with `discard` its parked outcomes
    /// as well, so that they no longer hold any records. Its requests are not cancelled: they are answered,
    /// and no client reads the answers. A client of this name that is opened later is a new one.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if a process is this client, [`Error::NotFound`] if there is none,
    /// [`Error::Invalid`] without `discard` if it has requests outstanding or outcomes parked; and as
    /// [`topic`](Self::topic).
    pub fn retire_client(&self, name: &str, discard: bool) -> Result<()> {
        self.writable()?;
        let _owned = Ownership::take(self.inner(), "clients", name)?;
        let client = self.clients()?.into_iter().find(|client| client.name == name);
        let parked = format!("{name}.parked");
        let has_parked = topic_if_there(self, &parked)?.is_some();
        if client.is_none() && !has_parked {
            return Err(Error::NotFound { what: format!("client {name}") });
        }
        let services = client.map(|client| client.services).unwrap_or_default();
        let outstanding: usize = services.iter().map(|service| service.outstanding).sum();
        let parked_count = if has_parked { self.parked_count(name)? } else { 0 };
        if !discard && (outstanding > 0 || parked_count > 0) {
            return Err(Error::Invalid {
                what: format!(
                    "client {name} has {outstanding} requests outstanding and {parked_count} outcomes \
                     parked, which no client would receive: discard them to retire it"
                ),
            });
        }
        for ClientService { service, .. } in services {
            let replies = self.open_topic(&replies_of(&service))?;
            let requests = self.open_topic(&requests_of(&service))?;
            // Held until it is deleted: a server that moves the positions would otherwise create the others again.
            let open = || Consumer::open_existing(requests.inner(), &cursor_name(name));
            let held = match patient(open) {
                Ok(held) => Some(held),
                Err(Error::Corrupt { .. } | Error::NotFound { .. }) => None,
                Err(error) => return Err(error),
            };
            delete_if_there(&replies, &format!("{GUARD_PREFIX}{name}"))?;
            delete_if_there(&replies, &cursor_name(name))?;
            // That of the requests last: killed before, it is a client still.
            match held {
                Some(held) => held.remove()?,
                None => delete_if_there(&requests, &cursor_name(name))?,
            }
        }
        if has_parked {
            self.delete_topic(&parked)?;
        }
        Ok(())
    }

    fn parked_count(&self, name: &str) -> Result<usize> {
        let topic = self.open_topic(&format!("{name}.parked"))?;
        let mut parked = HashSet::new();
        scan(&topic, 0..topic.settled_end()?, |_, _, envelope: Envelope| {
            match envelope.kind {
                Kind::Unparked => parked.remove(&envelope.id),
                _ => envelope.id.client() == name && parked.insert(envelope.id),
            };
        })?;
        Ok(parked.len())
    }
}

fn delete_if_there(topic: &Topic, consumer: &str) -> Result<()> {
    match topic.delete_consumer(consumer) {
        Err(Error::NotFound { .. }) => Ok(()),
        other => other,
    }
}

/// A client that is gone, and whose positions follow, is looked at this often.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(5);

/// Releases the records of one service that are held without need by clients whose process has died and
/// that have nothing outstanding. Moves their positions up to the first record that they still need.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// The clients, with their positions when they were last examined.
    seen: HashMap<String, (u64, u64, Instant)>,
    /// The clients that have replies to read, with their positions in the reply topic, and since when they have
    /// been there.
    unread: HashMap<String, (u64, Instant)>,
}

impl Gone {
    pub(super) fn let_go(&mut self, log: &Log, service: &str, requests: &Topic) -> Result<()> {
        let end = requests.high_watermark()?;
        for info in requests.consumers()? {
            let Some(client) = info.name.strip_prefix("client.") else { continue };
            let Ok(committed) = info.committed else { continue };
            if info.owner.is_some() {
                self.seen.remove(client);
                continue;
            }
            let seen = self.seen.get(client);
            let is_due = seen.is_none_or(|(.., at)| at.elapsed() >= FOLLOW_INTERVAL);
            if committed >= end || !is_due {
                continue;
            }
            let Some(positions) = Positions::of(log, client, service)? else { continue };
            let at = (positions.oldest, positions.delivered);
            // Its requests are still outstanding: no process takes its outcomes.
            if seen.is_some_and(|(oldest, delivered, _)| (*oldest, *delivered) == at) {
                continue;
            }
            let open = positions.open(client)?;
            // Damage may hide an open request: only an operator can decide to retire that client.
            if positions.is_damaged || open.is_partial || !open.requests.is_empty() {
                self.seen.insert(client.to_owned(), (at.0, at.1, Instant::now()));
                continue;
            }
            match positions.move_on(client, &open) {
                // The client is back, or was retired, or its files are damaged: serve the others.
                Err(Error::Locked { .. } | Error::NotFound { .. } | Error::Corrupt { .. }) => {}
                other => other?,
            }
            // Not with its new positions, so that it is examined again.
            self.seen.insert(client.to_owned(), (u64::MAX, u64::MAX, Instant::now()));
        }
        Ok(())
    }

    /// Lets retention drop what only clients hold that have not read a reply for this long.
    pub(super) fn abandon(
        &mut self,
        after: Duration,
        requests: &Topic,
        replies: &Topic,
    ) -> Result<()> {
        let end = replies.high_watermark()?;
        let (mut unread, mut despite) = (HashMap::new(), Vec::new());
        for info in replies.consumers()? {
            let Some(client) = info.name.strip_prefix("client.") else { continue };
            // An operator decides about a damaged position.
            let Ok(at) = info.committed else { continue };
            if at >= end {
                continue;
            }
            let before = self.unread.get(client).filter(|(same, _)| *same == at);
            let since = before.map_or_else(Instant::now, |(_, since)| *since);
            if since.elapsed() >= after {
                despite.push(format!("{GUARD_PREFIX}{client}"));
                despite.push(cursor_name(client));
            }
            unread.insert(client.to_owned(), (at, since));
        }
        self.unread = unread;
        for topic in [requests, replies].into_iter().filter(|_| !despite.is_empty()) {
            let before = topic.first_offset()?;
            let first = topic.inner().trim_by_retention(&despite)?;
            if first > before {
                spans::abandoned(topic.name(), first, &despite);
            }
        }
        Ok(())
    }
}

impl Positions {
    /// Moves the positions of a client whose process died, in the order in which the client makes them durable.
    /// Does nothing if a process has become this client meanwhile.
    fn move_on(&self, client: &str, open: &Open) -> Result<()> {
        let (requests, replies) = (self.requests.inner(), self.replies.inner());
        // First, and never created: retiring the client holds this one, and deletes it.
        let mut oldest = Consumer::open_existing(requests, &cursor_name(client))?;
        let mut cursor = self.replies.consumer(&cursor_name(client), Start::First)?;
        let guard = format!("{GUARD_PREFIX}{client}");
        let mut guard = Consumer::open_manual(replies, &guard, Start::First)?;
        let is_as_it_was =
            cursor.committed() == self.delivered && oldest.committed() == self.oldest;
        if !is_as_it_was {
            return Ok(());
        }
        self.replies.wait_durable_to(open.unread)?;
        self.requests.wait_durable_to(open.requests_end)?;
        cursor.set_position(open.unread)?;
        cursor.sync()?;
        oldest.set_position(open.requests_end)?;
        oldest.set_floor(open.unread.max(oldest.floor()));
        oldest.sync()?;
        guard.set_position(open.unread)?;
        guard.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;
    use crate::topic::{Durability, TopicOptions};

    #[test]
    fn a_client_that_is_retired_while_a_server_looks_at_it_does_not_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open_or_create(dir.path()).unwrap();
        let options = TopicOptions::default().with_durability(Durability::ProcessCrash);
        let client = log.client("c").with_topic_options(options).open().unwrap();
        drop(client.request("s", &Record::new("x")).unwrap().call().unwrap());
        drop(client);
        let positions = Positions::of(&log, "c", "s").unwrap().unwrap();
        let open = positions.open("c").unwrap();
        log.retire_client("c", true).unwrap();
        let moved = positions.move_on("c", &open);
        assert!(matches!(moved, Err(Error::NotFound { .. })), "{moved:?}");
        let requests = log.open_topic("s.requests").unwrap();
        let replies = log.open_topic("s.replies").unwrap();
        assert!(
            requests.consumers().unwrap().is_empty() && replies.consumers().unwrap().is_empty()
        );
    }

    #[test]
    fn the_positions_of_a_client_that_came_back_meanwhile_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open_or_create(dir.path()).unwrap();
        let options = TopicOptions::default().with_durability(Durability::ProcessCrash);
        let open =
            || log.client("c").with_topic_options(options).on("done", |_| Ok(())).open().unwrap();
        open().request("s", &Record::new("x")).unwrap().send("done").unwrap();
        let positions = Positions::of(&log, "c", "s").unwrap().unwrap();
        let seen = positions.open("c").unwrap();
        let client = open();
        let server = log.server("s", |_| Ok(crate::service::Reply::new("y")));
        server.unwrap().poll(Duration::from_secs(30)).unwrap();
        while client.outstanding_count() > 0 {
            client.poll(Duration::from_secs(30)).unwrap();
        }
        drop(client);
        let now = Positions::of(&log, "c", "s").unwrap().unwrap();
        assert!(now.delivered > positions.delivered);
        positions.move_on("c", &seen).unwrap();
        let after = Positions::of(&log, "c", "s").unwrap().unwrap();
        assert_eq!((after.oldest, after.delivered), (now.oldest, now.delivered));
    }

    #[test]
    fn the_records_below_the_new_positions_of_a_dead_client_are_durable_before_them() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open_or_create(dir.path()).unwrap();
        let options = TopicOptions::default().with_durability(Durability::ProcessCrash);
        let client = log.client("c").with_topic_options(options).open().unwrap();
        drop(client.request("s", &Record::new("x")).unwrap().call().unwrap());
        drop(client);
        let positions = Positions::of(&log, "c", "s").unwrap().unwrap();
        for topic in [&positions.requests, &positions.replies] {
            topic.append(&Record::new("of another client")).unwrap();
        }
        let open = positions.open("c").unwrap();
        positions.move_on("c", &open).unwrap();
        assert_eq!((open.requests_end, open.unread), (2, 1));
        assert_eq!(positions.requests.durable_end().unwrap(), 2);
        assert_eq!(positions.replies.durable_end().unwrap(), 1);
    }
}
