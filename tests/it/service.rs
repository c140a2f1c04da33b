//! Request/reply: one outcome for each request, whichever process is killed or restarted, and when.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deaddrop::group::{DeadLetter, GroupOptions, Poison, WorkerOptions};
use deaddrop::service::{Completed, Envelope, HandlerError, Kind, Outcome, Reply, ServerOptions};
use deaddrop::{Durability, Error, Log, Record, Retention, Start, TopicOptions};

const LONG: Duration = Duration::from_secs(30);

pub(crate) fn options() -> TopicOptions {
    TopicOptions::default().with_durability(Durability::ProcessCrash).with_segment_len(64 << 10)
}

pub(crate) fn make_topics(log: &Log, service: &str) {
    for end in ["requests", "replies"] {
        log.topic_with(&format!("{service}.{end}"), options()).unwrap();
    }
}

/// Collects the arguments that a callback is called with.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<(String, String, bool)>>>);

impl Seen {
    pub(crate) fn callback(
        &self,
    ) -> impl FnMut(&Completed) -> Result<(), HandlerError> + Send + 'static {
        let seen = self.clone();
        move |done| {
            let outcome = match done.outcome() {
                Outcome::Reply(reply) => String::from_utf8_lossy(reply.payload()).into_owned(),
                other => format!("{other:?}"),
            };
            let context = String::from_utf8_lossy(done.context()).into_owned();
            seen.0.lock().unwrap().push((context, outcome, done.is_late()));
            Ok(())
        }
    }

    pub(crate) fn take(&self) -> Vec<(String, String, bool)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Delivers until nothing is outstanding.
pub(crate) fn drain(client: &deaddrop::service::Client) {
    while !client.outstanding().unwrap().is_empty() {
        assert_ne!(client.poll(LONG).unwrap(), 0, "{:?} never ended", client.outstanding());
    }
}

pub(crate) fn seen(context: &str, outcome: &str) -> (String, String, bool) {
    (context.into(), outcome.into(), false)
}

pub(crate) fn echo(request: &deaddrop::service::Request<'_>) -> Result<Reply, HandlerError> {
    Ok(Reply::new(request.payload()))
}

/// Returns the kinds of all records in the reply topic.
pub(crate) fn reply_kinds(log: &Log, service: &str) -> Vec<Kind> {
    let replies = log.topic(&format!("{service}.replies")).unwrap();
    let mut reader = replies.reader(Start::First).unwrap();
    let mut kinds = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        kinds.push(Envelope::of(&record).unwrap().unwrap().kind);
    }
    kinds
}

#[test]
fn requests_in_a_stopped_lane_say_so_until_it_is_resumed() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let client = log.client("c").on("done", |_| Ok(())).open().unwrap();
    let send = |payload: &str, key: &str| {
        client.request("s", &Record::new(payload)).unwrap().with_key(key).send("done").unwrap()
    };
    let stopped = || {
        let all = client.outstanding().unwrap();
        all.iter().map(|one| (one.offset, one.stopped_at)).collect::<Vec<_>>()
    };
    let is_mended = Arc::new(AtomicU32::new(0));
    let mended = Arc::clone(&is_mended);
    let handler = move |request: &deaddrop::service::Request<'_>| match request.payload() {
        b"bad" if mended.load(Ordering::Relaxed) == 0 => Err(HandlerError::retry("down")),
        other => Ok(Reply::new(other)),
    };
    send("before", "a");
    send("bad", "a");
    send("after", "a");
    send("other", "another key");
    assert_eq!(stopped(), [(0, None), (1, None), (2, None), (3, None)], "no server has run yet");
    let options = ServerOptions::default().with_max_attempts(1).with_poison(Poison::StopLane);
    let mut server = log.server_with("s", options, handler).unwrap();
    while client.outstanding_count() > 2 {
        server.poll(Duration::from_millis(1)).unwrap();
        client.poll(Duration::from_millis(1)).unwrap();
    }
    assert_eq!(stopped(), [(1, Some(1)), (2, Some(1))]);
    is_mended.store(1, Ordering::Relaxed);
    let group = log.topic("s.requests").unwrap();
    let group = group.group("server", GroupOptions::default()).unwrap();
    let lane = group.info().unwrap().lanes.iter().position(|lane| lane.stopped_at() == Some(1));
    assert!(group.resume(lane.unwrap() as u32).unwrap());
    assert_eq!(stopped(), [(1, None), (2, None)]);
    while client.outstanding_count() > 0 {
        server.poll(Duration::from_millis(1)).unwrap();
        client.poll(Duration::from_millis(1)).unwrap();
    }
}

#[test]
fn a_request_left_while_no_server_runs_is_answered_to_a_restarted_client() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    {
        let client = log.client("c").on("done", |_| Ok(())).open().unwrap();
        for number in 0..3 {
            let request = client.request("s", &Record::new(format!("r{number}"))).unwrap();
            request.with_context(format!("c{number}")).send("done").unwrap();
        }
        assert_eq!(client.outstanding().unwrap().len(), 3);
    }
    assert_eq!(log.server("s", echo).unwrap().poll(LONG).unwrap(), 3);
    let calls = Seen::default();
    let client = log.client("c").on("done", calls.callback()).open().unwrap();
    assert_eq!(client.outstanding().unwrap().len(), 3);
    drain(&client);
    assert_eq!(calls.take(), [seen("c0", "r0"), seen("c1", "r1"), seen("c2", "r2")]);
    drop(client);
    let client = log.client("c").on("done", calls.callback()).open().unwrap();
    assert!(client.outstanding().unwrap().is_empty());
    client.poll(Duration::ZERO).unwrap();
    assert_eq!(calls.take(), [], "delivered once and committed");
}

#[test]
fn a_request_stays_outstanding_after_later_ones_were_answered() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "fast");
    make_topics(&log, "slow");
    let calls = Seen::default();
    let client = log.client("c").on("done", calls.callback()).open().unwrap();
    client.request("slow", &Record::new("s")).unwrap().with_context("s").send("done").unwrap();
    for _ in 0..5 {
        client.request("fast", &Record::new("f")).unwrap().with_context("f").send("done").unwrap();
    }
    log.server("fast", echo).unwrap().poll(LONG).unwrap();
    while client.outstanding().unwrap().len() > 1 {
        assert_ne!(client.poll(LONG).unwrap(), 0);
    }
    assert_eq!(calls.take().len(), 5);
    drop(client);
    let client = log.client("c").on("done", calls.callback()).open().unwrap();
    let left = client.outstanding().unwrap();
    assert_eq!(left.iter().map(|left| left.service.as_str()).collect::<Vec<_>>(), ["slow"]);
    log.server("slow", echo).unwrap().poll(LONG).unwrap();
    client.poll(LONG).unwrap();
    assert_eq!(calls.take(), [seen("s", "s")]);
}

#[test]
fn the_first_record_is_the_outcome_and_a_reply_after_the_deadline_is_late() {
    // A busy machine may not reach the request before its deadline.
    let deadlines = [1, 10, 100].map(|times| Duration::from_millis(300) * times);
    assert!(deadlines.into_iter().any(is_late_after), "the handler was never called in time");
}

/// Returns false if the server did not reach the request before its deadline.
fn is_late_after(deadline: Duration) -> bool {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let (calls, late) = (Seen::default(), Seen::default());
    let open = || {
        let client = log.client("c").on("done", calls.callback());
        client.on_late(late.callback()).open().unwrap()
    };
    let client = open();
    let request = client.request("s", &Record::new("x")).unwrap().with_context("k");
    // The server takes it before the deadline and answers after it.
    let request = request.with_deadline(deadline);
    let id = request.send("done").unwrap();
    let (says, is_called) = std::sync::mpsc::channel();
    let (expired, waits) = std::sync::mpsc::channel();
    let waits = Mutex::new(waits);
    let called = says.clone();
    let mut server = log
        .server("s", move |request| {
            called.send(true).unwrap();
            waits.lock().unwrap().recv().unwrap();
            Ok(Reply::new(request.payload()))
        })
        .unwrap();
    let is_in_time = std::thread::scope(|scope| {
        scope.spawn(|| {
            server.poll(LONG).unwrap();
            says.send(false).unwrap();
        });
        if !is_called.recv().unwrap() {
            return false;
        }
        drain(&client);
        assert_eq!(calls.take(), [seen("k", "Expired")]);
        expired.send(()).unwrap();
        true
    });
    if !is_in_time {
        return false;
    }
    client.poll(LONG).unwrap();
    assert_eq!(calls.take(), []);
    assert_eq!(late.take().len(), 1);
    assert_eq!(reply_kinds(&log, "s"), [Kind::Expired, Kind::Reply]);
    drop(client);
    let client = open();
    client.poll(Duration::ZERO).unwrap();
    assert_eq!(calls.take(), [], "a restart does not turn one outcome into another: {id}");
    true
}

#[test]
fn a_server_skips_requests_that_expired_before_it_came_and_reports_them() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    {
        let client = log.client("c").on("done", |_| Ok(())).open().unwrap();
        let request = client.request("s", &Record::new("x")).unwrap();
        request.with_deadline(Duration::from_nanos(1)).send("done").unwrap();
    }
    let mut server = log.server("s", |_| panic!("the handler must not be called")).unwrap();
    server.poll(LONG).unwrap();
    assert_eq!(reply_kinds(&log, "s"), [Kind::Expired]);
    let calls = Seen::default();
    let client = log.client("c").on("done", calls.callback()).open().unwrap();
    drain(&client);
    assert_eq!(calls.take(), [seen("", "Expired")]);
}

#[test]
fn a_cancelled_request_is_not_handled() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let calls = Seen::default();
    let client = log.client("c").on("done", calls.callback()).open().unwrap();
    let id = client.request("s", &Record::new("x")).unwrap().send("done").unwrap();
    client.cancel(&id).unwrap();
    client.request("s", &Record::new("y")).unwrap().send("done").unwrap();
    let mut server = log
        .server("s", |request| {
            assert_eq!(request.payload(), b"y");
            Ok(Reply::new("done"))
        })
        .unwrap();
    server.poll(LONG).unwrap();
    drain(&client);
    assert_eq!(calls.take(), [seen("", "Cancelled"), seen("", "done")]);
    assert!(matches!(client.cancel(&id), Err(Error::NotFound { .. })));
}

#[test]
fn errors_and_panics_are_retried_and_terminal_errors_are_answered() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let calls = Seen::default();
    let client = log.client("c").on("done", calls.callback()).open().unwrap();
    for payload in ["retry", "panic", "terminal", "json", "never"] {
        client
            .request("s", &Record::new(payload))
            .unwrap()
            .with_context(payload)
            .send("done")
            .unwrap();
    }
    let options =
        ServerOptions::default().with_max_attempts(3).with_retry_first(Duration::from_millis(1));
    let mut server = log
        .server_with("s", options, |request| match (request.payload(), request.attempt()) {
            (b"retry", 1) => Err(HandlerError::retry("not yet")),
            (b"panic", 1 | 2) => panic!("at the disco"),
            (b"terminal", _) => Err(HandlerError::terminal("no such item")),
            (b"json", _) => {
                request.json::<u32>()?;
                Ok(Reply::default())
            }
            (b"never", _) => Err(HandlerError::retry("never")),
            (_, attempt) => Ok(Reply::new(format!("attempt {attempt}"))),
        })
        .unwrap();
    let mut settled = 0;
    while settled < 5 {
        // Each is in a lane of its own: those that fail do not delay the others.
        let more = server.poll(LONG).unwrap();
        assert_ne!(more, 0);
        settled += more;
    }
    drain(&client);
    let mut got = calls.take();
    got.sort();
    assert!(got[0].1.starts_with("Failed(\"not decodable"), "{:?}", got[0]);
    assert_eq!(got[1], seen("never", "DeadLettered(\"never\")"));
    assert_eq!(got[2], seen("panic", "attempt 3"));
    assert_eq!(got[3], seen("retry", "attempt 2"));
    assert_eq!(got[4], seen("terminal", "Failed(\"no such item\")"));
    let dead = log.topic("s.dead").unwrap();
    let mut reader = dead.reader(Start::First).unwrap();
    let record = reader.next().unwrap().unwrap();
    assert_eq!(record.payload(), b"never");
    assert_eq!(record.header("dead-letter-reason"), Some(&b"never"[..]));
}

#[derive(serde::Deserialize)]
struct Order {
    #[serde(rename = "item_count")]
    _item_count: u32,
}

#[test]
fn json_that_is_not_what_a_handler_expects_is_not_tried_again_and_its_error_names_the_field() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let called = Arc::new(AtomicU32::new(0));
    let [of_server, of_worker] = [(); 2].map(|()| Arc::clone(&called));
    let client = log.client("c").open().unwrap();
    let mut server = log
        .server("s", move |request| {
            of_server.fetch_add(1, Ordering::Relaxed);
            request.json::<Order>()?;
            Ok(Reply::default())
        })
        .unwrap();
    let wrong = Record::new(r#"{"items": 3}"#);
    let mut call = client.request("s", &wrong).unwrap().call().unwrap();
    assert_eq!(server.poll(LONG).unwrap(), 1);
    let done = call.wait_timeout(LONG).unwrap().unwrap();
    let Outcome::Failed(why) = done.outcome() else { panic!("{done:?}") };
    assert!(why.contains("item_count"), "{why}");

    let topic = log.topic_with("orders", options()).unwrap();
    topic.append(&wrong).unwrap();
    let group = topic.group("g", GroupOptions::default()).unwrap();
    let mut worker = group
        .worker(WorkerOptions::default(), move |job| {
            of_worker.fetch_add(1, Ordering::Relaxed);
            job.json::<Order>()?;
            Ok(())
        })
        .unwrap();
    assert_eq!(worker.poll(LONG).unwrap(), 1);
    let dead = log.open_topic("orders.g.dead").unwrap();
    let mut reader = dead.reader(Start::First).unwrap();
    let letter = DeadLetter::of(&reader.next().unwrap().unwrap()).unwrap();
    assert!(letter.reason.contains("item_count"), "{}", letter.reason);
    assert_eq!(called.load(Ordering::Relaxed), 2, "each is called once");
}

#[test]
fn an_outcome_whose_callback_is_gone_is_parked_and_delivered_when_it_is_back() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    {
        let client = log.client("c").on("old", |_| Ok(())).open().unwrap();
        client.request("s", &Record::new("x")).unwrap().with_context("k").send("old").unwrap();
        log.server("s", echo).unwrap().poll(LONG).unwrap();
    }
    for _ in 0..2 {
        let client =
            log.client("c").with_topic_options(options()).on("new", |_| Ok(())).open().unwrap();
        client.poll(Duration::ZERO).unwrap();
        let parked = client.parked();
        assert_eq!(parked.len(), 1);
        assert_eq!((parked[0].callback.as_deref(), parked[0].kind), (Some("old"), Kind::Reply));
        assert!(client.outstanding().unwrap().is_empty());
    }
    let calls = Seen::default();
    for expected in [&[seen("k", "x")][..], &[]] {
        let client = log.client("c").on("old", calls.callback()).open().unwrap();
        client.poll(Duration::ZERO).unwrap();
        assert_eq!(calls.take(), expected);
        assert!(client.parked().is_empty());
    }
}

#[test]
fn a_call_is_waited_for_and_found_again_after_a_restart() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let (first, second) = {
        let client = log.client("c").with_topic_options(options()).open().unwrap();
        let mut first = client.request("s", &Record::new("1")).unwrap().call().unwrap();
        let second = client.request("s", &Record::new("2")).unwrap().call().unwrap();
        assert!(first.wait_timeout(Duration::from_millis(1)).unwrap().is_none(), "not yet");
        (first.id().clone(), second.id().clone())
    };
    let client = log.client("c").with_topic_options(options()).open().unwrap();
    let mut before = client.attach(&first).unwrap();
    log.server("s", echo).unwrap().poll(LONG).unwrap();
    let done = before.wait_timeout(LONG).unwrap().unwrap();
    assert!(matches!(done.outcome(), Outcome::Reply(reply) if reply.payload() == b"1"));
    assert!(done.is_recovered());
    assert_eq!(done.request().unwrap().unwrap().payload(), b"1");
    drain(&client);
    let done = client.attach(&second).unwrap().wait_timeout(LONG).unwrap().unwrap();
    assert!(matches!(done.outcome(), Outcome::Reply(reply) if reply.payload() == b"2"));
    assert!(matches!(client.attach(&second), Err(Error::NotFound { .. })), "taken");
}

#[test]
fn a_call_that_is_polled_without_waiting_gets_an_outcome_that_is_there() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let client = log.client("c").open().unwrap();
    let mut call = client.request("s", &Record::new("x")).unwrap().call().unwrap();
    assert!(call.wait_timeout(Duration::ZERO).unwrap().is_none(), "not yet");
    log.server("s", echo).unwrap().poll(LONG).unwrap();
    let done = call.wait_timeout(Duration::ZERO).unwrap().unwrap();
    assert!(matches!(done.outcome(), Outcome::Reply(_)), "{done:?}");
}

#[test]
fn one_client_of_many_threads_gets_every_reply_to_its_caller() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let server = log.server("s", echo).unwrap().spawn().unwrap();
    let client = log.client("c").open().unwrap();
    drop(client.request("s", &Record::new("warm")).unwrap().call().unwrap());
    let running = client.spawn().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let client = client.clone();
            scope.spawn(move || {
                for number in 0..200 {
                    let payload = format!("{thread}/{number}");
                    let request = client.request("s", &Record::new(payload.clone())).unwrap();
                    let done = request.call().unwrap().wait_timeout(LONG).unwrap().unwrap();
                    let Outcome::Reply(reply) = done.outcome() else { panic!("{done:?}") };
                    assert_eq!(reply.payload(), payload.as_bytes());
                }
            });
        }
    });
    running.stop().unwrap();
    server.stop().unwrap();
}

#[test]
fn names_and_second_owners_are_refused_with_advice() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let client = log.client("c").open().unwrap();
    let locked = log.client("c").open().unwrap_err();
    assert!(
        matches!(&locked, Error::Locked { pid, .. } if *pid == Some(std::process::id())),
        "{locked}"
    );
    assert!(matches!(log.client("../c").open(), Err(Error::InvalidName { .. })));
    assert!(matches!(log.client("d").on("a/b", |_| Ok(())).open(), Err(Error::InvalidName { .. })));
    let twice = log.client("d").on("a", |_| Ok(())).on("a", |_| Ok(()));
    assert!(matches!(twice.open(), Err(Error::Invalid { .. })));
    assert!(matches!(client.request("../s", &Record::new("")), Err(Error::InvalidName { .. })));
    let unregistered = client.request("s", &Record::new("")).unwrap().send("nobody");
    assert!(matches!(unregistered, Err(Error::Invalid { .. })));
    assert!(client.outstanding().unwrap().is_empty());
}

#[test]
fn a_topic_that_drops_unconsumed_records_is_refused_for_a_service() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let retention = Retention::default().with_bytes(1);
    log.topic_with("s.requests", options().with_retention(retention)).unwrap();
    let refused = log.server("s", echo).unwrap_err().to_string();
    assert!(refused.contains("s.requests") && refused.contains("consumed: true"), "{refused}");
    let client = log.client("c").open().unwrap();
    assert!(matches!(client.request("s", &Record::new("")), Err(Error::Invalid { .. })));
}

#[test]
fn records_that_are_not_requests_and_hostile_reply_topics_become_dead_letters() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    log.topic("s.requests").unwrap().append(&Record::new("not a request")).unwrap();
    let handled = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&handled);
    let mut server = log
        .server("s", move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(Reply::default())
        })
        .unwrap();
    assert_eq!(server.poll(LONG).unwrap(), 1);
    assert_eq!(handled.load(Ordering::Relaxed), 0);
    let dead = log.topic("s.dead").unwrap();
    assert_eq!(dead.high_watermark().unwrap(), 1);
}
