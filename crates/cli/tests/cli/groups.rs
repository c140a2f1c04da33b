//! `groups`: its output, and that it changes nothing unless it is asked to.

use std::time::Duration;

use deaddrop::group::{Group, GroupOptions, Poison, Worker, WorkerOptions};
use deaddrop::service::{HandlerError, Outcome, Reply};
use deaddrop::{Log, Record, Start, Topic};
use serde_json::Value;

use crate::support::{flip, snapshot, Scratch};

const LANES: u32 = 4;
const SOON: Duration = Duration::from_secs(30);

/// A topic of a hundred records with a group of four lanes.
fn shipping(scratch: &Scratch) -> (Topic, Group) {
    let topic = scratch.topic_of("t", 0..100);
    let options = GroupOptions::default().with_lanes(LANES).with_start(Start::First);
    let group = topic.group("shipping", options).unwrap();
    (topic, group)
}

/// A worker whose lane stops at a record that fails.
fn stopping(group: &Group, fails: impl Fn(u64) -> bool + Send + 'static) -> Worker {
    let options = WorkerOptions::default().with_max_attempts(1).with_poison(Poison::StopLane);
    let handler = move |job: &deaddrop::group::Job| match fails(job.offset()) {
        true => Err(HandlerError::retry("refused")),
        false => Ok(()),
    };
    group.worker(options, handler).unwrap()
}

/// Works until only stopped records are left.
fn work(worker: &mut Worker) {
    for _ in 0..1000 {
        if worker.poll(Duration::ZERO).unwrap() == 0 && worker.stats().lanes_taken > 0 {
            return;
        }
    }
    panic!("the work never ends: {:?}", worker.stats());
}

fn shown(scratch: &Scratch, args: &[&str]) -> Vec<Value> {
    scratch.run(&[&["groups", "--json"], args].concat()).expect(0).json()
}

#[test]
fn groups_are_shown_with_lag_lanes_and_owners_and_nothing_is_written() {
    let scratch = Scratch::new();
    let (_topic, group) = shipping(&scratch);
    let before = snapshot(&scratch.log());
    let row = &shown(&scratch, &[])[0];
    assert_eq!((&row["topic"], &row["group"]), (&"t".into(), &"shipping".into()));
    assert_eq!((&row["committed"], &row["lag"]), (&0.into(), &100.into()));
    assert_eq!((&row["held"], &row["lanes"]), (&0.into(), &LANES.into()));
    let text = scratch.run(&["groups", "t"]).expect(0).text();
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines[1], ["t", "shipping", "0", "100", "0/4", "-", "-", "-"]);
    // This process has the topic open, and its background may have work left. A command that writes
    // would write every time.
    let leaves_all_as_it_was = |before| {
        scratch.run(&["groups", "t"]).expect(0);
        snapshot(&scratch.log()) == before
    };
    let mut is_same = snapshot(&scratch.log()) == before;
    for _ in 0..50 {
        is_same = is_same || leaves_all_as_it_was(snapshot(&scratch.log()));
    }
    assert!(is_same, "reading changed a file");

    let mut worker = stopping(&group, |_| false);
    work(&mut worker);
    let row = &shown(&scratch, &["t", "shipping"])[0];
    assert_eq!((&row["committed"], &row["lag"]), (&100.into(), &0.into()));
    assert_eq!((&row["held"], &row["owners"][0]), (&LANES.into(), &std::process::id().into()));
}

#[test]
fn a_record_in_flight_is_shown_with_state_and_attempt() {
    let scratch = Scratch::new();
    let (_topic, group) = shipping(&scratch);
    let (at_work, seen) = std::sync::mpsc::channel();
    let (go, told) = std::sync::mpsc::channel::<()>();
    let handler = move |job: &deaddrop::group::Job| {
        at_work.send(job.lane()).unwrap();
        told.recv()?;
        Ok(())
    };
    let running = group.worker(WorkerOptions::default(), handler).unwrap().spawn().unwrap();
    let lane = seen.recv().unwrap();
    let row = &shown(&scratch, &["t"])[0];
    let hand = &row["in_hand"][0];
    assert_eq!((&hand["lane"], &hand["state"]), (&lane.into(), &"running".into()));
    assert_eq!((&hand["offset"], &hand["attempt"]), (&0.into(), &1.into()));
    let lanes = shown(&scratch, &["t", "shipping", "--lanes"]);
    assert_eq!(lanes.len(), LANES as usize);
    assert_eq!(lanes[lane as usize]["in_hand"]["state"], "running");
    let text = scratch.run(&["groups", "t", "shipping", "--lanes"]).expect(0).text();
    assert!((2..=1 + LANES as usize).contains(&text.lines().count()), "{text}");
    assert!(text.contains("running") && text.contains("process"), "{text}");
    drop(go);
    drop(running);
}

#[test]
fn a_stopped_lane_is_resumed_only_when_executed() {
    let scratch = Scratch::new();
    let (_topic, group) = shipping(&scratch);
    let stops = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let fails = std::sync::Arc::clone(&stops);
    let mut worker =
        stopping(&group, move |at| at == 3 && fails.load(std::sync::atomic::Ordering::Relaxed));
    work(&mut worker);
    let row = &shown(&scratch, &["t"])[0];
    let lane = row["stopped"][0].as_u64().unwrap().to_string();
    let hand = &row["in_hand"][0];
    assert_eq!((&hand["offset"], &hand["state"]), (&3.into(), &"stopped".into()));
    let resume = |lane: &str, more: &[&str]| {
        scratch.run(&[&["groups", "resume", "t", "shipping", lane], more].concat())
    };
    let text = resume(&lane, &[]).expect(0).text();
    assert!(text.contains("would be resumed") && text.contains("--execute"), "{text}");
    assert_eq!(shown(&scratch, &["t"])[0]["stopped"][0].to_string(), lane);
    stops.store(false, std::sync::atomic::Ordering::Relaxed);
    resume(&lane, &["--execute"]).expect(0);
    worker.poll(SOON).unwrap();
    work(&mut worker);
    assert_eq!(shown(&scratch, &["t"])[0]["committed"], 100);
    resume(&lane, &["--execute"]).expect(1);
    resume("4", &["--execute"]).expect(2);
}

#[test]
fn the_record_at_which_a_lane_stopped_is_skipped_only_when_executed() {
    let scratch = Scratch::new();
    let (_topic, group) = shipping(&scratch);
    let mut worker = stopping(&group, |at| at == 3);
    work(&mut worker);
    let lane = shown(&scratch, &["t"])[0]["stopped"][0].as_u64().unwrap().to_string();
    let skip =
        |more: &[&str]| scratch.run(&[&["groups", "skip", "t", "shipping", &lane], more].concat());
    let text = skip(&[]).expect(0).text();
    assert!(text.contains("would be resumed") && text.contains("after offset 3"), "{text}");
    assert!(text.contains("nothing was changed: add --execute"), "{text}");
    assert_eq!(shown(&scratch, &["t"])[0]["stopped"][0].to_string(), lane);
    let done = skip(&["--execute", "--json"]).expect(0).json();
    assert_eq!((&done[0]["offset"], &done[0]["executed"]), (&3.into(), &true.into()));
    worker.poll(SOON).unwrap();
    work(&mut worker);
    assert_eq!(shown(&scratch, &["t"])[0]["committed"], 100);
    let log = Log::open_or_create(scratch.log()).unwrap();
    let dead = log.open_topic("t.shipping.dead").unwrap();
    let mut reader = dead.reader(Start::First).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().payload(), crate::support::payload(3).as_bytes());
    assert!(reader.next().unwrap().is_none());
    skip(&["--execute"]).expect(1);
}

#[test]
fn a_reset_happens_only_when_executed_and_handles_the_records_again() {
    let scratch = Scratch::new();
    let (_topic, group) = shipping(&scratch);
    work(&mut stopping(&group, |_| false));
    let reset = |to: &str, more: &[&str]| {
        scratch.run(&[&["groups", "reset", "t", "shipping", "--to", to], more].concat())
    };
    let text = reset("-5", &[]).expect(0).text();
    assert!(text.contains("would be set from 100 to 95"), "{text}");
    assert_eq!(shown(&scratch, &["t"])[0]["committed"], 100);
    let done = &reset("-5", &["--execute", "--json"]).expect(0).json()[0];
    assert_eq!((&done["to"], &done["executed"]), (&95.into(), &true.into()));
    let row = &shown(&scratch, &["t"])[0];
    assert_eq!((&row["committed"], &row["durable"]), (&95.into(), &95.into()));
    let mut worker = stopping(&group, |_| false);
    work(&mut worker);
    assert_eq!(worker.stats().handled, 5);
    drop(worker);
    reset("101", &["--execute"]).expect(1);
    let ran = scratch.run(&["groups", "reset", "t", "other", "--to", "0"]).expect(1);
    assert!(ran.stderr.contains("it has shipping"), "{}", ran.stderr);
}

#[test]
fn a_service_that_is_reset_answers_no_request_twice() {
    let scratch = Scratch::new();
    let log = Log::open_or_create(scratch.log()).unwrap();
    let handler = |request: &deaddrop::service::Request<'_>| Ok(Reply::new(request.payload()));
    let client = log.client("shop").open().unwrap();
    let mut calls: Vec<_> = (0..5)
        .map(|index| client.request("echo", &Record::new(index.to_string())).unwrap())
        .map(|request| request.call().unwrap())
        .collect();
    let running = log.server("echo", handler).unwrap().spawn().unwrap();
    for call in &mut calls {
        call.wait_timeout(SOON).unwrap().expect("it is served");
    }
    running.stop().unwrap();
    let args = ["groups", "reset", "echo.requests", "server", "--to", "start", "--execute"];
    scratch.run(&args).expect(0);
    let mut call = client.request("echo", &Record::new("last")).unwrap().call().unwrap();
    let requests = log.topic("echo.requests").unwrap();
    let group = requests.group("server", GroupOptions::default()).unwrap();
    let running = log.server("echo", handler).unwrap().spawn().unwrap();
    let done = call.wait_timeout(SOON).unwrap().expect("it is served");
    for offset in 0..6 {
        assert!(group.wait_for(offset, SOON).unwrap());
    }
    running.stop().unwrap();
    assert!(matches!(done.outcome(), Outcome::Reply(_)), "{done:?}");
    assert_eq!(log.topic("echo.replies").unwrap().high_watermark().unwrap(), 6);
}

#[test]
fn a_group_with_workers_is_left_alone_with_code_5() {
    let scratch = Scratch::new();
    let (_topic, group) = shipping(&scratch);
    let mut worker = stopping(&group, |_| false);
    for lanes_held in [false, true] {
        if lanes_held {
            work(&mut worker);
        }
        for args in [vec!["reset", "t", "shipping", "--to", "0"], vec!["delete", "t", "shipping"]] {
            scratch.run(&[vec!["groups"], args, vec!["--execute"]].concat()).expect(5);
        }
    }
    assert_eq!(group.info().unwrap().committed, 100);
}

#[test]
fn adjacent_identical_lanes_share_a_row() {
    let scratch = Scratch::new();
    let (_topic, group) = shipping(&scratch);
    let lanes = || {
        let text = scratch.run(&["groups", "t", "shipping", "--lanes"]).expect(0).text();
        let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
        text.lines().skip(1).filter_map(first).collect::<Vec<_>>()
    };
    assert_eq!(lanes(), ["0-3"]);
    assert_eq!(shown(&scratch, &["t", "shipping", "--lanes"]).len(), LANES as usize);
    let mut worker = stopping(&group, |offset| offset == 7);
    work(&mut worker);
    let all = shown(&scratch, &["t", "shipping", "--lanes"]);
    let stopped = all.iter().find(|lane| !lane["in_hand"].is_null()).unwrap();
    let stopped = stopped["lane"].to_string();
    assert!(lanes().contains(&stopped), "it has a row of its own: {:?}", lanes());
}

#[test]
fn a_delete_happens_only_when_executed() {
    let scratch = Scratch::new();
    let _group = shipping(&scratch);
    let text = scratch.run(&["groups", "delete", "t", "shipping"]).expect(0).text();
    assert!(text.contains("would be deleted"), "{text}");
    assert_eq!(shown(&scratch, &["t"]).len(), 1);
    scratch.run(&["groups", "delete", "t", "shipping", "--execute"]).expect(0);
    assert!(shown(&scratch, &["t"]).is_empty());
    scratch.run(&["groups", "delete", "t", "shipping", "--execute"]).expect(1);
    scratch.run(&["groups", "t", "shipping"]).expect(1);
}

#[test]
fn an_unreadable_group_is_shown_as_such_with_code_4() {
    let scratch = Scratch::new();
    let _group = shipping(&scratch);
    flip(&scratch.log().join("topics/t/groups/shipping"), 3, 0);
    let rows = scratch.run(&["groups", "--json"]).expect(4).json();
    assert!(rows[0]["error"].as_str().unwrap().contains("corruption"), "{}", rows[0]);
    scratch.run(&["groups", "reset", "t", "shipping", "--to", "0", "--execute"]).expect(4);
}
