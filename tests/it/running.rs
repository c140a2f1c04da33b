//! Work on threads of its own: which errors end it, which do not, and which call reports them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use deaddrop::group::{GroupOptions, HandlerError, Job, Running, WorkerOptions};
use deaddrop::sim::{Op, SimDisk};
use deaddrop::{Durability, Error, Log, Record, Topic, TopicOptions};

use crate::child::{Watchdog, GUARD};

fn topic(disk: &SimDisk) -> (Log, Topic) {
    let log = Log::open_sim(&disk.process(), "/log").unwrap();
    let options = TopicOptions::default().with_durability(Durability::ProcessCrash);
    let topic = log.topic_with("orders", options.with_segment_len(16 << 10));
    (log, topic.unwrap())
}

#[test]
fn a_spawned_worker_continues_after_a_full_disk_and_counts_it() {
    let _watchdog = Watchdog::new();
    let disk = SimDisk::new();
    let (log, topic) = topic(&disk);
    let group = topic.group("g", GroupOptions::default()).unwrap();
    let options = WorkerOptions::default().with_max_attempts(1);
    let worker = group.worker(options, |_| Err(HandlerError::terminal("no"))).unwrap();
    // There is no room to make the dead-letter topic.
    let len: usize = disk.paths().iter().filter_map(|path| disk.read(path)).map(|b| b.len()).sum();
    disk.set_capacity(len as u64);
    let offset = topic.append(&Record::new("x")).unwrap();
    let running = worker.spawn().unwrap();
    for looks in 0.. {
        if running.stats().interrupted > 1 {
            break;
        }
        assert!(looks < 60_000 && !running.has_ended(), "{:?}", running.stats());
        std::thread::park_timeout(Duration::from_millis(1));
    }
    assert!(!group.wait_for(offset, Duration::ZERO).unwrap());
    disk.set_capacity(u64::MAX);
    assert!(group.wait_for(offset, GUARD).unwrap(), "it continues by itself");
    assert_eq!(log.open_topic("orders.g.dead").unwrap().high_watermark().unwrap(), 1);
    running.stop().unwrap();
}

#[test]
fn a_caller_that_waits_for_spawned_work_gets_the_error_that_ended_it() {
    let _watchdog = Watchdog::new();
    let disk = SimDisk::new();
    let (_log, topic) = topic(&disk);
    let group = topic.group("g", GroupOptions::default()).unwrap();
    for _ in 0..200 {
        topic.append(&Record::new(vec![b'x'; 1000])).unwrap();
    }
    let first = topic.trim_before(100).unwrap();
    let running = group.worker(WorkerOptions::default(), |_| Ok(())).unwrap().spawn().unwrap();
    let error = running.wait().unwrap_err();
    assert!(matches!(error, Error::Trimmed { first: at, .. } if at == first), "{error}");
    assert!(disk.calls(Op::SyncData) > 0);
}

#[test]
fn work_that_is_stopped_in_a_handler_that_another_thread_waits_for_ends() {
    let _watchdog = Watchdog::new();
    let disk = SimDisk::new();
    let (_log, topic) = topic(&disk);
    let shared = Arc::new(Mutex::new(()));
    let others = Arc::new(Mutex::new(None::<Running>));
    let [stopper, waiter] = ["stopper", "waiter"].map(|name| {
        let (shared, others) = (Arc::clone(&shared), Arc::clone(&others));
        let group = topic.group(name, GroupOptions::default()).unwrap();
        let handler = move |_: &Job| {
            // Both handlers take the same lock, as a callback that two services share would.
            let _held = shared.lock().unwrap();
            if name == "stopper" {
                let running = loop {
                    match others.lock().unwrap().take() {
                        Some(running) => break running,
                        None => std::thread::yield_now(),
                    }
                };
                running.stop()?;
            }
            Ok(())
        };
        (group.clone(), group.worker(WorkerOptions::default(), handler).unwrap())
    });
    let offset = topic.append(&Record::new("x")).unwrap();
    let held = shared.lock().unwrap();
    let first = stopper.1.spawn().unwrap();
    *others.lock().unwrap() = Some(waiter.1.spawn().unwrap());
    drop(held);
    assert!(stopper.0.wait_for(offset, GUARD).unwrap());
    first.stop().unwrap();
}
