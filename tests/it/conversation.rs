//! Conversations: the origin of a request goes with it and comes back.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use deaddrop::service::{Client, Envelope, Kind, Outcome, Reply, RequestId};
use deaddrop::{Error, Log, Record, Start};

use crate::service::{drain, echo, make_topics};

const LONG: Duration = Duration::from_secs(30);
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Conversation, cause and trace context.
type Lineage = (RequestId, Option<RequestId>, Option<String>);

#[test]
fn a_conversation_goes_through_a_handler_and_a_callback_and_comes_back() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "first");
    make_topics(&log, "second");
    let nested = log.client("nested").on("done", |_| Ok(())).open().unwrap();
    let asker = nested.clone();
    let mut first = log
        .server("first", move |request| {
            let more = asker.request("second", &Record::new("more"))?.caused_by(request);
            more.with_header("h", "v").send("done")?;
            Ok(Reply::new("ok"))
        })
        .unwrap();
    let me: Arc<OnceLock<Client>> = Arc::default();
    let inside = Arc::clone(&me);
    let seen: Arc<Mutex<Vec<Lineage>>> = Arc::default();
    let calls = Arc::clone(&seen);
    let client = log
        .client("c")
        .on("again", move |done| {
            let client = inside.get().expect("set before the first request");
            client.request("second", &Record::new("2"))?.caused_by(done).send("done")?;
            Ok(())
        })
        .on("done", move |done| {
            let lineage = (
                done.conversation().clone(),
                done.cause().cloned(),
                done.traceparent().map(str::to_owned),
            );
            calls.lock().unwrap().push(lineage);
            Ok(())
        })
        .open()
        .unwrap();
    assert!(me.set(client.clone()).is_ok());
    let request = client.request("first", &Record::new("1")).unwrap();
    let root = request.with_traceparent(TRACE).unwrap().send("again").unwrap();
    first.poll(LONG).unwrap();
    client.poll(LONG).unwrap();
    let handled: Arc<Mutex<Vec<Lineage>>> = Arc::default();
    let lineages = Arc::clone(&handled);
    let mut second = log
        .server("second", move |request| {
            let trace = request.traceparent().map(str::to_owned);
            let lineage = (request.conversation().clone(), request.cause().cloned(), trace);
            lineages.lock().unwrap().push(lineage);
            Ok(Reply::new("ok"))
        })
        .unwrap();
    while handled.lock().unwrap().len() < 2 {
        assert_ne!(second.poll(LONG).unwrap(), 0);
    }
    drain(&client);
    drain(&nested);
    let expected = (root.clone(), Some(root), Some(TRACE.to_owned()));
    assert_eq!(*handled.lock().unwrap(), [expected.clone(), expected.clone()]);
    assert_eq!(*seen.lock().unwrap(), [expected]);
}

#[test]
fn an_outcome_that_the_client_decides_names_the_conversation_too() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let client = log.client("c").open().unwrap();
    let mut root = client.request("s", &Record::new("x")).unwrap().call().unwrap();
    log.server("s", echo).unwrap().poll(LONG).unwrap();
    let done = root.wait_timeout(LONG).unwrap().unwrap();
    assert_eq!((done.conversation(), done.cause()), (root.id(), None));
    let request = client.request("s", &Record::new("y")).unwrap().caused_by(&done);
    let mut call = request.with_traceparent(TRACE).unwrap().call().unwrap();
    client.cancel(call.id()).unwrap();
    let done = call.wait_timeout(LONG).unwrap().unwrap();
    assert!(matches!(done.outcome(), Outcome::Cancelled));
    let replies = log.open_topic("s.replies").unwrap();
    let mut reader = replies.reader(Start::Last).unwrap();
    let envelope = Envelope::of(&reader.next().unwrap().unwrap()).unwrap().unwrap();
    assert_eq!(envelope.kind, Kind::Cancelled);
    assert_eq!((envelope.conversation(), envelope.cause.as_ref()), (root.id(), Some(root.id())));
    assert_eq!(envelope.traceparent(), Some(TRACE));
}

#[test]
fn an_invalid_traceparent_and_a_reserved_header_are_refused_and_nothing_is_sent() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let client = log.client("c").open().unwrap();
    let request = client.request("s", &Record::new("x")).unwrap();
    assert!(matches!(request.with_traceparent("00-xyz"), Err(Error::Invalid { .. })));
    let request = client.request("s", &Record::new("x")).unwrap();
    let refused = request.with_header("deaddrop.service", "forged").call().map(drop);
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    assert!(client.outstanding().unwrap().is_empty());
    assert_eq!(log.open_topic("s.requests").unwrap().end_offset().unwrap(), 0);
}
