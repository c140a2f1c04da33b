//! The services and groups that have a right to the name of a dead-letter topic.
//!
//! `inventory.x.dead` is the topic of the service `inventory.x` and of the group `x` of the topic `inventory`;
//! `a.b.c.dead` is that of the group `b.c` of `a` and of the group `c` of `a.b`. If two of them shared a topic,
//! their letters would be mixed, and an operator who sends letters again or drops them would reach both. So a
//! group or a service is not created if another one has the same dead-letter topic, and the refused one leaves
//! no files, which would stop the other at its next start. If two are created at the same instant, both checks
//! may pass. Workers and servers therefore check again when they open: both topics and group files exist by
//! then, so at least one of the two is refused.

use std::io::ErrorKind::{NotADirectory, NotFound};

use super::SERVERS;
use crate::error::{Error, Result};
use crate::store::{exists, LogInner, GROUPS};

/// Ends the names of dead-letter topics.
const DEAD: &str = ".dead";
/// Ends the names of request topics: each belongs to a service.
const REQUESTS: &str = ".requests";

/// An owner of a dead-letter topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim<'a> {
    /// The service of this name.
    Service(&'a str),
    /// The group with the second name, of the topic with the first.
    Group(&'a str, &'a str),
}

impl std::fmt::Display for Claim<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Claim::Service(service) => write!(f, "the service {service}"),
            Claim::Group(topic, group) => write!(f, "the group {group} of the topic {topic}"),
        }
    }
}

impl Claim<'_> {
    /// Returns the name of its dead-letter topic.
    pub(crate) fn dead_topic(&self) -> String {
        match self {
            Claim::Service(service) => format!("{service}{DEAD}"),
            Claim::Group(topic, group) => format!("{topic}.{group}{DEAD}"),
        }
    }

    /// Fails if another service or group of the log keeps its dead letters in the same topic.
    pub(crate) fn check_alone(&self, log: &LogInner) -> Result<()> {
        if self.is_of_servers() {
            return Ok(());
        }
        let dead = self.dead_topic();
        let stem = dead.strip_suffix(DEAD).unwrap_or(&dead);
        let dots = stem.match_indices('.').map(|(at, _)| at);
        let groups = dots.map(|at| Claim::Group(&stem[..at], &stem[at + 1..]));
        for other in groups.chain([Claim::Service(stem)]) {
            if other != *self && other.is_there(log)? {
                return Err(Error::Invalid {
                    what: format!(
                        "{self} and {other} would share the dead-letter topic {dead}: give one of them \
                         another name"
                    ),
                });
            }
        }
        Ok(())
    }

    /// Returns whether this is the group of a service's servers. Their letters are those of the service.
    pub(crate) fn is_of_servers(&self) -> bool {
        matches!(self, Claim::Group(topic, SERVERS) if topic.ends_with(REQUESTS))
    }

    fn is_there(&self, log: &LogInner) -> Result<bool> {
        let topics = log.topics_for_writing()?;
        let (topic, group) = match self {
            Claim::Service(service) => (format!("{service}{REQUESTS}"), None),
            Claim::Group(topic, group) => ((*topic).to_owned(), Some(*group)),
        };
        let dir = log.topic_dir(&topic);
        if !exists(&**topics, &dir)? {
            return Ok(false);
        }
        let Some(group) = group else { return Ok(true) };
        let path = dir.join(GROUPS).join(group);
        match topics.identity_of(&path) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(false),
            Err(error) => Err(Error::io("looking for", &path, error)),
        }
    }
}
