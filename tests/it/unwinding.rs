//! Destructors that append, even while a panic unwinds, in a process that continues afterwards.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::time::Duration;

use deaddrop::service::{HandlerError, Outcome};
use deaddrop::{Durability, Log, Record, Start, Topic, TopicOptions};

use crate::child::Child;
use crate::service::make_topics;

/// Appends a record when it is dropped, like a guard that notes how its work ended.
struct Audit(Topic);

impl Drop for Audit {
    fn drop(&mut self) {
        self.0.append(&Record::new("rolled back")).unwrap();
    }
}

fn run(story: &str) {
    let dir = crate::dir();
    let child = Child::spawn(&["unwinds", story, dir.path().to_str().unwrap()]);
    let status = child.wait();
    assert!(status.success(), "{status}");
    let topic = Log::open_or_create(dir.path()).unwrap().open_topic("audit").unwrap();
    let mut reader = topic.reader(Start::First).unwrap();
    for expected in ["rolled back", "after it"] {
        assert_eq!(reader.next().unwrap().unwrap().payload(), expected.as_bytes());
    }
}

#[test]
fn a_destructor_that_appends_while_a_panic_unwinds_appends_and_the_process_continues() {
    run("catch");
}

#[test]
fn a_handler_whose_guard_appends_while_it_panics_fails_one_attempt_and_not_the_server() {
    run("serve");
}

/// Role: one of the stories. A process of its own, because the defect would end it.
pub(crate) fn unwinds(words: &[&str]) {
    let log = Log::open_or_create(Path::new(words[1])).unwrap();
    let options = TopicOptions::default().with_durability(Durability::PowerLoss);
    let audit = log.topic_with("audit", options).unwrap();
    match words[0] {
        "catch" => {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                let _audit = Audit(audit.clone());
                panic!("the work fails");
            }));
            assert!(caught.is_err());
        }
        "serve" => serve(&log, &audit),
        other => panic!("no story {other}"),
    }
    audit.append(&Record::new("after it")).unwrap();
}

fn serve(log: &Log, audit: &Topic) {
    make_topics(log, "s");
    let noted = audit.clone();
    let handler = move |request: &deaddrop::service::Request<'_>| {
        if request.attempt() == 1 {
            let _audit = Audit(noted.clone());
            panic!("the first attempt fails");
        }
        Ok::<_, HandlerError>(deaddrop::service::Reply::new("done"))
    };
    let mut server = log.server("s", handler).unwrap();
    let client = log.client("c").open().unwrap();
    let mut call = client.request("s", &Record::new("x")).unwrap().call().unwrap();
    for _ in 0..600 {
        server.poll(Duration::from_millis(100)).unwrap();
        client.poll(Duration::ZERO).unwrap();
        if let Some(done) = call.wait_timeout(Duration::ZERO).unwrap() {
            assert!(matches!(done.outcome(), Outcome::Reply(_)), "{done:?}");
            return;
        }
    }
    panic!("no outcome");
}
