use std::path::Path;

use commitlog::message::{MessageBuf, MessageSet};
use commitlog::{CommitLog, LogOptions, ReadLimit};

use crate::subject::{Each, Promise, Subject, Work, Writer};

pub(super) struct Commitlog;

impl Subject for Commitlog {
    fn name(&self) -> &'static str {
        "commitlog"
    }

    fn usage(&self) -> &'static str {
        "`append_msg`, and `append` of a `MessageBuf`; `read` in pieces of 256 KiB (the default of 8 KiB \
         is slower); no lock, and no recovery: its index and its log can differ after a kill"
    }

    fn promise(&self, work: Work) -> Result<Promise, &'static str> {
        match work {
            Work::Durable => Err("its `flush` does not sync"),
            _ => Ok(Promise::KILL),
        }
    }

    fn open(&self, dir: &Path, _syncs: bool, _threads: usize) -> Vec<Box<dyn Writer>> {
        vec![Box::new(Appends(CommitLog::new(LogOptions::new(dir.join("log"))).unwrap()))]
    }

    fn reader(&self, dir: &Path) -> Box<dyn FnMut(Each<'_>)> {
        let log = CommitLog::new(LogOptions::new(dir.join("log"))).unwrap();
        let mut next = 0;
        Box::new(move |each| loop {
            let messages = log.read(next, ReadLimit::max_bytes(256 << 10)).unwrap();
            let Some(last) = messages.iter().last() else { break };
            next = last.offset() + 1;
            messages.iter().for_each(|message| each(message.payload()));
        })
    }
}

struct Appends(CommitLog);

impl Writer for Appends {
    fn append(&mut self, record: &[u8]) {
        self.0.append_msg(record).unwrap();
    }

    fn append_batch(&mut self, records: &[&[u8]]) {
        let mut batch: MessageBuf = records.iter().collect();
        self.0.append(&mut batch).unwrap();
    }
}
