//! A recovery that replaces a segment by a copy, as seen by read-only handles opened before it.

use std::ops::Range;

use deaddrop::format::segment::is_latched;
use deaddrop::sim::{Op, SimDisk};
use deaddrop::{Durability, Log, Reader, Record, Start, Topic, TopicOptions};

const DIR: &str = "/log";

fn append(topic: &Topic, offsets: Range<u64>) {
    for offset in offsets {
        let payload = format!("record {offset}");
        assert_eq!(topic.append(&Record::new(payload)).unwrap(), offset);
    }
}

/// Reads on to the end; every record must be the one with its offset.
fn read_on(reader: &mut Reader, about: &str) {
    loop {
        let next = reader.next().unwrap_or_else(|error| panic!("{about}: {error}"));
        let Some(record) = next else { return };
        assert_eq!(record.payload(), format!("record {}", record.offset()).as_bytes(), "{about}");
    }
}

#[test]
fn a_read_only_handle_from_before_a_recovery_that_copied_reads_later_records() {
    for is_live in [true, false] {
        let about = format!("opened beside members: {is_live}");
        let disk = SimDisk::new();
        let options = TopicOptions::default()
            .with_durability(Durability::ProcessCrash)
            .with_segment_len(64 << 10);
        let open = || Log::open_sim(&disk, DIR).unwrap().topic_with("t", options).unwrap();
        let other = disk.process();
        let read = || Log::open_sim_read_only(&other, DIR).unwrap().topic("t").unwrap();
        let topic = open();
        append(&topic, 0..10);
        let early = is_live.then(read);
        disk.fail(Op::SyncData, 0, libc::EIO);
        assert!(topic.wait_durable(9).is_err());
        drop(topic);
        let reading = early.unwrap_or_else(read);
        let mut reader = reading.reader(Start::First).unwrap();
        read_on(&mut reader, &about);
        assert_eq!(reader.offset(), 10, "{about}");

        let topic = open();
        let path = format!("{DIR}/topics/t/00000000000000000000.seg");
        assert!(!is_latched(&disk.read(path).unwrap()), "{about}: the copy is not latched");
        append(&topic, 10..20);
        read_on(&mut reader, &about);
        assert_eq!(reader.offset(), 20, "{about}");
        let mut again = reading.reader(Start::First).unwrap();
        read_on(&mut again, &about);
        assert_eq!(again.offset(), 20, "{about}");
    }
}
