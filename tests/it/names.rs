//! Names that are derived from other names never clash, or the second owner is refused.
//!
//! A service S has the topics `S.requests`, `S.replies` and `S.dead`; a group G of a topic T has
//! `T.G.dead`; a client C has `C.parked`; a dead-letter topic X has `X.marks`. The last part of a
//! name separates these kinds. Within a kind, only the dead-letter topics of groups can clash.

use std::time::Duration;

use deaddrop::group::{GroupOptions, HandlerError, WorkerOptions};
use deaddrop::service::{DeadLetters, Reply, Request, ServerOptions};
use deaddrop::{Durability, Error, Log, Record, Topic, TopicOptions};

const LONG: Duration = Duration::from_secs(30);

fn options() -> TopicOptions {
    TopicOptions::default().with_durability(Durability::ProcessCrash).with_segment_len(16 << 10)
}

fn topic(log: &Log, name: &str) -> Topic {
    log.topic_with(name, options()).unwrap()
}

fn worker(topic: &Topic, group: &str) -> deaddrop::Result<deaddrop::group::Worker> {
    let options = WorkerOptions::default().with_max_attempts(1);
    let group = topic.group(group, GroupOptions::default())?;
    group.worker(options, |_| Err(HandlerError::retry("no")))
}

fn server(log: &Log, service: &str) -> deaddrop::Result<deaddrop::service::Server> {
    let options = ServerOptions::default().with_topic(options()).with_max_attempts(1);
    log.server_with(service, options, |_: &Request<'_>| Err::<Reply, _>(HandlerError::retry("no")))
}

#[track_caller]
fn is_refused<T>(result: deaddrop::Result<T>, words: &[&str]) {
    let Err(error) = result else { panic!("it was not refused: {words:?}") };
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
    for word in words {
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
}

#[test]
fn a_service_and_a_group_never_share_a_topic_of_dead_letters() {
    let words = [
        "the service inventory.x",
        "the group x of the topic inventory",
        "the dead-letter topic inventory.x.dead",
        "another name",
    ];
    // The service came first. It may not have a server yet.
    for is_served in [true, false] {
        let dir = crate::dir();
        let log = Log::open_or_create(dir.path()).unwrap();
        let inventory = topic(&log, "inventory");
        if is_served {
            drop(server(&log, "inventory.x").unwrap());
        } else {
            let client = log.client("c").with_topic_options(options()).open().unwrap();
            drop(client.request("inventory.x", &Record::new("a")).unwrap().call().unwrap());
        }
        is_refused(worker(&inventory, "x"), &words);
        drop(worker(&inventory, "y").unwrap());
        // The first owner is not affected.
        drop(server(&log, "inventory.x").unwrap());
    }
    // The group came first.
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let inventory = topic(&log, "inventory");
    drop(worker(&inventory, "x").unwrap());
    is_refused(server(&log, "inventory.x"), &words);
    let client = log.client("c").with_topic_options(options()).open().unwrap();
    is_refused(client.request("inventory.x", &Record::new("a")), &words);
    drop(worker(&inventory, "x").unwrap());
    drop(server(&log, "inventory.y").unwrap());
    drop(server(&log, "inventory").unwrap());
}

#[test]
fn two_groups_never_share_a_topic_of_dead_letters() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let (short, long) = (topic(&log, "a"), topic(&log, "a.b"));
    drop(worker(&short, "b.c").unwrap());
    let words = ["the group c of the topic a.b", "the group b.c of the topic a", "a.b.c.dead"];
    is_refused(worker(&long, "c"), &words);
    drop(worker(&long, "d").unwrap());
    drop(worker(&short, "b.c").unwrap());
    // The name of a deleted group is free.
    short.delete_group("b.c").unwrap();
    drop(worker(&long, "c").unwrap());
    is_refused(worker(&short, "b.c"), &words);
}

#[test]
fn a_group_of_workers_is_never_that_of_a_services_servers() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    drop(server(&log, "echo").unwrap());
    let requests = log.open_topic("echo.requests").unwrap();
    let words = ["the group server of the topic echo.requests", "choose another name"];
    is_refused(worker(&requests, "server"), &words);
    drop(worker(&requests, "audit").unwrap());
    drop(worker(&topic(&log, "plain"), "server").unwrap());
}

#[test]
fn similar_names_have_topics_of_their_own() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    // A client, a service, a topic and its group, all with the same name.
    let mut server = server(&log, "a").unwrap();
    let plain = topic(&log, "a");
    let mut worker = worker(&plain, "a").unwrap();
    let client = log.client("a").with_topic_options(options()).open().unwrap();
    let mut call = client.request("a", &Record::new("request")).unwrap().call().unwrap();
    plain.append(&Record::new("record")).unwrap();
    server.poll(LONG).unwrap();
    worker.poll(LONG).unwrap();
    call.wait_timeout(LONG).unwrap().unwrap();
    for (letters, payload) in [("a.dead", "request"), ("a.a.dead", "record")] {
        let mut dead = DeadLetters::open(&log, letters).unwrap();
        let mut reader = dead.topic().reader(deaddrop::Start::First).unwrap();
        let payloads = std::iter::from_fn(|| {
            let record = reader.next().unwrap()?;
            Some(String::from_utf8_lossy(record.payload()).into_owned())
        });
        assert_eq!(payloads.collect::<Vec<_>>(), [payload], "{letters}");
        dead.discard(0).unwrap();
    }
    let made = log.topics().unwrap();
    let expected =
        ["a", "a.a.dead", "a.a.dead.marks", "a.dead", "a.dead.marks", "a.replies", "a.requests"];
    assert_eq!(made, expected);
}

#[test]
fn a_topic_is_not_created_under_a_name_of_parked_outcomes_or_of_marks() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    for name in ["c.parked", "s.dead.marks"] {
        for refused in [log.topic(name), log.topic_with(name, options())] {
            let Err(Error::InvalidName { name: refused, why }) = refused else { panic!("{name}") };
            assert_eq!(refused, name);
            assert!(why.contains(".parked") && why.contains("another ending"), "{why}");
        }
        assert!(matches!(log.open_topic(name), Err(Error::NotFound { .. })), "{name}");
        assert!(log.topics().unwrap().is_empty(), "{name}");
    }
    // A service's topics can be made before it, with other settings than its own.
    for name in ["s.requests", "s.replies", "s.dead", "parked", "x.marks"] {
        topic(&log, name);
    }
    // An existing topic is opened under any name.
    drop(log.restore_topic("c.parked", options()).unwrap());
    topic(&log, "c.parked").append(&Record::new("x")).unwrap();
    assert_eq!(log.topic("c.parked").unwrap().high_watermark().unwrap(), 1);
    let log = Log::open_read_only(dir.path()).unwrap();
    assert!(matches!(log.topic("s.dead.marks"), Err(Error::NotFound { .. })));
    assert!(log.topic("c.parked").is_ok());
}
