//! The scenarios that break an obvious design, one by one.

use std::time::Duration;

use deaddrop::sim::{Op, SimDisk};
use deaddrop::{Durability, Error, Log, Reader, Record, Start, Topic, TopicOptions};

use super::model::{DIR, TOPIC};
use crate::settle::settle;

const WITHIN: Durability = Durability::PowerLossWithin(Duration::from_secs(3600));

fn create(disk: &SimDisk, durability: Durability) -> (Log, Topic) {
    create_in(&disk.process(), durability)
}

fn create_in(process: &SimDisk, durability: Durability) -> (Log, Topic) {
    let log = Log::open_sim(process, DIR).unwrap();
    let options = TopicOptions::default().with_durability(durability).with_segment_len(16 << 10);
    let topic = log.topic_with(TOPIC, options).unwrap();
    (log, topic)
}

fn open(disk: &SimDisk) -> (Log, Topic) {
    let log = Log::open_sim(&disk.process(), DIR).unwrap();
    let topic = log.open_topic(TOPIC).unwrap();
    (log, topic)
}

/// A payload of 100 bytes that names its record.
fn payload(name: &str) -> Vec<u8> {
    let mut payload = format!("<{name}>").into_bytes();
    payload.resize(100, b'.');
    payload
}

fn record(name: &str) -> Record {
    Record::new(payload(name))
}

fn segment(base: u64) -> String {
    format!("{DIR}/topics/{TOPIC}/{base:020}.seg")
}

/// Returns the segment and the position at which a record's payload starts.
fn find(disk: &SimDisk, name: &str) -> (String, usize) {
    let wanted = payload(name);
    let found = disk.paths().into_iter().find_map(|path| {
        let bytes = disk.read(&path)?;
        let at = bytes.windows(wanted.len()).position(|window| window == wanted)?;
        Some((path.to_str().unwrap().to_owned(), at))
    });
    found.unwrap_or_else(|| panic!("{name} is in no file"))
}

/// Reads everything: the names of the records, or the offsets that were skipped as damaged.
fn read_all(topic: &Topic) -> Vec<Result<String, std::ops::Range<u64>>> {
    let mut reader = topic.reader(Start::First).unwrap();
    let mut all = Vec::new();
    while let Some(read) = read_on(&mut reader) {
        all.push(read);
    }
    all
}

fn read_on(reader: &mut Reader) -> Option<Result<String, std::ops::Range<u64>>> {
    let at = reader.offset();
    match reader.next() {
        Ok(None) => None,
        Ok(Some(record)) => {
            assert_eq!(record.offset(), at);
            let text = String::from_utf8(record.payload().to_owned()).unwrap();
            Some(Ok(text.trim_end_matches('.').trim_matches(['<', '>']).to_owned()))
        }
        Err(Error::Corrupt { offset, .. }) => {
            assert_eq!(offset, Some(at));
            let skipped = reader.skip_damage().unwrap();
            assert_eq!(skipped.start, at);
            Some(Err(skipped))
        }
        Err(error) => panic!("{error}"),
    }
}

fn names(topic: &Topic) -> Vec<String> {
    read_all(topic).into_iter().map(|read| read.expect("no damage")).collect()
}

fn numbered(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| format!("r{number}")).collect()
}

fn append(topic: &Topic, numbers: std::ops::Range<u64>) {
    for name in numbered(numbers) {
        topic.append(&record(&name)).unwrap();
    }
}

/// Every image of this disk after a power cut holds exactly these records.
#[track_caller]
fn assert_after_cuts(disk: &SimDisk, seeds: u64, expected: &[String]) {
    for seed in 0..seeds {
        let (_log, topic) = open(&disk.power_cut(seed));
        assert_eq!(names(&topic), expected, "seed {seed}");
    }
}

/// Opens the topic again and again, each time with a later sync that fails, until none does.
fn open_after_failed_syncs(disk: &SimDisk) -> (Log, Topic) {
    let mut failures = 0;
    loop {
        disk.fail(Op::SyncData, failures, libc::EIO);
        let log = Log::open_sim(&disk.process(), DIR).unwrap();
        match log.open_topic(TOPIC) {
            Ok(topic) => {
                assert!(failures >= 2, "{failures}");
                return (log, topic);
            }
            Err(_) => failures += 1,
        }
    }
}

#[test]
fn c1_a_rotten_sector_below_the_durable_end_is_reported_and_no_later_record_is_lost_or_reused() {
    for rotten in [3, 90, 150, 280] {
        let disk = SimDisk::new();
        let (log, topic) = create(&disk, Durability::PowerLoss);
        append(&topic, 0..300);
        drop((topic, log));
        let image = disk.power_cut(rotten);
        let (path, position) = find(&image, &format!("r{rotten}"));
        image.flip(&path, position + 7, 0x40);
        let mut expected: Vec<_> = numbered(0..300).into_iter().map(Ok).collect();
        expected[rotten as usize] = Err(rotten..rotten + 1);

        let (log, topic) = open(&image);
        let report = topic.recovery().unwrap().clone();
        assert_eq!(topic.end_offset().unwrap(), 300, "{report:?}");
        // Damage in older segments is found when it is read: opening does not read them.
        if rotten > 270 {
            let [damage] = &report.damage[..] else { panic!("{report:?}") };
            assert_eq!(damage.offsets, rotten..rotten + 1);
            assert_eq!(damage.path.to_str(), Some(&path[..]));
            assert_eq!(damage.position, position as u64 - 32);
        }
        assert!(!report.cut && report.set_aside.is_empty(), "{report:?}");
        assert_eq!(topic.append(&record("new")).unwrap(), 300);
        expected.push(Ok("new".into()));
        assert_eq!(read_all(&topic), expected);
        drop((topic, log));

        let (_log, topic) = open(&image.power_cut(rotten));
        assert_eq!(read_all(&topic), expected);
    }
}

#[test]
fn c1_a_flipped_byte_after_a_kill_costs_one_record_of_a_topic_that_never_synced() {
    let disk = SimDisk::new();
    let doomed = disk.process();
    let (log, topic) = create_in(&doomed, Durability::ProcessCrash);
    append(&topic, 0..60);
    doomed.kill();
    std::mem::forget((topic, log));
    let (path, position) = find(&disk, "r59");
    disk.flip(path, position, 1);
    let (_log, topic) = open(&disk);
    let report = topic.recovery().unwrap();
    assert_eq!((report.end, report.cut), (60, false), "{report:?}");
    assert_eq!(report.damage[0].offsets, 59..60);
    assert_eq!(topic.append(&record("new")).unwrap(), 60);
    let mut expected: Vec<_> = numbered(0..59).into_iter().map(Ok).collect();
    expected.extend([Err(59..60), Ok("new".into())]);
    assert_eq!(read_all(&topic), expected);
}

#[test]
fn c1_one_copy_of_a_header_is_enough_and_without_any_no_offset_is_used_again() {
    for copies in [1, 2] {
        let disk = SimDisk::new();
        let (log, topic) = create(&disk, Durability::PowerLoss);
        append(&topic, 0..150);
        drop((topic, log));
        let image = disk.power_cut(copies);
        let (path, _) = find(&image, "r149");
        let base: u64 = path[path.len() - 24..path.len() - 4].parse().unwrap();
        for at in [30, 7 * 512 + 30].into_iter().take(copies as usize) {
            image.flip(&path, at, 2);
        }
        let (_log, topic) = open(&image);
        let read = read_all(&topic);
        if copies == 1 {
            assert_eq!(read, numbered(0..150).into_iter().map(Ok).collect::<Vec<_>>());
            continue;
        }
        let end = topic.end_offset().unwrap();
        assert!(end >= 150, "{:?}", topic.recovery());
        assert_eq!(topic.recovery().unwrap().damage[0].offsets, base..end);
        let mut expected: Vec<_> = numbered(0..base).into_iter().map(Ok).collect();
        expected.push(Err(base..end));
        assert_eq!(read, expected);
        assert_eq!(topic.append(&record("new")).unwrap(), end);
    }
}

#[test]
fn c2_frames_after_a_cut_never_come_back_even_if_a_new_record_fits_before_them() {
    for durability in [Durability::ProcessCrash, WITHIN] {
        let disk = SimDisk::new();
        let (log, topic) = create(&disk, durability);
        append(&topic, 0..10);
        let cut = disk.reboot();
        drop((topic, log));
        // Of ten records, the sixth did not reach the disk.
        let (path, position) = find(&cut, "r5");
        let before = find(&cut, "r4").1 + payload("r4").len();
        let mut bytes = cut.read(&path).unwrap();
        bytes[before.next_multiple_of(8)..position + payload("r5").len()].fill(0);
        cut.write(&path, &bytes);
        let (log, topic) = open(&cut);
        let report = topic.recovery().unwrap();
        assert_eq!((report.end, report.cut, report.frames_cut), (5, true, 4), "{report:?}");
        assert_eq!(topic.append(&record("y5")).unwrap(), 5);
        topic.wait_durable(5).unwrap();
        let expected = [numbered(0..5), vec!["y5".into()]].concat();
        assert_eq!(names(&topic), expected);
        drop((topic, log));
        assert_after_cuts(&cut, 50, &expected);
    }
}

#[test]
fn c3_a_sync_after_a_roll_covers_the_segment_that_was_left() {
    let disk = SimDisk::new();
    let (_log, topic) = create(&disk, WITHIN);
    let mut count = 0;
    while disk.read(segment(count)).is_none() || count == 0 {
        count = topic.append(&record(&format!("r{count}"))).unwrap() + 1;
        // No sync may have covered the last record of the previous segment yet.
        if disk.read(segment(count - 1)).is_some() && count > 1 {
            break;
        }
    }
    topic.wait_durable(count - 1).unwrap();
    assert_after_cuts(&disk, 200, &numbered(0..count));
}

#[test]
fn c4_after_a_failed_sync_a_reopened_topic_keeps_shown_records_through_a_power_cut() {
    for durability in [Durability::PowerLoss, WITHIN, Durability::ProcessCrash] {
        let disk = SimDisk::new();
        let (log, topic) = create(&disk, durability);
        let (other_log, other) = open(&disk);
        for name in numbered(0..5) {
            topic.append_unsynced(&record(&name)).unwrap();
        }
        topic.wait_durable(4).unwrap();
        // Several pages: later appends make the last of them dirty again, not the others.
        for name in numbered(5..80) {
            topic.append_unsynced(&record(&name)).unwrap();
        }
        disk.fail(Op::SyncData, 0, libc::EIO);
        assert!(matches!(topic.wait_durable(9), Err(Error::SyncFailed { .. })));
        // Retried or not, by this process or another, the page cache would report success.
        for topic in [&topic, &other] {
            assert!(matches!(topic.wait_durable(9), Err(Error::SyncFailed { .. })));
            assert!(matches!(topic.append(&record("no")), Err(Error::SyncFailed { .. })));
            assert_eq!(topic.durable_end().unwrap(), 5);
        }
        drop((topic, log));
        let (joined_log, joined) = open(&disk);
        assert!(matches!(joined.append(&record("no")), Err(Error::SyncFailed { .. })));
        drop((joined, joined_log, other, other_log));
        settle(&disk, format!("{DIR}/topics/{TOPIC}"));

        let (_log, topic) = open(&disk);
        let shown = names(&topic);
        assert_eq!(shown, numbered(0..80));
        assert_eq!(topic.durable_end().unwrap(), shown.len() as u64);
        topic.append(&record("more")).unwrap();
        topic.wait_durable(shown.len() as u64).unwrap();
        let expected = [shown, vec!["more".into()]].concat();
        assert_after_cuts(&disk, 100, &expected);
    }
}

#[test]
fn c4_a_recovery_whose_sync_fails_promises_nothing_and_the_next_one_does() {
    let disk = SimDisk::new();
    let (log, topic) = create(&disk, Durability::PowerLoss);
    topic.append(&record("r0")).unwrap();
    topic.append_unsynced(&record("r1")).unwrap();
    disk.fail(Op::SyncData, 0, libc::EIO);
    assert!(topic.wait_durable(1).is_err());
    drop((topic, log));
    settle(&disk, format!("{DIR}/topics/{TOPIC}"));
    let (_log, topic) = open_after_failed_syncs(&disk);
    let shown = names(&topic);
    assert_after_cuts(&disk, 100, &shown);
}

#[test]
fn c4_a_recovery_without_words_whose_sync_fails_promises_nothing_and_the_next_one_does() {
    let disk = SimDisk::new();
    let writer = disk.process();
    let log = Log::open_sim(&writer, DIR).unwrap();
    let topic = log
        .topic_with(TOPIC, TopicOptions::default().with_durability(Durability::ProcessCrash))
        .unwrap();
    append(&topic, 0..300);
    // Killed: none of its records was synced, and nothing latches the topic.
    writer.kill();
    disk.remove(format!("{DIR}/topics/{TOPIC}/control"));
    let (_log, again) = open_after_failed_syncs(&disk);
    let shown = names(&again);
    assert_eq!(shown.len(), 300);
    assert_after_cuts(&disk, 100, &shown);
    drop((topic, log));
}

#[test]
fn c8_a_consumer_opened_long_after_a_cut_is_set_back_to_it_though_the_log_has_grown_past_it() {
    let disk = SimDisk::new();
    let (log, topic) = create(&disk, Durability::ProcessCrash);
    append(&topic, 0..1000);
    topic.wait_durable(999).unwrap();
    // The consumer begins after records that only the page cache has.
    append(&topic, 1000..1010);
    drop(topic.consumer("billing", Start::End).unwrap());
    let cuts = (0..200).map(|seed| disk.power_cut(seed));
    let (image, end) = cuts
        .filter_map(|image| {
            let (_log, topic) = open(&image);
            let end = topic.end_offset().unwrap();
            (end < 1010).then_some((image.reboot(), end))
        })
        .next()
        .expect("some cut loses a record");
    drop((topic, log));
    for round in 0..2 {
        let (_log, topic) = open(&image);
        if round == 0 {
            for number in 0..200 {
                topic.append(&record(&format!("new{number}"))).unwrap();
            }
        }
        let mut billing = topic.consumer("billing", Start::First).unwrap();
        assert_eq!(billing.committed(), end);
        let set_back = (round == 0).then_some(1010);
        assert_eq!(billing.clamped_from(), set_back, "reported once, when it is set back");
        assert_eq!(billing.next().unwrap().unwrap().payload(), payload("new0"));
    }
}

#[test]
fn c8_a_cut_is_remembered_over_the_next_power_cut_once_later_records_are_durable() {
    let disk = SimDisk::new();
    let (_log, topic) = create(&disk, Durability::ProcessCrash);
    for name in numbered(0..1010) {
        topic.append(&record(&name)).unwrap();
        if name == "r999" {
            topic.wait_durable(999).unwrap();
        }
    }
    // The consumer begins after records that only the page cache has.
    drop(topic.consumer("billing", Start::End).unwrap());
    let cut = |seed| {
        let image = disk.power_cut(seed);
        let end = open(&image.power_cut(seed)).1.end_offset().unwrap();
        (end < 1010).then_some((image, end))
    };
    let (image, end) = (0..200).find_map(cut).expect("some cut loses a record");
    let (_log, topic) = open(&image);
    for number in 0..200 {
        topic.append(&record(&format!("new{number}"))).unwrap();
    }
    topic.wait_durable(end + 199).unwrap();
    for seed in 0..20 {
        let (_log, topic) = open(&image.power_cut(seed));
        let billing = topic.consumer("billing", Start::First).unwrap();
        assert_eq!((billing.committed(), billing.clamped_from()), (end, Some(1010)), "seed {seed}");
    }
}

/// Both slots of an offset file can be in flight to the disk, and be torn there, only if one was
/// written over before the other was on the disk.
#[test]
fn h10_a_torn_slot_of_an_offset_file_leaves_the_position_that_was_synced() {
    for failing in 0..3 {
        let disk = SimDisk::new();
        let process = disk.process();
        let (_log, topic) = create_in(&process, Durability::PowerLoss);
        append(&topic, 0..40);
        let mut consumer = topic.consumer("c", Start::First).unwrap();
        let mut consume_and_sync = |count: u64| {
            for _ in 0..count {
                consumer.next().unwrap().unwrap();
            }
            consumer.commit().unwrap();
            consumer.sync().is_ok()
        };
        assert!(consume_and_sync(10));
        // All of them: the background may sync the position before this thread does, or try again.
        for nth in 0..1000 {
            disk.fail(Op::SyncData, nth, libc::EIO);
        }
        assert!(!consume_and_sync(10), "the slot is written, but not on the disk");
        disk.forget_faults();
        drop(consumer);
        let mut consumer = topic.consumer("c", Start::First).unwrap();
        consumer.next().unwrap().unwrap();
        consumer.commit().unwrap();
        disk.fail(Op::SyncData, failing, libc::EIO);
        let synced = if consumer.sync().is_ok() { 21 } else { 10 };
        // From here on the background changes nothing.
        process.kill();

        let path = format!("{DIR}/topics/{TOPIC}/consumers/c");
        let (live, durable) = (disk.read(&path).unwrap(), disk.durable(&path).unwrap());
        for seed in 0..20 {
            let image = disk.power_cut(seed);
            for slot in [1024..1536, 1536..2048] {
                if live[slot.clone()] != durable[slot.clone()] {
                    image.flip(&path, slot.start + 17, 0xff);
                }
            }
            let (_log, topic) = open(&image);
            let consumer = topic.consumer("c", Start::First).unwrap();
            assert!(consumer.committed() >= synced, "{} after {synced}", consumer.committed());
        }
    }
}

#[test]
fn h12_the_control_words_of_a_copy_made_at_another_instant_are_not_trusted() {
    let disk = SimDisk::new();
    let (_log, topic) = create(&disk, Durability::ProcessCrash);
    topic.append(&record("r0")).unwrap();
    let copy = disk.copy();
    topic.append(&record("r1")).unwrap();
    topic.append(&record("r2")).unwrap();
    // `cp` read the control file last, when it counted three records.
    let control = format!("{DIR}/topics/{TOPIC}/control");
    copy.write(&control, &disk.read(&control).unwrap());
    let (_log, topic) = open(&copy);
    assert_eq!(names(&topic), ["r0"]);
    assert_eq!(topic.append(&record("new")).unwrap(), 1);
}

#[test]
fn a_closed_topic_with_a_sync_interval_is_durable() {
    let disk = SimDisk::new();
    let (log, topic) = create(&disk, WITHIN);
    append(&topic, 0..20);
    drop((topic, log));
    assert_after_cuts(&disk, 20, &numbered(0..20));
}
