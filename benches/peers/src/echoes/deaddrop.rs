use std::path::Path;
use std::time::Duration;

use deaddrop::service::{Reply, Request, ServerOptions};
use deaddrop::{BorrowedRecord, Durability, Log, Reader, Record, Start, Stop, Topic, TopicOptions};

use super::Echo;
use crate::subject::Promise;

const PATIENCE: Duration = Duration::from_secs(10);

fn options() -> TopicOptions {
    TopicOptions::default().with_durability(Durability::ProcessCrash)
}

pub(super) struct Topics;

impl Echo for Topics {
    fn name(&self) -> &'static str {
        "deaddrop, two topics"
    }

    fn usage(&self) -> &'static str {
        "`append` to one topic, `wait_timeout` on the other; `ProcessCrash`, else defaults"
    }

    fn promise(&self, _cpus: usize) -> Result<Promise, &'static str> {
        Ok(Promise::VISIBLE)
    }

    fn serve(&self, dir: &Path, _size: usize, ready: &dyn Fn()) {
        let (mut requests, replies) = opened(dir, "requests", "replies");
        ready();
        loop {
            let found = requests.wait_timeout(PATIENCE).unwrap();
            let Some(record) = found else { continue };
            let payload = record.payload().to_vec();
            replies.append(&BorrowedRecord::new(&payload)).unwrap();
        }
    }

    fn client(&self, dir: &Path, request: &[u8]) -> Box<dyn FnMut()> {
        let (mut replies, requests) = opened(dir, "replies", "requests");
        let request = request.to_vec();
        Box::new(move || {
            requests.append(&BorrowedRecord::new(&request)).unwrap();
            assert!(replies.wait_timeout(PATIENCE).unwrap().is_some());
        })
    }
}

fn opened(dir: &Path, read: &str, append: &str) -> (Reader, Topic) {
    let log = Log::open_or_create(dir).unwrap();
    let reader = log.topic_with(read, options()).unwrap().reader(Start::End).unwrap();
    (reader, log.topic_with(append, options()).unwrap())
}

pub(super) struct Service;

impl Echo for Service {
    fn name(&self) -> &'static str {
        "deaddrop, service"
    }

    fn usage(&self) -> &'static str {
        "`call` and `wait_timeout`, answered once even if the server crashes; `ProcessCrash`, else \
         defaults"
    }

    fn promise(&self, _cpus: usize) -> Result<Promise, &'static str> {
        Ok(Promise::VISIBLE)
    }

    fn serve(&self, dir: &Path, _size: usize, ready: &dyn Fn()) {
        let log = Log::open_or_create(dir).unwrap();
        let echo = |request: &Request<'_>| Ok(Reply::new(request.payload()));
        let options = ServerOptions::default().with_topic(options());
        let mut server = log.server_with("echo", options, echo).unwrap();
        ready();
        server.run(&Stop::new()).unwrap();
    }

    fn client(&self, dir: &Path, request: &[u8]) -> Box<dyn FnMut()> {
        let log = Log::open_or_create(dir).unwrap();
        let client = log.client("peers").open().unwrap();
        let record = Record::new(request);
        Box::new(move || {
            let mut call = client.request("echo", &record).unwrap().call().unwrap();
            assert!(call.wait_timeout(PATIENCE).unwrap().is_some());
        })
    }
}
