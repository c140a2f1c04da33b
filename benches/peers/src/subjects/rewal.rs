use std::path::Path;
use std::sync::Arc;

use rewal::{Batch, Wal};

use crate::subject::{Each, Promise, Subject, Work, Writer};

pub(super) struct Rewal;

impl Subject for Rewal {
    fn name(&self) -> &'static str {
        "rewal"
    }

    fn usage(&self) -> &'static str {
        "`append`, `append_batch`, one `flush` at the end; `flush` and `sync` after each append in durable \
         rows; the iterator that borrows; default options"
    }

    fn promise(&self, work: Work) -> Result<Promise, &'static str> {
        // An append puts the record into the queue of a thread that writes.
        Ok(if work == Work::Durable { Promise::POWER } else { Promise::NOTHING })
    }

    fn open(&self, dir: &Path, syncs: bool, threads: usize) -> Vec<Box<dyn Writer>> {
        let wal = Arc::new(Wal::open(dir.join("wal")).build().unwrap());
        (0..threads).map(|_| Box::new(Appends { wal: wal.clone(), syncs }) as _).collect()
    }

    fn reader(&self, dir: &Path) -> Box<dyn FnMut(Each<'_>)> {
        let wal = Wal::open(dir.join("wal")).build().unwrap();
        Box::new(move |each| {
            let mut events = wal.iterator(0).unwrap();
            while let Some(event) = events.next_borrowed().unwrap() {
                each(event.payload);
            }
        })
    }
}

struct Appends {
    wal: Arc<Wal>,
    syncs: bool,
}

impl Writer for Appends {
    fn append(&mut self, record: &[u8]) {
        self.wal.append(record).unwrap();
        if self.syncs {
            self.wal.flush().unwrap();
            self.wal.sync().unwrap();
        }
    }

    fn append_batch(&mut self, records: &[&[u8]]) {
        let mut batch = Batch::with_capacity(records.len());
        records.iter().for_each(|record| batch.add(*record));
        self.wal.append_batch(batch).unwrap();
    }

    fn finish(&mut self) {
        self.wal.flush().unwrap();
    }
}
