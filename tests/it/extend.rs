//! A record larger than a segment goes into an empty one, which is extended for it, beside
//! processes that know its old length.

use deaddrop::{Record, Start, Topic};

use crate::child::Child;
use crate::ledger;

const SEGMENT_LEN: u64 = 64 << 10;

fn big() -> Vec<u8> {
    (0..300_000u32).map(|byte| (byte % 251) as u8).collect()
}

/// Two members of a new topic; the second has mapped the first segment.
fn two(dir: &tempfile::TempDir, durability: &str) -> (Topic, Topic) {
    let dir = dir.path().to_str().unwrap();
    let one = ledger::open(dir, durability, SEGMENT_LEN);
    let other = ledger::open(dir, durability, SEGMENT_LEN);
    other.populate(SEGMENT_LEN).unwrap();
    (one, other)
}

#[test]
fn a_member_that_knows_the_empty_segment_appends_after_the_large_record() {
    for durability in ledger::DURABILITIES {
        let dir = crate::dir();
        let (one, other) = two(&dir, durability);
        assert_eq!(one.append(&Record::new(big())).unwrap(), 0);
        assert_eq!(other.append(&Record::new("behind")).unwrap(), 1);
        assert_eq!(one.append(&Record::new("more")).unwrap(), 2);
    }
}

#[test]
fn a_member_that_knows_the_empty_segment_reads_the_large_record() {
    for durability in ledger::DURABILITIES {
        let dir = crate::dir();
        let (one, other) = two(&dir, durability);
        let mut reader = other.reader(Start::First).unwrap();
        assert!(reader.next().unwrap().is_none());
        assert_eq!(one.append(&Record::new(big())).unwrap(), 0);
        assert_eq!(reader.next().unwrap().unwrap().payload(), big());
    }
}

#[test]
fn a_member_that_knows_the_empty_segment_settles_for_the_dead_writer_of_a_large_record() {
    for death in ["append.announced", "append.written", "append.published"] {
        let dir = crate::dir();
        let (one, other) = two(&dir, "process-crash");
        drop(one);
        let path = dir.path().to_str().unwrap();
        let mut child = Child::spawn(&["large", path, death]);
        assert_eq!(child.hear(), None);
        child.wait_for_death();
        let offset = other.append(&Record::new("behind")).unwrap();
        assert_eq!(offset, u64::from(death != "append.announced"));
        let mut reader = other.reader(Start::First).unwrap();
        if offset == 1 {
            assert_eq!(reader.next().unwrap().unwrap().payload(), big());
        }
        assert_eq!(reader.next().unwrap().unwrap().payload(), b"behind");
    }
}

/// Role: dies while it appends a large record.
pub(crate) fn large(words: &[&str]) {
    let [dir, death] = words else { panic!("{words:?}") };
    let topic = ledger::open(dir, "process-crash", SEGMENT_LEN);
    crate::takeover::arm(death, 1, libc::SIGKILL);
    topic.append(&Record::new(big())).unwrap();
}

#[test]
fn a_read_only_reader_from_before_any_writer_sees_a_large_first_record_and_later_ones() {
    let dir = crate::dir();
    let options = deaddrop::TopicOptions::default()
        .with_durability(deaddrop::Durability::ProcessCrash)
        .with_segment_len(64 << 10);
    let open =
        || deaddrop::Log::open_or_create(dir.path()).unwrap().topic_with("t", options).unwrap();
    drop(open());
    let log = deaddrop::Log::open_read_only(dir.path()).unwrap();
    let mut still = log.topic("t").unwrap().reader(deaddrop::Start::First).unwrap();
    assert!(still.next().unwrap().is_none());
    let large = vec![7; 300_000];
    let writer = open();
    writer.append(&deaddrop::Record::new(large.clone())).unwrap();
    drop(writer);
    // There are no members again: walking finds the end.
    assert_eq!(still.next().unwrap().unwrap().payload(), large);
    let writer = open();
    for number in 0..500u32 {
        writer.append(&deaddrop::Record::new(number.to_le_bytes())).unwrap();
        assert_eq!(still.next().unwrap().unwrap().payload(), number.to_le_bytes());
    }
}
