//! The state of a log, as read at one moment.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

/// The state of a log, as read at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Look {
    /// Time since the first poll, by a clock that does not jump.
    pub(super) at: Duration,
    /// The wall clock, nanoseconds since the Unix epoch.
    pub(super) wall_nanos: u64,
    pub(super) topics: Vec<TopicLook>,
    pub(super) services: Vec<ServiceLook>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct TopicLook {
    pub(super) name: String,
    pub(super) durability: String,
    pub(super) first: u64,
    pub(super) high_watermark: u64,
    pub(super) disk_bytes: u64,
    pub(super) consumers: Vec<ConsumerLook>,
    pub(super) groups: Vec<GroupLook>,
    pub(super) members: Vec<Member>,
    pub(super) problem: Option<Problem>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct ConsumerLook {
    pub(super) name: String,
    pub(super) committed: Option<u64>,
    pub(super) lag: u64,
    pub(super) owner: Option<u32>,
    pub(super) problem: Option<Problem>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct GroupLook {
    pub(super) name: String,
    pub(super) committed: Option<u64>,
    pub(super) lag: u64,
    pub(super) lanes: Vec<Lane>,
    pub(super) problem: Option<Problem>,
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

/// The reason why something could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) text: String,
    pub(super) is_corruption: bool,
}

impl Problem {
    pub(super) fn of(error: &deaddrop::Error) -> Problem {
        Problem { text: crate::hint::error(error), is_corruption: error.is_corruption() }
    }
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
