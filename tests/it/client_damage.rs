//! One damaged record does not stop a client, neither at its start nor while it delivers.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use deaddrop::service::{CallbackRetry, Client, HandlerError};
use deaddrop::{Log, Record};

use crate::child::Watchdog;
use crate::service::{drain, echo, make_topics, options, seen, Seen};

const LONG: Duration = Duration::from_secs(30);

fn open(log: &Log, done: &Seen, late: &Seen) -> Client {
    let client = log.client("c").with_topic_options(options()).on("done", done.callback());
    client.on_late(late.callback()).open().unwrap()
}

fn send(client: &Client, what: &str) {
    client.request("s", &Record::new(what)).unwrap().with_context(what).send("done").unwrap();
}

/// Flips a bit of the payload `what` in a topic.
pub(crate) fn damage(dir: &Path, topic: &str, what: &str) {
    let path = dir.join("topics").join(topic).join("00000000000000000000.seg");
    let bytes = std::fs::read(&path).unwrap();
    let at: Vec<usize> = (0..bytes.len() - what.len())
        .filter(|&at| bytes[at..].starts_with(what.as_bytes()))
        .collect();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    // The last match is the payload: the context is in a header before it.
    let at = *at.last().unwrap();
    file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
}

#[test]
fn a_damaged_reply_is_skipped_and_later_ones_are_delivered() {
    let _watchdog = Watchdog::new();
    for spawns in [false, true] {
        let dir = crate::dir();
        let log = Log::open_or_create(dir.path()).unwrap();
        make_topics(&log, "s");
        let (done, late) = (Seen::default(), Seen::default());
        let client = open(&log, &done, &late);
        for what in ["first-payload", "other-payload", "third-payload"] {
            send(&client, what);
        }
        log.server("s", echo).unwrap().poll(LONG).unwrap();
        damage(dir.path(), "s.replies", "other-payload");
        let running = spawns.then(|| client.spawn().unwrap());
        while client.stats().completed < 2 {
            match &running {
                Some(running) => assert!(!running.has_ended()),
                None => drop(client.poll(LONG).unwrap()),
            }
        }
        let first = seen("first-payload", "first-payload");
        assert_eq!(done.take(), [first, seen("third-payload", "third-payload")]);
        assert_eq!((client.outstanding_count(), client.stats().damaged), (1, 1));
        // The request whose reply is lost can be cancelled.
        client.cancel(&client.outstanding().unwrap()[0].id).unwrap();
        drop(running);
        drain(&client);
        drop(client);
        let client = open(&log, &done, &late);
        client.poll(Duration::ZERO).unwrap();
        assert_eq!((client.outstanding_count(), late.take()), (0, vec![]));
        assert_eq!(done.take(), [seen("other-payload", "Cancelled")]);
    }
}

#[test]
fn a_damaged_request_is_skipped_at_the_start_and_its_outcome_is_still_delivered() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let (done, late) = (Seen::default(), Seen::default());
    let client = open(&log, &done, &late);
    for what in ["first-payload", "other-payload", "third-payload"] {
        send(&client, what);
    }
    log.server("s", echo).unwrap().poll(LONG).unwrap();
    drop(client);
    damage(dir.path(), "s.requests", "other-payload");
    let client = open(&log, &done, &late);
    assert_eq!((client.outstanding_count(), client.stats().damaged), (2, 1));
    while client.poll(Duration::ZERO).unwrap() > 0 {}
    let all = ["first-payload", "other-payload", "third-payload"].map(|what| seen(what, what));
    assert_eq!((done.take(), late.take()), (all.to_vec(), vec![]));
    drop(client);
    let client = open(&log, &done, &late);
    client.poll(Duration::ZERO).unwrap();
    assert_eq!((client.outstanding_count(), done.take(), late.take()), (0, vec![], vec![]));
}

#[test]
fn a_damaged_parked_outcome_is_skipped_and_the_others_are_delivered() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let client = log
        .client("c")
        .with_topic_options(options())
        .with_callback_retry(CallbackRetry::default().with_attempts(1))
        .on("done", |_| Err(HandlerError::retry("not now")))
        .open()
        .unwrap();
    for what in ["first-payload", "other-payload", "third-payload"] {
        send(&client, what);
    }
    log.server("s", echo).unwrap().poll(LONG).unwrap();
    drain(&client);
    assert_eq!(client.parked().len(), 3);
    drop(client);
    damage(dir.path(), "c.parked", "other-payload");
    let (done, late) = (Seen::default(), Seen::default());
    let client = open(&log, &done, &late);
    assert_eq!(client.stats().damaged, 1);
    while client.poll(Duration::ZERO).unwrap() > 0 {}
    let both = ["first-payload", "third-payload"].map(|what| seen(what, what));
    assert_eq!((done.take(), client.parked().len()), (both.to_vec(), 0));
}
