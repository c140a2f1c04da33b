use std::path::Path;
use std::sync::Arc;

use wal_db::Wal;

use crate::subject::{Each, Promise, Subject, Work, Writer};

pub(super) struct WalDb;

impl Subject for WalDb {
    fn name(&self) -> &'static str {
        "wal-db"
    }

    fn usage(&self) -> &'static str {
        "`append`, `append_and_sync`, `iter`; it has no batches: 100 calls; no lock keeps a second \
         process out, which overwrites"
    }

    fn promise(&self, work: Work) -> Result<Promise, &'static str> {
        Ok(if work == Work::Durable { Promise::POWER } else { Promise::KILL })
    }

    fn open(&self, dir: &Path, syncs: bool, threads: usize) -> Vec<Box<dyn Writer>> {
        let wal = Arc::new(Wal::open(dir.join("wal")).unwrap());
        (0..threads).map(|_| Box::new(Appends { wal: wal.clone(), syncs }) as _).collect()
    }

    fn reader(&self, dir: &Path) -> Box<dyn FnMut(Each<'_>)> {
        let wal = Wal::open(dir.join("wal")).unwrap();
        Box::new(move |each| wal.iter().unwrap().for_each(|record| each(record.unwrap().data())))
    }
}

struct Appends {
    wal: Arc<Wal>,
    syncs: bool,
}

impl Writer for Appends {
    fn append(&mut self, record: &[u8]) {
        let append = if self.syncs { Wal::append_and_sync } else { Wal::append };
        let _position = append(&self.wal, record).unwrap();
    }
}
