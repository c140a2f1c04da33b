//! A service in trouble: full disks, replies that no frame can hold, replies trimmed by hand, doubt.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deaddrop::group::DeadLetter;
use deaddrop::service::{
    Call, CallbackRetry, Client, Completed, HandlerError, Kind, Outcome, Reply, ServerOptions,
};
use deaddrop::sim::{Op, SimDisk};
use deaddrop::{Error, Log, Record, Start, Stop, TopicOptions};

use crate::child::Child;
use crate::random::{number_from_env, seed};
use crate::service::{drain, echo, make_topics, options, reply_kinds, Seen};

const LONG: Duration = Duration::from_secs(30);

#[test]
fn a_request_whose_reply_met_a_full_disk_is_answered_by_the_next_call() {
    let disk = SimDisk::new();
    let log = Log::open_sim(&disk, "/log").unwrap();
    make_topics(&log, "s");
    let client = log.client("c").on("done", |_| Ok(())).open().unwrap();
    for payload in ["first", "large", "small"] {
        client.request("s", &Record::new(payload)).unwrap().send("done").unwrap();
    }
    let full = disk.clone();
    let mut server = log
        .server("s", move |request| {
            if (request.payload(), request.attempt()) == (b"large", 1) {
                // It needs a segment of its own.
                full.fail(Op::Allocate, 0, libc::ENOSPC);
                return Ok(Reply::new(vec![1; 200 << 10]));
            }
            Ok(Reply::new(request.attempt().to_string()))
        })
        .unwrap();
    let failed = server.poll(LONG).unwrap_err();
    assert!(matches!(failed, Error::NoSpace { .. }), "{failed}");
    disk.forget_faults();
    assert_eq!(server.poll(LONG).unwrap(), 2);
    let replies = log.topic("s.replies").unwrap();
    let mut reader = replies.reader(Start::Offset(1)).unwrap();
    let mut payloads = Vec::new();
    while let Some(reply) = reader.next().unwrap() {
        payloads.push(reply.payload().to_owned());
    }
    payloads.sort();
    assert_eq!(payloads, [b"1", b"2"], "the second attempt of one");
    drain(&client);
}

#[test]
fn an_outcome_that_could_not_be_parked_is_delivered_by_the_next_poll() {
    let disk = SimDisk::new();
    let log = Log::open_sim(&disk, "/log").unwrap();
    make_topics(&log, "s");
    {
        let client = log.client("c").on("old", |_| Ok(())).open().unwrap();
        client.request("s", &Record::new("x")).unwrap().send("old").unwrap();
    }
    log.server("s", echo).unwrap().poll(LONG).unwrap();
    let client = log.client("c").with_topic_options(options()).open().unwrap();
    disk.fail(Op::Allocate, 1, libc::ENOSPC);
    let failed = client.poll(Duration::ZERO).unwrap_err();
    assert!(matches!(failed, Error::NoSpace { .. } | Error::Io { .. }), "{failed}");
    disk.forget_faults();
    assert_eq!(client.poll(LONG).unwrap(), 1);
    assert_eq!(client.parked().len(), 1);
}

#[test]
fn a_parked_outcome_whose_request_topic_cannot_be_opened_waits_for_it() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let open = |log: &Log| log.client("c").with_topic_options(options());
    {
        let client = open(&log).on("old", |_| Ok(())).open().unwrap();
        client.request("s", &Record::new("x")).unwrap().send("old").unwrap();
        log.server("s", echo).unwrap().poll(LONG).unwrap();
    }
    assert_eq!(open(&log).open().unwrap().poll(LONG).unwrap(), 1, "it is parked");
    // So that the client does not open the topic itself.
    log.topic("s.requests").unwrap().delete_consumer("client.c").unwrap();
    drop(log);
    let settings = dir.path().join("topics/s.requests/settings");
    let whole = std::fs::read(&settings).unwrap();
    std::fs::write(&settings, vec![0; whole.len()]).unwrap();
    let log = Log::open_or_create(dir.path()).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let client = open(&log).on("old", move |done| {
        noted.lock().unwrap().push(done.request()?.is_some());
        Ok(())
    });
    let client = client.open().unwrap();
    let failed = client.poll(Duration::ZERO).unwrap_err();
    assert!(matches!(failed, Error::Corrupt { .. }), "{failed}");
    assert_eq!(client.parked().len(), 1);
    std::fs::write(&settings, whole).unwrap();
    while client.poll(LONG).unwrap() == 0 {}
    assert_eq!(*seen.lock().unwrap(), [true], "with its request");
}

#[test]
fn a_request_whose_expiry_met_a_full_disk_expires_at_the_next_poll() {
    let disk = SimDisk::new();
    let log = Log::open_sim(&disk, "/log").unwrap();
    make_topics(&log, "s");
    let client = log.client("c").on("done", |_| Ok(())).open().unwrap();
    client.request("s", &Record::new("first")).unwrap().send("done").unwrap();
    log.server("s", echo).unwrap().poll(LONG).unwrap();
    drain(&client);
    // Larger than a segment, so that the outcome, which repeats it, needs a segment of its own.
    let request = client.request("s", &Record::new("x")).unwrap().with_context(vec![1; 100 << 10]);
    request.with_deadline(Duration::from_nanos(1)).send("done").unwrap();
    // Not one failing call, which the background might make: the disk stays full until it has room.
    disk.set_capacity(0);
    assert!(matches!(client.poll(LONG), Err(Error::NoSpace { .. })));
    disk.set_capacity(u64::MAX);
    drain(&client);
    assert_eq!(reply_kinds(&log, "s"), [Kind::Reply, Kind::Expired]);
}

#[test]
fn an_outcome_that_no_frame_can_hold_is_a_failure_and_the_service_continues() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let client = log.client("c").open().unwrap();
    let mut server = log
        .server("s", |request| match request.payload() {
            b"reserved" => Ok(Reply::new("x").with_header("deaddrop.service", "y")),
            b"long" => Err(HandlerError::terminal("\u{e9}".repeat(10 << 20))),
            _ => Ok(Reply::new("fine")),
        })
        .unwrap();
    let calls = ["reserved", "long", "fine"]
        .map(|payload| client.request("s", &Record::new(payload)).unwrap().call().unwrap());
    assert_eq!(server.poll(LONG).unwrap(), 3);
    let outcomes = calls.map(|mut call| call.wait_timeout(LONG).unwrap().unwrap());
    let Outcome::Failed(why) = outcomes[0].outcome() else { panic!("{outcomes:?}") };
    assert!(why.contains("reserved"), "{why}");
    let Outcome::Failed(why) = outcomes[1].outcome() else { panic!("{outcomes:?}") };
    assert!(why.starts_with('\u{e9}') && why.len() <= 4096, "{} bytes", why.len());
    assert!(matches!(outcomes[2].outcome(), Outcome::Reply(_)));
}

/// Fills the reply topic with records of no request, and drops all but the newest segment.
fn trim_replies(log: &Log) {
    let replies = log.topic("s.replies").unwrap();
    for _ in 0..100 {
        replies.append(&Record::new(vec![7; 2000])).unwrap();
    }
    let first = replies.trim_before(replies.end_offset().unwrap()).unwrap();
    assert!(first > 0, "nothing was trimmed");
}

#[test]
fn an_attempt_in_doubt_whose_replies_were_trimmed_becomes_a_dead_letter() {
    let dir = crate::dir();
    let dir = dir.path().join("log");
    let log = Log::open_or_create(&dir).unwrap();
    make_topics(&log, "s");
    let client = log.client("c").open().unwrap();
    let mut call = client.request("s", &Record::new("x")).unwrap().call().unwrap();
    Child::spawn(&["server", dir.to_str().unwrap(), "lane.attempted", "1"]).wait_for_death();
    trim_replies(&log);
    let mut server = log.server("s", |_| panic!("it may have been answered")).unwrap();
    assert_eq!(server.poll(Duration::ZERO).unwrap(), 1);
    // The client's own position was trimmed too: it gets the error, and moves to the first record.
    drop(server);
    let mut reader = log.topic("s.dead").unwrap().reader(Start::First).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().payload(), b"x");
    assert!(reader.next().unwrap().is_none());
    let trimmed = call.wait_timeout(LONG).unwrap_err();
    assert!(matches!(trimmed, Error::Trimmed { .. }), "{trimmed}");
    // It gets the error once, and continues with the records that exist.
    let done = call.wait_timeout(LONG).unwrap().unwrap();
    assert!(matches!(done.outcome(), deaddrop::service::Outcome::DeadLettered(_)), "{done:?}");
}

#[test]
fn a_server_continues_when_replies_that_it_had_not_read_are_trimmed() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let client = log.client("c").open().unwrap();
    let mut server = log.server("s", echo).unwrap();
    drop(client.request("s", &Record::new("x")).unwrap().call().unwrap());
    assert_eq!(server.poll(LONG).unwrap(), 1);
    trim_replies(&log);
    drop(client.request("s", &Record::new("y")).unwrap().call().unwrap());
    assert_eq!(server.poll(LONG).unwrap(), 1);
}

#[test]
fn a_stop_between_two_attempts_does_not_forget_the_first() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let client = log.client("c").open().unwrap();
    let mut call = client.request("s", &Record::new("x")).unwrap().call().unwrap();
    let (stop, called) = (Stop::new(), Arc::new(AtomicU32::new(0)));
    let (stops, count) = (stop.clone(), Arc::clone(&called));
    let options = ServerOptions::default().with_max_attempts(2).with_topic(options());
    let mut server = log
        .server_with("s", options, move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            stops.stop();
            Err(HandlerError::retry("no"))
        })
        .unwrap();
    server.run(&stop).unwrap();
    assert_eq!(called.load(Ordering::Relaxed), 1);
    assert_eq!(server.poll(LONG).unwrap(), 1);
    assert_eq!(called.load(Ordering::Relaxed), 2);
    let done = call.wait_timeout(LONG).unwrap().unwrap();
    assert!(matches!(done.outcome(), Outcome::DeadLettered(_)), "{done:?}");
}

#[test]
fn a_client_waits_for_nothing_that_was_answered_before_a_power_cut() {
    let first = seed("service_floor");
    for seed in first..first + number_from_env("DEADDROP_SERVICE_IMAGES", 60) {
        let disk = SimDisk::new();
        let log = Log::open_sim(&disk, "/log").unwrap();
        make_topics(&log, "s");
        let client = log.client("c").on("done", |_| Ok(())).open().unwrap();
        let mut server = log.server("s", echo).unwrap();
        for _ in 0..5 {
            client.request("s", &Record::new("x")).unwrap().send("done").unwrap();
        }
        server.poll(LONG).unwrap();
        drain(&client);
        let open = client.request("s", &Record::new("open")).unwrap().send("done").unwrap();
        // A graceful stop makes the positions durable.
        client.spawn().unwrap().stop().unwrap();
        log.topic("s.requests").unwrap().wait_durable(5).unwrap();
        let image = disk.power_cut(seed);
        // Their machine is gone: they must not clean up.
        std::mem::forget((client, server, log));
        let log = Log::open_sim(&image, "/log").unwrap();
        let client = log.client("c").on("done", |_| Ok(())).open().unwrap();
        let outstanding = client.outstanding().unwrap();
        let ids: Vec<_> = outstanding.into_iter().map(|outstanding| outstanding.id).collect();
        assert_eq!(ids, [open], "seed {seed}");
    }
}

#[test]
fn a_request_whose_own_reply_topic_is_damaged_is_dead_lettered_and_later_ones_are_answered() {
    let disk = SimDisk::new();
    let log = Log::open_sim(&disk, "/log").unwrap();
    make_topics(&log, "s");
    drop(log.topic_with("broken", options()).unwrap());
    disk.flip("/log/topics/broken/settings", 20, 1);
    let client = log.client("c").on("done", |_| Ok(())).open().unwrap();
    let send = |payload| client.request("s", &Record::new(payload)).unwrap().send("done").unwrap();
    send("before");
    // As a client of another release might send it: the field of the envelope that names a topic.
    let requests = log.topic("s.requests").unwrap();
    let before = requests.reader(Start::First).unwrap().next().unwrap().unwrap().to_owned();
    let mut envelope = before.as_ref().header("deaddrop.service").unwrap().to_vec();
    let name = b"broken";
    envelope.push(8);
    envelope.extend_from_slice(&(name.len() as u32).to_le_bytes());
    envelope.extend_from_slice(name);
    let request = Record::new("x").header_as_stored("deaddrop.service", &envelope);
    let offset = requests.append(&request).unwrap();
    send("behind");
    let options = ServerOptions::default().with_max_attempts(3);
    let mut server = log.server_with("s", options, echo).unwrap();
    let mut settled = 0;
    while settled < 3 {
        let more = server.poll(LONG).unwrap();
        assert_ne!(more, 0);
        settled += more;
    }
    assert_eq!(reply_kinds(&log, "s"), [Kind::Reply, Kind::Reply]);
    let mut reader = log.topic("s.dead").unwrap().reader(Start::First).unwrap();
    let dead = DeadLetter::of(&reader.next().unwrap().unwrap()).unwrap();
    assert_eq!(dead.offset, offset);
    let why = &dead.reason;
    assert!(why.starts_with("its reply topic: ") && why.contains("broken/settings"), "{why}");
    assert!(reader.next().unwrap().is_none());
}

#[test]
fn a_request_whose_send_is_unknown_is_outstanding_under_its_known_id() {
    for (is_call, is_cancelled) in [(false, false), (false, true), (true, false), (true, true)] {
        let disk = SimDisk::new();
        let log = Log::open_sim(&disk, "/log").unwrap();
        for end in ["requests", "replies"] {
            let durable = TopicOptions::default().with_segment_len(64 << 10);
            log.topic_with(&format!("s.{end}"), durable).unwrap();
        }
        let seen = Seen::default();
        let open = |log: &Log| {
            let client = log.client("c").with_topic_options(options());
            client.on("done", seen.callback()).open().unwrap()
        };
        let client = open(&log);
        let request = client.request("s", &Record::new("x")).unwrap();
        let id = request.id().clone();
        disk.fail(Op::SyncData, 0, libc::EIO);
        let sent = match is_call {
            true => request.call().map(drop),
            false => request.send("done").map(drop),
        };
        assert!(matches!(sent, Err(Error::Unknown { offset: 0, .. })), "{sent:?}");
        disk.forget_faults();
        assert_eq!(client.outstanding().unwrap()[0].id, id);
        if is_cancelled {
            client.cancel(&id).unwrap();
            drain(&client);
            if is_call {
                // The outcome came before the handle.
                let done = client.attach(&id).unwrap().wait_timeout(LONG).unwrap().unwrap();
                assert!(matches!(done.outcome(), Outcome::Cancelled), "{done:?}");
            } else {
                assert_eq!(seen.take(), [crate::service::seen("", "Cancelled")]);
            }
            continue;
        }
        drop((client, log));
        let log = Log::open_sim(&disk, "/log").unwrap();
        let client = open(&log);
        assert_eq!(client.outstanding().unwrap()[0].id, id);
        log.server("s", echo).unwrap().poll(LONG).unwrap();
        if is_call {
            let done = client.attach(&id).unwrap().wait_timeout(LONG).unwrap().unwrap();
            assert!(matches!(done.outcome(), Outcome::Reply(_)), "{done:?}");
        } else {
            drain(&client);
            assert_eq!(seen.take(), [crate::service::seen("", "x")]);
        }
    }
}

/// A client with 2,000 parked outcomes, on a disk without room for another segment.
fn parked_on_a_full_disk(disk: &SimDisk, log: &Log, client: &Client, callback: &str) -> Vec<Call> {
    const COUNT: usize = 2_000;
    let mut calls = Vec::new();
    for _ in 0..COUNT {
        let request = client.request("s", &Record::new("x")).unwrap();
        match callback {
            "" => calls.push(request.call().unwrap()),
            _ => drop(request.send(callback).unwrap()),
        }
    }
    let mut server = log.server("s", echo).unwrap();
    while server.poll(Duration::ZERO).unwrap() > 0 {}
    while client.parked().len() < COUNT {
        client.poll(Duration::from_millis(1)).unwrap();
    }
    disk.set_capacity(0);
    calls
}

#[test]
fn parked_outcomes_that_a_callback_takes_while_the_disk_is_full_are_given_to_it_once() {
    let disk = SimDisk::new();
    let log = Log::open_sim(&disk, "/log").unwrap();
    make_topics(&log, "s");
    let (is_up, taken) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<_>>>::default());
    let open = || {
        let (is_up, taken) = (Arc::clone(&is_up), Arc::clone(&taken));
        let callback = move |done: &Completed| match is_up.load(Ordering::SeqCst) {
            true => {
                taken.lock().unwrap().push(done.id().clone());
                Ok(())
            }
            false => Err(HandlerError::retry("down")),
        };
        let most = Duration::from_millis(1);
        let retry = CallbackRetry::default()
            .with_attempts(1)
            .with_parked_first(most)
            .with_parked_most(most);
        let client = log.client("c").with_topic_options(options()).with_callback_retry(retry);
        client.on("done", callback).open().unwrap()
    };
    let client = open();
    parked_on_a_full_disk(&disk, &log, &client, "done");
    is_up.store(true, Ordering::SeqCst);
    let mut is_full = false;
    for _ in 0..1000 {
        is_full |= client.poll(Duration::from_millis(1)).is_err();
        if is_full {
            break;
        }
    }
    assert!(is_full, "{} are parked", client.parked().len());
    disk.set_capacity(u64::MAX);
    for round in 0.. {
        client.poll(Duration::from_millis(1)).unwrap();
        // The mark that could not be appended is due within a millisecond of its failure.
        if client.parked().is_empty() && round > 100 {
            break;
        }
        assert!(round < 30_000, "{} are still parked", client.parked().len());
    }
    drop(client);
    let client = open();
    assert!(client.parked().is_empty());
    let mut taken = taken.lock().unwrap().clone();
    let count = taken.len();
    taken.sort_by_key(ToString::to_string);
    taken.dedup();
    assert_eq!((count, taken.len()), (2_000, 2_000), "each once");
}

#[test]
fn a_parked_outcome_that_a_full_disk_keeps_from_its_call_is_returned_by_the_next_wait() {
    let disk = SimDisk::new();
    let log = Log::open_sim(&disk, "/log").unwrap();
    make_topics(&log, "s");
    let client = log.client("c").with_topic_options(options()).open().unwrap();
    let calls = parked_on_a_full_disk(&disk, &log, &client, "");
    let mut refused = 0;
    for mut call in calls {
        disk.set_capacity(0);
        let first = call.wait_timeout(Duration::ZERO);
        if matches!(first, Err(Error::NoSpace { .. })) {
            refused += 1;
            disk.set_capacity(u64::MAX);
            assert!(call.wait_timeout(Duration::ZERO).unwrap().is_some());
        } else {
            assert!(first.unwrap().is_some());
        }
    }
    assert_ne!(refused, 0);
    assert!(client.parked().is_empty());
}
