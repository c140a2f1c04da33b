//! Blocks that were allocated and never written, and whose first write fails: ext4 leaves them marked as
//! unwritten, and writing the same bytes again to the same file with success does not bring them back.

use deaddrop::{Durability, Error, Log, Record, Start, TopicOptions};

use crate::field::on_every_file_system;

fn payload(offset: u64) -> String {
    format!("record {offset} {}", "-".repeat(500))
}

#[test]
fn records_in_blocks_that_were_only_allocated_survive_a_write_error_and_a_power_cut() {
    on_every_file_system(|file_system, mut disk| {
        let dir = disk.path().join("log");
        let options = TopicOptions {
            segment_len: 256 << 10,
            ..TopicOptions::durability(Durability::ProcessCrash)
        };
        let topic = Log::open(&dir).unwrap().create_topic("t", options).unwrap();
        for offset in 0..200 {
            topic.append(&Record::new(payload(offset))).unwrap();
        }
        disk.tell("fail writes 1 record");
        let failed = topic.wait_durable(199).unwrap_err();
        assert!(matches!(failed, Error::SyncFailed { .. }), "{file_system:?}: {failed}");
        drop(topic);
        let topic = Log::open(&dir).unwrap().create_topic("t", options).unwrap();
        assert_eq!(topic.append(&Record::new(payload(200))).unwrap(), 200);
        topic.wait_durable(200).unwrap();
        drop(topic);
        disk.cut(None);
        disk.restart();
        let topic = Log::open(&dir).unwrap().create_topic("t", options).unwrap();
        let mut reader = topic.reader(Start::First).unwrap();
        for offset in 0..=200 {
            let record = reader.next().unwrap_or_else(|error| panic!("{file_system:?}: {error}"));
            let record = record.unwrap_or_else(|| panic!("{file_system:?}: no offset {offset}"));
            assert_eq!(record.payload(), payload(offset).as_bytes(), "{file_system:?}");
        }
    });
}
