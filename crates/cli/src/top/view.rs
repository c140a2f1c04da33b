//! The view of a log.

use schemars::JsonSchema;
use serde::Serialize;

/// A look at the log.
#[derive(Debug, Clone, PartialEq, JsonSchema, Serialize)]
pub(crate) struct View {
    /// When: RFC 3339, UTC.
    pub(super) at: String,
    /// The log's directory.
    pub(super) dir: String,
    /// Time since the look before, over which rates are taken.
    #[schemars(with = "f64")]
    pub(super) interval_seconds: Option<f64>,
    pub(super) topics: Vec<TopicView>,
    pub(super) services: Vec<ServiceView>,
}

#[derive(Debug, Clone, Default, PartialEq, JsonSchema, Serialize)]
pub(super) struct TopicView {
    /// A topic's name.
    pub(super) topic: String,
    /// The service that it belongs to, if it belongs to one.
    pub(super) service: Option<String>,
    /// The client whose parked outcomes it holds, if it holds any.
    pub(super) client: Option<String>,
    /// What acknowledged records survive; empty if it cannot be looked at.
    pub(super) durability: String,
    /// First offset that is retained.
    pub(super) first: u64,
    /// Offset after the newest record that readers see.
    pub(super) high_watermark: u64,
    /// Bytes of its segment files.
    pub(super) disk_bytes: u64,
    /// Records appended a second; null if it did not exist at the look before.
    pub(super) per_second: Option<f64>,
    /// The rates of the last polls, the newest last.
    #[serde(skip)]
    pub(super) history: Vec<f64>,
    pub(super) consumers: Vec<ConsumerView>,
    pub(super) groups: Vec<GroupView>,
    pub(super) members: Vec<Member>,
    /// Why the topic cannot be looked at.
    pub(super) error: Option<Problem>,
}

#[derive(Debug, Clone, Default, PartialEq, JsonSchema, Serialize)]
pub(super) struct ConsumerView {
    /// A consumer's name.
    pub(super) consumer: String,
    /// Its position.
    pub(super) committed: Option<u64>,
    /// Records that it has to read.
    pub(super) lag: u64,
    /// Records by which its position advances a second.
    pub(super) per_second: Option<f64>,
    /// Process id of its owner.
    pub(super) owner: Option<u32>,
    /// Why its position cannot be read.
    pub(super) error: Option<Problem>,
}

#[derive(Debug, Clone, Default, PartialEq, JsonSchema, Serialize)]
pub(super) struct GroupView {
    /// A group's name.
    pub(super) group: String,
    /// Everything below it is handled, in all lanes.
    pub(super) committed: Option<u64>,
    /// High watermark less committed: at least as many records as are not done.
    pub(super) lag: u64,
    /// Records by which committed advances a second.
    pub(super) per_second: Option<f64>,
    pub(super) lanes: Vec<Lane>,
    /// Why its file cannot be read.
    pub(super) error: Option<Problem>,
}

#[derive(Debug, Clone, PartialEq, JsonSchema, Serialize)]
pub(super) struct ServiceView {
    /// A service's name.
    pub(super) service: String,
    /// Requests without an outcome.
    pub(super) outstanding: u64,
    /// There are more, not counted yet.
    pub(super) outstanding_is_partial: bool,
    /// Age of the oldest of them.
    pub(super) oldest_seconds: Option<f64>,
    /// Outcomes a second.
    #[schemars(with = "f64")]
    pub(super) outcomes_per_second: Option<f64>,
    /// From a request's append to its outcome's, of the last 60 looks, in microseconds.
    pub(super) latency_micros: Option<Latency>,
    /// The 99th percentiles of the last polls that saw outcomes, in microseconds.
    #[serde(skip)]
    pub(super) history: Vec<f64>,
    /// Why its topics cannot be looked at.
    pub(super) error: Option<Problem>,
}

#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize)]
pub(super) struct Latency {
    /// Outcomes that were timed.
    pub(super) count: u64,
    /// Half of them took no longer.
    pub(super) p50: u64,
    /// Nine of ten took no longer.
    pub(super) p90: u64,
    /// 99 of 100.
    pub(super) p99: u64,
    /// The longest one.
    pub(super) max: u64,
}

/// A lane of a group.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize)]
pub(super) struct Lane {
    /// A lane's number.
    pub(super) lane: usize,
    /// Records of the lane below it are handled.
    pub(super) committed: u64,
    /// Process id of the worker that holds it.
    pub(super) owner: Option<u32>,
    /// The record that it is at work on.
    pub(super) in_hand: Option<InHand>,
}

/// The record at which a lane is.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize)]
pub(super) struct InHand {
    /// The record's offset.
    pub(super) offset: u64,
    /// Attempts at it so far.
    pub(super) attempt: u32,
    /// running, running alone, failed, suspect, stopped.
    pub(super) state: &'static str,
}

/// A process that has a topic open for writing.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize)]
pub(super) struct Member {
    /// Slot of a process that has the topic open for writing.
    pub(super) slot: usize,
    /// Its process id.
    pub(super) pid: u32,
    /// Its name; empty if it cannot be seen from here.
    pub(super) command: String,
    /// idle, appending, syncing, stopped, dead.
    pub(super) state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Idle,
    Appending,
    Syncing,
    /// Stopped by a signal or a debugger: if it owns the append lock, writers wait for it.
    Stopped,
    /// The lock or slot that it owned was not taken over yet.
    Dead,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Appending => "appending",
            State::Syncing => "syncing",
            State::Stopped => "stopped",
            State::Dead => "dead",
        }
    }
}

/// The reason why something could not be read.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(transparent)]
pub(super) struct Problem {
    pub(super) text: String,
    #[serde(skip)]
    pub(super) is_corruption: bool,
}

impl Problem {
    pub(super) fn of(error: &deaddrop::Error) -> Problem {
        Problem { text: crate::hint::error(error), is_corruption: error.is_corruption() }
    }
}

impl View {
    /// Whether stored bytes were found to be damaged.
    pub(super) fn is_damaged(&self) -> bool {
        let of_topics = self.topics.iter().flat_map(|topic| {
            let consumers = topic.consumers.iter().map(|consumer| &consumer.error);
            let groups = topic.groups.iter().map(|group| &group.error);
            consumers.chain(groups).chain([&topic.error])
        });
        let of_services = self.services.iter().map(|service| &service.error);
        of_topics.chain(of_services).flatten().any(|problem| problem.is_corruption)
    }
}
