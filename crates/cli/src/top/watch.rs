//! Polls a log that is open read-only.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant, SystemTime};

use deaddrop::group::{GroupInfo, LaneInfo};
use deaddrop::{Error, Log, Topic};

use super::look::{Look, ServiceLook};
use super::outstanding::Follower;
use super::view::{ConsumerView, GroupView, InHand, Lane, Member, Problem, State, TopicView};
use crate::failure::{At, Failure};
use crate::{ls, units};

/// A log, and the parts of it that stay open between two polls: opening a topic that no process has open
/// for writing requires reading its newest segment.
pub(super) struct Watch {
    log: Log,
    begun: Instant,
    topics: BTreeMap<String, Held>,
    followers: BTreeMap<String, Follower>,
}

struct Held {
    topic: Topic,
    /// Distinguishes a topic that was deleted and created again.
    inode: u64,
}

impl Watch {
    pub(super) fn new(log: Log) -> Watch {
        Watch { log, begun: Instant::now(), topics: BTreeMap::new(), followers: BTreeMap::new() }
    }

    pub(super) fn dir(&self) -> String {
        self.log.dir().display().to_string()
    }

    /// Polls everything once. `reading_max`: how long it may read in each service.
    pub(super) fn look(&mut self, reading_max: Duration) -> Result<Look, Failure> {
        let dir = self.log.dir();
        // A directory that was deleted would look like a log without topics.
        std::fs::metadata(dir).at("looking at", dir)?;
        let names = self.log.topics()?;
        self.topics.retain(|name, _| names.contains(name));
        let mut topics = Vec::new();
        for name in &names {
            match self.topic(name).and_then(|topic| look_at(&topic)) {
                Ok(topic) => topics.push(topic),
                // Deleted after the topics were listed, or not created yet.
                Err(Error::NotFound { .. }) => {}
                Err(error) => topics.push(TopicView {
                    topic: name.clone(),
                    error: Some(Problem::of(&error)),
                    ..TopicView::default()
                }),
            }
        }
        let services = self.services(&names, reading_max);
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Ok(Look {
            at: self.begun.elapsed(),
            wall_nanos: u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX),
            topics,
            services,
        })
    }

    fn topic(&mut self, name: &str) -> deaddrop::Result<Topic> {
        if let Some(held) = self.topics.get(name) {
            let metadata = std::fs::metadata(held.topic.dir());
            if metadata.is_ok_and(|metadata| metadata.ino() == held.inode) {
                return Ok(held.topic.clone());
            }
            self.topics.remove(name);
            let service = name.strip_suffix(".requests").or(name.strip_suffix(".replies"));
            // It keeps the same topic open.
            service.map(|service| self.followers.remove(service));
        }
        let topic = self.log.open_topic(name)?;
        if let Ok(metadata) = std::fs::metadata(topic.dir()) {
            let held = Held { topic: topic.clone(), inode: metadata.ino() };
            self.topics.insert(name.to_owned(), held);
        }
        Ok(topic)
    }

    fn services(&mut self, names: &[String], reading_max: Duration) -> Vec<ServiceLook> {
        let services: Vec<&str> = names
            .iter()
            .filter_map(|name| name.strip_suffix(".requests"))
            .filter(|service| names.contains(&format!("{service}.replies")))
            .collect();
        self.followers.retain(|name, _| services.contains(&name.as_str()));
        let mut looks = Vec::new();
        for service in services {
            if !self.followers.contains_key(service) {
                match Follower::new(&self.log, service) {
                    Ok(follower) => {
                        self.followers.insert(service.to_owned(), follower);
                    }
                    Err(Error::NotFound { .. }) => continue,
                    Err(error) => looks.push(ServiceLook {
                        name: service.to_owned(),
                        problem: Some(Problem::of(&error)),
                        ..ServiceLook::default()
                    }),
                }
            }
            if let Some(follower) = self.followers.get_mut(service) {
                looks.push(follower.look(reading_max));
            }
        }
        looks
    }
}

fn look_at(topic: &Topic) -> deaddrop::Result<TopicView> {
    let consumers = topic.consumers()?.into_iter().map(|info| ConsumerView {
        consumer: info.name,
        lag: info.lag,
        owner: info.owner,
        error: info.committed.as_ref().err().map(Problem::of),
        committed: info.committed.ok(),
        per_second: None,
    });
    Ok(TopicView {
        topic: topic.name().to_owned(),
        durability: units::durability(topic.options().durability),
        first: topic.first_offset()?,
        high_watermark: topic.high_watermark()?,
        disk_bytes: ls::segments(topic).iter().map(|segment| segment.bytes).sum(),
        consumers: consumers.collect(),
        groups: topic.groups()?.into_iter().map(group).collect(),
        members: topic.members()?.iter().map(member).collect(),
        ..TopicView::default()
    })
}

fn group((group, info): (String, deaddrop::Result<GroupInfo>)) -> GroupView {
    match info {
        Ok(info) => GroupView {
            group,
            committed: Some(info.committed),
            lag: info.lag,
            lanes: info.lanes.iter().enumerate().map(lane).collect(),
            ..GroupView::default()
        },
        Err(error) => GroupView { group, error: Some(Problem::of(&error)), ..GroupView::default() },
    }
}

fn lane((number, info): (usize, &LaneInfo)) -> Lane {
    Lane {
        lane: number,
        committed: info.committed,
        owner: info.owner,
        in_hand: info.in_hand.as_ref().map(|in_hand| InHand {
            offset: in_hand.offset,
            attempt: in_hand.attempt,
            state: in_hand.state.name(),
        }),
    }
}

fn member(info: &deaddrop::MemberInfo) -> Member {
    // In another container this is another process, or none: it is only a hint for the user.
    let of_process = |file: &str| {
        std::fs::read_to_string(format!("/proc/{}/{file}", info.pid)).unwrap_or_default()
    };
    let state = match info {
        info if !info.is_alive => State::Dead,
        _ if is_stopped(&of_process("stat")) => State::Stopped,
        info if info.is_appending => State::Appending,
        info if info.is_syncing => State::Syncing,
        _ => State::Idle,
    };
    let command = if info.is_alive { of_process("comm").trim().to_owned() } else { String::new() };
    Member { slot: info.slot, pid: info.pid, command, state }
}

/// Whether a line of `/proc/PID/stat` is that of a stopped process. The name before the state can contain
/// anything, including parentheses.
fn is_stopped(stat: &str) -> bool {
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    state.is_some_and(|rest| rest.starts_with(['T', 't']))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_state_of_a_process_is_found_behind_any_name() {
        assert!(super::is_stopped("12 (a) R (b) T 1 12"));
        assert!(!super::is_stopped("12 (T) S 1 12"));
        assert!(!super::is_stopped(""));
    }
}
