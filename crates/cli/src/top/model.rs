//! Computes the view from two polls of a log: rates, lags, latencies. Knows no log and no terminal.

use std::collections::{BTreeMap, VecDeque};

use hdrhistogram::Histogram;

use super::look::{Look, ServiceLook};
use super::view::{Latency, ServiceView, TopicView, View};
use crate::failure::Failure;
use crate::owner::Owner;

/// The number of polls that are remembered.
const HISTORY_MAX: usize = 60;
/// A latency is counted as at most an hour.
const LATENCY_MAX_MICROS: u64 = 3_600_000_000;

/// State that is kept from earlier polls.
pub(super) struct Model {
    dir: String,
    last: Option<Look>,
    rates: BTreeMap<String, VecDeque<f64>>,
    latencies: BTreeMap<String, VecDeque<Histogram<u64>>>,
}

impl Model {
    pub(super) fn new(dir: String) -> Model {
        Model { dir, last: None, rates: BTreeMap::new(), latencies: BTreeMap::new() }
    }

    /// Takes the next poll.
    pub(super) fn update(&mut self, look: Look) -> Result<View, Failure> {
        let last = self.last.take().unwrap_or_else(|| Look { at: look.at, ..Look::default() });
        let seconds = look.at.saturating_sub(last.at).as_secs_f64();
        let interval = (seconds > 0.0).then_some(seconds);
        self.rates.retain(|name, _| look.topics.iter().any(|topic| topic.topic == *name));
        self.latencies.retain(|name, _| look.services.iter().any(|one| one.name == *name));
        let names: Vec<String> = look.topics.iter().map(|topic| topic.topic.clone()).collect();
        let mut topics = look.topics.clone();
        for topic in &mut topics {
            let before = last.topics.iter().find(|before| before.topic == topic.topic);
            self.add_rates(topic, before, interval);
            let owner = Owner::of(&topic.topic, &names);
            topic.service = owner.as_ref().and_then(Owner::service).map(str::to_owned);
            topic.client = owner.as_ref().and_then(Owner::client).map(str::to_owned);
        }
        let services = look.services.iter().map(|service| self.service(service, &look, interval));
        let services = services.collect::<Result<_, _>>()?;
        let view = View {
            at: crate::units::time(look.wall_nanos),
            dir: self.dir.clone(),
            interval_seconds: interval,
            topics,
            services,
        };
        self.last = Some(look);
        Ok(view)
    }

    fn add_rates(
        &mut self,
        topic: &mut TopicView,
        before: Option<&TopicView>,
        interval: Option<f64>,
    ) {
        let was_seen = before.filter(|before| before.error.is_none() && topic.error.is_none());
        let end_before = was_seen.map(|before| before.high_watermark);
        topic.per_second = rate(end_before, Some(topic.high_watermark), interval);
        let history = self.rates.entry(topic.topic.clone()).or_default();
        if let Some(per_second) = topic.per_second {
            remember(history, per_second);
        }
        topic.history = history.iter().copied().collect();
        let Some(before) = before else { return };
        for consumer in &mut topic.consumers {
            let before = before.consumers.iter().find(|one| one.consumer == consumer.consumer);
            let before = before.and_then(|before| before.committed);
            consumer.per_second = rate(before, consumer.committed, interval);
        }
        for group in &mut topic.groups {
            let before = before.groups.iter().find(|one| one.group == group.group);
            let before = before.and_then(|before| before.committed);
            group.per_second = rate(before, group.committed, interval);
        }
    }

    fn service(
        &mut self,
        service: &ServiceLook,
        look: &Look,
        interval: Option<f64>,
    ) -> Result<ServiceView, Failure> {
        let history = self.latencies.entry(service.name.clone()).or_default();
        let mut seen = histogram()?;
        for &micros in &service.latencies_micros {
            seen.saturating_record(micros);
        }
        remember(history, seen);
        let mut all = histogram()?;
        for one in history.iter() {
            all.add(one).map_err(|error| Failure::usage(error.to_string()))?;
        }
        let at = |quantile| all.value_at_quantile(quantile);
        let latency =
            Latency { count: all.len(), p50: at(0.5), p90: at(0.9), p99: at(0.99), max: all.max() };
        let busy = history.iter().filter(|one| !one.is_empty());
        let oldest = service.oldest_nanos;
        Ok(ServiceView {
            service: service.name.clone(),
            outstanding: service.outstanding,
            outstanding_is_partial: service.is_behind,
            oldest_seconds: oldest.map(|at| look.wall_nanos.saturating_sub(at) as f64 / 1e9),
            outcomes_per_second: interval.map(|time| service.latencies_micros.len() as f64 / time),
            latency_micros: (!all.is_empty()).then_some(latency),
            history: busy.map(|one| one.value_at_quantile(0.99) as f64).collect(),
            error: service.problem.clone(),
        })
    }
}

/// Microseconds, to two digits.
fn histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_bounds(1, LATENCY_MAX_MICROS, 2)
        .map_err(|error| Failure::usage(error.to_string()))
}

fn remember<T>(history: &mut VecDeque<T>, value: T) {
    if history.len() == HISTORY_MAX {
        history.pop_front();
    }
    history.push_back(value);
}

/// None without an earlier poll, or if the number went down: the topic was deleted and created again, or
/// a position was set back.
fn rate(before: Option<u64>, now: Option<u64>, interval: Option<f64>) -> Option<f64> {
    Some(now?.checked_sub(before?)? as f64 / interval?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::view::{ConsumerView, Problem};
    use super::*;

    fn look(seconds: u64, end: u64, committed: u64) -> Look {
        let consumer = ConsumerView {
            consumer: "c".into(),
            committed: Some(committed),
            lag: end - committed,
            ..ConsumerView::default()
        };
        let topic = TopicView {
            topic: "t".into(),
            high_watermark: end,
            consumers: vec![consumer],
            ..TopicView::default()
        };
        let at = Duration::from_secs(seconds);
        Look { at, topics: vec![topic], ..Look::default() }
    }

    fn service(seconds: u64, latencies: &[u64]) -> Look {
        let service = ServiceLook {
            name: "s".into(),
            latencies_micros: latencies.to_vec(),
            oldest_nanos: Some(1_000_000_000),
            ..ServiceLook::default()
        };
        Look {
            at: Duration::from_secs(seconds),
            wall_nanos: 3_500_000_000,
            services: vec![service],
            ..Look::default()
        }
    }

    #[test]
    fn rates_are_those_between_two_looks_and_none_when_a_topic_is_made_anew() {
        let mut model = Model::new("dir".into());
        let first = model.update(look(0, 100, 40)).unwrap();
        assert_eq!((first.interval_seconds, first.topics[0].per_second), (None, None));
        let second = model.update(look(2, 700, 41)).unwrap();
        let topic = &second.topics[0];
        assert_eq!((topic.per_second, topic.consumers[0].per_second), (Some(300.0), Some(0.5)));
        assert_eq!((topic.consumers[0].lag, topic.history.as_slice()), (659, &[300.0][..]));
        let anew = model.update(look(3, 5, 5)).unwrap();
        assert_eq!(anew.topics[0].per_second, None);
        let gone = model.update(Look { at: Duration::from_secs(4), ..Look::default() }).unwrap();
        assert!(gone.topics.is_empty());
        let back = model.update(look(5, 9, 9)).unwrap();
        assert_eq!((back.topics[0].per_second, back.topics[0].history.len()), (None, 0));
    }

    #[test]
    fn latencies_are_of_the_last_looks_and_older_ones_are_forgotten() {
        let mut model = Model::new("dir".into());
        model.update(service(0, &[900_000])).unwrap();
        let view = model.update(service(1, &[10, 20, 30])).unwrap();
        let latency = view.services[0].latency_micros.clone().unwrap();
        assert_eq!((latency.count, latency.p50), (4, 20));
        assert!(latency.max >= 900_000);
        assert_eq!(view.services[0].outcomes_per_second, Some(3.0));
        assert_eq!(view.services[0].oldest_seconds, Some(2.5));
        assert_eq!(view.services[0].history.len(), 2);
        for seconds in 2..=HISTORY_MAX as u64 {
            model.update(service(seconds, &[])).unwrap();
        }
        let view = model.update(service(100, &[])).unwrap();
        assert_eq!(view.services[0].latency_micros, None);
    }

    #[test]
    fn damage_is_told_apart_from_what_could_not_be_looked_at() {
        let mut seen = look(0, 1, 1);
        let problem = |is_corruption| Some(Problem { text: "why".into(), is_corruption });
        seen.topics[0].error = problem(false);
        let mut model = Model::new("dir".into());
        assert!(!model.update(seen.clone()).unwrap().is_damaged());
        seen.topics[0].consumers[0].error = problem(true);
        let view = model.update(seen).unwrap();
        assert!(view.is_damaged());
        assert_eq!(view.topics[0].error.as_ref().unwrap().text, "why");
    }
}
