use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use crate::subject::{Each, Promise, Subject, Work, Writer};

pub(super) struct Sqlite;

impl Subject for Sqlite {
    fn name(&self) -> &'static str {
        "SQLite (rusqlite)"
    }

    fn usage(&self) -> &'static str {
        "WAL mode, `synchronous=NORMAL`, and `FULL` in durable rows; a connection for each thread, prepared \
         statements, a transaction for each append or batch; rows are read without a checksum"
    }

    fn promise(&self, work: Work) -> Result<Promise, &'static str> {
        Ok(if work == Work::Durable { Promise::ALL } else { Promise::VISIBLE })
    }

    fn open(&self, dir: &Path, syncs: bool, threads: usize) -> Vec<Box<dyn Writer>> {
        (0..threads).map(|_| Box::new(Inserts(connected(dir, syncs))) as _).collect()
    }

    fn reader(&self, dir: &Path) -> Box<dyn FnMut(Each<'_>)> {
        let connection = connected(dir, false);
        Box::new(move |each| {
            let mut select = connection.prepare("SELECT record FROM log ORDER BY id").unwrap();
            let mut rows = select.query(()).unwrap();
            while let Some(row) = rows.next().unwrap() {
                each(row.get_ref(0).unwrap().as_blob().unwrap());
            }
        })
    }

    fn verifies(&self) -> bool {
        false
    }
}

fn connected(dir: &Path, syncs: bool) -> Connection {
    let connection = Connection::open(dir.join("log.sqlite")).unwrap();
    connection.busy_timeout(Duration::from_secs(60)).unwrap();
    let synchronous = if syncs { "FULL" } else { "NORMAL" };
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.pragma_update(None, "synchronous", synchronous).unwrap();
    let table = "CREATE TABLE IF NOT EXISTS log (id INTEGER PRIMARY KEY, record BLOB NOT NULL)";
    connection.execute_batch(table).unwrap();
    connection
}

struct Inserts(Connection);

const INSERT: &str = "INSERT INTO log (record) VALUES (?1)";

impl Writer for Inserts {
    fn append(&mut self, record: &[u8]) {
        self.0.prepare_cached(INSERT).unwrap().execute((record,)).unwrap();
    }

    fn append_batch(&mut self, records: &[&[u8]]) {
        let transaction = self.0.transaction().unwrap();
        let mut insert = transaction.prepare_cached(INSERT).unwrap();
        records.iter().for_each(|record| {
            insert.execute((record,)).unwrap();
        });
        drop(insert);
        transaction.commit().unwrap();
    }
}
