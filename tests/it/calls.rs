//! Handles of calls: which of them gets an outcome when processes are killed; waits without an end.

use std::time::Duration;

use deaddrop::service::{Client, Outcome, RequestId};
use deaddrop::{Error, Log, Record, Stop};

use crate::child::{self, Child, Watchdog};
use crate::service::{echo, make_topics, options};

const LONG: Duration = Duration::from_secs(30);

fn open(log: &Log) -> Client {
    log.client("c").with_topic_options(options()).open().unwrap()
}

fn call(client: &Client, payload: &str) -> deaddrop::service::Call {
    client.request("s", &Record::new(payload)).unwrap().call().unwrap()
}

fn reply_of(call: &mut deaddrop::service::Call) -> Vec<u8> {
    match call.wait_timeout(LONG).unwrap().expect("it was answered").outcome() {
        Outcome::Reply(reply) => reply.payload().to_vec(),
        other => panic!("{other:?}"),
    }
}

/// Role: has the outcomes of calls delivered, returns the first, and waits to be killed. `DIR
/// WAITS`: `parked` waits until the others are parked; `alone` has one call, which is not returned.
pub(crate) fn dies_with_outcomes(words: &[&str]) {
    let log = Log::open_or_create(words[0]).unwrap();
    let client = open(&log);
    if words[1] == "alone" {
        let call = call(&client, "a");
        log.server("s", echo).unwrap().poll(LONG).unwrap();
        client.poll(LONG).unwrap();
        child::say(&call.id().to_string());
        child::listen();
    }
    let mut calls = ["a", "b", "c"].map(|payload| call(&client, payload));
    let running = client.spawn().unwrap();
    log.server("s", echo).unwrap().poll(LONG).unwrap();
    assert_eq!(reply_of(&mut calls[0]), b"a");
    while client.stats().completed < 3 {
        std::thread::yield_now();
    }
    if words[1] == "parked" {
        while client.parked().len() < 2 {
            std::thread::yield_now();
        }
    }
    for call in &calls {
        child::say(&call.id().to_string());
    }
    child::listen();
    running.stop().unwrap();
}

/// Returns a client of the service `s`, whose topics exist.
fn start() -> (Watchdog, tempfile::TempDir, Log, Client) {
    let watchdog = Watchdog::new();
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let client = open(&log);
    (watchdog, dir, log, client)
}

#[test]
fn outcomes_that_no_handle_has_returned_are_attached_to_after_a_kill() {
    for waits in ["at once", "parked"] {
        let dir = crate::dir();
        let log = Log::open_or_create(dir.path()).unwrap();
        make_topics(&log, "s");
        let mut child = Child::spawn(&["dies-with-outcomes", dir.path().to_str().unwrap(), waits]);
        let ids: Vec<RequestId> = (0..3)
            .map(|_| {
                let line = child.hear().expect("it lives until it is killed");
                line.parse().unwrap()
            })
            .collect();
        child.kill();
        for _ in 0..2 {
            // Even after a start in which no call attaches.
            let client = open(&log);
            while client.poll(Duration::ZERO).unwrap() > 0 {}
        }
        let client = open(&log);
        for (id, payload) in ids[1..].iter().zip([b"b", b"c"]) {
            let mut call = client.attach(id).unwrap();
            assert_eq!(reply_of(&mut call), payload, "{waits}");
            assert!(matches!(call.wait_timeout(LONG), Err(Error::NotFound { .. })));
        }
        drop(client);
        let client = open(&log);
        assert_eq!(client.outstanding_count(), 0);
        assert!(ids[1..].iter().all(|id| client.attach(id).is_err()), "a returned outcome is gone");
        // If the kill came right after it was returned, the first outcome may still be parked.
        let left = client.parked();
        assert!(left.iter().all(|left| left.id == ids[0]), "{left:?}");
    }
}

#[test]
fn an_outcome_that_was_parked_while_its_handle_lived_is_returned_once_or_dropped_with_it() {
    let (_watchdog, _dir, log, client) = start();
    let mut calls = ["a", "b", "c"].map(|payload| call(&client, payload));
    log.server("s", echo).unwrap().poll(LONG).unwrap();
    while client.parked().len() < 3 {
        client.poll(Duration::from_millis(1)).unwrap();
    }
    assert_eq!(client.outstanding_count(), 0);
    let mut second = client.attach(calls[1].id()).unwrap();
    assert_eq!((reply_of(&mut calls[0]), reply_of(&mut second)), (b"a".to_vec(), b"b".to_vec()));
    assert!(matches!(calls[1].wait_timeout(LONG), Err(Error::NotFound { .. })));
    let given_up = calls[2].id().clone();
    drop(calls);
    assert!(client.parked().is_empty(), "dropping a handle discards its outcome");
    assert!(client.attach(&given_up).is_err());
    drop((second, client));
    let client = open(&log);
    assert_eq!((client.parked().len(), client.outstanding_count()), (0, 0));
}

#[test]
fn waits_of_the_longest_duration_are_accepted() {
    let (_watchdog, _dir, log, client) = start();
    let mut asked = call(&client, "x");
    let mut server = log.server("s", echo).unwrap();
    assert_eq!(server.poll(Duration::MAX).unwrap(), 1);
    assert!(asked.wait_timeout(Duration::MAX).unwrap().is_some());
    drop(call(&client, "y"));
    assert_eq!(server.poll(Duration::MAX).unwrap(), 1);
    assert_eq!(client.poll(Duration::MAX).unwrap(), 1);
    let _running = client.spawn().unwrap();
    let mut asked = call(&client, "z");
    assert_eq!(server.poll(Duration::MAX).unwrap(), 1);
    assert!(asked.wait_timeout(Duration::MAX).unwrap().is_some());
}

#[test]
fn a_wait_for_an_outcome_ends_when_it_is_stopped() {
    let (_watchdog, _dir, log, client) = start();
    let mut asked = call(&client, "x");
    let stop = Stop::new();
    std::thread::scope(|scope| {
        scope.spawn(|| stop.stop());
        assert!(asked.wait_for(Duration::MAX, &stop).unwrap().is_none());
    });
    log.server("s", echo).unwrap().poll(LONG).unwrap();
    assert_eq!(reply_of(&mut asked), b"x");
}

#[test]
fn the_only_outcome_that_no_handle_has_returned_is_attached_to_after_a_kill() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let mut child = Child::spawn(&["dies-with-outcomes", dir.path().to_str().unwrap(), "alone"]);
    let id: RequestId = child.hear().unwrap().parse().unwrap();
    child.kill();
    let client = open(&log);
    assert_eq!(reply_of(&mut client.attach(&id).unwrap()), b"a");
}
