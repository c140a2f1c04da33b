//! `groups`: shows worker groups, their lanes and records in flight; resumes, skips, resets and deletes on
//! request.

use std::io::Write;

use deaddrop::group::{AttemptState, Group, GroupInfo, GroupOptions, InHand, LaneInfo};
use deaddrop::{Result as LogResult, Start, Topic};
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::groups::{Action, Groups, Named};
use crate::exchange::one_of_all;
use crate::failure::{Exit, Failure};
use crate::missing::say_recovery;
use crate::output::{Colour, Out};
use crate::{hint, Global};

/// A group.
#[derive(Debug, Default, JsonSchema, Serialize)]
pub(crate) struct Row<'a> {
    /// Its topic.
    topic: &'a str,
    /// Its name.
    group: &'a str,
    /// Everything below it is handled, in all lanes.
    committed: Option<u64>,
    /// The same after power loss.
    durable: Option<u64>,
    /// High watermark less committed: at least as many records as are not done.
    lag: Option<u64>,
    /// Lanes that it has.
    lanes: usize,
    /// Lanes that workers hold.
    held: usize,
    /// Process ids of those workers.
    owners: Vec<u32>,
    in_hand: Vec<Hand>,
    /// Lanes that a record has stopped.
    stopped: Vec<usize>,
    /// Why its file cannot be read.
    error: Option<String>,
}

/// A record in flight, as JSON.
#[derive(Debug, JsonSchema, Serialize)]
struct Hand {
    /// A lane at work on a record.
    lane: usize,
    /// The record's offset.
    offset: u64,
    /// Attempts at it so far.
    attempt: u32,
    /// Of these, those that count against it.
    blamed: u32,
    /// running, running alone, failed, suspect, stopped.
    state: &'static str,
}

/// With --lanes, a lane.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct LaneRow {
    /// Its number.
    lane: usize,
    /// Records of the lane below it are handled.
    committed: u64,
    /// The same after power loss.
    durable: u64,
    /// Process id of the worker that holds it.
    owner: Option<u32>,
    /// The record that it is at work on.
    in_hand: Option<Hand>,
}

/// With resume, skip, reset or delete, the change.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Change<'a> {
    /// The topic.
    topic: &'a str,
    /// The group.
    group: &'a str,
    /// With resume or skip, the lane.
    lane: Option<u32>,
    /// With resume or skip, the offset of the record at which the lane stopped.
    offset: Option<u64>,
    /// With reset, the position of the group before.
    from: Option<u64>,
    /// With reset, its position after.
    to: Option<u64>,
    /// Whether it was done, which takes --execute.
    executed: bool,
}

/// At most this many records in flight are shown in a row of the table.
const SHOWN: usize = 3;

impl Hand {
    fn of(lane: usize, hand: &InHand) -> Hand {
        let InHand { offset, attempt, blamed, state, .. } = *hand;
        Hand { lane, offset, attempt, blamed, state: state.name() }
    }

    fn text(&self) -> String {
        format!("{} {} #{}", self.offset, self.state, self.attempt)
    }
}

impl<'a> Row<'a> {
    fn of(topic: &'a str, group: &'a str, info: &LogResult<GroupInfo>) -> Row<'a> {
        let info = match info {
            Ok(info) => info,
            Err(error) => {
                return Row { topic, group, error: Some(hint::error(error)), ..Row::default() }
            }
        };
        let hands = || {
            let lanes = info.lanes.iter().enumerate();
            lanes.filter_map(|(lane, of)| of.in_hand.as_ref().map(|hand| Hand::of(lane, hand)))
        };
        Row {
            topic,
            group,
            committed: Some(info.committed),
            durable: Some(info.durable),
            lag: Some(info.lag),
            lanes: info.lanes.len(),
            held: info.lanes.iter().filter(|lane| lane.owner.is_some()).count(),
            owners: owners(info),
            in_hand: hands().collect(),
            stopped: hands()
                .filter(|hand| hand.state == AttemptState::Stopped.name())
                .map(|hand| hand.lane)
                .collect(),
            error: None,
        }
    }

    fn cells(&self, out: &Out) -> Vec<String> {
        let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
        let mut hands: Vec<String> = self.in_hand.iter().take(SHOWN).map(Hand::text).collect();
        if self.in_hand.len() > SHOWN {
            hands.push(format!("{} more", self.in_hand.len() - SHOWN));
        }
        let stopped = out.paint(Colour::Bad, list(&self.stopped));
        let error = self.error.clone().map_or(String::new(), |why| out.paint(Colour::Bad, why));
        vec![
            self.topic.to_owned(),
            self.group.to_owned(),
            number(self.committed),
            number(self.lag),
            format!("{}/{}", self.held, self.lanes),
            or_dash(list(&self.owners)),
            or_dash(hands.join(", ")),
            or_dash(stopped),
            error,
        ]
    }
}

impl Groups {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        match &self.action {
            Some(action) => return action.run(global, out),
            None if self.lanes => return self.show_lanes(global, out),
            None => {}
        }
        let log = global.open_read_only()?;
        let mut exit = Exit::Ok;
        let topics = match &self.topic {
            Some(topic) => vec![log.open_topic(topic)?],
            None => {
                let names = log.topics()?;
                names.iter().filter_map(|name| one_of_all(&log, name, &mut exit)).collect()
            }
        };
        let mut all = Vec::new();
        for topic in &topics {
            all.extend(topic.groups()?.into_iter().map(|(name, info)| (topic.name(), name, info)));
        }
        if let (Some(topic), Some(name)) = (&self.topic, &self.name) {
            let known = all.iter().map(|(_, name, _)| name.clone()).collect();
            all.retain(|(_, found, _)| found == name);
            if all.is_empty() {
                return Err(unknown(topic, name, known));
            }
        }
        let rows: Vec<Row<'_>> =
            all.iter().map(|(topic, name, info)| Row::of(topic, name, info)).collect();
        if out.is_json() {
            for row in &rows {
                out.object(row)?;
            }
        } else if rows.is_empty() {
            writeln!(out, "no groups")?;
        } else {
            let heading = [
                "TOPIC",
                "GROUP",
                "COMMITTED",
                "LAG",
                "LANES",
                "OWNERS",
                "IN FLIGHT",
                "STOPPED",
                "",
            ];
            let cells: Vec<Vec<String>> = rows.iter().map(|row| row.cells(out)).collect();
            out.table(&heading, &[2, 3, 4], &cells)?;
        }
        let damaged = rows.iter().any(|row| row.error.is_some());
        Ok(if damaged { Exit::Corruption } else { exit })
    }

    fn show_lanes(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let (Some(topic), Some(name)) = (&self.topic, &self.name) else {
            return Err(Failure::usage("--lanes needs a topic and a group"));
        };
        let topic = global.open_read_only()?.open_topic(topic)?;
        let info = find(&topic, name)?;
        let row = |(lane, of): (usize, &LaneInfo)| LaneRow {
            lane,
            committed: of.committed,
            durable: of.durable,
            owner: of.owner,
            in_hand: of.in_hand.as_ref().map(|hand| Hand::of(lane, hand)),
        };
        let rows: Vec<LaneRow> = info.lanes.iter().enumerate().map(row).collect();
        if out.is_json() {
            for row in &rows {
                out.object(row)?;
            }
            return Ok(Exit::Ok);
        }
        let mut ranges: Vec<(usize, usize, [String; 6])> = Vec::new();
        for row in &rows {
            let cells = lane_cells(row);
            match ranges.last_mut() {
                Some((_, last, same)) if *same == cells => *last = row.lane,
                _ => ranges.push((row.lane, row.lane, cells)),
            }
        }
        let cells = ranges.into_iter().map(|(first, last, cells)| {
            let lanes = if first == last { first.to_string() } else { format!("{first}-{last}") };
            [lanes].into_iter().chain(cells).collect()
        });
        let heading = ["LANE", "COMMITTED", "DURABLE", "OWNER", "RECORD", "ATTEMPT", "STATE"];
        out.table(&heading, &[0, 1, 2, 4, 5], &cells.collect::<Vec<_>>())?;
        Ok(Exit::Ok)
    }
}

/// The cells of a lane, without its number.
fn lane_cells(row: &LaneRow) -> [String; 6] {
    let owner = row.owner.map_or("-".to_owned(), |pid| format!("process {pid}"));
    let (record, attempt, state) = match &row.in_hand {
        Some(hand) => (hand.offset.to_string(), hand.attempt.to_string(), hand.state),
        None => ("-".to_owned(), "-".to_owned(), "-"),
    };
    let (committed, durable) = (row.committed.to_string(), row.durable.to_string());
    [committed, durable, owner, record, attempt, state.to_owned()]
}

impl Action {
    fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let (Action::Resume { of, .. }
        | Action::Skip { of, .. }
        | Action::Reset { of, .. }
        | Action::Delete { of }) = self;
        let topic = global.open_read_only()?.open_topic(&of.topic)?;
        let mut change = Change {
            topic: &of.topic,
            group: &of.name,
            lane: None,
            offset: None,
            from: None,
            to: None,
            executed: of.execute,
        };
        let done = match self {
            Action::Resume { lane, .. } => {
                let offset = end_stop(&topic, of, *lane, global, Group::resume)?;
                (change.lane, change.offset) = (Some(*lane), Some(offset));
                format!("resumed in lane {lane}, at offset {offset}")
            }
            Action::Skip { lane, .. } => {
                let offset = end_stop(&topic, of, *lane, global, Group::skip_stopped)?;
                (change.lane, change.offset) = (Some(*lane), Some(offset));
                format!(
                    "resumed in lane {lane}, after offset {offset}, which a worker moves to the dead letters"
                )
            }
            Action::Reset { to: at, future, .. } => {
                let from = find(&topic, &of.name)?;
                refuse_in_use(of, &from)?;
                let to = at.resolve_past(&topic, future)?;
                check_offset(&topic, to)?;
                (change.from, change.to) = (Some(from.committed), Some(to));
                if of.execute {
                    writable(global, of)?.reset_group(&of.name, Start::Offset(to))?;
                }
                format!("set from {} to {to}{}", from.committed, at.shown())
            }
            Action::Delete { .. } => {
                delete(&topic, of, global)?;
                "deleted".to_owned()
            }
        };
        if out.is_json() {
            out.object(&change)?;
            return Ok(Exit::Ok);
        }
        let would = if of.execute { "" } else { "would be " };
        writeln!(out, "{} {would}{done}", of.name)?;
        if !of.execute {
            writeln!(out, "nothing was changed: add --execute to do it")?;
        }
        Ok(Exit::Ok)
    }
}

/// Ends the stop of a lane with `how`. Returns the offset at which it stopped.
fn end_stop(
    topic: &Topic,
    of: &Named,
    lane: u32,
    global: &Global,
    how: fn(&Group, u32) -> LogResult<bool>,
) -> Result<u64, Failure> {
    let info = find(topic, &of.name)?;
    let Some(found) = info.lanes.get(lane as usize) else {
        let last = info.lanes.len() - 1;
        return Err(Failure::usage(format_args!(
            "group {} has lanes 0 to {last}, not {lane}",
            of.name
        )));
    };
    let no = || Failure::no(format_args!("lane {lane} of group {} is not stopped", of.name));
    let hand = found.in_hand.as_ref().filter(|hand| hand.state == AttemptState::Stopped);
    let offset = hand.ok_or_else(no)?.offset;
    if of.execute {
        let group = writable(global, of)?.group(&of.name, GroupOptions::default())?;
        if !how(&group, lane)? {
            return Err(no());
        }
    }
    Ok(offset)
}

/// Works even for a group whose file is unreadable: deleting it is the only way to get rid of it.
fn delete(topic: &Topic, of: &Named, global: &Global) -> Result<(), Failure> {
    let all = topic.groups()?;
    match all.iter().find(|(name, _)| *name == of.name) {
        Some((_, Ok(info))) => refuse_in_use(of, info)?,
        Some((_, Err(_))) => {}
        None => return Err(unknown(topic.name(), &of.name, names(&all))),
    }
    if of.execute {
        writable(global, of)?.delete_group(&of.name)?;
    }
    Ok(())
}

fn writable(global: &Global, of: &Named) -> Result<Topic, Failure> {
    let topic = global.open_existing()?.open_topic(&of.topic)?;
    say_recovery(&topic);
    Ok(topic)
}

fn check_offset(topic: &Topic, to: u64) -> Result<(), Failure> {
    let (first, end) = (topic.first_offset()?, topic.high_watermark()?);
    if (first..=end).contains(&to) {
        return Ok(());
    }
    Err(Failure::no(format_args!(
        "offset {to} is not in topic {}: choose one of {first} to {end}",
        topic.name()
    )))
}

fn find(topic: &Topic, name: &str) -> Result<GroupInfo, Failure> {
    let all = topic.groups()?;
    let known = names(&all);
    match all.into_iter().find(|(found, _)| found == name) {
        Some((_, info)) => Ok(info?),
        None => Err(unknown(topic.name(), name, known)),
    }
}

fn names(all: &[(String, LogResult<GroupInfo>)]) -> Vec<String> {
    all.iter().map(|(name, _)| name.clone()).collect()
}

fn unknown(topic: &str, name: &str, known: Vec<String>) -> Failure {
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Failure::no(format_args!("topic {topic} has no group {name}: it has {known}"))
}

fn refuse_in_use(of: &Named, info: &GroupInfo) -> Result<(), Failure> {
    let owners = owners(info);
    if owners.is_empty() {
        return Ok(());
    }
    let (name, owners) = (&of.name, list(&owners));
    Err(Failure::new(
        Exit::Locked,
        format_args!("group {name} is in use by process {owners}: stop its workers first"),
    ))
}

/// The processes that own lanes, each once.
fn owners(info: &GroupInfo) -> Vec<u32> {
    let mut owners: Vec<u32> = info.lanes.iter().filter_map(|lane| lane.owner).collect();
    owners.sort_unstable();
    owners.dedup();
    owners
}

fn list(all: &[impl ToString]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn or_dash(text: String) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    text
}
