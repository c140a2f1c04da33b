//! Damage costs the records in it and no others: a reader that starts after it, a log whose newest
//! segment never got its header, a header with one copy left.

use std::path::Path;

use deaddrop::sim::SimDisk;
use deaddrop::{repair, Durability, Error, Log, Record, Start, Topic, TopicOptions};

use crate::child::{raise, Child};

const DIR: &str = "/log";
const RECORDS: u64 = 100;
/// Length of a record's frame in bytes.
const FRAME: usize = 232;

fn options(durability: Durability) -> TopicOptions {
    TopicOptions::default().with_durability(durability).with_segment_len(16 << 10)
}

fn payload(offset: u64) -> Vec<u8> {
    vec![b'a' + (offset % 26) as u8; 200]
}

fn segment(base: u64) -> String {
    format!("{DIR}/topics/t/{base:020}.seg")
}

/// 100 records in two and a half segments; one in the first and one in the active are flipped.
fn damaged() -> (SimDisk, Topic, [u64; 2]) {
    let disk = SimDisk::new();
    let log = Log::open_sim(&disk.process(), DIR).unwrap();
    let topic = log.topic_with("t", options(Durability::PowerLoss)).unwrap();
    for offset in 0..RECORDS {
        topic.append(&Record::new(payload(offset))).unwrap();
    }
    let mut bases: Vec<u64> = (0..RECORDS).filter(|&b| disk.read(segment(b)).is_some()).collect();
    assert!(bases.len() > 1, "{bases:?}");
    let active = bases.pop().unwrap();
    let bad = [5, active + 5];
    for (base, offset) in [(0, bad[0]), (active, bad[1])] {
        disk.flip(segment(base), 4096 + (offset - base) as usize * FRAME + 100, 4);
    }
    (disk, topic, bad)
}

#[test]
fn a_reader_that_starts_after_damage_gets_the_record_that_it_asked_for() {
    let (disk, topic, bad) = damaged();
    let read_only = Log::open_sim_read_only(&disk, DIR).unwrap().open_topic("t").unwrap();
    for topic in [&topic, &read_only] {
        for offset in 0..RECORDS {
            let mut reader = topic.reader(Start::Offset(offset)).unwrap();
            match reader.next() {
                Ok(record) => {
                    assert_eq!(record.unwrap().payload(), payload(offset), "offset {offset}");
                    assert!(!bad.contains(&offset), "offset {offset}");
                }
                Err(Error::Corrupt { offset: told, .. }) => {
                    assert_eq!(told, Some(offset));
                    assert!(bad.contains(&offset), "offset {offset} is intact");
                    assert_eq!(reader.skip_damage().unwrap(), offset..offset + 1);
                    assert_eq!(reader.next().unwrap().unwrap().offset(), offset + 1);
                }
                Err(other) => panic!("offset {offset}: {other}"),
            }
        }
        let mut last = topic.reader(Start::LastN(3)).unwrap();
        for offset in RECORDS - 3..RECORDS {
            assert_eq!(last.next().unwrap().unwrap().payload(), payload(offset));
        }
    }
}

#[test]
fn a_consumer_that_read_past_damage_is_not_stopped_by_it_when_it_comes_back() {
    let (_disk, topic, bad) = damaged();
    for bad in bad {
        let mut consumer = topic.consumer("c", Start::First).unwrap();
        consumer.seek(Start::Offset(bad + 2)).unwrap();
        consumer.commit().unwrap();
        drop(consumer);
        let mut consumer = topic.consumer("c", Start::First).unwrap();
        assert_eq!(consumer.next().unwrap().unwrap().offset(), bad + 2);
    }
}

#[test]
fn a_newest_segment_without_a_header_ends_the_log_for_read_only_handles_too() {
    let disk = SimDisk::new();
    let log = Log::open_sim(&disk.process(), DIR).unwrap();
    let topic = log.topic_with("t", options(Durability::ProcessCrash)).unwrap();
    for offset in 0..RECORDS {
        topic.append(&Record::new(payload(offset))).unwrap();
    }
    drop((topic, log));
    let newest = (0..RECORDS).rfind(|&base| disk.read(segment(base)).is_some()).unwrap();
    let disk = disk.power_cut(1);
    for (base, bytes) in (0..RECORDS).filter_map(|base| Some((base, disk.read(segment(base))?))) {
        // Everything before it reached the disk, and of the file only its name.
        let lost = base == newest;
        disk.write(segment(base), if lost { &[0; 16 << 10][..] } else { &bytes });
    }
    let log = Log::open_sim_read_only(&disk, DIR).unwrap();
    let topic = log.open_topic("t").unwrap();
    let mut reader = topic.reader(Start::First).unwrap();
    let mut count = 0;
    while let Some(record) = reader.next().unwrap() {
        assert_eq!(record.payload(), payload(count));
        count += 1;
    }
    let report = repair::plan(&log, "t").unwrap();
    assert!(report.findings.iter().all(|found| found.lost.is_empty()), "{report:?}");
    let topic = Log::open_sim(&disk, DIR).unwrap().open_topic("t").unwrap();
    assert_eq!(topic.append(&Record::new(payload(count))).unwrap(), count);
}

#[test]
fn a_recovery_writes_a_lost_copy_of_a_header_again() {
    for lost in [0, 3584] {
        let disk = SimDisk::new();
        let log = Log::open_sim(&disk.process(), DIR).unwrap();
        let topic = log.topic_with("t", options(Durability::PowerLoss)).unwrap();
        topic.append(&Record::new(payload(0))).unwrap();
        drop((topic, log));
        let disk = disk.reboot();
        let whole = disk.read(segment(0)).unwrap();
        let mut bytes = whole.clone();
        bytes[lost..lost + 512].fill(0);
        disk.write(segment(0), &bytes);
        let topic = Log::open_sim(&disk, DIR).unwrap().open_topic("t").unwrap();
        assert_eq!(topic.end_offset().unwrap(), 1);
        let healed = disk.durable(segment(0)).unwrap();
        assert!(healed[lost..lost + 512] == whole[lost..lost + 512], "sector at {lost}");
    }
}

/// Role: dies when a record is written and not published.
pub(crate) fn dies_appending(words: &[&str]) {
    let log = Log::open_or_create(Path::new(words[0])).unwrap();
    let topic = log.topic_with("t", options(Durability::ProcessCrash)).unwrap();
    deaddrop::shift_wall_clock(-3_600_000_000_000);
    topic.append(&Record::new("an hour ago")).unwrap();
    deaddrop::shift_wall_clock(0);
    deaddrop::arm_crash_points(Some(Box::new(|name| {
        if name == "append.written" {
            raise(libc::SIGKILL);
        }
    })));
    topic.append(&Record::new("now")).unwrap();
}

#[test]
fn a_seek_by_time_finds_a_record_that_was_published_for_its_dead_writer() {
    let dir = crate::dir();
    Child::spawn(&["dies-appending", dir.path().to_str().unwrap()]).wait_for_death();
    let topic = Log::open_or_create(dir.path()).unwrap().open_topic("t").unwrap();
    // In the next segment, whose header holds the highest timestamp of the records before it.
    topic.append(&Record::new(vec![0; 12_240])).unwrap();
    let mut reader = topic.reader(Start::Offset(1)).unwrap();
    let time = reader.next().unwrap().unwrap().timestamp();
    assert_eq!(topic.reader(Start::Time(time)).unwrap().offset(), 1);
}

/// Puts a void frame with a right checksum over a record; it marks all offsets below `next` lost.
fn with_void(disk: &SimDisk, base: u64, offset: u64, next: u64) {
    let path = segment(base);
    let mut bytes = disk.read(&path).unwrap();
    let header = deaddrop::format::segment::Header::decode_page(&bytes).unwrap();
    let position = 4096 + (offset - base) as usize * FRAME;
    let void = deaddrop::format::frame::void(FRAME, next, 1, header.salt, position as u64);
    bytes[position..position + void.len()].copy_from_slice(&void);
    disk.write(&path, &bytes);
}

#[test]
fn a_void_frame_that_marks_offsets_of_the_next_segment_lost_is_damage_and_not_a_jump() {
    let disk = SimDisk::new();
    let log = Log::open_sim(&disk.process(), DIR).unwrap();
    let topic = log.topic_with("t", options(Durability::PowerLoss)).unwrap();
    for offset in 0..RECORDS {
        topic.append(&Record::new(payload(offset))).unwrap();
    }
    let bases: Vec<u64> = (0..RECORDS).filter(|&b| disk.read(segment(b)).is_some()).collect();
    let (next, active) = (bases[1], *bases.last().unwrap());
    // A repair may have marked offsets lost up to the next segment, and no further.
    for (base, offset, end, is_damage) in [
        (0, 5, next + 1, true),
        (0, 5, u64::MAX >> 1, true),
        (active, active + 5, RECORDS + 1, true),
        (0, next - 1, next, false),
    ] {
        let before = disk.read(segment(base)).unwrap();
        with_void(&disk, base, offset, end);
        let mut reader = topic.reader(Start::First).unwrap();
        let mut found = Vec::new();
        loop {
            match reader.next() {
                Ok(Some(record)) => found.push(record.offset()),
                Ok(None) => break,
                Err(Error::Lost { offsets, .. }) => {
                    assert!(!is_damage && offsets == (offset..end), "{offsets:?}");
                }
                Err(Error::Corrupt { offset: said, .. }) => {
                    assert!(is_damage && said == Some(offset), "{said:?}");
                    assert_eq!(reader.skip_damage().unwrap(), offset..offset + 1);
                }
                Err(error) => panic!("{error}"),
            }
        }
        let all_others: Vec<u64> = (0..RECORDS).filter(|&other| other != offset).collect();
        assert_eq!(found, all_others, "{offset}..{end}");
        disk.write(segment(base), &before);
    }
}
