use std::path::Path;

use khata_rs::{HalfHourly, Queue};

use crate::subject::{Each, Promise, Subject, Work, Writer};

pub(super) struct Khata;

impl Subject for Khata {
    fn name(&self) -> &'static str {
        "khata-rs"
    }

    fn usage(&self) -> &'static str {
        "`write`, `read`; it has no batches: 100 calls; checksums on, which its reader does not check; a \
         file for half an hour, because a second process does not find the default daily files nor the \
         hourly ones; a block of 4 GiB, because it refuses records past the first block; a second writing \
         process overwrites"
    }

    fn promise(&self, work: Work) -> Result<Promise, &'static str> {
        match work {
            Work::Durable => {
                Err("it has no sync for one record (`flush` writes back the whole mapping)")
            }
            _ => Ok(Promise::VISIBLE),
        }
    }

    fn open(&self, dir: &Path, _syncs: bool, _threads: usize) -> Vec<Box<dyn Writer>> {
        vec![Box::new(Writes(queue(dir).writer().unwrap()))]
    }

    fn reader(&self, dir: &Path) -> Box<dyn FnMut(Each<'_>)> {
        let mut reader = queue(dir).reader().unwrap();
        reader.rewind().unwrap();
        Box::new(move |each| {
            while let Some(record) = reader.read().unwrap() {
                each(record);
            }
        })
    }

    fn verifies(&self) -> bool {
        false
    }
}

/// Readers and writers borrow the queue; it lives as long as the process of the pass.
fn queue(dir: &Path) -> &'static Queue {
    let queue = Queue::new(dir.join("queue")).roll_cycle(HalfHourly).checksums(true);
    Box::leak(Box::new(queue.block_size(4 << 30).build().unwrap()))
}

struct Writes(khata_rs::Writer<'static>);

impl Writer for Writes {
    fn append(&mut self, record: &[u8]) {
        self.0.write(record).unwrap();
    }
}
