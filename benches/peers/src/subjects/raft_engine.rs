use std::path::Path;
use std::sync::Arc;

use protobuf::descriptor::UninterpretedOption;
use raft_engine::{Config, Engine, LogBatch, MessageExt};

use crate::subject::{Each, Promise, Subject, Work, Writer};

pub(super) struct RaftEngine;

impl Subject for RaftEngine {
    fn name(&self) -> &'static str {
        "raft-engine"
    }

    fn usage(&self) -> &'static str {
        "`write` of a `LogBatch`, with `sync` in durable rows; a Raft group for each thread; \
         `fetch_entries_to`; default options (it compresses from 8 KiB on, and these records shrink)"
    }

    fn promise(&self, work: Work) -> Result<Promise, &'static str> {
        Ok(if work == Work::Durable { Promise::POWER } else { Promise::KILL })
    }

    fn open(&self, dir: &Path, syncs: bool, threads: usize) -> Vec<Box<dyn Writer>> {
        let engine = Arc::new(engine(dir));
        let writer = |group| {
            let next = engine.last_index(group).map_or(1, |last| last + 1);
            Box::new(Writes { engine: engine.clone(), group, next, syncs }) as _
        };
        (1..=threads as u64).map(writer).collect()
    }

    fn reader(&self, dir: &Path) -> Box<dyn FnMut(Each<'_>)> {
        let engine = engine(dir);
        let (first, last) = (engine.first_index(1).unwrap(), engine.last_index(1).unwrap());
        Box::new(move |each| {
            let mut entries = Vec::new();
            for begin in (first..=last).step_by(1000) {
                let end = (begin + 1000).min(last + 1);
                engine.fetch_entries_to::<Entries>(1, begin, end, None, &mut entries).unwrap();
                entries.drain(..).for_each(|entry| each(entry.get_string_value()));
            }
        })
    }
}

fn engine(dir: &Path) -> Engine {
    let dir = dir.join("engine").to_str().unwrap().to_owned();
    Engine::open(Config { dir, ..Config::default() }).unwrap()
}

/// Entries are protobuf messages with an index. This one, of the protobuf crate itself, has a number and
/// bytes; a message of our own would need its compiler.
#[derive(Clone)]
struct Entries;

impl MessageExt for Entries {
    type Entry = UninterpretedOption;

    fn index(entry: &UninterpretedOption) -> u64 {
        entry.get_positive_int_value()
    }
}

struct Writes {
    engine: Arc<Engine>,
    group: u64,
    next: u64,
    syncs: bool,
}

impl Writer for Writes {
    fn append(&mut self, record: &[u8]) {
        self.append_batch(&[record]);
    }

    fn append_batch(&mut self, records: &[&[u8]]) {
        let entry = |(index, record): (usize, &&[u8])| {
            let mut entry = UninterpretedOption::default();
            entry.set_positive_int_value(self.next + index as u64);
            entry.set_string_value(record.to_vec());
            entry
        };
        let entries: Vec<_> = records.iter().enumerate().map(entry).collect();
        let mut batch = LogBatch::default();
        batch.add_entries::<Entries>(self.group, &entries).unwrap();
        self.engine.write(&mut batch, self.syncs).unwrap();
        self.next += records.len() as u64;
    }
}
