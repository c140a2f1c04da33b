//! A topic's settings: chosen when it is created, stored with it, never changed.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::format::segment::{MAX_LEN, MIN_LEN};
use crate::format::settings::{self, Settings};
use crate::format::PAGE_LEN;
use crate::sys::clock::nanos;

/// What an acknowledged record survives. Stored with the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Power loss, kernel crash, `kill -9`: an append returns after fdatasync. Concurrent appends, from any
    /// thread and process, share one fdatasync. Readers see only durable records.
    #[default]
    PowerLoss,
    /// `kill -9` at once; power loss after at most this interval plus the time of one sync, while some
    /// process that has the topic open for writing runs. (Where one sync takes longer than the interval,
    /// plus the time of two.) After the last such process was killed, the kernel's own writeback applies
    /// (about 30 s); a clean close syncs.
    PowerLossWithin(Duration),
    /// `kill -9` and crashes of any process; an append costs a store into memory. A power loss may take the
    /// newest records, up to all that no sync has covered: about 1 GiB of full segments is left to the kernel's
    /// own writeback (about 30 s). A prefix of the log remains; a clean close syncs.
    ProcessCrash,
}

/// What may be dropped from the start of a topic, whole segments at a time. Without a limit of age or size
/// nothing is dropped, unless `consumed` is set or [`trim_before`](crate::Topic::trim_before) is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Retention {
    /// A segment may be dropped when its newest record is older than this. While a process has the topic
    /// open for writing, a segment is sealed when its oldest record has half of this age, so a record is
    /// dropped at one and a half times this age, at the latest 10 s later; or at this age if nothing is
    /// appended after it. This costs a few more segment files.
    ///
    /// Ages are by the wall clocks of the processes that append and drop. A timestamp that is in the future
    /// of the process that drops is ignored: the time at which the record's segment was sealed is used
    /// instead. If the wall clock is set by a minute or more while a topic is open, nothing is dropped
    /// there for its age for an hour, or for this age if that is shorter; see
    /// [`Topic::clocks`](crate::Topic::clocks). A process that opens a topic while its clock is ahead drops
    /// too early, except records that `consumed` keeps.
    pub age: Option<Duration>,
    /// The oldest segments may be dropped while the sealed ones take more bytes than this. A writer that is
    /// faster than the disk is slowed down: each appending process goes at most nine segments over the
    /// limit. The newest segment and up to two prepared ones also take disk space.
    pub bytes: Option<u64>,
    /// Keeps each record until every consumer has durably committed past it, and everything while there is
    /// no consumer. Without another limit, drops everything that every consumer has committed past.
    pub consumed: bool,
}

/// A topic's settings. All are stored: opening the topic with others is an error that names both values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicOptions {
    /// What an acknowledged record survives.
    pub durability: Durability,
    /// Bytes of a segment file, allocated whole: a multiple of 4096, from 16 KiB to 2 GiB. Larger segments
    /// roll less often, smaller ones are dropped sooner.
    pub segment_len: u64,
    /// What may be dropped.
    pub retention: Retention,
}

impl Default for TopicOptions {
    /// `PowerLoss`, segments of 16 MiB, everything kept.
    fn default() -> TopicOptions {
        TopicOptions {
            durability: Durability::default(),
            segment_len: 16 << 20,
            retention: Retention::default(),
        }
    }
}

setters! { Retention:
    with_age age: impl Into<Option<Duration>>,
    with_bytes bytes: impl Into<Option<u64>>,
    with_consumed consumed: bool,
}

setters! { TopicOptions:
    with_durability durability: Durability,
    with_segment_len segment_len: u64,
    with_retention retention: Retention,
}

impl TopicOptions {
    /// Returns the stored form, for a new topic with this identity.
    pub(crate) fn to_settings(self, topic_id: u64) -> Result<Settings> {
        let invalid = |what: String| Err(Error::Invalid { what });
        let len = self.segment_len;
        if !(MIN_LEN..=MAX_LEN).contains(&len) || len % PAGE_LEN as u64 != 0 {
            return invalid(format!(
                "segment_len must be a multiple of 4096 from 16 KiB to 2 GiB, not {len}"
            ));
        }
        let (durability, interval) = match self.durability {
            Durability::PowerLoss => (settings::POWER_LOSS, 0),
            Durability::PowerLossWithin(interval) if interval < Duration::from_millis(1) => {
                return invalid("PowerLossWithin is less than 1 ms: choose PowerLoss".into())
            }
            Durability::PowerLossWithin(interval) => (settings::POWER_LOSS_WITHIN, nanos(interval)),
            Durability::ProcessCrash => (settings::PROCESS_CRASH, 0),
        };
        let retention = self.retention;
        if retention.age == Some(Duration::ZERO) || retention.bytes == Some(0) {
            return invalid("a retention limit is zero: leave it out, or make it positive".into());
        }
        Ok(Settings {
            durability,
            interval,
            segment_len: len,
            topic_id,
            retain_unconsumed: retention.consumed,
            retain_age: retention.age.map_or(0, nanos),
            retain_bytes: retention.bytes.unwrap_or(0),
        })
    }

    /// Returns the public form of stored settings.
    pub(crate) fn of_settings(stored: &Settings) -> TopicOptions {
        TopicOptions {
            durability: match stored.durability {
                settings::POWER_LOSS => Durability::PowerLoss,
                settings::POWER_LOSS_WITHIN => {
                    Durability::PowerLossWithin(Duration::from_nanos(stored.interval))
                }
                _ => Durability::ProcessCrash,
            },
            segment_len: stored.segment_len,
            retention: Retention {
                age: (stored.retain_age != 0).then(|| Duration::from_nanos(stored.retain_age)),
                bytes: (stored.retain_bytes != 0).then_some(stored.retain_bytes),
                consumed: stored.retain_unconsumed,
            },
        }
    }

    /// Describes the first setting in which `self`, as requested, differs from `stored`, with both values.
    pub(crate) fn difference(&self, stored: &TopicOptions) -> Option<String> {
        let differs = |name: &str, stored: &dyn std::fmt::Debug, asked: &dyn std::fmt::Debug| {
            let (stored, asked) = (format!("{stored:?}"), format!("{asked:?}"));
            (stored != asked).then(|| format!("{name} is {stored}, but {asked} was requested"))
        };
        differs("durability", &stored.durability, &self.durability)
            .or_else(|| differs("segment_len", &stored.segment_len, &self.segment_len))
            .or_else(|| differs("retention", &stored.retention, &self.retention))
    }
}
