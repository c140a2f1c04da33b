//! Records that end their process beside slow handlers, or inside another handler, are found.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;
use std::time::Duration;

use deaddrop::group::{DeadLetter, GroupOptions, HandlerError, Job, Worker, WorkerOptions};
use deaddrop::{Durability, Log, Record, Start, Topic, TopicOptions};

use crate::child::{self, Child, GUARD};

/// More deaths than it takes to find the record.
const DEATHS_MOST: u32 = 8;

fn open_worker(
    topic: &Topic,
    handler: impl FnMut(&Job) -> Result<(), HandlerError> + Send + 'static,
) -> Worker {
    let options = WorkerOptions::default().with_max_attempts(1);
    topic.group("g", GroupOptions::default()).unwrap().worker(options, handler).unwrap()
}

fn die_of(job: &Job) {
    if job.payload() == b"deadly" {
        child::raise(libc::SIGKILL);
    }
}

/// Role: a worker beside many others, whose handlers hardly ever end together within the time that a
/// suspect first waits for them.
pub(crate) fn slow(words: &[&str]) {
    const OTHERS: u32 = 12;
    let log = Log::open_or_create(words[0]).unwrap();
    let inner = log.open_topic("inner").unwrap();
    let begun = Arc::new(AtomicU32::new(0));
    let work = |_| {
        let begun = Arc::clone(&begun);
        let worker = open_worker(&inner, move |job| {
            begun.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(100 + job.offset() * 7919 % 290));
            Ok(())
        });
        worker.spawn().unwrap()
    };
    let mut workers: Vec<_> = (0..OTHERS).map(work).collect();
    while begun.load(Ordering::Relaxed) < OTHERS {
        std::thread::yield_now();
    }
    let orders = log.open_topic("orders").unwrap();
    let mortal = open_worker(&orders, |job| {
        die_of(job);
        Ok(())
    });
    workers.push(mortal.spawn().unwrap());
    child::listen();
    drop(workers);
}

/// Role: a worker whose handler works on another topic, and may die afterwards.
pub(crate) fn nested(words: &[&str]) {
    let log = Log::open_or_create(words[0]).unwrap();
    let inner = log.open_topic("inner").unwrap();
    let group = inner.group("g", GroupOptions::default()).unwrap();
    let mut within = open_worker(&inner, |job| {
        die_of(job);
        Ok(())
    });
    let mut outer = open_worker(&log.open_topic("orders").unwrap(), move |job| {
        inner.append(&Record::new("good"))?;
        while group.info()?.lag > 0 {
            within.poll(Duration::from_millis(10))?;
        }
        die_of(job);
        Ok(())
    });
    assert_eq!(outer.poll(GUARD).unwrap(), 1);
}

fn topics(dir: &Path) -> (Log, Topic, Topic) {
    let log = Log::open_or_create(dir).unwrap();
    let options = TopicOptions::default().with_durability(Durability::ProcessCrash);
    let topic = |name| log.topic_with(name, options).unwrap();
    let (orders, inner) = (topic("orders"), topic("inner"));
    (log, orders, inner)
}

/// The payloads of the dead letters of a topic's group.
fn letters(log: &Log, topic: &Topic) -> Vec<Vec<u8>> {
    let Ok(dead) = log.open_topic(&format!("{}.g.dead", topic.name())) else { return vec![] };
    let mut reader = dead.reader(Start::First).unwrap();
    let mut found = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        assert_eq!(DeadLetter::of(&record).unwrap().reason, "its handler died with the process");
        found.push(record.payload().to_vec());
    }
    found
}

#[test]
fn a_record_that_kills_its_process_beside_slow_handlers_is_found() {
    let dir = crate::dir();
    let (log, orders, inner) = topics(dir.path());
    orders.append(&Record::new("deadly")).unwrap();
    for _ in 0..6000 {
        inner.append(&Record::new("slow")).unwrap();
    }
    let mut deaths = 0;
    while letters(&log, &orders).is_empty() {
        let mut child = Child::spawn(&["slow-handlers", dir.path().to_str().unwrap()]);
        while letters(&log, &orders).is_empty() {
            if let Ok(None) = child.hear_for(Duration::from_millis(50)) {
                deaths += 1;
                break;
            }
        }
        assert!(deaths <= DEATHS_MOST, "it is never blamed");
    }
    assert_eq!(letters(&log, &orders), [b"deadly"]);
    assert!(letters(&log, &inner).is_empty(), "no bystander is blamed");
}

#[test]
fn of_a_handler_and_the_one_that_it_calls_the_one_that_kills_the_process_is_found() {
    for of_outer in [false, true] {
        let dir = crate::dir();
        let (log, orders, inner) = topics(dir.path());
        let (outer, within) = if of_outer { ("deadly", "good") } else { ("good", "deadly") };
        orders.append(&Record::new(outer)).unwrap();
        inner.append(&Record::new(within)).unwrap();
        let mut deaths = 0;
        while !Child::spawn(&["nested-handlers", dir.path().to_str().unwrap()]).wait().success() {
            deaths += 1;
            assert!(deaths <= DEATHS_MOST, "it is never blamed");
        }
        let expected = |is_it: bool| if is_it { vec![b"deadly".to_vec()] } else { vec![] };
        assert_eq!(letters(&log, &orders), expected(of_outer));
        assert_eq!(letters(&log, &inner), expected(!of_outer));
    }
}
