use std::path::Path;

use heed::byteorder::BigEndian;
use heed::types::{Bytes, U64};
use heed::{Database, Env, EnvFlags, EnvOpenOptions, PutFlags};

use crate::subject::{Each, Promise, Subject, Work, Writer};

pub(super) struct Lmdb;

type Records = Database<U64<BigEndian>, Bytes>;

impl Subject for Lmdb {
    fn name(&self) -> &'static str {
        "LMDB (heed)"
    }

    fn usage(&self) -> &'static str {
        "keys are numbers, `APPEND`; a transaction for each append or batch; `NO_SYNC` except in durable \
         rows; values are read from the mapping, without a checksum; a map of 8 GiB"
    }

    fn promise(&self, work: Work) -> Result<Promise, &'static str> {
        Ok(if work == Work::Durable { Promise::ALL } else { Promise::VISIBLE })
    }

    fn open(&self, dir: &Path, syncs: bool, threads: usize) -> Vec<Box<dyn Writer>> {
        let (env, records) = opened(dir, syncs);
        (0..threads).map(|_| Box::new(Puts { env: env.clone(), records }) as _).collect()
    }

    fn reader(&self, dir: &Path) -> Box<dyn FnMut(Each<'_>)> {
        let (env, records) = opened(dir, false);
        Box::new(move |each| {
            let transaction = env.read_txn().unwrap();
            records.iter(&transaction).unwrap().for_each(|record| each(record.unwrap().1));
        })
    }

    fn verifies(&self) -> bool {
        false
    }
}

fn opened(dir: &Path, syncs: bool) -> (Env, Records) {
    let mut options = EnvOpenOptions::new();
    options.map_size(8 << 30);
    if !syncs {
        // SAFETY: a power loss may damage the database, which no pass survives.
        unsafe { options.flags(EnvFlags::NO_SYNC) };
    }
    // SAFETY: the directory of this pass alone; the file is not changed by other means.
    let env = unsafe { options.open(dir).unwrap() };
    let mut transaction = env.write_txn().unwrap();
    let records = env.create_database(&mut transaction, None).unwrap();
    transaction.commit().unwrap();
    (env, records)
}

struct Puts {
    env: Env,
    records: Records,
}

impl Writer for Puts {
    fn append(&mut self, record: &[u8]) {
        self.append_batch(&[record]);
    }

    fn append_batch(&mut self, records: &[&[u8]]) {
        let mut transaction = self.env.write_txn().unwrap();
        let last = self.records.last(&transaction).unwrap();
        let mut next = last.map_or(0, |(last, _)| last + 1);
        for record in records {
            let flags = PutFlags::APPEND;
            self.records.put_with_flags(&mut transaction, flags, &next, record).unwrap();
            next += 1;
        }
        transaction.commit().unwrap();
    }
}
