//! Retention of a service's topics: every record that an open request needs stays, all others go.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deaddrop::format::cursor;
use deaddrop::service::{Client, Outcome, ServerOptions};
use deaddrop::sim::{Op, SimDisk};
use deaddrop::{Durability, Error, Log, Record, Retention, Topic, TopicOptions};

use crate::child::{self, Child, Watchdog};
use crate::service::{drain, echo};

const SEGMENT_LEN: u64 = 16 << 10;

/// Every sealed segment may be dropped as soon as no process needs it.
fn make_topics(log: &Log) -> (Topic, Topic) {
    let retention = Retention::default().with_consumed(true);
    let options = TopicOptions::default()
        .with_durability(Durability::ProcessCrash)
        .with_segment_len(SEGMENT_LEN)
        .with_retention(retention);
    let make = |end: &str| log.topic_with(&format!("s.{end}"), options).unwrap();
    (make("requests"), make("replies"))
}

/// Serves until the server needs no record that is there now.
fn serve_all(log: &Log, requests: &Topic, replies: &Topic) {
    let _watchdog = Watchdog::new();
    let server = log.server("s", echo).unwrap().spawn().unwrap();
    let ends = (requests.high_watermark().unwrap(), replies.high_watermark().unwrap());
    let is_done = || {
        let groups = requests.groups().unwrap();
        let done = groups.iter().all(|(_, info)| info.as_ref().unwrap().durable >= ends.0);
        let all = replies.consumers().unwrap();
        let guard = all.iter().find(|info| info.name == "server.floor");
        done && !groups.is_empty() && guard.is_some_and(|guard| guard.durable >= Some(ends.1))
    };
    while !is_done() {
        std::thread::yield_now();
    }
    server.stop().unwrap();
}

/// Fills some segments of both topics with requests that end.
fn noise(client: &Client) {
    for _ in 0..40 {
        let request = client.request("s", &Record::new(vec![7; 1000])).unwrap();
        let id = request.with_context(vec![8; 1000]).send("done").unwrap();
        client.cancel(&id).unwrap();
    }
    drain(client);
}

fn client(log: &Log, name: &str) -> Client {
    log.client(name).on("done", |_| Ok(())).open().unwrap()
}

#[test]
fn an_old_request_keeps_its_records_while_all_others_are_dropped() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let (requests, replies) = make_topics(&log);
    noise(&client(&log, "busy"));
    serve_all(&log, &requests, &replies);
    let old = client(&log, "old");
    let kept = old.request("s", &Record::new("question")).unwrap();
    let kept = kept.with_context("context").send("done").unwrap();
    let offset = old.outstanding().unwrap()[0].offset;
    let reply_floor = replies.end_offset().unwrap();
    let other = old.request("s", &Record::new("other")).unwrap().send("done").unwrap();
    old.cancel(&other).unwrap();
    noise(&client(&log, "busy"));
    while old.poll(Duration::ZERO).unwrap() != 0 {}
    drop(old);
    let firsts = (requests.trim().unwrap(), replies.trim().unwrap());
    assert!(firsts.0 > 0 && firsts.1 > 0, "records before it are dropped: {firsts:?}");
    assert!(firsts.0 <= offset && firsts.1 <= reply_floor, "{firsts:?}, {offset}, {reply_floor}");

    let seen = Arc::new(Mutex::new(Vec::new()));
    let calls = Arc::clone(&seen);
    let callback = move |done: &deaddrop::service::Completed| {
        let request = done.request()?.map(|record| record.payload().to_owned());
        assert!(matches!(done.outcome(), Outcome::Reply(_)), "{done:?}");
        calls.lock().unwrap().push((done.id().clone(), done.context().to_owned(), request));
        Ok(())
    };
    let old = log.client("old").on("done", callback).open().unwrap();
    let outstanding = old.outstanding().unwrap();
    assert_eq!(outstanding.iter().map(|left| &left.id).collect::<Vec<_>>(), [&kept]);
    serve_all(&log, &requests, &replies);
    drain(&old);
    let expected = (kept, b"context".to_vec(), Some(b"question".to_vec()));
    assert_eq!(*seen.lock().unwrap(), [expected]);
    drop((old, client(&log, "busy")));
    let firsts = (requests.trim().unwrap(), replies.trim().unwrap());
    assert!(firsts.0 > offset && firsts.1 > reply_floor, "then it is dropped too: {firsts:?}");
}

#[test]
fn an_idle_client_holds_no_records_and_one_that_never_returns_holds_them_until_deleted() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let (requests, replies) = make_topics(&log);
    let (idle, gone) = (client(&log, "idle"), client(&log, "gone"));
    let call = idle.request("s", &Record::new("x")).unwrap().call().unwrap();
    let left = gone.request("s", &Record::new("x")).unwrap().call().unwrap();
    idle.cancel(call.id()).unwrap();
    drop((left, gone));
    noise(&client(&log, "busy"));
    serve_all(&log, &requests, &replies);
    noise(&client(&log, "busy"));
    serve_all(&log, &requests, &replies);
    while idle.poll(Duration::ZERO).unwrap() != 0 {}
    drop((call, idle));
    assert_eq!((requests.trim().unwrap(), replies.trim().unwrap()), (0, 0));
    let holds = |topic: &Topic, name: &str| {
        let all = topic.consumers().unwrap();
        all.iter().find(|info| info.name == name).unwrap().durable.unwrap()
    };
    assert!(holds(&requests, "client.gone") <= 1 && holds(&replies, "client-floor.gone") == 0);
    assert!(holds(&requests, "client.idle") > 40 && holds(&replies, "client-floor.idle") > 40);
    requests.delete_consumer("client.gone").unwrap();
    replies.delete_consumer("client.gone").unwrap();
    replies.delete_consumer("client-floor.gone").unwrap();
    let firsts = (requests.trim().unwrap(), replies.trim().unwrap());
    assert!(firsts.0 > 40 && firsts.1 > 40, "{firsts:?}");
}

#[test]
fn a_client_that_does_not_deliver_is_abandoned_after_a_time_and_learns_it() {
    let _watchdog = Watchdog::new();
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let (requests, replies) = make_topics(&log);
    let stuck = client(&log, "stuck");
    let lost = stuck.request("s", &Record::new("x")).unwrap().send("done").unwrap();
    serve_until(&log, &requests, None);
    for _ in 0..2 {
        noise(&client(&log, "busy"));
        serve_until(&log, &requests, None);
    }
    let firsts = || (requests.trim().unwrap(), replies.trim().unwrap());
    assert_eq!(firsts(), (0, 0), "it holds both topics");
    let dropped = || requests.first_offset().unwrap() > 0 && replies.first_offset().unwrap() > 0;
    serve_until(&log, &requests, Some(&dropped));
    // Its outcome is among the dropped records.
    assert!(matches!(stuck.poll(Duration::ZERO), Err(Error::Trimmed { .. })));
    assert_eq!(stuck.poll(Duration::ZERO).unwrap(), 0);
    assert!(stuck.stats().damaged > 0);
    assert_eq!(stuck.outstanding().unwrap()[0].id, lost);
    stuck.cancel(&lost).unwrap();
    drain(&stuck);
    stuck.request("s", &Record::new("x")).unwrap().send("done").unwrap();
    serve_until(&log, &requests, None);
    drain(&stuck);
}

/// Serves until all requests are done; or, if clients are abandoned at once, until that is so.
fn serve_until(log: &Log, requests: &Topic, until: Option<&dyn Fn() -> bool>) {
    let abandoned_after = until.map(|_| Duration::ZERO);
    let options = ServerOptions::default().with_abandoned_after(abandoned_after);
    let server = log.server_with("s", options, echo).unwrap().spawn().unwrap();
    let is_served = || {
        let groups = requests.groups().unwrap();
        groups.iter().all(|(_, info)| info.as_ref().unwrap().lag == 0)
    };
    while !until.map_or_else(is_served, |until| until()) {
        std::thread::yield_now();
    }
    server.stop().unwrap();
}

#[test]
fn topics_of_services_drop_records_after_a_week_in_which_no_process_needed_them() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let client = client(&log, "c");
    client.request("s", &Record::new("x")).unwrap().send("done").unwrap();
    let week = Duration::from_secs(7 * 24 * 3600);
    let expected = Retention::default().with_age(week).with_consumed(true);
    for name in ["s.requests", "s.replies"] {
        assert_eq!(log.open_topic(name).unwrap().options().retention, expected, "{name}");
    }
}

#[test]
fn a_client_name_that_leaves_no_room_for_its_files_is_refused() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log);
    let longest = client(&log, &"n".repeat(115));
    let id = longest.request("s", &Record::new("x")).unwrap().send("done").unwrap();
    longest.cancel(&id).unwrap();
    drain(&longest);
    let refused = log.client(&"n".repeat(116)).open().unwrap_err();
    assert!(matches!(refused, Error::InvalidName { .. }), "{refused}");
    assert!(refused.to_string().contains("at most 115 bytes"), "{refused}");
}

#[test]
fn a_killed_client_with_nothing_outstanding_holds_nothing_and_one_with_a_request_holds_it() {
    let _watchdog = Watchdog::new();
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let (requests, replies) = make_topics(&log);
    for open in ["", "waits"] {
        let mut child = Child::spawn(&["held-by-client", dir.path().to_str().unwrap(), open]);
        assert_eq!(child.hear().unwrap(), "ready");
        child.kill();
    }
    let of = |name: &str| {
        let all = log.clients().unwrap();
        all.into_iter().find(|client| client.name == name).unwrap()
    };
    let idle = of("gone-");
    assert_eq!((idle.owner, idle.services[0].outstanding), (None, 0));
    let waits = of("gone-waits");
    assert_eq!((waits.owner, waits.services[0].outstanding), (None, 1));
    let held = requests.consumers().unwrap();
    let held = held.iter().find(|info| info.name == "client.gone-waits").unwrap();
    let held = *held.committed.as_ref().unwrap();

    let server = log.server("s", echo).unwrap().spawn().unwrap();
    let busy = client(&log, "busy");
    noise(&busy);
    // The request that waits is before the noise, so only that one holds records.
    while of("gone-").services[0].requests_held > 0 {
        std::thread::yield_now();
    }
    assert!(of("gone-waits").services[0].requests_held >= 40);
    assert!(matches!(log.retire_client("busy", true), Err(Error::Locked { .. })));
    assert!(matches!(log.retire_client("nobody", true), Err(Error::NotFound { .. })));
    assert!(matches!(log.retire_client("gone-waits", false), Err(Error::Invalid { .. })));
    requests.trim().unwrap();
    assert!(requests.first_offset().unwrap() <= held);
    log.retire_client("gone-waits", true).unwrap();
    log.retire_client("gone-", false).unwrap();
    assert!(log.clients().unwrap().iter().all(|client| client.name == "busy"));
    while requests.trim().unwrap() <= held || replies.trim().unwrap() == 0 {
        noise(&busy);
    }
    server.stop().unwrap();
}

/// Role: a client that sends, takes its outcome, and waits to be killed. `DIR OPEN`: with `OPEN`,
/// it has sent another request, which no server answers.
pub(crate) fn held_by_client(words: &[&str]) {
    let log = Log::open_or_create(words[0]).unwrap();
    let client = client(&log, &format!("gone-{}", words[1]));
    let id = client.request("s", &Record::new("x")).unwrap().send("done").unwrap();
    client.cancel(&id).unwrap();
    drain(&client);
    if words[1] == "waits" {
        client.request("s", &Record::new("y")).unwrap().send("done").unwrap();
    }
    child::say("ready");
    child::listen();
}

#[test]
fn a_damaged_position_of_a_killed_client_stops_no_server_and_can_be_retired() {
    let _watchdog = Watchdog::new();
    for file in ["s.replies/consumers/client", "s.replies/consumers/client-floor"]
        .into_iter()
        .chain(["s.requests/consumers/client"])
    {
        let dir = crate::dir();
        let log = Log::open_or_create(dir.path()).unwrap();
        make_topics(&log);
        let mut child = Child::spawn(&["held-by-client", dir.path().to_str().unwrap(), ""]);
        assert_eq!(child.hear().unwrap(), "ready");
        child.kill();
        let path = dir.path().join("topics").join(format!("{file}.gone-"));
        let len = std::fs::metadata(&path).unwrap().len();
        std::fs::write(&path, vec![7; len as usize]).unwrap();

        let busy = client(&log, "busy");
        noise(&busy);
        let mut server = log.server("s", echo).unwrap();
        let begun = Instant::now();
        // It checks for clients that are gone once a second.
        while begun.elapsed() < Duration::from_millis(2_500) {
            server.poll(Duration::from_millis(10)).unwrap();
        }
        let all = log.clients().unwrap();
        let gone = all.iter().find(|client| client.name == "gone-").unwrap();
        assert_eq!(gone.services.len(), 1, "{file}");
        log.retire_client("gone-", true).unwrap();
        assert!(log.clients().unwrap().iter().all(|client| client.name == "busy"), "{file}");
    }
}

/// What the durable slots of an offset file say: the position, and the second position.
fn slot(disk: &SimDisk, topic: &str, name: &str) -> (u64, u64) {
    let page = disk.read(format!("/log/topics/{topic}/consumers/{name}")).unwrap();
    let slot = cursor::newest_slot(&page).unwrap();
    (slot.offset, slot.floor)
}

/// A server makes the position of its lane durable, and a sync on the way fails, and the power: for every sync.
#[test]
fn no_power_loss_leaves_a_lane_past_its_requests_or_their_replies() {
    for nth in 0..8 {
        let disk = SimDisk::new();
        let process = disk.process();
        let log = Log::open_sim(&process, "/log").unwrap();
        let (requests, _) = make_topics(&log);
        let client = client(&log, "c");
        let options = ServerOptions::default().with_lanes(1);
        let mut server = log.server_with("s", options, echo).unwrap();
        for _ in 0..5 {
            client.request("s", &Record::new("x")).unwrap().send("done").unwrap();
        }
        while requests.groups().unwrap()[0].1.as_ref().unwrap().committed < 5 {
            server.poll(Duration::from_millis(1)).unwrap();
        }
        disk.fail(Op::SyncData, nth, libc::EIO);
        drop(server);
        process.kill();
        for seed in 0..12 {
            let image = disk.power_cut(seed);
            let file = image.read("/log/topics/s.requests/groups/server").unwrap();
            let lane = cursor::newest_slot(&file[4096..]).unwrap().offset;
            let log = Log::open_sim(&image.process(), "/log").unwrap();
            for name in ["s.requests", "s.replies"] {
                let end = log.open_topic(name).unwrap().end_offset().unwrap();
                assert!(lane <= end, "sync {nth}, seed {seed}: {lane} of {end} in {name}");
            }
        }
    }
}

/// A client makes its positions durable, and a sync on the way fails, and the power: for every sync.
#[test]
fn no_power_loss_leaves_a_position_of_a_client_past_its_records_or_its_guard_past_its_floor() {
    for nth in 0..8 {
        let disk = SimDisk::new();
        let process = disk.process();
        let log = Log::open_sim(&process, "/log").unwrap();
        make_topics(&log);
        let client = client(&log, "c");
        let mut server = log.server("s", echo).unwrap();
        for _ in 0..5 {
            client.request("s", &Record::new("x")).unwrap().send("done").unwrap();
        }
        while client.outstanding_count() > 0 {
            server.poll(Duration::from_millis(1)).unwrap();
            client.poll(Duration::ZERO).unwrap();
        }
        disk.fail(Op::SyncData, nth, libc::EIO);
        drop(client);
        process.kill();
        for seed in 0..12 {
            let about = format!("sync {nth}, seed {seed}");
            let image = disk.power_cut(seed);
            let (oldest, floor) = slot(&image, "s.requests", "client.c");
            let (guard, _) = slot(&image, "s.replies", "client-floor.c");
            assert!(guard <= floor, "{about}: {guard} is past {floor}");
            let log = Log::open_sim(&image.process(), "/log").unwrap();
            let end = |name| log.open_topic(name).unwrap().end_offset().unwrap();
            let (requests, replies) = (end("s.requests"), end("s.replies"));
            assert!(oldest <= requests, "{about}: {oldest} of {requests} requests");
            assert!(floor <= replies, "{about}: {floor} of {replies} replies");
        }
    }
}
