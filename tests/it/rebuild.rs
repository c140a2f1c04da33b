//! A client that starts again over a log with doubled records, or with records of requests that
//! were answered long ago: imports, copies and tools of all kinds leave such logs.

use std::time::Duration;

use deaddrop::service::{Client, HandlerError, Reply, Request, ServerOptions};
use deaddrop::{Log, Record, Start};

use crate::service::{make_topics, options, seen, Seen};

const LONG: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);

struct Calls {
    done: Seen,
    late: Seen,
}

impl Calls {
    fn client(&self, log: &Log) -> Client {
        let client = log.client("c").with_topic_options(options()).on("done", self.done.callback());
        client.on_late(self.late.callback()).open().unwrap()
    }
}

fn send(client: &Client, what: &str, deadline: Option<Duration>) {
    let mut request =
        client.request("s", &Record::new(what).with_key(what)).unwrap().with_context(what);
    if let Some(deadline) = deadline {
        request = request.with_deadline(deadline);
    }
    request.send("done").unwrap();
}

/// Answers all requests except those that begin with `held`, which it leaves for a later server.
fn serve(log: &Log, held: &'static str, count: u64) {
    let handler = move |request: &Request<'_>| -> Result<Reply, HandlerError> {
        match !held.is_empty() && request.payload().starts_with(held.as_bytes()) {
            true => Err(HandlerError::retry("not now")),
            false => Ok(Reply::new(request.payload())),
        }
    };
    // A later server retries at once those that an earlier one left waiting.
    let wait = if held.is_empty() { Duration::ZERO } else { HOUR };
    let long = ServerOptions::default()
        .with_topic(options())
        .with_max_attempts(None::<u32>)
        .with_retry_first(wait)
        .with_retry_most(wait);
    let mut server = log.server_with("s", long, handler).unwrap();
    let mut done = 0;
    while done < count {
        let more = server.poll(LONG).unwrap();
        assert_ne!(more, 0, "{done} of {count}");
        done += more;
    }
}

/// Appends every record of a topic a second time, with all of its headers.
fn double(log: &Log, topic: &str) {
    let topic = log.open_topic(topic).unwrap();
    let end = topic.high_watermark().unwrap();
    let mut reader = topic.reader(Start::First).unwrap();
    while reader.offset() < end {
        let record = reader.next().unwrap().unwrap();
        let mut copy = Record::new(record.payload());
        if let Some(key) = record.key() {
            copy = copy.with_key(key);
        }
        let copy =
            record.headers().fold(copy, |copy, (name, value)| copy.header_as_stored(name, value));
        topic.append(&copy).unwrap();
    }
}

fn deliver(client: &Client, left: usize) {
    while client.outstanding_count() > left {
        assert_ne!(client.poll(LONG).unwrap(), 0, "{:?}", client.outstanding());
    }
    while client.poll(Duration::ZERO).unwrap() > 0 {}
}

fn offsets(client: &Client) -> Vec<u64> {
    client.outstanding().unwrap().iter().map(|one| one.offset).collect()
}

#[test]
fn a_client_over_doubled_records_has_the_same_open_requests_and_calls_back_once_for_each() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let calls = Calls { done: Seen::default(), late: Seen::default() };
    let client = calls.client(&log);
    send(&client, "before", None);
    serve(&log, "", 1);
    deliver(&client, 0);
    for what in ["held-a", "quick", "held-b"] {
        send(&client, what, (what == "held-b").then_some(HOUR));
    }
    serve(&log, "held", 1);
    deliver(&client, 2);
    assert_eq!(calls.done.take(), [seen("before", "before"), seen("quick", "quick")]);
    assert_eq!(offsets(&client), [1, 3]);
    drop(client);
    for topic in ["s.requests", "s.replies"] {
        double(&log, topic);
    }
    // Several starts: the window of each begins at the oldest open request.
    for _ in 0..3 {
        let client = calls.client(&log);
        assert_eq!(offsets(&client), [1, 3], "the first of the records of one id counts");
        while client.poll(Duration::ZERO).unwrap() > 0 {}
        assert_eq!((calls.done.take(), offsets(&client)), (vec![], vec![1, 3]));
    }
    // Two requests that were held, and the copies of all four.
    serve(&log, "", 6);
    let client = calls.client(&log);
    deliver(&client, 0);
    let mut done = calls.done.take();
    done.sort();
    assert_eq!(done, [seen("held-a", "held-a"), seen("held-b", "held-b")]);
    assert!(calls.late.take().iter().all(|(.., is_late)| *is_late));
    drop(client);
    let client = calls.client(&log);
    client.poll(Duration::ZERO).unwrap();
    assert_eq!((calls.done.take(), client.outstanding_count()), (vec![], 0));
}

#[test]
fn a_doubled_request_whose_deadline_has_passed_expires_once_and_the_client_keeps_delivering() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let calls = Calls { done: Seen::default(), late: Seen::default() };
    let client = calls.client(&log);
    send(&client, "held-a", None);
    send(&client, "short", Some(Duration::from_nanos(1)));
    drop(client);
    double(&log, "s.requests");
    for life in 0..3 {
        let client = calls.client(&log);
        deliver(&client, 1);
        let expected = if life == 0 { vec![seen("short", "Expired")] } else { vec![] };
        assert_eq!((calls.done.take(), offsets(&client)), (expected, vec![0]));
    }
}

#[test]
fn a_doubled_record_does_not_make_the_client_forget_another_open_request() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let calls = Calls { done: Seen::default(), late: Seen::default() };
    let client = calls.client(&log);
    for what in ["held-a", "quick"] {
        send(&client, what, None);
    }
    drop(client);
    double(&log, "s.requests");
    serve(&log, "held", 2);
    let client = calls.client(&log);
    deliver(&client, 1);
    serve(&log, "", 2);
    deliver(&client, 0);
    assert_eq!(calls.done.take(), [seen("quick", "quick"), seen("held-a", "held-a")]);
    for what in ["held-b", "quick"] {
        send(&client, what, None);
    }
    serve(&log, "held", 1);
    deliver(&client, 1);
    drop(client);
    let client = calls.client(&log);
    assert_eq!(client.outstanding_count(), 1, "held-b has no outcome yet");
    serve(&log, "", 1);
    deliver(&client, 0);
    assert_eq!(calls.done.take(), [seen("quick", "quick"), seen("held-b", "held-b")]);
}

#[test]
fn a_copy_of_a_request_that_was_answered_before_the_window_gets_no_second_outcome() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let calls = Calls { done: Seen::default(), late: Seen::default() };
    let client = calls.client(&log);
    send(&client, "old", None);
    serve(&log, "", 1);
    deliver(&client, 0);
    // The window begins after it.
    send(&client, "held-a", None);
    drop(client);
    assert_eq!(calls.done.take(), [seen("old", "old")]);
    double(&log, "s.requests");
    let client = calls.client(&log);
    assert_eq!(offsets(&client), [1]);
    serve(&log, "", 3);
    deliver(&client, 0);
    assert_eq!(calls.done.take(), [seen("held-a", "held-a")]);
}
