//! Events of the feature `tracing`, for failures and takeovers that no caller gets as an error. Without the
//! feature they do nothing.
#![cfg_attr(not(feature = "tracing"), allow(unused_variables))]

use crate::error::Error;
use crate::recovery::RecoveryReport;

#[cfg(feature = "tracing")]
macro_rules! event {
    ($level:ident, $topic:expr, $what:literal, $($more:tt)*) => {
        tracing::event!(
            target: "deaddrop",
            tracing::Level::$level,
            {
                messaging.system = "deaddrop",
                messaging.destination.name = $topic,
                $($more)*
            },
            $what
        )
    };
}

#[cfg(not(feature = "tracing"))]
macro_rules! event {
    ($($event:tt)*) => {};
}

pub(crate) fn recovered(topic: &str, report: &RecoveryReport) {
    let damaged: u64 =
        report.damage.iter().map(|damage| damage.offsets.end - damage.offsets.start).sum();
    if damaged > 0 || report.frames_cut > 0 {
        event!(
            ERROR,
            topic,
            "a recovery found damage",
            deaddrop.end = report.end,
            deaddrop.damaged = damaged,
            deaddrop.frames_behind_cut = report.frames_cut,
            deaddrop.set_aside = report.set_aside.len()
        );
    } else if report.cut || !report.set_aside.is_empty() {
        event!(
            WARN,
            topic,
            "a recovery cut off a torn tail",
            deaddrop.end = report.end,
            deaddrop.set_aside = report.set_aside.len()
        );
    }
}

pub(crate) fn sync_failed(topic: &str) {
    event!(ERROR, topic, "a sync failed: nothing is appended until the topic is opened again",);
}

pub(crate) fn sync_was_slow(topic: &str, nanos: u64) {
    event!(WARN, topic, "a sync was slow", deaddrop.sync_ms = nanos / 1_000_000);
}

pub(crate) fn no_thread(topic: &str, error: &std::io::Error) {
    event!(WARN, topic, "no thread can be started: appends do the background's work, retention waits",
        error = %error);
}

pub(crate) fn position_not_synced(topic: &str, error: &Error) {
    event!(ERROR, topic, "a position could not be made durable", error = %error);
}

pub(crate) fn attempt_failed(topic: &str, group: &str, offset: u64, attempt: u32, why: &str) {
    event!(
        WARN,
        topic,
        "a handler failed",
        messaging.consumer.group.name = group,
        deaddrop.offset = offset,
        deaddrop.attempt = attempt,
        error = why
    );
}

pub(crate) fn dead_lettered(topic: &str, group: &str, offset: u64, attempts: u32) {
    event!(
        ERROR,
        topic,
        "a record is no longer retried: it goes to the dead-letter topic",
        messaging.consumer.group.name = group,
        deaddrop.offset = offset,
        deaddrop.attempt = attempts
    );
}

pub(crate) fn lane_stopped(topic: &str, group: &str, lane: u32, offset: u64) {
    event!(
        ERROR,
        topic,
        "a lane is stopped at a record that failed too often",
        messaging.consumer.group.name = group,
        deaddrop.lane = lane,
        deaddrop.offset = offset
    );
}

pub(crate) fn lanes_taken(topic: &str, group: &str, taken: usize, held: usize, suspects: usize) {
    event!(
        INFO,
        topic,
        "lanes were taken over",
        messaging.consumer.group.name = group,
        deaddrop.taken = taken,
        deaddrop.held = held,
        deaddrop.suspects = suspects
    );
}

pub(crate) fn interrupted(work: &str, error: &Error, wait: std::time::Duration) {
    event!(WARN, work, "an error interrupts the work, which continues after a wait",
        error = %error, deaddrop.wait_ms = wait.as_millis() as u64);
}

pub(crate) fn ended(work: &str, error: &Error) {
    event!(ERROR, work, "an error has ended a thread", error = %error);
}
