use std::path::Path;
use std::sync::Arc;

use fsys::{JournalHandle, JournalReader};

use crate::subject::{Each, Promise, Subject, Work, Writer};

pub(super) struct Fsys;

impl Subject for Fsys {
    fn name(&self) -> &'static str {
        "fsys"
    }

    fn usage(&self) -> &'static str {
        "a journal with default options: `append`, `append_batch`, `sync_through`; `JournalReader::iter`; \
         no lock keeps a second writing process out, which overwrites"
    }

    fn promise(&self, work: Work) -> Result<Promise, &'static str> {
        Ok(if work == Work::Durable { Promise::ALL } else { Promise::VISIBLE })
    }

    fn open(&self, dir: &Path, syncs: bool, threads: usize) -> Vec<Box<dyn Writer>> {
        let files = fsys::builder().build().unwrap();
        let journal = Arc::new(files.journal(dir.join("journal")).unwrap());
        (0..threads).map(|_| Box::new(Appends { journal: journal.clone(), syncs }) as _).collect()
    }

    fn reader(&self, dir: &Path) -> Box<dyn FnMut(Each<'_>)> {
        let mut reader = JournalReader::open(&dir.join("journal")).unwrap();
        Box::new(move |each| reader.iter().for_each(|record| each(&record.unwrap().payload)))
    }
}

struct Appends {
    journal: Arc<JournalHandle>,
    syncs: bool,
}

impl Writer for Appends {
    fn append(&mut self, record: &[u8]) {
        let end = self.journal.append(record).unwrap();
        if self.syncs {
            self.journal.sync_through(end).unwrap();
        }
    }

    fn append_batch(&mut self, records: &[&[u8]]) {
        let end = self.journal.append_batch(records).unwrap();
        if self.syncs {
            self.journal.sync_through(end).unwrap();
        }
    }
}
