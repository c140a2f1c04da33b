//! `pending`: shows requests whose outcome no client has taken.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::ops::ControlFlow;
use std::time::{Duration, SystemTime};

use deaddrop::service::{Envelope, Kind, RequestId};
use deaddrop::{Log, Start, Topic};
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::pending::Pending;
use crate::exchange::{
    committed_of, for_each, is_outcome, one_of_all, services, topic_if_there, worse,
};
use crate::failure::{Exit, Failure};
use crate::output::Out;
use crate::{units, Global};

/// A request that is not finished.
struct Row {
    service: String,
    callback: Option<String>,
    offset: Option<u64>,
    sent_at: Option<u64>,
    deadline: Option<u64>,
    state: &'static str,
    is_stopped: bool,
}

/// A request whose outcome no client has taken.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct JsonRow<'a> {
    /// Its id.
    id: String,
    /// The client that sent it.
    client: &'a str,
    /// The service that it is for.
    service: &'a str,
    /// Callback of the client.
    callback: &'a str,
    /// Its offset in SERVICE.requests.
    offset: Option<u64>,
    /// When it was sent: RFC 3339, UTC.
    sent_at: Option<String>,
    /// Its deadline.
    deadline: Option<String>,
    /// waiting, stopped (its lane was stopped), answered, parked.
    state: &'static str,
}

impl Pending {
    pub(crate) fn run(&self, global: &Global, out: &mut Out) -> Result<Exit, Failure> {
        let log = global.open_read_only()?;
        let mut exit = Exit::Ok;
        let mut clients = BTreeSet::new();
        let mut rows = Vec::new();
        for service in services(&log, self.service.as_deref())? {
            let requests = one_of_all(&log, &format!("{service}.requests"), &mut exit);
            let Some(requests) = requests else { continue };
            let (open, read) = self.open_requests(&log, &service, &requests, &mut clients)?;
            exit = worse(exit, read);
            rows.extend(open);
        }
        for client in clients {
            let (parked, read) = self.parked(&log, &client)?;
            exit = worse(exit, read);
            rows.extend(parked);
        }
        rows.sort_by(|(a, one), (b, other)| (one.sent_at, a).cmp(&(other.sent_at, b)));
        print(out, &rows)?;
        Ok(exit)
    }

    /// Reads from the position of each client's oldest open request on, and returns the requests whose
    /// outcome the client has not passed yet.
    fn open_requests(
        &self,
        log: &Log,
        service: &str,
        requests: &Topic,
        clients: &mut BTreeSet<String>,
    ) -> Result<(Vec<(RequestId, Row)>, Exit), Failure> {
        let mut floors = committed_of(requests, "client.")?;
        floors.retain(|name, _| self.client.as_ref().is_none_or(|only| only == name));
        clients.extend(floors.keys().cloned());
        let from = floors.values().copied().min().unwrap_or(u64::MAX);
        let servers = requests.groups()?.into_iter().find(|(name, _)| name == "server");
        // A file that cannot be read is for `groups` to tell.
        let servers = servers.and_then(|(_, info)| info.ok());
        let mut open: HashMap<RequestId, Row> = HashMap::new();
        let mut exit = for_each(requests, from, |record, envelope| {
            let floor = floors.get(envelope.id.client());
            if envelope.kind == Kind::Request && floor.is_some_and(|&from| from <= record.offset())
            {
                let row = Row {
                    service: service.to_owned(),
                    callback: envelope.callback,
                    offset: Some(record.offset()),
                    sent_at: Some(record.timestamp_nanos()),
                    deadline: envelope.deadline,
                    state: "waiting",
                    is_stopped: servers
                        .as_ref()
                        .is_some_and(|all| all.stopped_at(record).is_some()),
                };
                open.entry(envelope.id).or_insert(row);
            }
            ControlFlow::Continue(())
        })?;
        let replies = topic_if_there(log, &format!("{service}.replies"))?;
        if let Some(replies) = replies.filter(|_| !open.is_empty()) {
            let read = committed_of(&replies, "client.")?;
            // The durable position of a guard is below every reply that its client may still need.
            let guards = replies.consumers()?;
            let guards = guards.iter().filter(|info| info.name.starts_with("client-floor."));
            let from = guards.map(|info| info.durable.unwrap_or(0)).min().unwrap_or(0);
            let damage = for_each(&replies, from, |record, envelope| {
                let past = read.get(envelope.id.client()).is_some_and(|&end| end > record.offset());
                match open.get_mut(&envelope.id) {
                    _ if !is_outcome(envelope.kind) => {}
                    Some(row) if past && row.state == "waiting" => drop(open.remove(&envelope.id)),
                    Some(row) => row.state = "answered",
                    None => {}
                }
                ControlFlow::Continue(())
            })?;
            exit = worse(exit, damage);
        }
        for row in open.values_mut().filter(|row| row.is_stopped && row.state == "waiting") {
            row.state = "stopped";
        }
        Ok((open.into_iter().collect(), exit))
    }

    fn parked(&self, log: &Log, client: &str) -> Result<(Vec<(RequestId, Row)>, Exit), Failure> {
        let Some(topic) = topic_if_there(log, &format!("{client}.parked"))? else {
            return Ok((Vec::new(), Exit::Ok));
        };
        let mut parked: HashMap<RequestId, Row> = HashMap::new();
        let exit = for_each(&topic, 0, |record, envelope| {
            if envelope.kind == Kind::Unparked {
                parked.remove(&envelope.id);
                return ControlFlow::Continue(());
            }
            let service =
                String::from_utf8_lossy(record.header("parked-service").unwrap_or_default());
            if self.service.as_ref().is_none_or(|only| *only == service) {
                let row = Row {
                    service: service.into_owned(),
                    callback: envelope.callback,
                    offset: envelope.request_offset,
                    sent_at: None,
                    deadline: None,
                    state: "parked",
                    is_stopped: false,
                };
                // Of two records with one id, the first one counts.
                parked.entry(envelope.id).or_insert(row);
            }
            ControlFlow::Continue(())
        })?;
        for (id, row) in &mut parked {
            row.sent_at = sent_at(log, id, row)?;
        }
        Ok((parked.into_iter().collect(), exit))
    }
}

/// The time at which a request was sent, if it is still at the offset that its outcome names.
fn sent_at(log: &Log, id: &RequestId, row: &Row) -> Result<Option<u64>, Failure> {
    let requests = topic_if_there(log, &format!("{}.requests", row.service))?;
    let (Some(requests), Some(offset)) = (requests, row.offset) else { return Ok(None) };
    if !(requests.first_offset()?..requests.high_watermark()?).contains(&offset) {
        return Ok(None);
    }
    let mut reader = requests.reader(Start::Offset(offset))?;
    // Damage does not matter here: the time stays unknown.
    let Ok(Some(record)) = reader.next() else { return Ok(None) };
    let is_it = matches!(Envelope::of(&record), Some(Ok(envelope)) if envelope.id == *id);
    Ok(is_it.then(|| record.timestamp_nanos()))
}

fn print(out: &mut Out, rows: &[(RequestId, Row)]) -> Result<(), Failure> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if out.is_json() {
        for (id, row) in rows {
            out.object(&JsonRow {
                id: id.to_string(),
                client: id.client(),
                service: &row.service,
                callback: row.callback.as_deref().unwrap_or_default(),
                offset: row.offset,
                sent_at: row.sent_at.map(units::time),
                deadline: row.deadline.map(units::time),
                state: row.state,
            })?;
        }
        return Ok(());
    }
    if rows.is_empty() {
        writeln!(out, "nothing is pending")?;
        return Ok(());
    }
    let seconds = |time: Duration| {
        let whole = Duration::from_secs(time.as_secs());
        humantime::format_duration(whole).to_string().replace(' ', "")
    };
    let age = |at: u64| seconds(now.saturating_sub(Duration::from_nanos(at)));
    let deadline = |at: u64| match Duration::from_nanos(at).checked_sub(now) {
        Some(left) => format!("in {}", seconds(left)),
        None => "passed".to_owned(),
    };
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|(id, row)| {
            let callback = row.callback.as_deref().unwrap_or("(call)");
            let offset = row.offset.map_or("-".to_owned(), |offset| offset.to_string());
            vec![
                id.to_string(),
                row.service.clone(),
                offset,
                row.sent_at.map_or("-".to_owned(), age),
                crate::output::escape(callback.as_bytes()),
                row.deadline.map_or("-".to_owned(), deadline),
                row.state.to_owned(),
            ]
        })
        .collect();
    let heading = ["ID", "SERVICE", "OFFSET", "AGE", "CALLBACK", "DEADLINE", "STATE"];
    Ok(out.table(&heading, &[2, 3], &cells)?)
}
