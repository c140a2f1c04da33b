use std::path::Path;

use yaque::{Receiver, Sender, TryRecvError};

use crate::subject::{Each, Promise, Subject, Work, Writer};

pub(super) struct Yaque;

impl Subject for Yaque {
    fn name(&self) -> &'static str {
        "yaque"
    }

    fn usage(&self) -> &'static str {
        "`try_send` and `try_send_batch`; `try_recv` and `commit` of each record; after a kill \
         `recovery::recover`; one sender and one receiver at a time; no checksum of payloads"
    }

    fn promise(&self, work: Work) -> Result<Promise, &'static str> {
        match work {
            Work::Durable => Err("it never syncs"),
            _ => Ok(Promise::VISIBLE),
        }
    }

    fn open(&self, dir: &Path, _syncs: bool, _threads: usize) -> Vec<Box<dyn Writer>> {
        vec![Box::new(Sends(Sender::open(dir.join("queue")).unwrap()))]
    }

    fn reopen(&self, dir: &Path, syncs: bool) -> Box<dyn Writer> {
        yaque::recovery::recover(dir.join("queue")).unwrap();
        self.open(dir, syncs, 1).remove(0)
    }

    fn reader(&self, dir: &Path) -> Box<dyn FnMut(Each<'_>)> {
        let mut receiver = Receiver::open(dir.join("queue")).unwrap();
        Box::new(move |each| loop {
            match receiver.try_recv() {
                Ok(record) => {
                    each(&record);
                    record.commit().unwrap();
                }
                Err(TryRecvError::QueueEmpty) => break,
                Err(TryRecvError::Io(error)) => panic!("{error}"),
            }
        })
    }

    fn verifies(&self) -> bool {
        false
    }
}

struct Sends(Sender);

impl Writer for Sends {
    fn append(&mut self, record: &[u8]) {
        self.0.try_send(record).unwrap();
    }

    fn append_batch(&mut self, records: &[&[u8]]) {
        self.0.try_send_batch(records.iter().copied()).map_err(|_| "full").unwrap();
    }
}
