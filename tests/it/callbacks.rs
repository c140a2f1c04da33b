//! Callbacks that use their client, that never take what they are given, and handles made in between.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use deaddrop::service::{Client, HandlerError, Outcome};
use deaddrop::{Error, Log, Record};

use crate::child::Watchdog;
use crate::service::{drain, echo, make_topics, options, reply_kinds};

const LONG: Duration = Duration::from_secs(30);

#[test]
fn a_callback_sends_requests_and_waits_for_calls_but_is_never_called_inside_itself() {
    let _watchdog = Watchdog::new();
    let dir = crate::dir();
    let log = Log::open(dir.path()).unwrap();
    make_topics(&log, "s");
    make_topics(&log, "t");
    let me: Arc<OnceLock<Client>> = Arc::default();
    let (inside, depth, called) = (Arc::clone(&me), AtomicU32::new(0), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&called);
    let client = log
        .client("c")
        .on("done", move |done| {
            assert_eq!(depth.fetch_add(1, Ordering::Relaxed), 0, "called inside itself");
            if done.context() == b"asks" {
                let client = inside.get().expect("set before the first request");
                assert!(matches!(client.poll(Duration::ZERO), Err(Error::Invalid { .. })));
                for service in ["s", "t"] {
                    client.request(service, &Record::new("more"))?.send("done")?;
                    let mut call = client.request(service, &Record::new("inside"))?.call()?;
                    let reply = call.wait_timeout(LONG)?.expect("the server answers");
                    let Outcome::Reply(reply) = reply.outcome() else { panic!("{reply:?}") };
                    assert_eq!(reply.payload(), b"inside");
                    assert!(matches!(call.wait_timeout(LONG), Err(Error::NotFound { .. })));
                }
            }
            depth.fetch_sub(1, Ordering::Relaxed);
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })
        .open()
        .unwrap();
    assert!(me.set(client.clone()).is_ok());
    client.request("t", &Record::new("first")).unwrap().send("done").unwrap();
    client.request("s", &Record::new("x")).unwrap().context("asks").send("done").unwrap();
    let servers = ["s", "t"].map(|name| log.server(name, echo).unwrap().spawn().unwrap());
    drain(&client);
    assert_eq!(called.load(Ordering::Relaxed), 4);
    assert!(client.parked().unwrap().is_empty());
    for server in servers {
        server.stop().unwrap();
    }
}

#[test]
fn a_call_inside_a_callback_expires_at_its_deadline() {
    let _watchdog = Watchdog::new();
    let dir = crate::dir();
    let log = Log::open(dir.path()).unwrap();
    make_topics(&log, "s");
    make_topics(&log, "nobody");
    let me: Arc<OnceLock<Client>> = Arc::default();
    let inside = Arc::clone(&me);
    let client = log
        .client("c")
        .on("done", move |_| {
            let client = inside.get().expect("set before the first request");
            let request = client.request("nobody", &Record::new("x"))?;
            let mut call = request.deadline(Duration::from_nanos(1)).call()?;
            let done = call.wait_timeout(LONG)?.expect("it expires");
            assert!(matches!(done.outcome(), Outcome::Expired));
            Ok(())
        })
        .open()
        .unwrap();
    assert!(me.set(client.clone()).is_ok());
    client.request("s", &Record::new("x")).unwrap().send("done").unwrap();
    log.server("s", echo).unwrap().poll(LONG).unwrap();
    drain(&client);
    assert!(client.parked().unwrap().is_empty());
    assert_eq!(reply_kinds(&log, "nobody").len(), 1);
}

#[test]
fn an_outcome_that_its_callback_never_takes_does_not_hold_up_the_others_again_and_again() {
    let dir = crate::dir();
    let log = Log::open(dir.path()).unwrap();
    make_topics(&log, "s");
    let mut server = log.server("s", echo).unwrap();
    let called = Arc::new(AtomicU32::new(0));
    let count_of_start = |sends: bool| {
        let before = called.load(Ordering::Relaxed);
        let count = Arc::clone(&called);
        let client = log
            .client("c")
            .topic_options(options())
            .on("done", move |_| {
                count.fetch_add(1, Ordering::Relaxed);
                Err(HandlerError::retry("never"))
            })
            .open()
            .unwrap();
        if sends {
            client.request("s", &Record::new("x")).unwrap().send("done").unwrap();
            server.poll(LONG).unwrap();
            drain(&client);
        }
        for _ in 0..10 {
            client.poll(Duration::ZERO).unwrap();
        }
        assert_eq!(client.parked().unwrap().len(), 1);
        called.load(Ordering::Relaxed) - before
    };
    let mut count_of_start = count_of_start;
    assert_eq!(count_of_start(true), 5, "a few times, then it is parked");
    assert_eq!(count_of_start(false), 5, "and once more a few times at the next start");
}
