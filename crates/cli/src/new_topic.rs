//! Creates topics with the settings that the user gave.

use deaddrop::{service, Durability, Error, Log, Topic, TopicOptions};

use crate::args::new_topic::NewTopic;
use crate::failure::Failure;

impl NewTopic {
    fn is_asked_for(&self) -> bool {
        self.durability.is_some() || self.segment_size.is_some()
    }

    /// The settings that the user gave, and `base` for all others.
    pub(crate) fn over(&self, base: TopicOptions) -> TopicOptions {
        base.with_durability(self.durability.map_or(base.durability, Durability::from))
            .with_segment_len(self.segment_size.unwrap_or(base.segment_len))
    }

    /// Opens the topic, or creates it; a restored one may have any name. An existing topic's settings fill in those
    /// that were not given.
    pub(crate) fn open(&self, log: &Log, name: &str, restored: bool) -> Result<Topic, Failure> {
        if !self.is_asked_for() && !restored {
            return Ok(log.topic(name)?);
        }
        // Kept open meanwhile: opening it again reports what this opening found.
        let held = match log.open_topic(name) {
            Ok(topic) => Some(topic),
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let base = held.as_ref().map_or_else(TopicOptions::default, |topic| *topic.options());
        let make = if restored { Log::restore_topic } else { Log::topic_with };
        let topic = make(log, name, self.over(base))?;
        drop(held);
        Ok(topic)
    }

    /// The settings of a service's new topics; existing topics keep theirs.
    pub(crate) fn of_service(&self) -> Option<TopicOptions> {
        self.is_asked_for().then(|| self.over(service::topic_options()))
    }
}
