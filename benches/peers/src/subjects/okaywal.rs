use std::path::Path;

use okaywal::{Configuration, LogVoid, WriteAheadLog};

use crate::subject::{Promise, Subject, Work, Writer};

pub(super) struct Okaywal;

impl Subject for Okaywal {
    fn name(&self) -> &'static str {
        "okaywal"
    }

    fn usage(&self) -> &'static str {
        "an entry of one chunk, `commit`; default options"
    }

    fn promise(&self, work: Work) -> Result<Promise, &'static str> {
        match work {
            Work::Durable => Ok(Promise::POWER),
            Work::Append => Err("every commit syncs"),
            Work::Read | Work::Reopen => {
                Err("it keeps records until its next checkpoint, under 1 MiB")
            }
        }
    }

    fn open(&self, dir: &Path, _syncs: bool, threads: usize) -> Vec<Box<dyn Writer>> {
        let log = Configuration::default_for(dir.join("wal")).open(LogVoid).unwrap();
        (0..threads).map(|_| Box::new(Commits(log.clone())) as _).collect()
    }
}

struct Commits(WriteAheadLog);

impl Writer for Commits {
    fn append(&mut self, record: &[u8]) {
        let mut entry = self.0.begin_entry().unwrap();
        entry.write_chunk(record).unwrap();
        entry.commit().unwrap();
    }
}
