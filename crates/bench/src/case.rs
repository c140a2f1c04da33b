//! One combination of workload and settings, which is measured.

use std::fmt;
use std::time::Duration;

use deaddrop::{Durability, Retention, TopicOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::units;

/// What the threads of a case do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// All append to one topic, a record at a time.
    Append,
    /// Each is a consumer of one topic: it takes a record and commits it.
    Consume,
    /// Each is a client of one service: it sends requests and waits for the replies.
    Request,
}

impl Workload {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Workload::Append => "append",
            Workload::Consume => "consume",
            Workload::Request => "request",
        }
    }
}

/// How long a case is measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Window {
    /// For this time.
    Seconds(f64),
    /// Operations of all threads together.
    Count(u64),
}

/// The settings that all cases share.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// How long each case is measured.
    pub window: Window,
    /// How long each case runs unmeasured before, in seconds.
    pub warm_up: f64,
}

/// The servers, and how many requests are outstanding. One of each is the case of reports that were
/// written before these could be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Service {
    /// Server processes.
    pub servers: u32,
    /// Threads in each of them.
    pub threads: u32,
    /// Requests that each thread of a client keeps unanswered.
    pub outstanding: u32,
}

impl Default for Service {
    fn default() -> Service {
        Service { servers: 1, threads: 1, outstanding: 1 }
    }
}

/// One combination.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Case {
    /// append, consume, request.
    pub workload: Workload,
    /// What acknowledged records survive: power-loss, process-crash, within:500ms.
    pub durability: String,
    /// Bytes of a payload.
    pub size: u64,
    /// Processes at work.
    pub processes: u32,
    /// Threads in each of them.
    pub threads: u32,
    /// For request, the servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
}

/// Topics keep at most this on the disk while they are measured.
pub(crate) const KEPT_BYTES: u64 = 1 << 30;
/// How often a waiting thread checks whether it should end.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

impl Case {
    /// Threads at work, in all processes.
    pub fn threads_total(&self) -> u64 {
        u64::from(self.processes) * u64::from(self.threads)
    }

    /// Adds the fields that a report from before [`Service`] lacks.
    pub(crate) fn complete(&mut self) {
        if self.workload == Workload::Request {
            self.service.get_or_insert_default();
        }
    }

    /// What one operation is.
    pub(crate) fn operation(&self) -> &'static str {
        match (self.workload, self.service.unwrap_or_default().outstanding) {
            (Workload::Append, _) => "append() until it returns: the record is acknowledged",
            (Workload::Consume, _) => "next() and commit() of one record, records read in order",
            (Workload::Request, 1) => "call() until the reply arrives; servers echo the payload",
            (Workload::Request, _) => "send() until its callback runs; servers echo the payload",
        }
    }

    /// How many of `count` operations the thread `number` of all threads performs.
    pub(crate) fn share(&self, count: u64, number: u64) -> u64 {
        let total = self.threads_total();
        count / total + u64::from(number < count % total)
    }

    /// Records that the consumers read again and again.
    pub(crate) fn filled_count(&self) -> u64 {
        const FILLED_BYTES: u64 = 64 << 20;
        (FILLED_BYTES / self.size.max(64)).clamp(1, 100_000)
    }

    pub(crate) fn topic_options(&self) -> Result<TopicOptions> {
        let interval = self.durability.strip_prefix("within:").map(humantime::parse_duration);
        let durability = match (self.durability.as_str(), interval) {
            ("power-loss", _) => Durability::PowerLoss,
            ("process-crash", _) => Durability::ProcessCrash,
            (_, Some(Ok(interval))) => Durability::PowerLossWithin(interval),
            (other, _) => return Err(Error::Invalid(format!("{other} is not a durability"))),
        };
        let mut options = TopicOptions::default().with_durability(durability);
        if self.workload == Workload::Append {
            options.retention = Retention::default().with_bytes(KEPT_BYTES);
        }
        Ok(options)
    }

    /// When an operation of this case syncs.
    pub(crate) fn sync_mode(&self) -> String {
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
