//! The feature `tracing`: spans and events with OpenTelemetry's names, seen by a subscriber.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deaddrop::service::HandlerError;
use deaddrop::{Log, Record};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record as Values};
use tracing::{Event, Metadata, Subscriber};

use crate::child::Child;
use crate::service::{drain, echo, make_topics, options};

const LONG: Duration = Duration::from_secs(30);

/// Each span and event as its name and its fields.
#[derive(Clone, Default)]
struct Collected {
    lines: Arc<Mutex<Vec<String>>>,
    spans: Arc<AtomicU64>,
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0 += &format!(" {field}={value:?}");
    }
}

impl Subscriber for Collected {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "deaddrop"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut line = Line(span.metadata().name().to_owned());
        span.record(&mut line);
        self.lines.lock().unwrap().push(line.0);
        Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn record(&self, _: &Id, _: &Values<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line("event".to_owned());
        event.record(&mut line);
        self.lines.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Collected {
    /// Takes the one line that begins with `start` and has all of `parts`.
    #[track_caller]
    fn take(&self, start: &str, parts: &[&str]) {
        let mut lines = self.lines.lock().unwrap();
        let fits =
            |line: &String| line.starts_with(start) && parts.iter().all(|part| line.contains(part));
        match lines.iter().position(fits) {
            Some(at) => drop(lines.remove(at)),
            None => panic!("no {start} with {parts:?} in {lines:#?}"),
        }
    }
}

#[test]
fn a_request_and_its_callback_are_spans_and_failures_are_events() {
    let collected = Collected::default();
    // With a single subscriber, what other threads reach first is switched off for good; with a
    // second one, both are always asked.
    let _second = tracing::Dispatch::new(collected.clone());
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let client = log.client("c").with_topic_options(options()).on("done", |_| Ok(()));
    let client = client.on("never", |_| Err(HandlerError::terminal("no"))).open().unwrap();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    tracing::subscriber::with_default(collected.clone(), || {
        let request = client.request("s", &Record::new("12345")).unwrap();
        let id = request.with_traceparent(trace).unwrap().send("done").unwrap().to_string();
        let send = [
            "otel.name=send s",
            "otel.kind=\"producer\"",
            "messaging.system=\"deaddrop\"",
            "messaging.operation.name=\"send\"",
            "messaging.operation.type=\"send\"",
            "messaging.destination.name=\"s\"",
            &format!("messaging.message.id={id} "),
            &format!("messaging.message.conversation_id={id} "),
            &format!("traceparent={trace:?}"),
            "messaging.message.body.size=5",
        ];
        collected.take("send ", &send);
        log.server("s", echo).unwrap().poll(LONG).unwrap();
        drain(&client);
        let deliver = [
            "otel.name=deliver s.replies",
            "messaging.operation.type=\"process\"",
            "messaging.consumer.group.name=\"c\"",
            "deaddrop.outcome=reply",
            "deaddrop.callback=\"done\"",
            &format!("messaging.message.id={id} "),
        ];
        collected.take("deliver ", &deliver);

        let request = client.request("s", &Record::new("x")).unwrap().with_deadline(Duration::ZERO);
        let id = request.send("never").unwrap();
        client.cancel(&id).unwrap();
        drain(&client);
        while client.poll(Duration::ZERO).unwrap() != 0 {}
        let message = format!("messaging.message.id={id} ");
        collected.take("event message=the deadline", &[&message]);
        collected.take("event message=no callback took", &[&message]);
        collected.take("event message=a record came after", &[&message]);
    });
}

#[test]
fn a_worker_reports_failed_attempts_dead_letters_stopped_lanes_and_taken_lanes() {
    let collected = Collected::default();
    let _second = tracing::Dispatch::new(collected.clone());
    let dir = crate::dir();
    tracing::subscriber::with_default(collected.clone(), || {
        let log = Log::open_or_create(dir.path()).unwrap();
        let topic = log.topic_with("orders", options()).unwrap();
        let group = topic.group("g", deaddrop::group::GroupOptions::default()).unwrap();
        let work = |poison| {
            topic.append(&Record::new("x").with_key("k")).unwrap();
            let (retry_first, retry_most) = (Duration::ZERO, Duration::ZERO);
            let options = deaddrop::group::WorkerOptions::default()
                .with_max_attempts(2)
                .with_poison(poison)
                .with_retry_first(retry_first)
                .with_retry_most(retry_most);
            let failing = |_: &deaddrop::group::Job| Err(HandlerError::retry("no such item"));
            group.worker(options, failing).unwrap().poll(Duration::from_millis(50)).unwrap();
        };
        work(deaddrop::group::Poison::DeadLetter);
        work(deaddrop::group::Poison::StopLane);
    });
    let of_group = "messaging.consumer.group.name=\"g\"";
    for offset in ["deaddrop.offset=0", "deaddrop.offset=1"] {
        for attempt in ["deaddrop.attempt=1", "deaddrop.attempt=2"] {
            let parts = ["a handler failed", of_group, offset, attempt, "error=\"no such item\""];
            collected.take("event", &parts);
        }
    }
    collected.take("event", &["a record is no longer retried", of_group, "deaddrop.offset=0"]);
    collected.take("event", &["a lane is stopped", of_group, "deaddrop.offset=1"]);
    collected.take("event", &["lanes were taken over", of_group, "deaddrop.taken=64"]);
}

/// Role: as a user whose threads are limited, appends while no thread can be started.
pub(crate) fn without_threads(words: &[&str]) {
    let [dir] = words else { panic!("{words:?}") };
    crate::owner::become_user();
    let collected = Collected::default();
    let _second = tracing::Dispatch::new(collected.clone());
    let limit_threads_to = |count: Option<libc::rlim_t>| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is live for both calls.
        let done = unsafe {
            libc::getrlimit(libc::RLIMIT_NPROC, &mut limit) == 0 && {
                limit.rlim_cur = count.unwrap_or(limit.rlim_max);
                libc::setrlimit(libc::RLIMIT_NPROC, &limit) == 0
            }
        };
        assert!(done, "{}", std::io::Error::last_os_error());
    };
    tracing::subscriber::with_default(collected.clone(), || {
        limit_threads_to(Some(0));
        let topic = Log::open_or_create(dir).unwrap().topic_with("t", options()).unwrap();
        let segments = |count: u64| {
            for _ in 0..count * 13 {
                topic.append(&Record::new([1; 5_000])).unwrap();
            }
        };
        segments(8);
        limit_threads_to(None);
        segments(2);
    });
    let parts = ["no thread can be started", "messaging.destination.name=\"t\"", "error="];
    collected.take("event", &parts);
    assert!(collected.lines.lock().unwrap().is_empty(), "it is reported once");
}

#[test]
fn a_background_thread_that_cannot_be_started_is_reported_once_and_stops_no_append() {
    if crate::owner::is_no_root("a_background_thread_that_cannot_be_started_is_reported_once") {
        return;
    }
    let home = crate::owner::home();
    let dir = home.path().join("log");
    assert!(Child::spawn(&["without-threads", dir.to_str().unwrap()]).wait().success());
}
