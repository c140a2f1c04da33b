//! One combination of workload and settings, which is measured.

use std::fmt;

use clap::ValueEnum;
use deaddrop::{Durability, Retention, TopicOptions};
use serde::{de, Deserialize, Deserializer, Serialize, Serializer};

use crate::args::bench::Workload;
use crate::args::durability;
use crate::failure::Failure;
use crate::units;

impl Workload {
    pub(super) fn name(self) -> &'static str {
        match self {
            Workload::Append => "append",
            Workload::Consume => "consume",
            Workload::Request => "request",
        }
    }
}

impl Serialize for Workload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Workload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Workload, D::Error> {
        let name = String::deserialize(deserializer)?;
        Workload::from_str(&name, false).map_err(de::Error::custom)
    }
}

/// How long a case is measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Window {
    Seconds(f64),
    /// Operations of all threads together.
    Count(u64),
}

/// The servers, and how many requests are outstanding. One of each is the case of reports that were
/// written before these could be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Service {
    /// Processes.
    pub(super) servers: u32,
    /// Threads in each of them.
    pub(super) threads: u32,
    /// Requests that each thread of a client has sent and has not received a reply to.
    pub(super) outstanding: u32,
}

impl Default for Service {
    fn default() -> Service {
        Service { servers: 1, threads: 1, outstanding: 1 }
    }
}

/// One combination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Case {
    pub(super) workload: Workload,
    /// As [`units::durability`] writes it.
    pub(super) durability: String,
    /// Bytes of a payload.
    pub(super) size: u64,
    pub(super) processes: u32,
    /// Threads in each process.
    pub(super) threads: u32,
    /// Only of the workload request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) service: Option<Service>,
}

/// Topics keep at most this on the disk while they are measured.
pub(super) const KEPT_BYTES: u64 = 1 << 30;

impl Case {
    pub(super) fn threads_total(&self) -> u64 {
        u64::from(self.processes) * u64::from(self.threads)
    }

    /// Adds the fields that a report from before [`Service`] lacks.
    pub(super) fn complete(&mut self) {
        if self.workload == Workload::Request {
            self.service.get_or_insert_default();
        }
    }

    /// What one operation is.
    pub(super) fn operation(&self) -> &'static str {
        match (self.workload, self.service.unwrap_or_default().outstanding) {
            (Workload::Append, _) => "append() until it returns: the record is acknowledged",
            (Workload::Consume, _) => "next() and commit() of one record, records read in order",
            (Workload::Request, 1) => "call() until the reply arrives; servers echo the payload",
            (Workload::Request, _) => "send() until its callback runs; servers echo the payload",
        }
    }

    /// How many of `count` operations the thread `number` of all threads performs.
    pub(super) fn share(&self, count: u64, number: u64) -> u64 {
        let total = self.threads_total();
        count / total + u64::from(number < count % total)
    }

    /// Records that the consumers read again and again.
    pub(super) fn filled_count(&self) -> u64 {
        const FILLED_BYTES: u64 = 64 << 20;
        (FILLED_BYTES / self.size.max(64)).clamp(1, 100_000)
    }

    pub(super) fn topic_options(&self) -> Result<TopicOptions, Failure> {
        let durability =
            self.durability.parse::<durability::Durability>().map_err(Failure::usage)?;
        let mut options = TopicOptions::durability(Durability::from(durability));
        if self.workload == Workload::Append {
            options.retention = Retention { bytes: Some(KEPT_BYTES), ..Retention::default() };
        }
        Ok(options)
    }

    /// When an operation of this case syncs.
    pub(super) fn sync_mode(&self) -> String {
        let what = match self.workload {
            Workload::Append => "append returns",
            Workload::Consume => {
                return "a commit is a store into shared memory: it survives kill -9, and a power \
                        loss up to the last sync, once a second"
                    .to_owned()
            }
            Workload::Request => "the request, and the reply, can be read",
        };
        match self.durability.strip_prefix("within:") {
            Some(interval) => format!("{what} before the sync, which follows within {interval}"),
            None if self.durability == "power-loss" => {
                format!("{what} after fdatasync, which concurrent appends share")
            }
            None => format!("{what} without a sync: survives kill -9, not a power loss"),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {}, {}, {}, {}",
            self.workload.name(),
            self.durability,
            units::size(self.size),
            match self.processes {
                1 => "1 process".to_owned(),
                many => format!("{many} processes"),
            },
            units::count(self.threads.into(), "thread"),
        )?;
        match self.service {
            Some(Service { servers, threads, outstanding }) => write!(
                f,
                ", {outstanding} outstanding, {} of {}",
                units::count(servers.into(), "server"),
                units::count(threads.into(), "thread"),
            ),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_all_threads_are_the_whole_count() {
        let case = Case {
            workload: Workload::Append,
            durability: "process-crash".into(),
            size: 1,
            processes: 3,
            threads: 5,
            service: None,
        };
        for count in [15, 16, 29, 1000] {
            let shares: Vec<u64> = (0..15).map(|number| case.share(count, number)).collect();
            assert_eq!(shares.iter().sum::<u64>(), count);
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }
}
