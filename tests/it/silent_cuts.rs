//! A recovery reports what it cuts off, and does not cut off records that were whole: one flipped
//! bit in a log that was closed, restarted or copied costs one record.

use deaddrop::sim::SimDisk;
use deaddrop::{Durability, Error, Log, Record, Start, Topic, TopicOptions};

const DIR: &str = "/log";
const FRAME: usize = 232;
const DURABILITIES: [Durability; 3] = [
    Durability::PowerLoss,
    Durability::PowerLossWithin(std::time::Duration::from_secs(3600)),
    Durability::ProcessCrash,
];

fn payload(offset: u64) -> Vec<u8> {
    vec![b'a' + (offset % 26) as u8; 200]
}

fn segment(base: u64) -> String {
    format!("{DIR}/topics/t/{base:020}.seg")
}

fn log_of(disk: &SimDisk, durability: Durability, count: u64) -> Topic {
    let options = TopicOptions::default().with_durability(durability).with_segment_len(16 << 10);
    let topic = Log::open_sim(disk, DIR).unwrap().topic_with("t", options).unwrap();
    for offset in 0..count {
        topic.append_unsynced(&Record::new(payload(offset))).unwrap();
    }
    topic
}

fn bases(disk: &SimDisk) -> Vec<u64> {
    (0..200).filter(|&base| disk.read(segment(base)).is_some()).collect()
}

/// Returns the number of records that can be read when damage is skipped, and the skipped offsets.
fn read(topic: &Topic) -> (u64, Vec<u64>) {
    let mut reader = topic.reader(Start::First).unwrap();
    let (mut count, mut lost) = (0, Vec::new());
    loop {
        match reader.next() {
            Ok(Some(record)) => {
                assert_eq!(record.payload(), payload(record.offset()));
                count += 1;
            }
            Ok(None) => return (count, lost),
            Err(Error::Corrupt { .. }) => lost.extend(reader.skip_damage().unwrap()),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn one_flipped_bit_in_a_log_that_was_killed_and_restarted_or_copied_costs_one_reported_record() {
    for durability in DURABILITIES {
        for count in [40, 100] {
            let disk = SimDisk::new();
            let process = disk.process();
            let topic = log_of(&process, durability, count);
            process.kill();
            drop(topic);
            let bases = bases(&disk);
            for bad in (0..count - 1).step_by(3) {
                let base = *bases.iter().rfind(|&&base| base <= bad).unwrap();
                for image in [disk.reboot(), disk.copy()] {
                    let story = format!("{durability:?}, {count} records, {bad} is flipped");
                    image.flip(segment(base), 4096 + (bad - base) as usize * FRAME + 99, 8);
                    let read_only = Log::open_sim_read_only(&image, DIR).unwrap();
                    let read_only = read_only.open_topic("t").unwrap();
                    assert_eq!(read(&read_only), (count - 1, vec![bad]), "{story}, read only");
                    let found = read_only.recovery().unwrap();
                    let told: Vec<_> = found.damage.iter().map(|d| d.offsets.clone()).collect();
                    let topic = Log::open_sim(&image, DIR).unwrap().open_topic("t").unwrap();
                    assert_eq!(topic.append(&Record::new(payload(count))).unwrap(), count);
                    assert_eq!(read(&topic), (count, vec![bad]), "{story}");
                    let report = topic.recovery().unwrap();
                    // Below the segment of the promised boundary only a reader finds the damage.
                    assert!(report.damage.iter().map(|d| d.offsets.clone()).eq(told.clone()));
                    assert!(report.damage.len() <= 1 && !report.cut, "{story}: {report:?}");
                    let promised = bases.iter().rfind(|&&base| base <= report.promised_boundary);
                    let is_read = Some(&base) >= promised;
                    let is_told = told.first().is_some_and(|offsets| *offsets == (bad..bad + 1));
                    assert_eq!(is_read, is_told, "{story}: {report:?}");
                }
            }
        }
    }
}

#[test]
fn the_last_close_promises_all_records_with_any_durability() {
    for durability in DURABILITIES {
        let disk = SimDisk::new();
        let (one, other) = (log_of(&disk.process(), durability, 50), log_of(&disk, durability, 0));
        drop(one);
        drop(other);
        for seed in 0..20 {
            let image = disk.power_cut(seed);
            // The last record: no record after it would show that it is damaged.
            let base = *bases(&image).last().unwrap();
            image.flip(segment(base), 4096 + (49 - base) as usize * FRAME + 99, 8);
            let read_only = Log::open_sim_read_only(&image, DIR).unwrap();
            assert_eq!(read(&read_only.open_topic("t").unwrap()), (49, vec![49]));
            let topic = Log::open_sim(&image, DIR).unwrap().open_topic("t").unwrap();
            let report = topic.recovery().unwrap();
            assert_eq!(report.promised_boundary, 50, "{durability:?}");
            assert_eq!(report.damage.len(), 1, "{durability:?}: {report:?}");
            assert_eq!(topic.append(&Record::new(payload(50))).unwrap(), 50);
        }
    }
}

#[test]
fn records_after_a_hole_of_a_power_cut_are_cut_off_and_reported_with_files_and_counts() {
    let disk = SimDisk::new();
    let process = disk.process();
    let topic = log_of(&process, Durability::ProcessCrash, 100);
    process.kill();
    drop(topic);
    let bases = bases(&disk);
    let image = disk.reboot();
    // A sector that never reached the disk, in the segment before the last.
    let base = bases[bases.len() - 2];
    let mut bytes = image.read(segment(base)).unwrap();
    bytes[4096 + 512..4096 + 1024].fill(0);
    image.write(segment(base), &bytes);
    let before = Log::open_sim_read_only(&image, DIR).unwrap().open_topic("t").unwrap();
    let expected = before.recovery().unwrap().clone();
    let topic = Log::open_sim(&image, DIR).unwrap().open_topic("t").unwrap();
    let report = topic.recovery().unwrap();
    if report.promised_boundary > base {
        // The background was fast, so it is damage.
        assert_eq!(report.damage.len(), 1);
        return;
    }
    let (kept, lost) = read(&topic);
    assert_eq!((kept, lost.len()), (report.end, 0));
    assert!(report.cut && report.damage.is_empty(), "{report:?}");
    assert_eq!(report.frames_cut, report.cuts.iter().map(|cut| cut.frames).sum::<u64>());
    assert_eq!(expected.frames_cut, report.frames_cut);
    // Every record except those that lost bytes is in a file that the report names.
    assert!((100 - kept - 4..100 - kept).contains(&report.frames_cut), "{report:?}");
    for cut in &report.cuts {
        assert!(image.read(&cut.path).is_some(), "{cut:?}");
    }
}
