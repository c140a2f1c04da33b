//! A client's side of one service: the requests that it has sent there and that have no outcome yet.
//!
//! At start the set is rebuilt from the log, from the position of the oldest request without an
//! outcome on. That position is in the offset file `client.NAME` of the request topic; the file's second
//! position is the end of the reply topic when that request was sent, and no reply is before it.
//! The second position is below the position of the delivery, so a consumer of its own holds it in the
//! reply topic, `client-floor.NAME`: retention by consumption drops nothing after it. (A prefix,
//! because `NAME.floor` may be another client.)

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};

use super::envelope::Kind;
use super::pending::{Outstanding, Pending, State};
use super::recipient::Recipient;
use super::{open_topic, record_at, replies_of, requests_of, spans};
use crate::consumer::Consumer;
use crate::error::{Error, Result};
use crate::group::{self, LaneInfo};
use crate::reader::Start;
use crate::record::Record;
use crate::sys::clock;
use crate::topic::Topic;

/// A client's side of one service; see the module.
pub(super) struct Link {
    pub(super) service: String,
    pub(super) requests: Topic,
    pub(super) replies: Topic,
    pub(super) state: Mutex<State>,
    /// Woken when the outcome of a call handle arrives.
    pub(super) answered: Condvar,
    /// Held by the thread that delivers.
    pub(super) position: Mutex<Position>,
    pub(super) floor: Mutex<Floor>,
}

/// The position in the reply topic.
pub(super) struct Position {
    pub(super) cursor: Consumer,
    /// Every record below it was delivered. The committed position stays below outcomes that their call
    /// handles have not returned.
    pub(super) next: u64,
    pub(super) synced_at: Instant,
    /// The last position that was made durable.
    synced: Option<u64>,
}

/// The positions of the oldest request without an outcome.
pub(super) struct Floor {
    /// The position in the request topic; its second position is the reply floor.
    pub(super) requests: Consumer,
    /// The position in the reply topic: never durably above a reply floor that a power loss could bring back.
    guard: Consumer,
    /// The durable values of both positions.
    synced: Option<(u64, u64)>,
}

/// Returns the name of a client's offset files.
pub(super) fn cursor_name(client: &str) -> String {
    format!("client.{client}")
}

/// The prefix of the guard's name: the longest one that is put before a client's name.
pub(super) const GUARD_PREFIX: &str = "client-floor.";

/// The longest time for which a server that moves the positions of a killed client owns them.
const MOVED_ON_MOST: Duration = Duration::from_secs(1);

/// Opens a position of this client, whose name this process owns: another process has the position open only
/// for a moment, to move it forward.
pub(super) fn patient(open: impl Fn() -> Result<Consumer>) -> Result<Consumer> {
    let until = Instant::now() + MOVED_ON_MOST;
    loop {
        match open() {
            Err(Error::Locked { .. }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other,
        }
    }
}

impl Link {
    pub(super) fn open(recipient: &Recipient, service: &str, spin: Duration) -> Result<Arc<Link>> {
        let (log, client) = (&recipient.log, recipient.name.as_str());
        let requests = open_topic(log, &requests_of(service), recipient.topic)?;
        let replies = open_topic(log, &replies_of(service), recipient.topic)?;
        let (cursor_name, guard_name) = (cursor_name(client), format!("{GUARD_PREFIX}{client}"));
        let is_known = crate::consumer::exists(log.inner(), requests.name(), &cursor_name);
        let is_guarded = crate::consumer::exists(log.inner(), replies.name(), &guard_name);
        let start = if is_known { Start::First } else { Start::End };
        // The reply topic's position first: a request is sent only when both exist.
        let mut cursor = patient(|| replies.consumer(&cursor_name, start))?;
        cursor.reader().pass_over_lost();
        cursor.set_spin(spin);
        let mut oldest =
            patient(|| Consumer::open_manual(requests.inner(), &cursor_name, Start::End))?;
        if is_known && !is_guarded {
            // The reply topic was deleted: the floor belongs to another topic, and an outcome may be below it.
            // Made durable before the guard is created, because the guard means that this was done.
            oldest.set_floor(0);
            oldest.sync()?;
        }
        let guard = patient(|| Consumer::open_manual(replies.inner(), &guard_name, start))?;
        let floor = Floor { requests: oldest, guard, synced: None };
        let next = cursor.committed();
        let position = Position { cursor, next, synced_at: Instant::now(), synced: None };
        let link = Link {
            service: service.to_owned(),
            requests,
            replies,
            state: Mutex::new(State::default()),
            answered: Condvar::new(),
            position: Mutex::new(position),
            floor: Mutex::new(floor),
        };
        link.rebuild(client, &recipient.callbacks.counters)?;
        Ok(Arc::new(link))
    }

    /// Commits the delivered records, up to the first outcome that its call handle has not returned.
    pub(super) fn commit(&self, position: &mut Position) -> Result<()> {
        let untaken = self.state.lock().first_untaken().unwrap_or(u64::MAX);
        let to = untaken.min(position.next);
        if to > position.cursor.committed() {
            position.cursor.commit_to(to)?;
        }
        Ok(())
    }

    /// Makes the positions durable, if they have moved.
    pub(super) fn sync(&self, position: &mut Position) -> Result<()> {
        self.commit(position)?;
        let committed = position.cursor.committed();
        self.raise_floor(&self.state.lock(), committed)?;
        if position.synced != Some(committed) {
            self.replies.wait_durable_to(committed)?;
            position.cursor.sync()?;
            position.synced = Some(committed);
        }
        self.sync_floor()?;
        position.synced_at = Instant::now();
        Ok(())
    }

    /// Appends the outcome `Expired` for every request whose deadline has passed. It is the outcome only if
    /// it is the first, which is known when it is read.
    pub(super) fn expire(&self) -> Result<()> {
        let now = clock::boottime();
        loop {
            let Some((id, pending)) = self.state.lock().take_due(now) else { return Ok(()) };
            match self.close(&pending, Kind::Expired) {
                Ok(()) => spans::expired(&self.service, &pending.envelope),
                // It was appended, and is delivered when it is read.
                Err(error @ Error::Unknown { .. }) => return Err(error),
                Err(error) => {
                    self.state.lock().set_due(&id, now);
                    return Err(error);
                }
            }
        }
    }

    /// Appends an outcome that the client itself decides, unless the request already has one.
    pub(super) fn close(&self, pending: &Pending, kind: Kind) -> Result<()> {
        let envelope = pending.envelope.outcome(kind, self.offset_of(pending)?);
        self.replies.append(&envelope.seal(Record::default())).map(drop)
    }

    /// Moves the floor to the oldest request without an outcome. The replies below `replies_read` were
    /// delivered.
    pub(super) fn raise_floor(&self, state: &State, replies_read: u64) -> Result<()> {
        let floor = &mut self.floor.lock().requests;
        let (offset, reply_floor) = match state.oldest() {
            Some(oldest) => oldest,
            // No request holds it: one that is sent from now on gets an offset from here on.
            None => (self.requests.high_watermark()?, replies_read),
        };
        if offset >= floor.committed() {
            floor.set_position(offset)?;
            // Not above the position that was read: a redrive may be announced there. Its reply is after the
            // records that were read before it was sent, whatever its own floor says.
            floor.set_floor(reply_floor.min(replies_read).max(floor.floor()));
        }
        Ok(())
    }

    /// Makes the floor durable, then the guard. The records below the two positions come first: after a power
    /// loss neither position may be past the end of its topic, or they would no longer belong together.
    fn sync_floor(&self) -> Result<()> {
        let mut floor = self.floor.lock();
        let positions = (floor.requests.committed(), floor.requests.floor());
        if floor.synced == Some(positions) {
            return Ok(());
        }
        self.requests.wait_durable_to(positions.0)?;
        self.replies.wait_durable_to(positions.1)?;
        floor.requests.sync()?;
        floor.guard.set_position(positions.1)?;
        floor.guard.sync()?;
        floor.synced = Some(positions);
        Ok(())
    }

    pub(super) fn outstanding(&self) -> Result<Vec<Outstanding>> {
        let time = |nanos| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
        let state = self.state.lock();
        let mut all: Vec<Outstanding> = state
            .iter()
            .map(|(id, pending)| Outstanding {
                id: id.clone(),
                service: self.service.clone(),
                callback: pending.envelope.callback.clone(),
                offset: pending.offset,
                sent_at: time(pending.sent_at),
                deadline: pending.envelope.deadline.map(time),
                stopped_at: None,
            })
            .collect();
        drop(state);
        all.sort_by_key(|outstanding| outstanding.offset);
        if !all.is_empty() {
            self.find_stopped(&mut all)?;
        }
        Ok(all)
    }

    /// Finds which requests wait in a stopped lane.
    fn find_stopped(&self, all: &mut [Outstanding]) -> Result<()> {
        let servers = match group::look(self.requests.inner(), group::SERVERS) {
            // No server has run yet; or none can, and its error says why.
            Err(Error::NotFound { .. } | Error::Corrupt { .. }) => return Ok(()),
            other => other?,
        };
        let Some(first) = servers.lanes.iter().filter_map(LaneInfo::stopped_at).min() else {
            return Ok(());
        };
        for outstanding in all.iter_mut().filter(|outstanding| outstanding.offset >= first) {
            let record = record_at(&self.requests, outstanding.offset)?;
            outstanding.stopped_at = record.and_then(|record| servers.stopped_at(&record.as_ref()));
        }
        Ok(())
    }
}

impl Drop for Link {
    /// Releases the records that retention could drop: a client that is idle or never comes back would hold
    /// the topics at its last durable position.
    fn drop(&mut self) {
        if self.replies.options().retention.consumed || self.requests.options().retention.consumed {
            // If this fails, more records than necessary are kept, until the client's next start.
            drop(self.sync(&mut self.position.lock()));
        }
    }
}

/// Returns the boot clock's time at a wall-clock time, as both clocks are now.
pub(super) fn boot_time_of(wall: u64) -> u64 {
    // The wall clock first: a pause between the two reads must not make the deadline earlier.
    let left = wall.saturating_sub(clock::wall());
    clock::boottime().saturating_add(left)
}
