//! The state of a log, as read at one moment.

use std::time::Duration;

use super::view::{Problem, TopicView};

/// The state of a log, as read at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Look {
    /// Time since the first poll, by a clock that does not jump.
    pub(super) at: Duration,
    /// The wall clock, nanoseconds since the Unix epoch.
    pub(super) wall_nanos: u64,
    /// Without rates and owners, which one poll does not show.
    pub(super) topics: Vec<TopicView>,
    pub(super) services: Vec<ServiceLook>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct ServiceLook {
    pub(super) name: String,
    pub(super) outstanding: u64,
    /// There are more that were not read yet.
    pub(super) is_behind: bool,
    /// When the oldest of them was sent, nanoseconds since the Unix epoch.
    pub(super) oldest_nanos: Option<u64>,
    /// Of the outcomes read since the last poll, in microseconds.
    pub(super) latencies_micros: Vec<u64>,
    pub(super) problem: Option<Problem>,
}
