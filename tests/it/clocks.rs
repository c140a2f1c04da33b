//! Wall clocks that jump: waits use a clock that does not, and no clock setting decides the
//! contents of the log. Each story runs in a process of its own, whose clock it shifts.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use deaddrop::service::{Client, Kind, Outcome};
use deaddrop::{shift_wall_clock, Durability, Log, Record, Retention, Start, Topic, TopicOptions};

use crate::child::Child;
use crate::service::{drain, echo, make_topics, reply_kinds};

const LONG: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);
const BACK_AN_HOUR: i64 = -3_600_000_000_000;
const AHEAD_A_YEAR: i64 = 365 * 24 * 3_600_000_000_000;

/// Role: one of the stories below.
pub(crate) fn jumps(words: &[&str]) {
    let dir = Path::new(words[1]);
    match words[0] {
        "live" => a_live_client(dir),
        "restarted" => a_restarted_client(dir),
        "server" => a_server_ahead(dir),
        "retention" => retention_by_age(dir),
        other => panic!("no story {other}"),
    }
}

fn run(story: &str) {
    let dir = crate::dir();
    let child = Child::spawn(&["clocks", story, dir.path().to_str().unwrap()]);
    let status = child.wait();
    assert!(status.success(), "{status}");
}

#[test]
fn a_live_clients_deadlines_neither_hurry_nor_wait_when_the_wall_clock_jumps() {
    run("live");
}

#[test]
fn after_a_restart_the_wall_clock_decides_which_requests_have_expired() {
    run("restarted");
}

#[test]
fn a_server_whose_clock_is_a_year_ahead_skips_requests_with_deadlines_and_reports_it_once() {
    run("server");
}

#[test]
fn nothing_is_dropped_by_age_while_the_clock_differs_from_that_of_the_opening() {
    run("retention");
}

/// A client that counts the requests that expire, and expects no other outcome.
fn client(log: &Log, expired: &Arc<AtomicU64>) -> Client {
    let count = Arc::clone(expired);
    let expired = move |done: &deaddrop::service::Completed| {
        assert!(matches!(done.outcome(), Outcome::Expired), "{done:?}");
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    log.client("c").on("done", expired).open().unwrap()
}

fn send(client: &Client, deadline: Duration) {
    let request = client.request("s", &Record::new("x")).unwrap();
    request.with_deadline(deadline).send("done").unwrap();
}

fn a_live_client(dir: &Path) {
    let log = Log::open_or_create(dir).unwrap();
    make_topics(&log, "s");
    let expired = Arc::default();
    let client = client(&log, &expired);
    send(&client, HOUR);
    shift_wall_clock(AHEAD_A_YEAR);
    assert_eq!(client.poll(Duration::from_millis(50)).unwrap(), 0);
    assert_eq!(reply_kinds(&log, "s"), [], "a year by the wall clock, less than an hour in fact");

    shift_wall_clock(0);
    let (begun, deadline) = (Instant::now(), Duration::from_millis(50));
    send(&client, deadline);
    shift_wall_clock(BACK_AN_HOUR);
    assert_eq!(client.poll(LONG).unwrap(), 1, "over an hour left by the wall clock");
    assert!(begun.elapsed() >= deadline);
    assert_eq!(reply_kinds(&log, "s"), [Kind::Expired]);
    assert_eq!((expired.load(Ordering::Relaxed), client.outstanding_count()), (1, 1));
}

fn a_restarted_client(dir: &Path) {
    let log = Log::open_or_create(dir).unwrap();
    make_topics(&log, "s");
    let expired = Arc::default();
    send(&client(&log, &expired), HOUR);
    shift_wall_clock(AHEAD_A_YEAR);
    let ahead = client(&log, &expired);
    assert_eq!(ahead.poll(LONG).unwrap(), 1);
    assert_eq!(expired.load(Ordering::Relaxed), 1);
    drop(ahead);

    shift_wall_clock(0);
    let late = client(&log, &expired);
    send(&late, Duration::from_nanos(1));
    drop(late);
    shift_wall_clock(BACK_AN_HOUR);
    let behind = client(&log, &expired);
    assert_eq!(behind.poll(Duration::from_millis(50)).unwrap(), 0, "an hour to go");
    assert_eq!(behind.outstanding_count(), 1);
    drop(behind);
    shift_wall_clock(0);
    drain(&client(&log, &expired));
    assert_eq!(expired.load(Ordering::Relaxed), 2);
    assert_eq!(reply_kinds(&log, "s"), [Kind::Expired; 2]);
}

fn a_server_ahead(dir: &Path) {
    let log = Log::open_or_create(dir).unwrap();
    make_topics(&log, "s");
    let expired = Arc::default();
    let client = client(&log, &expired);
    send(&client, HOUR);
    shift_wall_clock(AHEAD_A_YEAR);
    let refuse = |_: &deaddrop::service::Request<'_>| panic!("the handler must not be called");
    assert_eq!(log.server("s", refuse).unwrap().poll(LONG).unwrap(), 1);
    shift_wall_clock(0);
    assert_eq!(
        log.server("s", echo).unwrap().poll(Duration::ZERO).unwrap(),
        0,
        "it has an outcome"
    );
    drain(&client);
    shift_wall_clock(AHEAD_A_YEAR);
    assert_eq!(client.poll(Duration::ZERO).unwrap(), 0);
    assert_eq!(log.server("s", echo).unwrap().poll(Duration::ZERO).unwrap(), 0);
    assert_eq!(reply_kinds(&log, "s"), [Kind::Expired]);
    assert_eq!(expired.load(Ordering::Relaxed), 1);
}

fn fill(topic: &Topic) {
    for _ in 0..40 {
        topic.append(&Record::new(vec![b'x'; 1000])).unwrap();
    }
}

fn retention_by_age(dir: &Path) {
    let log = Log::open_or_create(dir).unwrap();
    let options = |consumed| {
        TopicOptions::default()
            .with_durability(Durability::ProcessCrash)
            .with_segment_len(16 << 10)
            .with_retention(Retention::default().with_age(HOUR).with_consumed(consumed))
    };
    let (aged, used) = ("aged", "used");
    let topic = log.topic_with(aged, options(false)).unwrap();
    fill(&topic);
    for shift in [AHEAD_A_YEAR, BACK_AN_HOUR, AHEAD_A_YEAR] {
        shift_wall_clock(shift);
        fill(&topic);
        assert_eq!(topic.trim().unwrap(), 0, "the clock differs from that of the opening");
    }
    shift_wall_clock(0);
    assert_eq!(topic.trim().unwrap(), 0, "records stamped meanwhile keep their age");
    drop(topic);

    let topic = log.topic_with(used, options(true)).unwrap();
    let mut consumer = topic.consumer("slow", Start::First).unwrap();
    fill(&topic);
    consumer.next().unwrap().unwrap();
    consumer.commit().unwrap();
    drop((consumer, topic));
    // A process that opens it with a wrong clock cannot know; it still keeps what a consumer needs.
    shift_wall_clock(AHEAD_A_YEAR);
    assert_eq!(log.open_topic(used).unwrap().trim().unwrap(), 0);
    let trimmed = log.open_topic(aged).unwrap().trim().unwrap();
    assert!(trimmed > 0, "a year has passed by its clock");
}
