//! Requests that were cancelled or have expired are not handled, whichever server reaches them and
//! whatever happened since.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use deaddrop::service::{Client, Reply, Request, RequestId, Server, ServerOptions};
use deaddrop::{Log, Record, Start, Stop};

use crate::service::{drain, echo, make_topics, options, reply_kinds};

const LONG: Duration = Duration::from_secs(30);

/// The payloads that handlers were called with.
type Handled = Arc<Mutex<Vec<String>>>;

/// A server whose handler calls `at_first` and signals `stop` at payloads that begin with `first`.
fn server(
    log: &Log,
    handled: &Handled,
    stop: &Stop,
    at_first: impl Fn() + Send + Sync + 'static,
) -> Server {
    let (handled, stop) = (Arc::clone(handled), stop.clone());
    let options = ServerOptions::default().with_topic(options());
    log.server_with("s", options, move |request| {
        let payload = String::from_utf8_lossy(request.payload()).into_owned();
        if payload.starts_with("first") {
            at_first();
            stop.stop();
        }
        handled.lock().unwrap().push(payload);
        Ok(Reply::new(request.payload()))
    })
    .unwrap()
}

fn send(client: &Client, payload: &str, key: &str) -> RequestId {
    let request = client.request("s", &Record::new(payload)).unwrap().with_key(key);
    request.send("done").unwrap()
}

/// A service that has run before, so that no request is in doubt.
fn begin(log: &Log) -> Client {
    make_topics(log, "s");
    let client =
        log.client("c").with_topic_options(options()).on("done", |_| Ok(())).open().unwrap();
    send(&client, "begin", "k");
    let mut server = log.server("s", echo).unwrap();
    assert_eq!(server.poll(LONG).unwrap(), 1);
    let stop = Stop::new();
    stop.stop();
    server.run(&stop).unwrap();
    drain(&client);
    client
}

/// Serves until `count` more requests were handled.
fn serve_rest(log: &Log, handled: &Handled, count: usize) {
    let mut server = server(log, handled, &Stop::new(), || ());
    let before = handled.lock().unwrap().len();
    for _ in 0..100 {
        server.poll(Duration::from_millis(10)).unwrap();
        if handled.lock().unwrap().len() >= before + count {
            break;
        }
    }
    while server.poll(Duration::ZERO).unwrap() > 0 {}
}

#[test]
fn a_request_that_was_cancelled_while_another_of_its_key_ran_is_not_handled_after_a_restart() {
    for graceful in [true, false] {
        let dir = crate::dir();
        let log = Log::open_or_create(dir.path()).unwrap();
        let client = begin(&log);
        let handled = Handled::default();
        send(&client, "first", "k");
        let second = send(&client, "second", "k");
        // Requests of other lanes: their records move the floors of all lanes.
        let others: Vec<_> = (0..20).map(|number| format!("other-{number}")).collect();
        others.iter().for_each(|other| drop(send(&client, other, other)));
        let (stop, cancels) = (Stop::new(), client.clone());
        let mut server = server(&log, &handled, &stop, move || cancels.cancel(&second).unwrap());
        while !stop.is_stopped() {
            match graceful {
                true => server.run(&stop).unwrap(),
                // One poll at a time; the server is then dropped without an orderly end.
                false => drop(server.poll(LONG).unwrap()),
            }
        }
        drop(server);
        let done = handled.lock().unwrap().len();
        serve_rest(&log, &handled, 21 - done);
        let handled = handled.lock().unwrap().clone();
        assert!(!handled.contains(&"second".to_owned()), "graceful: {graceful}: {handled:?}");
        assert_eq!(handled.len(), 21);
        drain(&client);
    }
}

#[test]
fn requests_that_expired_after_a_slow_one_are_not_handled_by_the_server_that_takes_the_lane() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let client = begin(&log);
    let handled = Handled::default();
    let keys: Vec<_> = (0..8).map(|number| format!("k{number}")).collect();
    send(&client, "first", "k0");
    for key in &keys {
        let request = client.request("s", &Record::new("short")).unwrap().with_key(key);
        request.with_deadline(Duration::from_nanos(1)).send("done").unwrap();
    }
    let (stop, expires) = (Stop::new(), client.clone());
    // The client reports the expiry while the first request runs.
    let mut one = server(&log, &handled, &stop, move || {
        for _ in 0..1000 {
            if expires.outstanding_count() == 1 {
                return;
            }
            expires.poll(Duration::from_millis(1)).unwrap();
        }
        panic!("{:?}", expires.outstanding());
    });
    one.run(&stop).unwrap();
    let mut two = server(&log, &handled, &Stop::new(), || ());
    // Both servers live, so the lanes are shared.
    std::thread::scope(|scope| {
        for server in [&mut one, &mut two] {
            scope.spawn(move || {
                for _ in 0..20 {
                    server.poll(Duration::from_millis(10)).unwrap();
                }
            });
        }
    });
    assert_eq!(*handled.lock().unwrap(), ["first"]);
    drain(&client);
    assert_eq!(reply_kinds(&log, "s").len(), 2 + keys.len(), "each is answered once");
}

#[test]
fn a_cancelled_request_whose_lane_changes_hands_twice_is_not_handled() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let client =
        log.client("c").with_topic_options(options()).on("done", |_| Ok(())).open().unwrap();
    let handled = Handled::default();
    let other = Arc::new(Mutex::new(None::<Server>));
    let last = Arc::new(Mutex::new(None::<RequestId>));
    let (stop, ends) = (Stop::new(), Stop::new());
    let open = || {
        let (handled, stop, stops_other) = (Arc::clone(&handled), stop.clone(), ends.clone());
        let (other, last, client) = (Arc::clone(&other), Arc::clone(&last), client.clone());
        let options = ServerOptions::default().with_lanes(2).with_topic(options());
        let handler = move |request: &Request<'_>| {
            handled.lock().unwrap().push(String::from_utf8_lossy(request.payload()).into_owned());
            match request.payload() {
                b"a" => other.lock().unwrap().as_mut().unwrap().run(&stops_other).unwrap(),
                b"n5" => {
                    client.cancel(last.lock().unwrap().as_ref().unwrap()).unwrap();
                    stops_other.stop();
                }
                b"b" => {
                    drop(other.lock().unwrap().take());
                    // So that the lanes are due to follow when this server takes the other's.
                    std::thread::sleep(Duration::from_millis(20));
                }
                b"c" => stop.stop(),
                _ => {}
            }
            Ok(Reply::new(request.payload()))
        };
        log.server_with("s", options, handler).unwrap()
    };
    let held = |server: &Server| server.stats().lanes_taken - server.stats().lanes_released;
    let (mut one, mut two) = (open(), open());
    // Requests without a key go to the lanes in turn.
    client.request("s", &Record::new("begin")).unwrap().send("done").unwrap();
    while (held(&one), held(&two)) != (1, 1) || handled.lock().unwrap().is_empty() {
        one.poll(Duration::from_millis(1)).unwrap();
        two.poll(Duration::from_millis(1)).unwrap();
    }
    drain(&client);
    // Server `two` must own lane 1.
    let mut is_swapped = false;
    for payload in ["n1", "a", "n3", "b", "n5", "c", "cancelled"] {
        let id = client.request("s", &Record::new(payload)).unwrap().send("done").unwrap();
        if payload == "n1" {
            is_swapped = one.poll(Duration::from_millis(50)).unwrap() == 1;
        }
        *last.lock().unwrap() = Some(id);
    }
    if is_swapped {
        std::mem::swap(&mut one, &mut two);
    }
    *other.lock().unwrap() = Some(two);
    one.run(&stop).unwrap();
    assert_eq!(held(&one), 2, "it has taken the lane of the other");
    assert_eq!(handled.lock().unwrap().len(), 7, "all but the last");
    drop(one);
    let mut three = open();
    assert_eq!(three.poll(LONG).unwrap(), 1, "it is skipped");
    assert_eq!(handled.lock().unwrap().len(), 7);
    drain(&client);
}

#[test]
fn a_server_whose_lanes_were_reset_answers_no_request_twice() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let client = begin(&log);
    let handled = Handled::default();
    for key in ["k", "l", "m"] {
        send(&client, "x", key);
    }
    serve_rest(&log, &handled, 3);
    drain(&client);
    let requests = log.open_topic("s.requests").unwrap();
    assert_eq!(requests.reset_group("server", Start::First).unwrap(), 0);
    let mut again = server(&log, &handled, &Stop::new(), || ());
    let mut settled = 0;
    while settled < 4 {
        settled += again.poll(LONG).unwrap();
    }
    assert_eq!((reply_kinds(&log, "s").len(), handled.lock().unwrap().len()), (4, 3));
}

#[test]
fn more_cancelled_requests_than_a_server_remembers_are_not_handled() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let client = begin(&log);
    let handled = Handled::default();
    send(&client, "first", "k");
    let all: Vec<_> = (0..5000).map(|_| send(&client, "cancelled", "k")).collect();
    let cancels = client.clone();
    let cancel_all = move || all.iter().for_each(|id| cancels.cancel(id).unwrap());
    let mut server = server(&log, &handled, &Stop::new(), cancel_all);
    while server.lag().unwrap() > 0 {
        server.poll(Duration::from_millis(10)).unwrap();
    }
    assert_eq!(*handled.lock().unwrap(), ["first"]);
    drain(&client);
}
