use std::path::Path;

use deaddrop::{BorrowedRecord, Durability, Log, Start, Topic, TopicOptions};

use crate::subject::{Each, Promise, Subject, Work, Writer};

pub(super) struct Deaddrop;

impl Subject for Deaddrop {
    fn name(&self) -> &'static str {
        "deaddrop"
    }

    fn usage(&self) -> &'static str {
        "`append` and `append_batch` of borrowed records; `ProcessCrash`, and `PowerLoss` for durable \
         rows; `Reader::next`; else defaults"
    }

    fn promise(&self, work: Work) -> Result<Promise, &'static str> {
        Ok(if work == Work::Durable { Promise::ALL } else { Promise::VISIBLE })
    }

    fn open(&self, dir: &Path, syncs: bool, threads: usize) -> Vec<Box<dyn Writer>> {
        let durability = if syncs { Durability::PowerLoss } else { Durability::ProcessCrash };
        let options = TopicOptions::default().with_durability(durability);
        let log = Log::open_or_create(dir).unwrap();
        let topic = log.topic_with("t", options).unwrap();
        let writer = || Box::new(Appender { _log: log.clone(), topic: topic.clone() }) as _;
        (0..threads).map(|_| writer()).collect()
    }

    fn reader(&self, dir: &Path) -> Box<dyn FnMut(Each<'_>)> {
        let log = Log::open_or_create(dir).unwrap();
        let topic = log.open_topic("t").unwrap();
        let mut reader = topic.reader(Start::First).unwrap();
        Box::new(move |each| {
            let _open = (&log, &topic);
            while let Some(record) = reader.next().unwrap() {
                each(record.payload());
            }
        })
    }
}

struct Appender {
    _log: Log,
    topic: Topic,
}

impl Writer for Appender {
    fn append(&mut self, record: &[u8]) {
        self.topic.append(&BorrowedRecord::new(record)).unwrap();
    }

    fn append_batch(&mut self, records: &[&[u8]]) {
        let records: Vec<_> = records.iter().map(BorrowedRecord::new).collect();
        self.topic.append_batch(&records).unwrap();
    }
}
