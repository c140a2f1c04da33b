//! Segment files that an operator removed or truncated while no process had the topic open. The
//! rest can be read, and every call returns.

use deaddrop::sim::SimDisk;
use deaddrop::{Durability, Error, Log, Record, Start, Topic, TopicOptions};

const DIR: &str = "/log";

/// A closed topic of several segments, 61 records from offset 0, and the paths of the segments.
fn make() -> (SimDisk, Vec<std::path::PathBuf>) {
    let disk = SimDisk::new();
    let topic = open(&disk).unwrap();
    for number in 0..60u8 {
        topic.append(&Record::new(vec![number; 1000])).unwrap();
    }
    // So that it is promised, even after a restart of the machine: the second sync stores what the
    // first one made durable.
    topic.wait_durable(58).unwrap();
    topic.append(&Record::new(vec![60; 1000])).unwrap();
    topic.wait_durable(60).unwrap();
    drop(topic);
    let mut segments = disk.paths();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    assert!(segments.len() > 3);
    (disk, segments)
}

fn open(disk: &SimDisk) -> deaddrop::Result<Topic> {
    let durability = Durability::ProcessCrash;
    let options = TopicOptions::default().with_durability(durability).with_segment_len(16 << 10);
    Log::open_sim(&disk.process(), DIR)?.topic_with("t", options)
}

#[test]
fn a_reader_continues_after_segments_whose_files_are_gone() {
    for count in 1..3 {
        let (disk, segments) = make();
        segments[1..1 + count].iter().for_each(|path| disk.remove(path));
        let topic = open(&disk).unwrap();
        let mut reader = topic.reader(Start::First).unwrap();
        let mut expected = 0;
        let error = loop {
            match reader.next() {
                Ok(record) => assert_eq!(record.unwrap().payload(), [expected as u8; 1000]),
                Err(error) => break error,
            }
            expected += 1;
        };
        assert!(error.is_corruption(), "{error}");
        let skipped = reader.skip_damage().unwrap();
        assert_eq!((skipped.start, skipped.end), (expected, reader.offset()));
        let mut expected = skipped.end;
        while let Some(record) = reader.next().unwrap() {
            assert_eq!(record.payload(), [expected as u8; 1000]);
            expected += 1;
        }
        assert_eq!(expected, 61);
    }
}

#[test]
fn a_newest_segment_that_was_cut_short_is_damage_and_its_offsets_are_not_used_again() {
    let (disk, segments) = make();
    let newest = segments.last().unwrap();
    let bytes = disk.read(newest).unwrap();
    disk.write(newest, &bytes[..4096]);
    // The words of this boot still give the segment a greater length.
    let topic = open(&disk).unwrap();
    let damage = &topic.recovery().unwrap().damage;
    assert_eq!(damage.len(), 1);
    assert_eq!((&damage[0].path, damage[0].offsets.end), (newest, 61));
    assert_eq!(topic.append(&Record::new("x")).unwrap(), 61);
    let mut reader = topic.reader(Start::Offset(damage[0].offsets.start)).unwrap();
    assert!(reader.next().unwrap_err().is_corruption());
    assert_eq!(reader.skip_damage().unwrap(), damage[0].offsets);
    assert_eq!(reader.next().unwrap().unwrap().payload(), b"x");
}

#[test]
fn a_segment_cut_off_inside_its_header_page_is_damage_and_not_a_panic() {
    for len in [0, 100, 512, 600, 1536, 4095, 4100] {
        let (disk, segments) = make();
        let second = &segments[1];
        let newest = segments.last().unwrap();
        for cut in [second, newest] {
            let disk = disk.reboot();
            let bytes = disk.read(cut).unwrap();
            disk.write(cut, &bytes[..len]);
            let topic = open(&disk).unwrap();
            assert_eq!(topic.append(&Record::new("x")).unwrap(), topic.end_offset().unwrap() - 1);
            let mut reader = topic.reader(Start::First).unwrap();
            let mut read = 0;
            loop {
                match reader.next() {
                    Ok(Some(_)) => read += 1,
                    Ok(None) => break,
                    Err(Error::Corrupt { .. }) => drop(reader.skip_damage().unwrap()),
                    Err(error) => panic!("{len} bytes of {}: {error}", cut.display()),
                }
            }
            assert!((45..62).contains(&read), "{len} bytes of {}: {read} read", cut.display());
        }
    }
}
