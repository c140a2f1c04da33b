//! How a client handles wrong input: strange ids, huge contexts, callbacks that fail.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deaddrop::format::frame;
use deaddrop::service::{Client, HandlerError, Outcome};
use deaddrop::{Error, Log, Record};

use crate::service::{drain, echo, make_topics};

const LONG: Duration = Duration::from_secs(30);

#[test]
fn a_context_that_no_frame_can_hold_is_refused_and_nothing_is_left_of_it() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let client = log.client("c").on("done", |_| Ok(())).open().unwrap();
    let huge = vec![1; frame::MAX_HEADERS_LEN];
    let request = || client.request("s", &Record::new("x")).unwrap().with_context(huge.clone());
    let refused = request().send("done");
    assert!(matches!(refused, Err(Error::TooLarge { .. } | Error::Invalid { .. })), "{refused:?}");
    assert!(request().with_deadline(LONG).call().is_err());
    assert_eq!((client.stats().sent, client.outstanding_count()), (0, 0));
    assert_eq!(log.open_topic("s.requests").unwrap().end_offset().unwrap(), 0);
}

#[test]
fn a_second_outcome_is_late_and_an_id_that_looks_right_but_was_never_sent_is_refused() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let called = Arc::new(AtomicU32::new(0));
    let open = || {
        let (count, late) = (Arc::clone(&called), Arc::clone(&called));
        let client = log.client("c").on("done", move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        let client = client.on_late(move |_| {
            late.fetch_add(100, Ordering::Relaxed);
            Ok(())
        });
        client.open().unwrap()
    };
    // A client of the same name in another log: its ids were never sent in this one.
    let other_dir = crate::dir();
    let other = Log::open_or_create(other_dir.path()).unwrap();
    make_topics(&other, "s");
    let stranger = other.client("c").on("done", |_| Ok(())).open().unwrap();
    for _ in 0..3 {
        stranger.request("s", &Record::new("x")).unwrap().send("done").unwrap();
    }
    let client = open();
    let id = client.request("s", &Record::new("mine")).unwrap().send("done").unwrap();
    log.open_topic("s.replies").unwrap().append(&Record::new("no envelope")).unwrap();
    assert!(matches!(
        client.cancel(&stranger.outstanding().unwrap()[0].id),
        Err(Error::NotFound { .. })
    ));
    assert!(matches!(
        client.attach(&stranger.outstanding().unwrap()[0].id),
        Err(Error::NotFound { .. })
    ));
    client.cancel(&id).unwrap();
    assert!(client.cancel(&id).is_ok(), "no outcome was read yet; of two, the first counts");
    drain(&client);
    while client.poll(Duration::ZERO).unwrap() != 0 {}
    assert_eq!(called.load(Ordering::Relaxed), 101, "once as the outcome, once as a late one");
    let stats = client.stats();
    let seen = (stats.sent, stats.completed, stats.cancelled, stats.late, stats.unknown);
    assert_eq!(seen, (1, 1, 1, 1, 0));
    assert!(matches!(client.cancel(&id), Err(Error::NotFound { .. })));
}

#[test]
fn callbacks_that_fail_and_panic_are_counted_and_their_outcomes_parked() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let calls = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&calls);
    let client = log
        .client("c")
        .with_topic_options(crate::service::options())
        .on("second-time", move |_| match count.fetch_add(1, Ordering::Relaxed) {
            0 => panic!("the first time"),
            _ => Ok(()),
        })
        .on("never", |_| Err(HandlerError::terminal("never")))
        .open()
        .unwrap();
    for callback in ["second-time", "never"] {
        client.request("s", &Record::new("x")).unwrap().send(callback).unwrap();
    }
    let call = client.request("s", &Record::new("x")).unwrap().with_deadline(Duration::ZERO);
    let mut call = call.call().unwrap();
    log.server("s", echo).unwrap().poll(LONG).unwrap();
    drain(&client);
    assert!(call.wait_timeout(LONG).unwrap().is_some());
    let stats = client.stats();
    assert_eq!((stats.sent, stats.completed, stats.parked), (3, 2, 1));
    assert_eq!((stats.callback_retries, stats.expired, client.outstanding_count()), (1, 1, 0));
    assert_eq!(client.parked()[0].callback.as_deref(), Some("never"));
}

#[test]
fn a_deleted_reply_topic_is_made_again_and_outstanding_requests_are_answered() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let answers = Arc::new(Mutex::new(Vec::new()));
    let open = || {
        let answers = Arc::clone(&answers);
        let client = log.client("c").with_topic_options(crate::service::options());
        let client = client.on("done", move |done| {
            answers.lock().unwrap().push(match done.outcome() {
                Outcome::Reply(reply) => String::from_utf8_lossy(reply.payload()).into_owned(),
                other => format!("{other:?}"),
            });
            Ok(())
        });
        client.open().unwrap()
    };
    let send = |client: &Client, payload: &str| {
        let request = client.request("s", &Record::new(payload)).unwrap();
        request.send("done").unwrap();
    };
    let serve = |count| assert_eq!(log.server("s", echo).unwrap().poll(LONG).unwrap(), count);
    let delete = || log.delete_topic("s.replies");

    let client = open();
    for payload in ["1", "2", "3"] {
        send(&client, payload);
    }
    serve(3);
    drain(&client);
    send(&client, "4");
    send(&client, "5");
    assert!(matches!(delete(), Err(Error::Locked { .. })), "a client has it open");
    drop(client);
    let server = log.server("s", echo).unwrap();
    assert!(matches!(delete(), Err(Error::Locked { .. })), "a server has it open");
    drop(server);
    delete().unwrap();
    assert!(matches!(log.open_topic("s.replies"), Err(Error::NotFound { .. })));

    // The client or the server creates the topic, whichever comes first.
    let client = open();
    assert_eq!(client.outstanding_count(), 2);
    assert_eq!(client.poll(Duration::ZERO).unwrap(), 0);
    serve(2);
    drain(&client);
    send(&client, "6");
    drop(client);
    delete().unwrap();
    serve(1);
    let client = open();
    assert_eq!(client.outstanding_count(), 1);
    drain(&client);

    // It was answered, and the answer was deleted: no server will answer it again.
    send(&client, "7");
    drop(client);
    serve(1);
    delete().unwrap();
    let client = open();
    assert_eq!(log.server("s", echo).unwrap().poll(Duration::ZERO).unwrap(), 0);
    assert_eq!(client.poll(Duration::ZERO).unwrap(), 0);
    let lost = client.outstanding().unwrap();
    assert_eq!(lost.len(), 1);
    client.cancel(&lost[0].id).unwrap();
    drain(&client);
    assert_eq!(*answers.lock().unwrap(), ["1", "2", "3", "4", "5", "6", "Cancelled"]);
    drop(client);
    assert_eq!(open().outstanding_count(), 0);
}
