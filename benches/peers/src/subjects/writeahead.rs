use std::path::Path;
use std::sync::Arc;

use futures::executor::block_on;
use futures::StreamExt;
use writeahead::{SimpleFile, WriteAhead, WriteAheadOptions, WriteHandle};

use crate::subject::{Each, Promise, Subject, Work, Writer};

pub(super) struct Writeahead;

impl Subject for Writeahead {
    fn name(&self) -> &'static str {
        "writeahead"
    }

    fn usage(&self) -> &'static str {
        "`write` and `write_batch` of a handle for each thread; `create_stream`; default options"
    }

    fn promise(&self, work: Work) -> Result<Promise, &'static str> {
        match work {
            Work::Append => Err("every write syncs"),
            _ => Ok(Promise::POWER),
        }
    }

    fn open(&self, dir: &Path, _syncs: bool, threads: usize) -> Vec<Box<dyn Writer>> {
        let wal = Arc::new(started(dir));
        let writer = || Box::new(Writes { handle: wal.writer().unwrap(), _wal: wal.clone() }) as _;
        (0..threads).map(|_| writer()).collect()
    }

    fn reader(&self, dir: &Path) -> Box<dyn FnMut(Each<'_>)> {
        let wal = started(dir);
        Box::new(move |each| {
            let mut stream = wal.create_stream().unwrap();
            block_on(async {
                while let Some(entry) = stream.next().await {
                    each(&entry.unwrap().1);
                }
            });
        })
    }
}

fn started(dir: &Path) -> WriteAhead<SimpleFile> {
    let options = WriteAheadOptions { log_dir: dir.join("wal"), ..Default::default() };
    let mut wal = WriteAhead::with_options(options);
    wal.start().unwrap();
    wal
}

struct Writes {
    handle: WriteHandle,
    _wal: Arc<WriteAhead<SimpleFile>>,
}

impl Writer for Writes {
    fn append(&mut self, record: &[u8]) {
        block_on(self.handle.write(record.to_vec())).unwrap();
    }

    fn append_batch(&mut self, records: &[&[u8]]) {
        let records = records.iter().map(|record| record.to_vec()).collect();
        block_on(self.handle.write_batch(records)).unwrap();
    }
}
