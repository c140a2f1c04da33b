//! A service whose processes are killed: every request gets one outcome, and one reply record.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use deaddrop::service::{
    Client, Completed, Envelope, HandlerError, Kind, Outcome, Reply, Request, ServerOptions,
};
use deaddrop::sim::SimDisk;
use deaddrop::{Durability, Log, Record, Start, TopicOptions};

use crate::child::{self, Child};
use crate::random::{number_from_env, seed, Random};
use crate::service::drain;

const LONG: Duration = Duration::from_secs(30);

fn durability_of(name: &str) -> Durability {
    match name {
        "power-loss" => Durability::PowerLoss,
        _ => Durability::ProcessCrash,
    }
}

fn make_topics(log: &Log, durability: Durability) {
    let options = TopicOptions::default().with_durability(durability).with_segment_len(16 << 10);
    for name in ["s.requests", "s.replies"] {
        log.topic_with(name, options).unwrap();
    }
}

/// Role: serves; notes each call of the handler in a file. `DIR [POINT ARRIVAL]`: kills itself when
/// it reaches that crash point for that time.
pub(crate) fn server(words: &[&str]) {
    let dir = Path::new(words[0]);
    let log = Log::open_or_create(dir).unwrap();
    let ledger = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.with_extension("ledger"))
        .unwrap();
    let server = log
        .server("s", move |request| {
            let line = format!("{} {}\n", request.id(), request.attempt());
            (&ledger).write_all(line.as_bytes())?;
            Ok(Reply::new(request.payload()))
        })
        .unwrap();
    if let [point, arrival] = words[1..] {
        let (point, mut left) = (point.to_owned(), arrival.parse::<u32>().unwrap());
        deaddrop::arm_crash_points(Some(Box::new(move |name| {
            left -= u32::from(name == point);
            if left == 0 {
                child::raise(libc::SIGKILL);
            }
        })));
    }
    let running = server.spawn().unwrap();
    child::say("serving");
    child::listen();
    running.stop().unwrap();
}

fn open_client(log: &Log, say: bool) -> Client {
    let options = TopicOptions::default().with_durability(Durability::ProcessCrash);
    log.client("c")
        .with_topic_options(options)
        .on("done", move |done: &Completed| -> Result<(), HandlerError> {
            let Outcome::Reply(reply) = done.outcome() else {
                return Err(HandlerError::terminal("no reply"));
            };
            assert_eq!(reply.payload(), done.context(), "the reply of another request");
            if say {
                child::say(&format!("done {}", done.id()));
            }
            Ok(())
        })
        .open()
        .unwrap()
}

/// Role: sends requests until it is killed, and reports what it sent and what came back.
pub(crate) fn client(words: &[&str]) {
    let log = Log::open_or_create(words[0]).unwrap();
    let client = open_client(&log, true);
    let _running = client.spawn().unwrap();
    for number in 0u64.. {
        let payload = format!("{}/{number}", std::process::id());
        let request = client.request("s", &Record::new(payload.clone())).unwrap();
        let id = request.with_context(payload).send("done").unwrap();
        child::say(&format!("sent {id}"));
        if client.outstanding().unwrap().len() > 50 {
            // Lets the server catch up: a reply makes room.
            std::thread::yield_now();
        }
    }
}

/// Finishes everything that is outstanding, with a server and a client that are not killed.
fn finish(log: &Log) {
    let mut server = log.server("s", |request| Ok(Reply::new(request.payload()))).unwrap();
    server.poll(Duration::ZERO).unwrap();
    let client = open_client(log, false);
    for polls in 0.. {
        if client.outstanding().unwrap().is_empty() {
            break;
        }
        // A request that failed before may have to wait for its next attempt.
        server.poll(Duration::from_millis(10)).unwrap();
        client.poll(Duration::ZERO).unwrap();
        assert!(polls < 3_000, "{:?}", client.outstanding());
    }
    assert!(client.parked().is_empty());
}

/// Checks that every request has one reply record with its payload; returns the ids in order.
fn check_replies(log: &Log) -> Vec<String> {
    let mut replies: HashMap<String, Vec<Vec<u8>>> = HashMap::new();
    let mut reader = log.topic("s.replies").unwrap().reader(Start::First).unwrap();
    while let Some(record) = reader.next().unwrap() {
        let envelope = Envelope::of(&record).unwrap().unwrap();
        assert_eq!(envelope.kind, Kind::Reply);
        replies.entry(envelope.id.to_string()).or_default().push(record.payload().to_owned());
    }
    let mut ids = Vec::new();
    let mut reader = log.topic("s.requests").unwrap().reader(Start::First).unwrap();
    while let Some(record) = reader.next().unwrap() {
        let id = Envelope::of(&record).unwrap().unwrap().id.to_string();
        assert_eq!(replies[&id], [record.payload()], "{id} has one reply, its own");
        ids.push(id);
    }
    ids
}

#[test]
fn a_server_killed_at_any_point_of_a_request_never_answers_twice() {
    let points = [
        "lane.taken",
        "lane.attempted",
        "append.announced",
        "append.written",
        "append.positioned",
        "append.published",
        "sync.before",
        "sync.published",
        "serve.replied",
        "lane.committed",
        "roll.named",
    ];
    for durability in ["power-loss", "process-crash"] {
        let dir = crate::dir();
        let dir = dir.path().join("log");
        let log = Log::open_or_create(&dir).unwrap();
        make_topics(&log, durability_of(durability));
        let client = open_client(&log, false);
        let directory = dir.to_str().unwrap();
        for point in points {
            if point.starts_with("sync") && durability == "process-crash" {
                continue;
            }
            for arrival in ["1", "3"] {
                for _ in 0..40 {
                    let payload = vec![b'x'; 300];
                    let request = client.request("s", &Record::new(payload.clone())).unwrap();
                    request.with_context(payload).send("done").unwrap();
                }
                // The next server takes another member slot than that of the killed one, because
                // taking that slot would settle its intent.
                let lower_slots = Log::open_or_create(&dir).unwrap();
                let held = ["s.requests", "s.replies"].map(|name| lower_slots.topic(name).unwrap());
                Child::spawn(&["server", directory, point, arrival]).wait_for_death();
                drop(held);
                let mut server = Child::spawn(&["server", directory]);
                drain(&client);
                assert_eq!(server.hear().as_deref(), Some("serving"));
                server.tell("stop");
                assert!(server.wait().success());
            }
        }
        let ids = check_replies(&log);
        let ledger = std::fs::read_to_string(dir.with_extension("ledger")).unwrap();
        for id in ids {
            let begun = ledger.lines().filter(|line| line.starts_with(&format!("{id} "))).count();
            assert!((1..=2).contains(&begun), "{id} was begun {begun} times");
        }
    }
}

fn one_lane() -> ServerOptions {
    let topic = Some(TopicOptions::default().with_durability(Durability::ProcessCrash));
    ServerOptions::default().with_lanes(1).with_topic(topic)
}

/// Role: owns the only lane, answers a request, and dies at this point after it.
pub(crate) fn dies_replied(words: &[&str]) {
    let (log, point) = (Log::open_or_create(words[0]).unwrap(), words[1].to_owned());
    let answer = |request: &Request<'_>| Ok(Reply::new(request.payload()));
    let mut server = log.server_with("s", one_lane(), answer).unwrap();
    let requests = log.open_topic("s.requests").unwrap();
    let owner = || requests.groups().unwrap().remove(0).1.unwrap().lanes[0].owner;
    for polls in 0.. {
        // It is the share of the other server, which does not take it.
        server.poll(Duration::from_millis(1)).unwrap();
        if owner() == Some(std::process::id()) {
            break;
        }
        assert!(polls < 30_000, "it gets no lane");
    }
    deaddrop::arm_crash_points(Some(Box::new(move |name| {
        if name == point {
            child::raise(libc::SIGKILL);
        }
    })));
    child::say("ready");
    server.poll(LONG).unwrap();
}

#[test]
fn a_request_that_was_answered_before_its_attempt_was_ended_is_settled_by_the_attempt_alone() {
    for (point, settled) in [("serve.replied", 1), ("lane.committed", 0)] {
        let dir = crate::dir();
        let log = Log::open_or_create(dir.path()).unwrap();
        // It was there before the request, so the lanes are in no doubt but for the attempt.
        let refuse = |_: &Request<'_>| panic!("the request was answered");
        let mut living = log.server_with("s", one_lane(), refuse).unwrap();
        let mut dying = Child::spawn(&["dies-replied", dir.path().to_str().unwrap(), point]);
        assert_eq!(dying.hear().as_deref(), Some("ready"));
        let client = open_client(&log, false);
        let request = client.request("s", &Record::new("x")).unwrap();
        request.with_context("x").send("done").unwrap();
        dying.wait_for_death();
        let requests = log.open_topic("s.requests").unwrap();
        let lane = || requests.groups().unwrap().remove(0).1.unwrap().lanes.remove(0);
        let mut found = 0;
        for polls in 0.. {
            found += living.poll(Duration::from_millis(1)).unwrap();
            let lane = lane();
            if lane.owner == Some(std::process::id()) && lane.committed == 1 {
                break;
            }
            assert!(polls < 30_000, "{point}: it gets no lane");
        }
        assert_eq!(found, settled, "{point}");
        drain(&client);
        assert_eq!(check_replies(&log).len(), 1, "{point}");
    }
}

#[test]
fn clients_and_servers_killed_at_random_leave_one_outcome_for_every_request() {
    let seed = seed("service_kill");
    let mut random = Random(seed);
    for durability in ["power-loss", "process-crash"] {
        let dir = crate::dir();
        let log = Log::open_or_create(dir.path()).unwrap();
        make_topics(&log, durability_of(durability));
        let directory = dir.path().to_str().unwrap();
        let mut sent = Vec::new();
        let mut server = Some(Child::spawn(&["server", directory]));
        for _ in 0..number_from_env("DEADDROP_SERVICE_KILLS", 12) {
            let mut client = Child::spawn(&["client", directory]);
            let mut lines = random.below(200);
            while let Some(line) = client.hear() {
                if let Some(id) = line.strip_prefix("sent ") {
                    sent.push(id.to_owned());
                }
                if lines == 0 {
                    break;
                }
                lines -= 1;
                if random.one_in(60) {
                    if let Some(server) = server.take() {
                        server.kill();
                    }
                    server = Some(Child::spawn(&["server", directory]));
                }
            }
            client.kill();
        }
        if let Some(server) = server.take() {
            server.kill();
        }
        finish(&log);
        let ids = check_replies(&log);
        for id in &sent {
            assert!(ids.contains(id), "{id} was acknowledged and is not in the log; seed {seed}");
        }
    }
}

#[test]
fn a_client_killed_between_callback_and_commit_is_called_back_with_the_same_outcome() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, Durability::ProcessCrash);
    let directory = dir.path().to_str().unwrap();
    let mut server = Child::spawn(&["server", directory]);
    assert_eq!(server.hear().as_deref(), Some("serving"));
    let mut client = Child::spawn(&["killed-client", directory]);
    let done = client.hear().unwrap();
    client.wait_for_death();
    let id = done.strip_prefix("done ").unwrap().to_owned();
    let again = open_client(&log, false);
    let outstanding = again.outstanding().unwrap();
    assert_eq!(outstanding.iter().map(|one| one.id.to_string()).collect::<Vec<_>>(), [id]);
    drain(&again);
    assert_eq!(check_replies(&log).len(), 1);
}

/// Role: sends one request, and kills itself when its callback has returned.
pub(crate) fn killed_client(words: &[&str]) {
    let log = Log::open_or_create(words[0]).unwrap();
    let client = open_client(&log, true);
    let request = client.request("s", &Record::new("x")).unwrap();
    request.with_context("x").send("done").unwrap();
    deaddrop::arm_crash_points(Some(Box::new(|name| {
        if name == "deliver.called-back" {
            child::raise(libc::SIGKILL);
        }
    })));
    client.poll(LONG).unwrap();
}

#[test]
fn requests_whose_offsets_are_used_again_after_a_power_cut_are_handled_and_not_taken_for_others() {
    let first = seed("service_power");
    for seed in first..first + number_from_env("DEADDROP_SERVICE_IMAGES", 60) {
        let mut random = Random(seed);
        let disk = SimDisk::new();
        let log = Log::open_sim(&disk, "/log").unwrap();
        // Requests may be lost and their replies not, or the other way round.
        let (requests, replies) = match random.below(3) {
            0 => (Durability::ProcessCrash, Durability::PowerLoss),
            1 => (Durability::PowerLoss, Durability::ProcessCrash),
            _ => (Durability::PowerLoss, Durability::PowerLoss),
        };
        for (name, durability) in [("s.requests", requests), ("s.replies", replies)] {
            let options =
                TopicOptions::default().with_durability(durability).with_segment_len(16 << 10);
            log.topic_with(name, options).unwrap();
        }
        let mut disk = disk;
        let mut log = log;
        for round in 0..3 {
            let client = open_client(&log, false);
            let mut server = log.server("s", |request| Ok(Reply::new(request.payload()))).unwrap();
            for number in 0..random.below(6) {
                let payload = format!("{round}/{number}");
                let request = client.request("s", &Record::new(payload.clone())).unwrap();
                request.with_context(payload).send("done").unwrap();
                if random.one_in(2) {
                    server.poll(Duration::ZERO).unwrap();
                }
                if random.one_in(3) {
                    client.poll(Duration::ZERO).unwrap();
                }
            }
            let image = disk.power_cut(random.next());
            // Their machine is gone: they must not clean up.
            std::mem::forget((client, server));
            std::mem::forget(std::mem::replace(&mut log, Log::open_sim(&image, "/log").unwrap()));
            disk = image;
        }
        finish(&log);
        check_replies_after_power_cut(&log, seed);
    }
}

/// As [`check_replies`], but the reply of a lost request may be left.
fn check_replies_after_power_cut(log: &Log, seed: u64) {
    let mut count: HashMap<String, u32> = HashMap::new();
    let mut reader = log.topic("s.replies").unwrap().reader(Start::First).unwrap();
    while let Some(record) = reader.next().unwrap() {
        let id = Envelope::of(&record).unwrap().unwrap().id.to_string();
        *count.entry(id).or_default() += 1;
    }
    assert!(count.values().all(|&count| count == 1), "two replies to one request; seed {seed}");
    let mut reader = log.topic("s.requests").unwrap().reader(Start::First).unwrap();
    while let Some(record) = reader.next().unwrap() {
        let id = Envelope::of(&record).unwrap().unwrap().id.to_string();
        assert!(count.contains_key(&id), "{id} was never answered; seed {seed}");
    }
}

#[test]
fn a_server_killed_while_it_settles_a_power_loss_leaves_the_doubt_to_the_next() {
    let first = seed("service_settle");
    for seed in first..first + number_from_env("DEADDROP_SERVICE_IMAGES", 20) {
        let mut random = Random(seed);
        let disk = SimDisk::new();
        let log = Log::open_sim(&disk, "/log").unwrap();
        make_topics(&log, Durability::PowerLoss);
        let client = open_client(&log, false);
        let mut server = log.server("s", |request| Ok(Reply::new(request.payload()))).unwrap();
        for number in 0..20 {
            let request = client.request("s", &Record::new(number.to_string())).unwrap();
            request.with_context(number.to_string()).send("done").unwrap();
            if random.one_in(2) {
                server.poll(Duration::ZERO).unwrap();
            }
        }
        // The positions of the lanes were never made durable, so all this is in doubt afterwards.
        let image = disk.power_cut(random.next());
        std::mem::forget((client, server, log));
        for _ in 0..3 {
            let process = image.process();
            let log = Log::open_sim(&process, "/log").unwrap();
            let limit = random.below(6);
            let handled = std::sync::atomic::AtomicU64::new(0);
            let handler = move |request: &deaddrop::service::Request<'_>| match handled
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
                < limit
            {
                true => Ok(Reply::new(request.payload())),
                false => Err(HandlerError::retry("about to die")),
            };
            let mut server = log.server("s", handler).unwrap();
            server.poll(Duration::ZERO).unwrap();
            process.kill();
            std::mem::forget((server, log));
        }
        let log = Log::open_sim(&image, "/log").unwrap();
        finish(&log);
        check_replies(&log);
    }
}
