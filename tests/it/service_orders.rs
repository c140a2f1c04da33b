//! What a durable position of a service implies is on the disk before it; and a burst of letters opens and reads
//! no topic again for each of them. Calls are counted, no time is measured.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use deaddrop::group::{GroupOptions, WorkerOptions};
use deaddrop::service::{self, DeadLetters, HandlerError, Reply, ServerOptions};
use deaddrop::sim::{Op, SimDisk};
use deaddrop::{Log, Record, Start, TopicOptions};

use crate::service::{drain, echo, make_topics, options};

const LONG: Duration = Duration::from_secs(30);
const IMAGES: u64 = 20;

fn open(disk: &SimDisk) -> Log {
    Log::open_sim(disk, "/log").unwrap()
}

fn poll(server: &mut service::Server, count: u64) {
    let mut settled = 0;
    while settled < count {
        let more = server.poll(LONG).unwrap();
        assert_ne!(more, 0, "{settled} of {count}");
        settled += more;
    }
}

#[test]
fn a_reply_in_a_topic_of_the_requests_own_is_durable_before_the_lane_has_passed_the_request() {
    let mut passed = 0;
    for seed in 0..IMAGES {
        let disk = SimDisk::new();
        let log = open(&disk);
        make_topics(&log, "s");
        let own = log.topic_with("own", options()).unwrap();
        let client = log.client("c").on("done", |_| Ok(())).open().unwrap();
        client.request("s", &Record::new("x")).unwrap().send("done").unwrap();
        let requests = log.topic("s.requests").unwrap();
        let sent = requests.reader(Start::First).unwrap().next().unwrap().unwrap().to_owned();
        // The field of the envelope that names a topic.
        let mut envelope = sent.as_ref().header("deaddrop.service").unwrap().to_vec();
        envelope.push(8);
        envelope.extend_from_slice(&3_u32.to_le_bytes());
        envelope.extend_from_slice(b"own");
        let forged = Record::new("y").header_as_stored("deaddrop.service", &envelope);
        let offset = requests.append(&forged).unwrap();
        let mut server = log.server("s", echo).unwrap();
        poll(&mut server, 2);
        assert_eq!(own.high_watermark().unwrap(), 1);
        // Makes the positions of the lanes durable. The own topic stays open.
        drop(server);
        let image = disk.power_cut(seed);
        let log = open(&image);
        let group = log.open_topic("s.requests").unwrap().groups().unwrap().remove(0).1.unwrap();
        if group.lanes.iter().all(|lane| lane.durable > offset) {
            passed += 1;
            let own = log.open_topic("own").unwrap();
            assert_eq!(own.high_watermark().unwrap(), 1, "seed {seed}: the reply is lost");
        }
    }
    assert!(passed > 0, "no image has durable positions");
}

#[test]
fn the_floor_of_a_reply_topic_that_was_deleted_is_forgotten_before_the_client_opens_another() {
    let durable = TopicOptions::default().with_segment_len(64 << 10);
    let hold = |request: &service::Request<'_>| match request.payload() {
        b"held" => Err(HandlerError::retry("later")),
        other => Ok(Reply::new(other)),
    };
    let hour = Duration::from_secs(3600);
    let serving = || {
        ServerOptions::default().with_topic(durable).with_retry_first(hour).with_retry_most(hour)
    };
    let client = |log: &Log| {
        log.client("c").with_topic_options(durable).on("done", |_| Ok(())).open().unwrap()
    };
    for seed in 0..IMAGES {
        let disk = SimDisk::new();
        let log = open(&disk);
        let first = client(&log);
        let send = |client: &service::Client, payload: &str| {
            client.request("s", &Record::new(payload)).unwrap().send("done").unwrap()
        };
        for payload in ["a", "b", "c"] {
            send(&first, payload);
        }
        poll(&mut log.server_with("s", serving(), hold).unwrap(), 3);
        drain(&first);
        let held = send(&first, "held");
        send(&first, "other");
        drop(first);
        log.delete_topic("s.replies").unwrap();
        let second = client(&log);
        let image = disk.power_cut(seed);
        drop(second);

        let log = open(&image);
        let third = client(&log);
        poll(&mut log.server_with("s", serving(), hold).unwrap(), 1);
        // Delivers the answer, whatever it takes for open.
        while third.poll(Duration::ZERO).unwrap() > 0 {}
        drop(third);
        let ids: Vec<_> =
            client(&log).outstanding().unwrap().into_iter().map(|one| one.id).collect();
        assert_eq!(ids, [held], "seed {seed}: an answered request is open again");
    }
}

/// Returns the files that are opened while `count` records become dead letters, after ten others.
fn opened_by_letters(is_service: bool, count: u64) -> u64 {
    let disk = SimDisk::new();
    let log = open(&disk);
    make_topics(&log, "s");
    let client = log.client("c").on("done", |_| Ok(())).open().unwrap();
    let requests = log.topic("s.requests").unwrap();
    for _ in 0..10 + count {
        match is_service {
            true => drop(client.request("s", &Record::new("x")).unwrap().send("done").unwrap()),
            false => drop(requests.append(&Record::new("x")).unwrap()),
        }
    }
    // The number of opened files when each letter was written.
    let opened = Arc::new(Mutex::new(Vec::new()));
    let (counted, noted) = (disk.clone(), Arc::clone(&opened));
    let note = move || noted.lock().unwrap().push(counted.calls(Op::Open));
    if is_service {
        let options = ServerOptions::default().with_topic(options()).with_max_attempts(1);
        let refuse = move |_: &service::Request<'_>| {
            note();
            Err::<Reply, _>(HandlerError::retry("down"))
        };
        poll(&mut log.server_with("s", options, refuse).unwrap(), 10 + count);
    } else {
        let group = requests.group("g", GroupOptions::default().with_start(Start::First)).unwrap();
        let options = WorkerOptions::default().with_max_attempts(1);
        let refuse = move |_: &deaddrop::group::Job| {
            note();
            Err(HandlerError::retry("down"))
        };
        let mut worker = group.worker(options, refuse).unwrap();
        let mut handled = 0;
        while handled < 10 + count {
            handled += worker.poll(LONG).unwrap();
        }
    }
    let opened = opened.lock().unwrap();
    opened[9 + count as usize] - opened[9]
}

#[test]
fn the_topic_of_dead_letters_is_not_opened_again_for_each_letter() {
    for is_service in [true, false] {
        // A server lets go of the topic now and then, so that it can be deleted.
        let opened = opened_by_letters(is_service, 200);
        assert!(opened < 400, "service: {is_service}: {opened} files for 200 letters");
    }
}

#[test]
fn sending_one_of_many_letters_again_reads_that_letter_and_not_the_others() {
    const LETTERS: u64 = 400;
    let disk = SimDisk::new();
    let log = open(&disk);
    let small = options().with_segment_len(16 << 10);
    let client = log.client("c").with_topic_options(small).on("done", |_| Ok(())).open().unwrap();
    for _ in 0..LETTERS {
        client.request("s", &Record::new(vec![7; 1000])).unwrap().send("done").unwrap();
    }
    let refuse = |_: &service::Request<'_>| Err::<Reply, _>(HandlerError::retry("down"));
    let serving = ServerOptions::default().with_topic(small).with_max_attempts(1);
    poll(&mut log.server_with("s", serving, refuse).unwrap(), LETTERS);
    let mut letters = DeadLetters::open(&log, "s.dead").unwrap();
    let mut cost = |range: std::ops::Range<u64>| {
        let before = disk.calls(Op::Read) + disk.calls(Op::Open);
        for offset in range {
            letters.redrive(offset).unwrap();
        }
        disk.calls(Op::Read) + disk.calls(Op::Open) - before
    };
    cost(0..LETTERS - 40);
    let late = cost(LETTERS - 40..LETTERS) / 40;
    let is_letters = |path: &&std::path::PathBuf| {
        path.starts_with("/log/topics/s.dead") && path.extension().is_some_and(|end| end == "seg")
    };
    let segments = disk.paths().iter().filter(is_letters).count() as u64;
    assert!(segments > 30 && late < segments / 2, "{late} calls a letter, of {segments} segments");
}
