//! Dead letters that are sent again, once, as new requests, whichever process dies or restarts.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use deaddrop::group::{DeadLetter, GroupOptions, WorkerOptions};
use deaddrop::service::{
    redrive, Client, DeadLetters, Envelope, HandlerError, Kind, LetterState, Outcome, Reply,
    Request, RequestId, Server, ServerOptions,
};
use deaddrop::{Error, Log, Record, Start};

use crate::child::{self, Child};
use crate::service::{drain, make_topics, options, seen, Seen};

const LONG: Duration = Duration::from_secs(30);

fn open_client(log: &Log, done: &Seen, late: &Seen) -> Client {
    let client = log.client("c").with_topic_options(options()).on("done", done.callback());
    client.on_late(late.callback()).open().unwrap()
}

/// An empty log, the outcomes of a client, and its late ones.
fn scene() -> (tempfile::TempDir, Log, Seen, Seen) {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    (dir, log, Seen::default(), Seen::default())
}

/// Serves until `count` requests are settled; those of this payload fail.
fn serve_with(log: &Log, options: ServerOptions, refused: &'static str, count: u64) -> Server {
    let handler = move |request: &Request<'_>| match request.payload() == refused.as_bytes() {
        true => Err(HandlerError::retry("down")),
        false => Ok(Reply::new(request.payload())),
    };
    let mut server = log.server_with("s", options, handler).unwrap();
    let mut done = 0;
    while done < count {
        let more = server.poll(LONG).unwrap();
        assert_ne!(more, 0, "{done} of {count}");
        done += more;
    }
    server
}

/// Serves until `count` requests are settled; those of this payload are dead-lettered at once.
fn serve(log: &Log, refused: &'static str, count: u64) {
    let options = ServerOptions::default().with_topic(options()).with_max_attempts(1);
    let mut server = serve_with(log, options, refused, count);
    assert_eq!(server.poll(Duration::ZERO).unwrap(), 0, "more than {count}");
}

/// A service with one dead-lettered request, whose client has the outcome.
fn with_letter(log: &Log, done: &Seen, late: &Seen) -> (Client, RequestId) {
    make_topics(log, "s");
    let client = open_client(log, done, late);
    let request =
        client.request("s", &Record::new("x").with_key("k").with_header("h", "1")).unwrap();
    let id = request.with_context("ctx").send("done").unwrap();
    serve(log, "x", 1);
    drain(&client);
    assert_eq!(done.take(), [seen("ctx", "DeadLettered(\"down\")")]);
    (client, id)
}

fn poll_all(client: &Client) {
    while client.poll(Duration::ZERO).unwrap() > 0 {}
}

/// Returns the requests in the request topic that are redrives, with their offsets.
fn redrives(log: &Log) -> Vec<(u64, Envelope)> {
    let mut reader = log.open_topic("s.requests").unwrap().reader(Start::First).unwrap();
    let mut found = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        let envelope = Envelope::of(&record).unwrap().unwrap();
        if envelope.redrive_of.is_some() {
            found.push((record.offset(), envelope));
        }
    }
    found
}

#[test]
fn a_redriven_request_is_a_new_one_whose_outcome_reaches_the_callback_of_the_old_one() {
    for restarts in [false, true] {
        let (_dir, log, done, late) = scene();
        let (client, id) = with_letter(&log, &done, &late);
        let mut client = Some(client).filter(|_| !restarts);
        let sent = DeadLetters::open(&log, "s.dead").unwrap().redrive(0).unwrap();
        assert_eq!(sent.offset, Some(1));
        let client = client.take().unwrap_or_else(|| open_client(&log, &done, &late));
        poll_all(&client);
        let outstanding = client.outstanding().unwrap();
        assert_eq!(outstanding.len(), 1, "{outstanding:?}");
        assert_eq!(outstanding[0].id.to_string(), sent.id);
        assert_ne!(outstanding[0].id, id);

        let asked = Arc::new(Mutex::new(None));
        let noted = Arc::clone(&asked);
        let handler = move |request: &Request<'_>| {
            let of = |id: Option<&RequestId>| id.cloned();
            let key = request.key().map(<[u8]>::to_vec);
            *noted.lock().unwrap() = Some((
                of(request.redrive_of()),
                of(request.cause()),
                of(Some(request.conversation())),
                (key, request.header("h").map(<[u8]>::to_vec)),
            ));
            Ok(Reply::new(request.payload()))
        };
        assert_eq!(log.server("s", handler).unwrap().poll(LONG).unwrap(), 1);
        let id = Some(id);
        let parts = (Some(b"k".to_vec()), Some(b"1".to_vec()));
        assert_eq!(asked.lock().unwrap().take(), Some((id.clone(), id.clone(), id, parts)));
        drain(&client);
        assert_eq!(done.take(), [seen("ctx", "x")], "an outcome of its own, not a late one");
        drop(client);
        let client = open_client(&log, &done, &late);
        poll_all(&client);
        assert_eq!((client.outstanding_count(), done.take(), late.take()), (0, vec![], vec![]));
    }
}

#[test]
fn a_redrive_leaves_the_other_open_requests_of_its_client_alone() {
    let (_dir, log, done, late) = scene();
    make_topics(&log, "s");
    let client = open_client(&log, &done, &late);
    let send = |client: &Client, what: &str| {
        client.request("s", &Record::new(what)).unwrap().with_context(what).send("done").unwrap()
    };
    let open_count = |client: &Client, count| {
        poll_all(client);
        assert_eq!(client.outstanding_count(), count, "{:?}", client.outstanding());
    };
    send(&client, "bad");
    serve(&log, "bad", 1);
    send(&client, "open-a");
    open_count(&client, 1);
    redrive(&log.open_topic("s.dead").unwrap(), 0).unwrap();
    open_count(&client, 2);
    drop(client);
    let client = open_client(&log, &done, &late);
    open_count(&client, 2);
    assert_eq!(done.take(), [seen("bad", "DeadLettered(\"down\")")]);
    serve(&log, "", 2);
    send(&client, "open-b");
    open_count(&client, 1);
    let mut outcomes = done.take();
    outcomes.sort();
    assert_eq!(outcomes, [seen("bad", "bad"), seen("open-a", "open-a")]);
    drop(client);
    let client = open_client(&log, &done, &late);
    open_count(&client, 1);
    serve(&log, "", 1);
    drain(&client);
    assert_eq!((done.take(), late.take()), (vec![seen("open-b", "open-b")], vec![]));
}

#[test]
fn a_redriven_request_gets_the_same_time_again_and_its_client_can_restart() {
    let (_dir, log, done, late) = scene();
    make_topics(&log, "s");
    let client = open_client(&log, &done, &late);
    let hour = Duration::from_secs(3600);
    let request = client.request("s", &Record::new("x")).unwrap();
    request.with_deadline(hour).send("done").unwrap();
    serve(&log, "x", 1);
    drain(&client);
    // Records are stamped with the kernel's coarse clock, which lags by a tick or two.
    let tick = Duration::from_millis(40);
    let before = SystemTime::now() - tick;
    redrive(&log.open_topic("s.dead").unwrap(), 0).unwrap();
    poll_all(&client);
    let deadline = client.outstanding().unwrap()[0].deadline.unwrap();
    let expected = before + hour..=SystemTime::now() + tick + hour;
    assert!(expected.contains(&deadline), "{deadline:?} is not within {expected:?}");
    drop(client);
    for _ in 0..2 {
        let client = open_client(&log, &done, &late);
        poll_all(&client);
        assert!(client.outstanding().unwrap()[0].deadline.unwrap() >= before + hour);
    }
    let client = open_client(&log, &done, &late);
    client.cancel(&client.outstanding().unwrap()[0].id).unwrap();
    serve(&log, "x", 1);
    drain(&client);
    let outcomes: Vec<_> = done.take().into_iter().map(|(_, outcome, _)| outcome).collect();
    assert_eq!(outcomes, ["DeadLettered(\"down\")", "Cancelled"], "the server did not handle it");
    assert!(late.take().is_empty());
}

#[test]
fn a_letter_is_sent_again_once_unless_more_is_asked_for() {
    let (_dir, log, done, late) = scene();
    let (client, id) = with_letter(&log, &done, &late);
    let mut letters = DeadLetters::open(&log, "s.dead").unwrap();
    assert_eq!(letters.state(0).unwrap(), LetterState::Open);
    let sent = letters.redrive(0).unwrap();
    assert_eq!(letters.state(0).unwrap(), LetterState::Redriven(sent.clone()));
    serve(&log, "", 1);
    for mut letters in [letters, DeadLetters::open(&log, "s.dead").unwrap()] {
        assert!(matches!(letters.redrive(0), Err(Error::Invalid { .. })));
    }
    assert_eq!(redrives(&log).len(), 1);
    let mut letters = DeadLetters::open(&log, "s.dead").unwrap();
    let again = letters.redrive_again(0).unwrap();
    assert_ne!(again.id, sent.id);
    serve(&log, "", 1);
    drain(&client);
    poll_all(&client);
    assert_eq!(done.take(), [seen("ctx", "x"), seen("ctx", "x")]);
    assert_eq!(
        redrives(&log).iter().filter(|(_, one)| one.redrive_of == Some(id.clone())).count(),
        2
    );

    letters.discard(0).unwrap();
    assert!(matches!(letters.state(0).unwrap(), LetterState::Dropped(_)));
    letters.discard(0).unwrap();
    assert!(matches!(letters.redrive(0), Err(Error::Invalid { .. })));
    // Marks are not among the letters.
    assert_eq!(letters.topic().high_watermark().unwrap(), 1);
    for offset in 1..letters.topic().high_watermark().unwrap() + 1 {
        assert!(matches!(letters.redrive(offset), Err(Error::Invalid { .. })), "{offset}");
    }
    assert!(late.take().is_empty());
}

#[test]
fn a_redriven_request_that_fails_again_leaves_a_dead_letter_of_its_own() {
    let (_dir, log, done, late) = scene();
    let (client, id) = with_letter(&log, &done, &late);
    let mut letters = DeadLetters::open(&log, "s.dead").unwrap();
    let sent = letters.redrive(0).unwrap();
    serve(&log, "x", 1);
    drain(&client);
    poll_all(&client);
    drain(&client);
    assert_eq!(done.take(), [seen("ctx", "DeadLettered(\"down\")")]);
    let mut reader = letters.topic().reader(Start::First).unwrap();
    let mut found = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        found.extend(DeadLetter::of(&record).map(|letter| (record.offset(), letter.id)));
    }
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((&found[0].1, &found[1].1), (&id.to_string(), &sent.id));
    // The redrive of the second letter continues the same conversation.
    let third = letters.redrive(found[1].0).unwrap();
    let (_, envelope) = redrives(&log).pop().unwrap();
    assert_eq!((envelope.id.to_string(), envelope.conversation()), (third.id, &id));
    serve(&log, "", 1);
    poll_all(&client);
    drain(&client);
    assert_eq!((done.take(), late.take()), (vec![seen("ctx", "x")], vec![]));
}

#[test]
fn a_letter_is_sent_again_after_its_request_was_trimmed() {
    let (_dir, log, done, late) = scene();
    let (client, _) = with_letter(&log, &done, &late);
    let requests = log.open_topic("s.requests").unwrap();
    let fill = Record::new(vec![b'x'; 30 << 10]);
    for _ in 0..4 {
        client.request("s", &fill).unwrap().with_context("fill").send("done").unwrap();
    }
    serve(&log, "x", 4);
    drain(&client);
    assert_eq!(done.take().len(), 4);
    assert!(requests.trim_before(4).unwrap() > 0);
    redrive(&log.open_topic("s.dead").unwrap(), 0).unwrap();
    serve(&log, "", 1);
    poll_all(&client);
    drain(&client);
    assert_eq!((done.take(), late.take()), (vec![seen("ctx", "x")], vec![]));
}

/// Role: sends the first letter again, and kills itself at this crash point. `DIR POINT`.
pub(crate) fn killed(words: &[&str]) {
    let log = Log::open_or_create(words[0]).unwrap();
    let point = words[1].to_owned();
    let signal = words[2].parse().unwrap();
    deaddrop::arm_crash_points(Some(Box::new(move |name| {
        if name == point {
            child::raise(signal);
        }
    })));
    redrive(&log.open_topic("s.dead").unwrap(), 0).unwrap();
}

/// A redrive that gets this signal at a crash point.
fn redrive_until(dir: &Path, point: &str, signal: i32) -> Child {
    Child::spawn(&["redrive", dir.to_str().unwrap(), point, &signal.to_string()])
}

fn kill_at(dir: &Path, point: &str) {
    redrive_until(dir, point, libc::SIGKILL).wait_for_death();
}

#[test]
fn a_redrive_that_is_taken_back_before_it_is_visible_is_not_handled_by_a_later_server() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let (done, late) = (Seen::default(), Seen::default());
    let (client, _) = with_letter(&log, &done, &late);
    let sending = redrive_until(dir.path(), "redrive.announced", libc::SIGSTOP);
    sending.wait_until_stopped();
    poll_all(&client);
    client.cancel(&client.outstanding().unwrap()[0].id).unwrap();
    client.request("s", &Record::new("other")).unwrap().send("done").unwrap();
    serve(&log, "", 1);
    drain(&client);
    sending.signal(libc::SIGCONT);
    assert!(sending.wait().success());
    assert_eq!(redrives(&log).len(), 1);
    let handled = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&handled);
    let mut server = log
        .server("s", move |request: &Request<'_>| {
            *counted.lock().unwrap() += 1;
            Ok(Reply::new(request.payload()))
        })
        .unwrap();
    assert_eq!(server.poll(LONG).unwrap(), 1);
    assert_eq!(*handled.lock().unwrap(), 0, "its outcome is that it was cancelled");
    poll_all(&client);
    assert_eq!(late.take(), []);
}

#[test]
fn a_redrive_killed_at_any_step_and_repeated_sends_one_request() {
    for point in ["redrive.marked", "redrive.announced", "redrive.sent"] {
        for answers_between in [false, true] {
            let (dir, log, done, late) = scene();
            let (client, _) = with_letter(&log, &done, &late);
            kill_at(dir.path(), point);
            let is_sent = point == "redrive.sent";
            if answers_between {
                serve(&log, "", u64::from(is_sent));
                poll_all(&client);
            }
            if point == "redrive.announced" {
                // The steps before it are done once more.
                kill_at(dir.path(), point);
            }
            let mut letters = DeadLetters::open(&log, "s.dead").unwrap();
            let state = letters.state(0).unwrap();
            assert!(matches!(state, LetterState::Sending(_)), "{point}: {state:?}");
            let sent = letters.redrive(0).unwrap();
            assert_eq!(sent.offset, Some(1), "{point}");
            assert_eq!(redrives(&log).len(), 1, "{point}");
            serve(&log, "", u64::from(!(answers_between && is_sent)));
            poll_all(&client);
            drain(&client);
            assert_eq!(done.take(), [seen("ctx", "x")], "{point}");
            drop(client);
            let client = open_client(&log, &done, &late);
            poll_all(&client);
            let left = (client.outstanding_count(), done.take(), late.take());
            assert_eq!(left, (0, vec![], vec![]), "{point}");
        }
    }
}

#[test]
fn a_dead_lettered_call_is_attached_to_under_the_id_of_its_redrive() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    make_topics(&log, "s");
    let client = open_client(&log, &Seen::default(), &Seen::default());
    let mut call = client.request("s", &Record::new("x")).unwrap().call().unwrap();
    serve(&log, "x", 1);
    let done = call.wait_timeout(LONG).unwrap().unwrap();
    assert!(matches!(done.outcome(), Outcome::DeadLettered(_)));
    let sent = redrive(&log.open_topic("s.requests").unwrap(), 0).unwrap();
    serve(&log, "", 1);
    poll_all(&client);
    let mut call = client.attach(&sent.id.parse().unwrap()).unwrap();
    let done = call.wait_timeout(LONG).unwrap().unwrap();
    assert!(matches!(done.outcome(), Outcome::Reply(_)), "{done:?}");
    let old = Some(done.conversation());
    assert_eq!((done.redrive_of(), done.cause()), (old, old));
    assert_eq!(done.request().unwrap().unwrap().offset(), 1);
}

#[test]
fn the_letter_of_a_worker_group_becomes_a_new_record_of_its_topic_with_a_letter_of_its_own() {
    let dir = crate::dir();
    let log = Log::open_or_create(dir.path()).unwrap();
    let topic = log.topic_with("jobs", options()).unwrap();
    topic
        .append(&Record::new("bad").with_key("k").with_header("dead-letter-note", "mine"))
        .unwrap();
    let group = topic.group("g", GroupOptions::default()).unwrap();
    let once = WorkerOptions::default().with_max_attempts(1);
    let work = |count: u64| {
        let fails = |_: &deaddrop::group::Job| Err(HandlerError::retry("down"));
        let mut worker = group.worker(once.clone(), fails).unwrap();
        assert_eq!(worker.poll(LONG).unwrap(), count);
        assert_eq!(worker.poll(Duration::ZERO).unwrap(), 0);
    };
    work(1);
    let mut letters = DeadLetters::open(&log, "jobs.g.dead").unwrap();
    let sent = letters.redrive(0).unwrap();
    assert_eq!(sent.offset, Some(1));
    assert!(letters.redrive(0).is_err());
    let mut reader = topic.reader(Start::Offset(1)).unwrap();
    let record = reader.next().unwrap().unwrap();
    assert_eq!((record.payload(), record.key()), (&b"bad"[..], Some(&b"k"[..])));
    let headers: Vec<_> =
        record.headers().filter(|(name, _)| !name.starts_with("deaddrop.")).collect();
    assert_eq!(headers, [("dead-letter-note", &b"mine"[..])], "the letter's own are gone");
    work(1);
    let offsets: Vec<_> = (0..letters.topic().high_watermark().unwrap())
        .filter(|&offset| {
            let mut reader = letters.topic().reader(Start::Offset(offset)).unwrap();
            let letter = DeadLetter::of(&reader.next().unwrap().unwrap());
            letter.is_some_and(|letter| letter.offset == 1)
        })
        .collect();
    assert_eq!(offsets.len(), 1, "the record that failed again has a letter too");
    assert_eq!(letters.redrive(offsets[0]).unwrap().offset, Some(2));
    // Also for junk in the request topic of a service.
    make_topics(&log, "s");
    log.open_topic("s.requests").unwrap().append(&Record::new("junk")).unwrap();
    serve(&log, "", 1);
    redrive(&log.open_topic("s.dead").unwrap(), 0).unwrap();
    serve(&log, "", 1);
}

#[test]
fn a_lost_mark_does_not_send_a_letter_twice() {
    let (dir, log, done, late) = scene();
    let (client, _) = with_letter(&log, &done, &late);
    let mut letters = DeadLetters::open(&log, "s.dead").unwrap();
    let sent = letters.redrive(0).unwrap();
    let path = letters.topic().dir().with_file_name("s.dead.marks");
    let path = path.join("00000000000000000000.seg");
    drop((letters, client, log));
    let bytes = std::fs::read(&path).unwrap();
    let mut damaged = bytes.clone();
    let mut count = 0;
    for at in 0..bytes.len() - 20 {
        if bytes[at..].starts_with(b"dead-letter-marked-offset") {
            damaged[at] ^= 1;
            count += 1;
        }
    }
    assert_eq!(count, 2);
    std::fs::write(&path, damaged).unwrap();
    let log = Log::open_or_create(dir.path()).unwrap();
    let mut letters = DeadLetters::open(&log, "s.dead").unwrap();
    assert_eq!(letters.redrive(0).unwrap().id, sent.id, "it finds the request that was sent");
    assert_eq!(redrives(&log).len(), 1);
    assert_eq!(letters.redrive_again(0).map(|_| redrives(&log).len()).unwrap(), 2);
}

#[test]
fn doubled_announcements_bring_no_second_outcome() {
    let (_dir, log, done, late) = scene();
    let (client, _) = with_letter(&log, &done, &late);
    redrive(&log.open_topic("s.dead").unwrap(), 0).unwrap();
    serve(&log, "", 1);
    let replies = log.open_topic("s.replies").unwrap();
    let copies: Vec<Record> = (0..replies.high_watermark().unwrap())
        .map(|offset| {
            let mut reader = replies.reader(Start::Offset(offset)).unwrap();
            let record = reader.next().unwrap().unwrap();
            let copy = Record::new(record.payload());
            record.headers().fold(copy, |copy, (name, value)| copy.header_as_stored(name, value))
        })
        .collect();
    let append = || copies.iter().all(|copy| replies.append(copy).is_ok());
    assert!(append());
    poll_all(&client);
    assert_eq!((client.outstanding_count(), done.take()), (0, vec![seen("ctx", "x")]));
    drop(client);
    assert!(append());
    let client = open_client(&log, &done, &late);
    poll_all(&client);
    assert_eq!((client.outstanding_count(), done.take()), (0, vec![]));
    let kinds: Vec<Kind> = crate::service::reply_kinds(&log, "s");
    assert_eq!(kinds.iter().filter(|kind| **kind == Kind::Redriven).count(), 3);
}

#[test]
fn a_redrive_that_was_cancelled_before_it_was_sent_is_sent_as_another_request() {
    let (dir, log, done, late) = scene();
    let (client, _) = with_letter(&log, &done, &late);
    kill_at(dir.path(), "redrive.announced");
    poll_all(&client);
    let announced = client.outstanding().unwrap()[0].id.clone();
    client.cancel(&announced).unwrap();
    drain(&client);
    assert_eq!(done.take(), [seen("ctx", "Cancelled")]);
    let sent = DeadLetters::open(&log, "s.dead").unwrap().redrive(0).unwrap();
    assert_ne!(sent.id, announced.to_string());
    assert_eq!(redrives(&log).len(), 1);
    serve(&log, "", 1);
    poll_all(&client);
    drain(&client);
    assert_eq!((done.take(), late.take()), (vec![seen("ctx", "x")], vec![]));
}

#[test]
fn a_damaged_letter_does_not_hide_those_after_it() {
    let (dir, log, done, late) = scene();
    make_topics(&log, "s");
    let client = open_client(&log, &done, &late);
    for payload in ["first-letter", "second-letter"] {
        client.request("s", &Record::new(payload)).unwrap().send("done").unwrap();
        serve(&log, payload, 1);
    }
    drain(&client);
    crate::client_damage::damage(dir.path(), "s.dead", "first-letter");
    let requests = log.open_topic("s.requests").unwrap();
    assert!(matches!(redrive(&requests, 0), Err(Error::NotFound { .. })));
    assert_eq!(redrive(&requests, 1).unwrap().offset, Some(2));
    serve(&log, "", 1);
}

/// Serves until `count` requests are settled; those with this payload are retried in an hour.
fn serve_but(log: &Log, held: &'static str, count: u64) {
    let hour = Duration::from_secs(3600);
    let options =
        ServerOptions::default().with_topic(options()).with_retry_first(hour).with_retry_most(hour);
    drop(serve_with(log, options, held, count));
}

fn ids(client: &Client) -> Vec<String> {
    client.outstanding().unwrap().iter().map(|one| one.id.to_string()).collect()
}

#[test]
fn a_redrive_that_was_answered_is_not_open_for_a_client_that_still_waits_for_an_older_request() {
    let (_dir, log, done, late) = scene();
    let (client, _) = with_letter(&log, &done, &late);
    let held = client.request("s", &Record::new("held")).unwrap().send("done").unwrap();
    redrive(&log.open_topic("s.dead").unwrap(), 0).unwrap();
    serve_but(&log, "held", 1);
    poll_all(&client);
    assert_eq!((done.take(), ids(&client)), (vec![seen("ctx", "x")], vec![held.to_string()]));
    drop(client);
    // It reads from the older request on, so it reads the announcement too.
    let client = open_client(&log, &done, &late);
    assert_eq!(ids(&client), [held.to_string()]);
}

#[test]
fn a_redrive_that_is_announced_is_open_after_restarts_whatever_else_the_client_waits_for() {
    // Their random ids decide which of two requests is the older one.
    for _ in 0..8 {
        let (dir, log, done, late) = scene();
        let (client, _) = with_letter(&log, &done, &late);
        kill_at(dir.path(), "redrive.announced");
        poll_all(&client);
        let announced = ids(&client);
        for payload in ["held", "other"] {
            client.request("s", &Record::new(payload)).unwrap().send("done").unwrap();
        }
        serve_but(&log, "held", 1);
        poll_all(&client);
        drop(client);
        let client = open_client(&log, &done, &late);
        assert!(ids(&client).contains(&announced[0]), "{announced:?}: {:?}", ids(&client));
        assert_eq!(client.outstanding_count(), 2);
    }
}
