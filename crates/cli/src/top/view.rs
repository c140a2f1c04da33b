//! The view of a log.

use serde::Serialize;

use super::look::{Lane, Member};

/// The view; as JSON, a line of `--json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct View {
    pub(super) at: String,
    pub(super) dir: String,
    /// The period that rates refer to; none at the first poll.
    pub(super) interval_seconds: Option<f64>,
    pub(super) topics: Vec<TopicView>,
    pub(super) services: Vec<ServiceView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct TopicView {
    pub(super) topic: String,
    /// The service or the client that it belongs to.
    pub(super) service: Option<String>,
    pub(super) client: Option<String>,
    pub(super) durability: String,
    pub(super) first: u64,
    pub(super) high_watermark: u64,
    pub(super) disk_bytes: u64,
    pub(super) per_second: Option<f64>,
    /// The rates of the last polls, the newest last.
    #[serde(skip)]
    pub(super) history: Vec<f64>,
    pub(super) consumers: Vec<ConsumerView>,
    pub(super) groups: Vec<GroupView>,
    pub(super) members: Vec<Member>,
    pub(super) error: Option<String>,
    #[serde(skip)]
    pub(super) is_damaged: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ConsumerView {
    pub(super) consumer: String,
    pub(super) committed: Option<u64>,
    pub(super) lag: u64,
    pub(super) per_second: Option<f64>,
    pub(super) owner: Option<u32>,
    pub(super) error: Option<String>,
    #[serde(skip)]
    pub(super) is_damaged: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct GroupView {
    pub(super) group: String,
    /// Everything below it is done, in all lanes.
    pub(super) committed: Option<u64>,
    pub(super) lag: u64,
    pub(super) per_second: Option<f64>,
    pub(super) lanes: Vec<Lane>,
    pub(super) error: Option<String>,
    #[serde(skip)]
    pub(super) is_damaged: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ServiceView {
    pub(super) service: String,
    pub(super) outstanding: u64,
    /// There are more, not counted yet.
    pub(super) outstanding_is_partial: bool,
    pub(super) oldest_seconds: Option<f64>,
    pub(super) outcomes_per_second: Option<f64>,
    pub(super) latency_micros: Option<Latency>,
    /// The 99th percentiles of the last polls that saw outcomes, in microseconds.
    #[serde(skip)]
    pub(super) history: Vec<f64>,
    pub(super) error: Option<String>,
    #[serde(skip)]
    pub(super) is_damaged: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Latency {
    pub(super) count: u64,
    pub(super) p50: u64,
    pub(super) p90: u64,
    pub(super) p99: u64,
    pub(super) max: u64,
}

impl View {
    /// Whether stored bytes were found to be damaged.
    pub(super) fn is_damaged(&self) -> bool {
        self.topics.iter().any(|topic| {
            topic.is_damaged
                || topic.consumers.iter().any(|consumer| consumer.is_damaged)
                || topic.groups.iter().any(|group| group.is_damaged)
        }) || self.services.iter().any(|service| service.is_damaged)
    }
}
