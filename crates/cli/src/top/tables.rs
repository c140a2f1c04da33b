//! The tables of a view, for both the screen and plain output.

use std::collections::BTreeSet;

use super::view::{Problem, State, TopicView, View};
use crate::units;

/// A heading and aligned rows.
pub(super) struct Table {
    pub(super) heading: Vec<&'static str>,
    /// Columns that are aligned right.
    pub(super) right: Vec<usize>,
    pub(super) rows: Vec<Vec<Cell>>,
}

pub(super) struct Cell {
    pub(super) text: String,
    pub(super) tone: Tone,
}

/// How a cell draws the user's attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    /// Needs attention.
    Bad,
    /// A history.
    Graph,
}

/// Columns of a history.
const GRAPH_WIDTH: usize = 30;

fn plain(text: impl Into<String>) -> Cell {
    Cell { text: text.into(), tone: Tone::Plain }
}

fn bad(text: impl Into<String>) -> Cell {
    Cell { text: text.into(), tone: Tone::Bad }
}

fn graph(history: &[f64]) -> Cell {
    Cell { text: sparkline(history, GRAPH_WIDTH), tone: Tone::Graph }
}

fn error(error: &Option<Problem>) -> Cell {
    // One line: a row of a table must stay one line.
    let text = error.as_ref().map(|problem| crate::output::escape(problem.text.as_bytes()));
    bad(text.unwrap_or_default())
}

/// The part of a view that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    /// The history of a rate, as a graph.
    pub(super) history: bool,
    /// Includes the topics, positions and members of services and clients.
    pub(super) all: bool,
}

impl Shown {
    fn topic(self, topic: &TopicView) -> bool {
        self.all || (topic.service.is_none() && topic.client.is_none())
    }
}

/// All tables except those without rows.
pub(super) fn tables(view: &View, shown: Shown) -> Vec<Table> {
    let mut tables = vec![
        topics(view, shown),
        services(view),
        consumers(view, shown),
        groups(view, shown),
        lanes(view),
        members(view, shown),
    ];
    if !shown.history {
        for table in &mut tables {
            for row in &mut table.rows {
                row.retain(|cell| cell.tone != Tone::Graph);
            }
            table.heading.retain(|name| *name != HISTORY);
        }
    }
    tables.retain(|table| !table.rows.is_empty());
    tables
}

const HISTORY: &str = "HISTORY";

fn topics(view: &View, shown: Shown) -> Table {
    let row = |topic: &TopicView| {
        vec![
            plain(&topic.topic),
            plain(&topic.durability),
            plain(topic.first.to_string()),
            plain(topic.high_watermark.to_string()),
            plain(rate(topic.per_second)),
            plain(units::size(topic.disk_bytes)),
            plain(topic.consumers.len().to_string()),
            plain(topic.members.len().to_string()),
            graph(&topic.history),
            error(&topic.error),
        ]
    };
    Table {
        heading: vec![
            "TOPIC",
            "DURABILITY",
            "FIRST",
            "END",
            "PER SECOND",
            "ON DISK",
            "CONSUMERS",
            "MEMBERS",
            HISTORY,
            "",
        ],
        right: vec![2, 3, 4, 5, 6, 7],
        rows: view
            .topics
            .iter()
            .filter(|topic| shown.topic(topic) || topic.error.is_some())
            .map(row)
            .collect(),
    }
}

fn services(view: &View) -> Table {
    let mut rows = Vec::new();
    for service in &view.services {
        let name = Some(service.service.as_str());
        let its = view.topics.iter().filter(|topic| topic.service.as_deref() == name);
        let disk_bytes = its.map(|topic| topic.disk_bytes).sum();
        let more = if service.outstanding_is_partial { "+" } else { "" };
        let latency = service.latency_micros.as_ref();
        let at = |value: Option<u64>| plain(value.map_or("-".to_owned(), micros));
        rows.push(vec![
            plain(&service.service),
            plain(format!("{}{more}", service.outstanding)),
            plain(service.oldest_seconds.map_or("-".to_owned(), seconds)),
            plain(rate(service.outcomes_per_second)),
            at(latency.map(|latency| latency.p50)),
            at(latency.map(|latency| latency.p90)),
            at(latency.map(|latency| latency.p99)),
            at(latency.map(|latency| latency.max)),
            plain(units::size(disk_bytes)),
            graph(&service.history),
            error(&service.error),
        ]);
    }
    Table {
        heading: vec![
            "SERVICE",
            "OUTSTANDING",
            "OLDEST",
            "OUTCOMES/S",
            "P50",
            "P90",
            "P99",
            "MAX",
            "ON DISK",
            HISTORY,
            "",
        ],
        right: vec![1, 2, 3, 4, 5, 6, 7, 8],
        rows,
    }
}

fn consumers(view: &View, shown: Shown) -> Table {
    let mut rows = Vec::new();
    for topic in &view.topics {
        let is_shown = |error: &Option<Problem>| shown.topic(topic) || error.is_some();
        for consumer in topic.consumers.iter().filter(|one| is_shown(&one.error)) {
            rows.push(vec![
                plain(&consumer.consumer),
                plain(&topic.topic),
                plain(consumer.committed.map_or("-".to_owned(), |at| at.to_string())),
                plain(consumer.lag.to_string()),
                plain(rate(consumer.per_second)),
                plain(consumer.owner.map_or("-".to_owned(), |pid| format!("process {pid}"))),
                error(&consumer.error),
            ]);
        }
    }
    Table {
        heading: vec!["CONSUMER", "TOPIC", "COMMITTED", "LAG", "PER SECOND", "OWNER", ""],
        right: vec![2, 3, 4],
        rows,
    }
}

fn groups(view: &View, shown: Shown) -> Table {
    let mut rows = Vec::new();
    for topic in &view.topics {
        let is_shown = |error: &Option<Problem>| shown.topic(topic) || error.is_some();
        for group in topic.groups.iter().filter(|one| is_shown(&one.error)) {
            let mut workers: Vec<u32> = group.lanes.iter().filter_map(|lane| lane.owner).collect();
            let held = workers.len();
            workers.sort_unstable();
            workers.dedup();
            let in_hand = group.lanes.iter().filter(|lane| lane.in_hand.is_some()).count();
            rows.push(vec![
                plain(&group.group),
                plain(&topic.topic),
                plain(group.committed.map_or("-".to_owned(), |at| at.to_string())),
                plain(group.lag.to_string()),
                plain(rate(group.per_second)),
                plain(group.lanes.len().to_string()),
                plain(held.to_string()),
                plain(workers.len().to_string()),
                plain(in_hand.to_string()),
                error(&group.error),
            ]);
        }
    }
    Table {
        heading: vec![
            "GROUP",
            "TOPIC",
            "COMMITTED",
            "LAG",
            "PER SECOND",
            "LANES",
            "HELD",
            "PROCESSES",
            "IN FLIGHT",
            "",
        ],
        right: vec![2, 3, 4, 5, 6, 7, 8],
        rows,
    }
}

/// The lanes in an unusual state: a record that failed, that is suspected of killing its handler, or that
/// stops its lane.
fn lanes(view: &View) -> Table {
    let mut rows = Vec::new();
    for topic in &view.topics {
        for group in &topic.groups {
            for lane in &group.lanes {
                let Some(in_hand) = &lane.in_hand else { continue };
                if in_hand.state == RUNNING {
                    continue;
                }
                rows.push(vec![
                    plain(lane.lane.to_string()),
                    plain(&group.group),
                    plain(&topic.topic),
                    plain(in_hand.offset.to_string()),
                    plain(in_hand.attempt.to_string()),
                    plain(lane.owner.map_or("-".to_owned(), |pid| format!("process {pid}"))),
                    bad(in_hand.state),
                ]);
            }
        }
    }
    Table {
        heading: vec!["LANE", "GROUP", "TOPIC", "RECORD", "ATTEMPT", "OWNER", "STATE"],
        right: vec![0, 3, 4],
        rows,
    }
}

/// The value of `deaddrop::group::InHand::state` for a record that is handled normally.
const RUNNING: &str = "running";

fn members(view: &View, shown: Shown) -> Table {
    let mut rows = Vec::new();
    let mut seen = BTreeSet::new();
    for topic in &view.topics {
        let owner = match (&topic.service, &topic.client) {
            _ if shown.all => None,
            (Some(service), _) => Some(format!("service {service}")),
            (None, client) => client.as_ref().map(|client| format!("client {client}")),
        };
        for member in &topic.members {
            let is_bad = matches!(member.state, State::Stopped | State::Dead);
            // A process has several topics of a service open, and is shown only once.
            if owner.is_some() && !is_bad && !seen.insert((member.pid, owner.clone())) {
                continue;
            }
            rows.push(vec![
                plain(format!("process {}", member.pid)),
                plain(owner.as_ref().filter(|_| !is_bad).unwrap_or(&topic.topic)),
                plain(match &owner {
                    Some(_) if !is_bad => "-".to_owned(),
                    _ => member.slot.to_string(),
                }),
                // A process chooses its own name.
                plain(crate::output::escape(member.command.as_bytes())),
                if is_bad { bad(member.state.name()) } else { plain(member.state.name()) },
            ]);
        }
    }
    Table { heading: vec!["MEMBER", "TOPIC", "SLOT", "COMMAND", "STATE"], right: vec![2], rows }
}

fn rate(per_second: Option<f64>) -> String {
    match per_second {
        None => "-".to_owned(),
        Some(rate) => units::rate(rate),
    }
}

/// The clock of the records ticks at least a hundred times a second, and is not more precise than that.
fn micros(micros: u64) -> String {
    match micros.saturating_add(500) / 1000 {
        0 => "<10 ms".to_owned(),
        millis => units::nanos(millis.saturating_mul(1_000_000)),
    }
}

fn seconds(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 60.0 => format!("{seconds:.1} s"),
        seconds => {
            let whole = std::time::Duration::from_secs(seconds as u64);
            humantime::format_duration(whole).to_string()
        }
    }
}

/// The last `width` values as bars between nothing and the largest of them.
fn sparkline(values: &[f64], width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = &values[values.len().saturating_sub(width)..];
    let most = shown.iter().copied().fold(0.0, f64::max);
    let bar = |&value: &f64| match most > 0.0 {
        true => BARS[((value / most * 8.0).ceil() as usize).clamp(1, 8) - 1],
        false => BARS[0],
    };
    shown.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_drawn_against_its_largest_value_and_the_newest_are_shown() {
        assert_eq!(sparkline(&[0.0, 1.0, 4.0, 8.0], 10), "▁▁▄█");
        assert_eq!(sparkline(&[9.0, 1.0, 2.0], 2), "▄█");
        assert_eq!(sparkline(&[0.0, 0.0], 2), "▁▁");
        assert_eq!(sparkline(&[], 2), "");
    }

    #[test]
    fn small_rates_keep_a_digit_and_long_times_their_units() {
        assert_eq!([rate(None), rate(Some(0.5)), rate(Some(12_345.6))], ["-", "0.5", "12,346"]);
        assert_eq!([seconds(1.25), seconds(3661.0)], ["1.2 s", "1h 1m 1s"]);
        assert_eq!(rate(Some(0.0)), "0");
        assert_eq!([micros(0), micros(4015), micros(61_000)], ["<10 ms", "4 ms", "61 ms"]);
    }
}
