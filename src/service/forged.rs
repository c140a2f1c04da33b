//! Envelopes that no client and no server of this library would write, but that any process that may append
//! to the topics of a service can. The public interface writes none, so these tests are unit tests.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Client, Completed, Envelope, Kind, Outcome, Reply, RequestId, Server, ServerOptions};
use crate::group::HandlerError;
use crate::log::Log;
use crate::reader::Start;
use crate::record::Record;
use crate::topic::{Durability, Topic, TopicOptions};

const LONG: Duration = Duration::from_secs(30);

const OUTCOMES: [Kind; 5] =
    [Kind::Reply, Kind::Failed, Kind::DeadLettered, Kind::Expired, Kind::Cancelled];

fn options() -> TopicOptions {
    TopicOptions {
        segment_len: 64 << 10,
        ..TopicOptions::default().with_durability(Durability::ProcessCrash)
    }
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
        let options = ServerOptions { topic: Some(options()), ..ServerOptions::default() };
        let echo = |request: &super::Request<'_>| Ok(Reply::new(request.payload()));
        self.log.server_with("s", options, echo).unwrap()
    }

    fn topic(&self, name: &str) -> Topic {
        self.log.open_topic(name).unwrap()
    }

    /// Appends a record of this kind about this request, with the callback `done`.
    fn forge(&self, topic: &str, kind: Kind, id: &RequestId) {
        let mut envelope = Envelope::new(kind, id.clone());
        envelope.callback = "done".into();
        envelope.error = "forged".into();
        envelope.request_offset = Some(u64::MAX);
        self.topic(topic).append(&envelope.seal(Record::new("forged"))).unwrap();
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
    let of = |incarnation, sequence| RequestId::new("c", incarnation, sequence);
    let own = first.incarnation();
    let forged = [of(own, 1_000_000), of(own, u64::MAX), RequestId::new("other", own, 0)];
    for id in &forged {
        for kind in OUTCOMES.into_iter().chain([Kind::Request, Kind::Unparked]) {
            service.forge("s.replies", kind, id);
        }
    }
    let undecodable = Record::new("x").reserved_header(super::envelope::HEADER, &[1, 2, 3]);
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
    let id = send(&client, "mine");
    let unknown = RequestId::new("c", !id.incarnation(), 0);
    for kind in OUTCOMES {
        service.forge("s.replies", kind, &unknown);
    }
    service.server().poll(LONG).unwrap();
    deliver(&client);
    let calls = service.take();
    let done: Vec<_> = calls.iter().filter(|(which, ..)| *which == "done").collect();
    assert_eq!(done, [&("done", id, "mine".to_owned())]);
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
    let forged = |number: usize| RequestId::new("stranger", 1, number as u64);
    let names = ["", ".", "../c", "/etc/passwd", "a/b", "x\0y", "no.such", &"n".repeat(4000)];
    for (number, name) in names.into_iter().enumerate() {
        let mut envelope = Envelope::new(Kind::Request, forged(number));
        envelope.reply_topic = Some(name.to_owned());
        service.topic("s.requests").append(&envelope.seal(Record::new("forged"))).unwrap();
    }
    // The reply to this one is a record of the request topic that is not a request.
    let mut envelope = Envelope::new(Kind::Request, forged(names.len()));
    envelope.reply_topic = Some("s.requests".into());
    service.topic("s.requests").append(&envelope.seal(Record::new("forged"))).unwrap();
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
    let mut envelope = Envelope::new(Kind::Request, RequestId::new("stranger", 1, 1));
    envelope.callback = "done".into();
    envelope.reply_topic = Some("c.parked".into());
    service.topic("s.requests").append(&envelope.seal(Record::new("forged"))).unwrap();
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
