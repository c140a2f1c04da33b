use std::path::Path;
use std::sync::Arc;

use logdb::{Config, LogDb};

use crate::subject::{Each, Promise, Subject, Work, Writer};

pub(super) struct Logdb;

impl Subject for Logdb {
    fn name(&self) -> &'static str {
        "logdb"
    }

    fn usage(&self) -> &'static str {
        "`append`, `append_batch`, one `flush` at the end, and after each append in durable rows; `scan`; \
         default options"
    }

    fn promise(&self, work: Work) -> Result<Promise, &'static str> {
        // An append stores into a ring in the memory of the process.
        Ok(if work == Work::Durable { Promise::POWER } else { Promise::NOTHING })
    }

    fn open(&self, dir: &Path, syncs: bool, threads: usize) -> Vec<Box<dyn Writer>> {
        let log = Arc::new(opened(dir));
        (0..threads).map(|_| Box::new(Appends { log: log.clone(), syncs }) as _).collect()
    }

    fn reader(&self, dir: &Path) -> Box<dyn FnMut(Each<'_>)> {
        let log = opened(dir);
        Box::new(move |each| {
            let records = log.scan(0, log.durable_cursor()).unwrap();
            records.for_each(|record| each(&record.unwrap().content));
        })
    }
}

fn opened(dir: &Path) -> LogDb {
    LogDb::open(Config { data_dir: dir.join("log"), ..Config::default() }).unwrap()
}

struct Appends {
    log: Arc<LogDb>,
    syncs: bool,
}

impl Writer for Appends {
    fn append(&mut self, record: &[u8]) {
        self.log.append(record).unwrap();
        if self.syncs {
            self.log.flush().unwrap();
        }
    }

    fn append_batch(&mut self, records: &[&[u8]]) {
        self.log.append_batch(records).unwrap();
    }

    fn finish(&mut self) {
        self.log.flush().unwrap();
    }
}
