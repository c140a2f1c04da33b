//! Callbacks that use their client, callbacks that never take an outcome, handles made in between.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use deaddrop::service::{CallbackRetry, Client, HandlerError, Outcome};
use deaddrop::{Error, Log, Record};

use crate::child::Watchdog;
use crate::service::{drain, echo, make_topics, options, reply_kinds};

const LONG: Duration = Duration::from_secs(30);

#[test]
fn a_callback_sends_requests_and_waits_for_calls_but_is_never_called_inside_itself() {
    let _watchdog = Watchdog::new();
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
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
    client.request("s", &Record::new("x")).unwrap().with_context("asks").send("done").unwrap();
    let servers = ["s", "t"].map(|name| log.server(name, echo).unwrap().spawn().unwrap());
    drain(&client);
    assert_eq!(called.load(Ordering::Relaxed), 4);
    assert!(client.parked().is_empty());
    for server in servers {
        server.stop().unwrap();
    }
}

#[test]
fn a_call_inside_a_callback_expires_at_its_deadline() {
    let _watchdog = Watchdog::new();
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    make_topics(&log, "nobody");
    let me: Arc<OnceLock<Client>> = Arc::default();
    let inside = Arc::clone(&me);
    let client = log
        .client("c")
        .on("done", move |_| {
            let client = inside.get().expect("set before the first request");
            let request = client.request("nobody", &Record::new("x"))?;
            let mut call = request.with_deadline(Duration::from_nanos(1)).call()?;
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
    assert!(client.parked().is_empty());
    assert_eq!(reply_kinds(&log, "nobody").len(), 1);
}

/// A client whose callback `done` fails for payloads that `fails` selects, and notes the others.
fn flaky(
    log: &Log,
    retry: CallbackRetry,
    fails: impl Fn(&[u8]) -> bool + Send + 'static,
) -> (Client, Taken) {
    let (taken, called) = (Taken::default(), Arc::new(AtomicU32::new(0)));
    let (noted, count) = (Arc::clone(&taken.order), Arc::clone(&called));
    let others = Arc::clone(&taken.order);
    let client = log
        .client("c")
        .with_topic_options(options())
        .with_callback_retry(retry)
        .on("done", move |done| {
            count.fetch_add(1, Ordering::Relaxed);
            if fails(done.context()) {
                return Err(HandlerError::retry("the database is down"));
            }
            noted.lock().unwrap().push(String::from_utf8_lossy(done.context()).into_owned());
            Ok(())
        })
        .on("other", move |done| {
            others.lock().unwrap().push(String::from_utf8_lossy(done.context()).into_owned());
            Ok(())
        })
        .open()
        .unwrap();
    (client, Taken { called, ..taken })
}

#[derive(Default)]
struct Taken {
    order: Arc<Mutex<Vec<String>>>,
    called: Arc<AtomicU32>,
}

impl Taken {
    fn order(&self) -> Vec<String> {
        self.order.lock().unwrap().clone()
    }
}

fn quick() -> CallbackRetry {
    CallbackRetry::default()
        .with_attempts(2)
        .with_first(Duration::from_millis(1))
        .with_most(Duration::from_millis(1))
        .with_parked_first(Duration::from_millis(2))
        .with_parked_most(Duration::from_millis(20))
}

fn ask(client: &Client, contexts: &[&str], callback: &str) {
    for context in contexts {
        let request = client.request("s", &Record::new("x")).unwrap();
        request.with_context(*context).send(callback).unwrap();
    }
}

/// Polls until nothing is parked any more.
fn unpark(client: &Client) {
    for _ in 0..10_000 {
        if client.parked().is_empty() {
            return;
        }
        client.poll(Duration::from_millis(5)).unwrap();
    }
    panic!("still parked: {:?}", client.parked());
}

#[test]
fn outcomes_that_a_callback_could_not_take_are_retried_in_order_while_the_process_runs() {
    let _watchdog = Watchdog::new();
    for spawns in [false, true] {
        let dir = crate::dir();
        let log = Log::open_or_create(dir.path()).unwrap();
        make_topics(&log, "s");
        let is_down = Arc::new(AtomicBool::new(true));
        let down = Arc::clone(&is_down);
        let (client, taken) = flaky(&log, quick(), move |_| down.load(Ordering::Relaxed));
        ask(&client, &["1", "2", "3", "4"], "done");
        ask(&client, &["other"], "other");
        assert_eq!(log.server("s", echo).unwrap().poll(LONG).unwrap(), 5);
        drain(&client);
        assert_eq!(taken.order(), ["other"], "other callbacks are not delayed");
        let parked = client.parked();
        assert_eq!(parked.len(), 4);
        assert!(parked.iter().all(|parked| parked.parked_at <= std::time::SystemTime::now()));
        let before = taken.called.load(Ordering::Relaxed);
        while taken.called.load(Ordering::Relaxed) < before + 3 {
            client.poll(Duration::from_millis(1)).unwrap();
        }
        // The outcome that is due when the callback works again comes first, then the oldest ones.
        let running = spawns.then(|| client.spawn().unwrap());
        is_down.store(false, Ordering::Relaxed);
        match &running {
            Some(_) => while !client.parked().is_empty() {},
            None => unpark(&client),
        }
        let mut order = taken.order();
        assert_eq!((order.len(), order.remove(0).as_str()), (5, "other"));
        let first = order.remove(0);
        let mut rest = vec!["1", "2", "3", "4"];
        rest.retain(|other| *other != first);
        assert_eq!(order, rest, "after {first}");
        drop(running);
        let stats = client.stats();
        assert_eq!((stats.completed, stats.parked), (5, 4));
    }
}

#[test]
fn an_outcome_that_its_callback_never_takes_holds_up_no_other_and_can_be_dropped() {
    let _watchdog = Watchdog::new();
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let mut server = log.server("s", echo).unwrap();
    let (client, taken) = flaky(&log, quick(), |context| context == b"bad");
    ask(&client, &["1", "bad", "2"], "done");
    assert_eq!(server.poll(LONG).unwrap(), 3);
    drain(&client);
    for _ in 0..10_000 {
        client.poll(Duration::from_millis(1)).unwrap();
        if taken.order().len() == 2 && taken.called.load(Ordering::Relaxed) > 8 {
            break;
        }
    }
    assert_eq!(taken.order(), ["1", "2"]);
    assert!(taken.called.load(Ordering::Relaxed) > 8, "it is retried");
    let parked = client.parked();
    assert_eq!(parked.len(), 1);
    drop(client);
    // A start tries it too.
    let (client, taken) = flaky(&log, quick(), |_| true);
    client.poll(Duration::ZERO).unwrap();
    assert_eq!(taken.called.load(Ordering::Relaxed), 1, "one attempt per start");
    client.discard_parked(&parked[0].id).unwrap();
    assert!(matches!(client.discard_parked(&parked[0].id), Err(Error::NotFound { .. })));
    assert!(client.parked().is_empty());
    drop(client);
    let (client, taken) = flaky(&log, quick(), |_| true);
    client.poll(Duration::ZERO).unwrap();
    assert_eq!(taken.called.load(Ordering::Relaxed), 0);
}

#[test]
fn an_outcome_that_a_callback_refuses_is_retried_only_on_request() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let called = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&called);
    let client = log
        .client("c")
        .with_topic_options(options())
        .with_callback_retry(quick())
        .on("done", move |_| match count.fetch_add(1, Ordering::Relaxed) {
            0 => Err(HandlerError::terminal("never")),
            _ => Ok(()),
        })
        .open()
        .unwrap();
    ask(&client, &["x"], "done");
    log.server("s", echo).unwrap().poll(LONG).unwrap();
    drain(&client);
    for _ in 0..20 {
        client.poll(Duration::from_millis(2)).unwrap();
    }
    assert_eq!((called.load(Ordering::Relaxed), client.parked().len()), (1, 1));
    assert_eq!(client.retry_parked(), 1);
    assert_eq!(client.poll(Duration::ZERO).unwrap(), 1);
    assert_eq!((called.load(Ordering::Relaxed), client.parked().len()), (2, 0));
}

#[test]
fn a_callback_gets_its_client_and_does_not_keep_it_alive() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let open = || {
        log.client("c")
            .with_topic_options(options())
            .on("first", |done| {
                let client = done.client()?;
                client.request("s", &Record::new("more"))?.caused_by(done).send("second")?;
                Ok(())
            })
            .on("second", |_| Ok(()))
            .open()
            .unwrap()
    };
    let client = open();
    ask(&client, &["x"], "first");
    let mut server = log.server("s", echo).unwrap();
    for _ in 0..2 {
        server.poll(LONG).unwrap();
        client.poll(LONG).unwrap();
    }
    assert_eq!((client.outstanding_count(), client.stats().completed), (0, 2));
    let mut call = client.request("s", &Record::new("x")).unwrap().call().unwrap();
    server.poll(LONG).unwrap();
    let done = call.wait_timeout(LONG).unwrap().unwrap();
    assert_eq!(done.client().unwrap().name(), "c");
    drop((call, client));
    drop(open());
    assert!(matches!(done.client(), Err(Error::NotFound { .. })));
}

#[test]
fn an_outcome_that_comes_while_its_callback_fails_waits_for_the_older_ones() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let is_down = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&is_down);
    let hour = Duration::from_secs(3600);
    let retry = quick().with_parked_first(hour).with_parked_most(hour);
    let (client, taken) = flaky(&log, retry, move |_| down.load(Ordering::Relaxed));
    let mut server = log.server("s", echo).unwrap();
    for (context, parked) in [("1", 1), ("2", 2)] {
        ask(&client, &[context], "done");
        server.poll(LONG).unwrap();
        drain(&client);
        assert_eq!((taken.order().len(), client.parked().len()), (0, parked));
        is_down.store(false, Ordering::Relaxed);
    }
    assert_eq!(client.retry_parked(), 2);
    unpark(&client);
    assert_eq!(taken.order(), ["1", "2"]);
}
