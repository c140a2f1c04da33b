//! The requests of one service that have no outcome yet, followed in its two topics.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use deaddrop::service::{Envelope, Kind, RequestId};
use deaddrop::{Error, Log, Reader, RecordRef, Result, Start, Topic};

use super::look::ServiceLook;
use super::view::Problem;

/// Of requests that were answered before the first poll, at most this many are read for their latencies.
const HISTORY_COUNT: u64 = 10_000;
/// At most this many requests are held in memory; if there are more, the view says so.
const OPEN_MAX: usize = 1_000_000;
/// Records between two readings of the clock.
const PIECE: u32 = 256;
/// An outcome can be stamped this much before its request, because two processes read the clock.
const CLOCK_MARGIN: Duration = Duration::from_secs(1);

/// Follows one service.
pub(super) struct Follower {
    name: String,
    replies: Topic,
    reply_topic: String,
    request_reader: Reader,
    reply_reader: Reader,
    /// Sent and without an outcome, with their times.
    open: HashMap<RequestId, u64>,
    is_full: bool,
}

impl Follower {
    pub(super) fn new(log: &Log, name: &str) -> Result<Follower> {
        let reply_topic = format!("{name}.replies");
        let requests = log.open_topic(&format!("{name}.requests"))?;
        let replies = log.open_topic(&reply_topic)?;
        // Read before the requests: outcomes of requests that arrive from now on are after it.
        let replies_end = replies.high_watermark()?;
        let end = requests.high_watermark()?;
        // A request that all lanes have committed past has an outcome. Without a server all are open.
        let mut floor = None;
        for (_, group) in requests.groups()? {
            if let Ok(group) = group {
                floor = Some(floor.map_or(group.committed, |at: u64| at.min(group.committed)));
            }
        }
        let start = floor.unwrap_or(0).min(end.saturating_sub(HISTORY_COUNT));
        let start = start.max(requests.first_offset()?);
        let mut request_reader = requests.reader(Start::Offset(start))?;
        let first = request_reader.next()?.map(|record| record.timestamp_nanos());
        request_reader.seek(Start::Offset(start))?;
        let from = match first {
            Some(nanos) => Start::Time(
                SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos).saturating_sub(CLOCK_MARGIN),
            ),
            None => Start::Offset(replies_end),
        };
        let reply_reader = replies.reader(from)?;
        Ok(Follower {
            name: name.to_owned(),
            replies,
            reply_topic,
            request_reader,
            reply_reader,
            open: HashMap::new(),
            is_full: false,
        })
    }

    /// Reads new records, for at most `limit`.
    pub(super) fn look(&mut self, limit: Duration) -> ServiceLook {
        let mut seen = ServiceLook { name: self.name.clone(), ..ServiceLook::default() };
        let until = Instant::now() + limit;
        match self.read(until, &mut seen.latencies_micros) {
            Ok(is_done) => seen.is_behind = !is_done || self.is_full,
            Err(error) => {
                seen.problem = Some(Problem::of(&error));
                seen.is_behind = true;
            }
        }
        seen.outstanding = self.open.len() as u64;
        seen.oldest_nanos = self.open.values().min().copied();
        seen
    }

    /// Reads requests first, then outcomes only up to the end that they had before: so the request of
    /// every outcome was read. True if both are read to their ends.
    fn read(&mut self, until: Instant, latencies: &mut Vec<u64>) -> Result<bool> {
        let replies_end = self.replies.high_watermark()?;
        let (open, is_full, reply_topic) = (&mut self.open, &mut self.is_full, &self.reply_topic);
        let is_done = read_each(&mut self.request_reader, u64::MAX, until, &mut |record| {
            let Some(request) = envelope(record) else { return };
            let is_ours = request.reply_topic.is_none_or(|topic| topic == *reply_topic);
            if request.kind != Kind::Request || !is_ours {
                return;
            }
            if open.len() < OPEN_MAX {
                open.insert(request.id, record.timestamp_nanos());
            } else {
                *is_full = true;
            }
        })?;
        if !is_done {
            return Ok(false);
        }
        read_each(&mut self.reply_reader, replies_end, until, &mut |record| {
            // The first record that names a request is its outcome; later ones find nothing here.
            let sent = envelope(record).and_then(|outcome| open.remove(&outcome.id));
            if let Some(sent) = sent {
                latencies.push(record.timestamp_nanos().saturating_sub(sent) / 1000);
            }
        })
    }
}

/// A record without an envelope, or with one of a later release, is not counted as a request.
fn envelope(record: &RecordRef<'_>) -> Option<Envelope> {
    Envelope::of(record)?.ok()
}

/// Reads up to the offset `end`, or until a time. True if there is no more. Trimmed records are skipped;
/// damage is reported once, and the next poll continues after it.
fn read_each(
    reader: &mut Reader,
    end: u64,
    until: Instant,
    each: &mut dyn FnMut(&RecordRef<'_>),
) -> Result<bool> {
    loop {
        for _ in 0..PIECE {
            if reader.offset() >= end {
                return Ok(true);
            }
            match reader.next() {
                Ok(Some(record)) => each(&record),
                Ok(None) => return Ok(true),
                Err(Error::Trimmed { .. }) => reader.seek(Start::First)?,
                Err(error) if error.is_corruption() => {
                    reader.skip_damage()?;
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        if Instant::now() >= until {
            return Ok(false);
        }
    }
}
