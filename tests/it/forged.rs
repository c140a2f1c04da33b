//! Envelopes that no client and no server of this library would write, but that any process that may append
//! to the topics of a service can.

use std::sync::Arc;
use std::time::Duration;

use deaddrop::group::HandlerError;
use deaddrop::service::{
    Client, Completed, Outcome, Reply, Request, RequestId, Server, ServerOptions,
};
use deaddrop::{Durability, Log, Record, Start, Topic, TopicOptions};
use parking_lot::Mutex;

const LONG: Duration = Duration::from_secs(30);

// The kinds and tags of `docs/format.md`.
const REQUEST: u64 = 1;
const UNPARKED: u64 = 7;
/// Reply, failed, dead-lettered, expired, cancelled.
const OUTCOMES: [u64; 5] = [2, 3, 4, 5, 6];
const CALLBACK: u8 = 5;
const REPLY_TOPIC: u8 = 8;
const ERROR: u8 = 10;
const REQUEST_OFFSET: u8 = 11;

fn options() -> TopicOptions {
    TopicOptions::default().with_segment_len(64 << 10).with_durability(Durability::ProcessCrash)
}

fn id(client: &str, incarnation: u64, sequence: u64) -> RequestId {
    format!("{client}-{incarnation:016x}-{sequence}").parse().unwrap()
}

/// Returns a record with an envelope of this kind, about this request, with these fields.
fn sealed(kind: u64, id: &RequestId, fields: &[(u8, &[u8])]) -> Record {
    let (incarnation, sequence) = (id.incarnation().to_le_bytes(), id.sequence().to_le_bytes());
    let kind = kind.to_le_bytes();
    let about: [(u8, &[u8]); 4] =
        [(1, &kind), (2, id.client().as_bytes()), (3, &incarnation), (4, &sequence)];
    let mut bytes = vec![1];
    for (tag, value) in about.iter().chain(fields) {
        bytes.push(*tag);
        bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        bytes.extend_from_slice(value);
    }
    Record::new("forged").header_as_stored("deaddrop.service", bytes)
}

/// The calls of callbacks: which one, for which request, with which content.
type Calls = Arc<Mutex<Vec<(&'static str, RequestId, String)>>>;

/// A service `s` in a directory of its own.
struct Service {
    _dir: tempfile::TempDir,
    log: Log,
    calls: Calls,
}

impl Service {
    fn new() -> Service {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open_or_create(dir.path()).unwrap();
        Service { _dir: dir, log, calls: Calls::default() }
    }

    fn client(&self, name: &str) -> Client {
        let call = |which: &'static str| {
            let calls = Arc::clone(&self.calls);
            move |done: &Completed| -> Result<(), HandlerError> {
                let outcome = match done.outcome() {
                    Outcome::Reply(reply) => String::from_utf8_lossy(reply.payload()).into_owned(),
                    other => format!("{other:?}"),
                };
                calls.lock().push((which, done.id().clone(), outcome));
                Ok(())
            }
        };
        let client = self.log.client(name).with_topic_options(options());
        client.on("done", call("done")).on_late(call("late")).open().unwrap()
    }

    fn server(&self) -> Server {
        let options = ServerOptions::default().with_topic(options());
        let echo = |request: &Request<'_>| Ok(Reply::new(request.payload()));
        self.log.server_with("s", options, echo).unwrap()
    }

    fn topic(&self, name: &str) -> Topic {
        self.log.open_topic(name).unwrap()
    }

    /// Appends a record of this kind about this request, with the callback `done`.
    fn forge(&self, topic: &str, kind: u64, id: &RequestId) {
        let far = u64::MAX.to_le_bytes();
        let fields: [(u8, &[u8]); 3] =
            [(CALLBACK, b"done"), (ERROR, b"forged"), (REQUEST_OFFSET, &far)];
        self.topic(topic).append(&sealed(kind, id, &fields)).unwrap();
    }

    /// Appends a request of a stranger whose reply goes to this topic.
    fn forge_request(&self, number: usize, reply_topic: &str) {
        let id = id("stranger", 1, number as u64);
        let fields: [(u8, &[u8]); 2] = [(CALLBACK, b"done"), (REPLY_TOPIC, reply_topic.as_bytes())];
        self.topic("s.requests").append(&sealed(REQUEST, &id, &fields)).unwrap();
    }

    /// Returns the calls since the last call of this function.
    fn take(&self) -> Vec<(&'static str, RequestId, String)> {
        std::mem::take(&mut self.calls.lock())
    }
}

fn send(client: &Client, payload: &str) -> RequestId {
    client.request("s", &Record::new(payload)).unwrap().send("done").unwrap()
}

fn deliver(client: &Client) {
    while client.outstanding_count() > 0 {
        let before = client.outstanding_count();
        client.poll(LONG).unwrap();
        assert!(client.outstanding_count() < before, "{:?}", client.outstanding());
    }
    while client.poll(Duration::ZERO).unwrap() > 0 {}
}

#[test]
fn outcomes_of_requests_that_were_never_sent_reach_no_callback_and_hold_up_nobody() {
    let service = Service::new();
    let client = service.client("c");
    let first = send(&client, "first");
    let own = first.incarnation();
    let forged = [id("c", own, 1_000_000), id("c", own, u64::MAX), id("other", own, 0)];
    for id in &forged {
        for kind in OUTCOMES.into_iter().chain([REQUEST, UNPARKED]) {
            service.forge("s.replies", kind, id);
        }
    }
    let undecodable = Record::new("x").header_as_stored("deaddrop.service", [1, 2, 3]);
    service.topic("s.replies").append(&undecodable).unwrap();
    assert_eq!(client.poll(Duration::from_millis(1)).unwrap(), 0, "no outcome was there");
    assert_eq!((client.stats().unknown, client.outstanding_count()), (10, 1));
    let last = send(&client, "last");
    let mut server = service.server();
    assert_eq!(server.poll(LONG).unwrap(), 2);
    deliver(&client);
    let expected = [("done", first, "first".to_owned()), ("done", last, "last".to_owned())];
    assert_eq!(service.take(), expected);
    let stats = client.stats();
    assert_eq!((stats.completed, stats.late, stats.parked), (2, 0, 0));
    drop(client);
    let client = service.client("c");
    client.poll(Duration::ZERO).unwrap();
    assert_eq!((service.take(), client.outstanding_count()), (vec![], 0));
}

#[test]
fn an_outcome_that_names_an_earlier_start_which_left_no_such_request_is_late_at_most() {
    let service = Service::new();
    let client = service.client("c");
    let sent = send(&client, "mine");
    let unknown = id("c", !sent.incarnation(), 0);
    for kind in OUTCOMES {
        service.forge("s.replies", kind, &unknown);
    }
    service.server().poll(LONG).unwrap();
    deliver(&client);
    let calls = service.take();
    let done: Vec<_> = calls.iter().filter(|(which, ..)| *which == "done").collect();
    assert_eq!(done, [&("done", sent, "mine".to_owned())]);
    let late = calls.iter().filter(|(which, id, _)| *which == "late" && *id == unknown);
    assert_eq!(late.count(), OUTCOMES.len());
    let stats = client.stats();
    assert_eq!((stats.late, stats.unknown, stats.parked), (5, 0, 0));
    assert!(client.attach(&unknown).is_err() && client.parked().is_empty());
}

#[test]
fn of_several_outcomes_of_a_request_the_first_stands_whoever_wrote_them() {
    let service = Service::new();
    let client = service.client("c");
    let (id, other) = (send(&client, "mine"), send(&client, "other"));
    service.server().poll(LONG).unwrap();
    for kind in OUTCOMES {
        service.forge("s.replies", kind, &id);
        service.forge("s.replies", kind, &id);
    }
    deliver(&client);
    let calls = service.take();
    let done: Vec<_> = calls.iter().filter(|(which, ..)| *which == "done").cloned().collect();
    assert_eq!(done, [("done", id, "mine".to_owned()), ("done", other, "other".to_owned())]);
    assert_eq!((client.stats().late, client.stats().completed), (10, 2));
    drop(client);
    service.client("c").poll(Duration::ZERO).unwrap();
    assert_eq!(service.take(), [], "nor does a restart take another for it");
}

#[test]
fn requests_that_name_a_hostile_reply_topic_are_kept_dead_and_those_behind_them_answered() {
    let service = Service::new();
    let client = service.client("c");
    send(&client, "before");
    let names = ["", ".", "../c", "/etc/passwd", "a/b", "x\0y", "no.such", &"n".repeat(4000)];
    for (number, name) in names.into_iter().enumerate() {
        service.forge_request(number, name);
    }
    // The reply to this one is a record of the request topic that is not a request.
    service.forge_request(names.len(), "s.requests");
    send(&client, "behind");
    let mut server = service.server();
    let mut settled = 0;
    while settled < names.len() as u64 + 4 {
        let more = server.poll(LONG).unwrap();
        assert_ne!(more, 0);
        settled += more;
    }
    assert_eq!(server.poll(Duration::ZERO).unwrap(), 0);
    deliver(&client);
    let outcomes: Vec<_> = service.take().into_iter().map(|(.., outcome)| outcome).collect();
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
    assert!(outcomes.contains(&"before".into()) && outcomes.contains(&"behind".into()));
    assert_eq!(service.topic("s.replies").high_watermark().unwrap(), 2, "none of them is answered");
    let dead = service.topic("s.dead");
    assert_eq!(dead.high_watermark().unwrap(), names.len() as u64 + 1, "and the misplaced reply");
    let mut reader = dead.reader(Start::First).unwrap();
    let record = reader.next().unwrap().unwrap();
    let reason = record.header("dead-letter-reason").unwrap();
    assert_eq!(reason, b"its reply topic does not exist");
    assert!(!service.log.topics().unwrap().iter().any(|name| name.starts_with("no")));
}

#[test]
fn a_request_whose_reply_goes_to_a_clients_parked_topic_does_not_reach_its_callbacks() {
    let service = Service::new();
    service.log.restore_topic("c.parked", options()).unwrap();
    let client = service.client("c");
    send(&client, "warm");
    service.forge_request(1, "c.parked");
    assert_eq!(service.server().poll(LONG).unwrap(), 2);
    assert_eq!(service.topic("c.parked").high_watermark().unwrap(), 1);
    deliver(&client);
    drop(client);
    let client = service.client("c");
    while client.poll(Duration::ZERO).unwrap() > 0 {}
    assert!(client.parked().is_empty());
    let outcomes: Vec<_> = service.take().into_iter().map(|(.., outcome)| outcome).collect();
    assert_eq!(outcomes, ["warm"]);
}
