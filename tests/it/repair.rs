//! Repairs: damaged records are marked lost and no others, whatever a power cut or a failing call
//! leaves of a repair, and another repair reaches the same result.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

use deaddrop::repair::{self, Options, Remedy};
use deaddrop::sim::{Op, SimDisk};
use deaddrop::{Durability, Error, Log, Record, Start, TopicOptions};

use crate::random::{number_from_env, Random};
use crate::settle::settle;

const DIR: &str = "/log";
const TOPIC: &str = "/log/topics/t";
const RECORDS: u64 = 90;

fn payload(offset: u64) -> Vec<u8> {
    Random(offset).bytes(300 + offset as usize % 400)
}

/// A log of some segments, all of it durable.
fn specimen(durability: Durability) -> SimDisk {
    let disk = SimDisk::new();
    let log = Log::open_sim(&disk.process(), DIR).unwrap();
    let options = TopicOptions::default().with_durability(durability).with_segment_len(16 << 10);
    let topic = log.topic_with("t", options).unwrap();
    for offset in 0..RECORDS {
        topic.append(&Record::new(payload(offset)).with_key("k")).unwrap();
    }
    topic.wait_durable(RECORDS - 1).unwrap();
    let mut consumer = topic.consumer("c", Start::First).unwrap();
    for _ in 0..40 {
        consumer.next().unwrap().unwrap();
    }
    consumer.commit().unwrap();
    consumer.sync().unwrap();
    drop((consumer, topic, log));
    settle(&disk, TOPIC);
    assert!(segments(&disk).len() >= 3);
    disk
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let paths = disk.paths().into_iter();
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).collect()
}

/// Damages a log in some places, drawn from a seed.
fn damage(disk: &SimDisk, random: &mut Random) {
    let files = segments(disk);
    for _ in 0..1 + random.below(6) {
        let file = &files[random.below(files.len() as u64) as usize];
        match random.below(5) {
            0 => {
                // One header sector, or both.
                disk.flip(file, random.below(64) as usize, 1 << random.below(8));
                if random.one_in(2) {
                    disk.flip(file, 3584 + random.below(64) as usize, 1 << random.below(8));
                }
            }
            1 => {
                // A run of zeros, as a lost write leaves it.
                let mut bytes = disk.read(file).unwrap();
                let start = 4096 + random.below(bytes.len() as u64 - 4096) as usize;
                let end = bytes.len().min(start + 2048);
                bytes[start..end].fill(0);
                disk.write(file, &bytes);
            }
            _ => {
                let at = 4096 + random.below(11 << 10) as usize;
                disk.flip(file, at, 1 << random.below(8));
            }
        }
    }
}

/// Returns the offsets of right records, and the lost ones; an error if anything is damaged.
fn read(disk: &SimDisk) -> Result<(BTreeSet<u64>, BTreeSet<u64>), Error> {
    let log = Log::open_sim(&disk.process(), DIR)?;
    let topic = log.open_topic("t")?;
    let (mut shown, mut lost) = (BTreeSet::new(), BTreeSet::new());
    let mut reader = topic.reader(Start::First)?;
    for _ in 0..10 * RECORDS {
        match reader.next() {
            Ok(Some(record)) => {
                assert_eq!(record.payload(), payload(record.offset()), "{}", record.offset());
                shown.insert(record.offset());
            }
            Ok(None) => {
                drop((reader, topic, log));
                settle(disk, TOPIC);
                return Ok((shown, lost));
            }
            Err(Error::Lost { offsets, .. }) => lost.extend(offsets),
            Err(error) => return Err(error),
        }
    }
    panic!("reading does not end");
}

fn execute(disk: &SimDisk) -> Result<repair::Report, Error> {
    let log = Log::open_sim(&disk.process(), DIR)?;
    let report = repair::execute(&log, "t", Options::default());
    drop(log);
    settle(disk, TOPIC);
    report
}

/// Returns the records whose frames are whole in the segment files, whatever is between them.
fn whole_frames(disk: &SimDisk) -> BTreeSet<u64> {
    use deaddrop::format::{frame, segment};
    let mut found = BTreeSet::new();
    for file in segments(disk) {
        let bytes = disk.read(&file).unwrap();
        let Ok(header) = segment::Header::decode_page(&bytes) else { continue };
        for position in (4096..bytes.len()).step_by(8) {
            let fixed = frame::Fixed::decode(&bytes[position..], bytes.len() - position);
            let Ok(fixed) = fixed else { continue };
            let is_whole = fixed.verify(&bytes[position..], header.salt, position as u64).is_ok();
            if is_whole && fixed.kind == frame::KIND_RECORD {
                found.insert(fixed.offset);
            }
        }
    }
    found
}

fn all(range: Range<u64>) -> BTreeSet<u64> {
    range.collect()
}

#[test]
fn a_damaged_log_is_repaired_to_its_whole_frames_and_lost_records_are_reported() {
    let rounds = number_from_env("DEADDROP_REPAIRS", 30);
    for seed in 0..rounds {
        let mut random = Random(seed);
        let durability = match seed % 2 {
            0 => Durability::PowerLoss,
            _ => Durability::ProcessCrash,
        };
        let disk = specimen(durability);
        let disk = if random.one_in(2) { disk.reboot() } else { disk };
        damage(&disk, &mut random);
        let whole = whole_frames(&disk);
        let planned = {
            let log = Log::open_sim_read_only(&disk.process(), DIR).unwrap();
            repair::plan(&log, "t").unwrap()
        };
        let report = execute(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let left: Vec<_> = report.findings.iter().filter(|finding| !finding.done).collect();
        assert!(left.is_empty(), "seed {seed}: not done: {left:?}");
        let places = |report: &repair::Report| -> BTreeSet<_> {
            let kept = report.findings.iter().filter(|finding| finding.remedy != Remedy::Open);
            kept.map(|finding| (finding.path.clone(), finding.position)).collect()
        };
        if report.recovery.is_none() {
            assert_eq!(places(&planned), places(&report), "seed {seed}: the dry run differs");
        }
        let (shown, lost) = read(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        // A header that lost both sectors is rebuilt from the frames.
        let missing: Vec<_> = whole.difference(&shown).collect();
        assert!(missing.is_empty(), "seed {seed}: whole and not shown: {missing:?}");
        assert!(shown.is_disjoint(&lost), "seed {seed}");
        let told: BTreeSet<u64> = shown.union(&lost).copied().collect();
        let end = told.len() as u64;
        assert_eq!(told, all(0..end), "seed {seed}: an offset is neither there nor lost");
        let again = execute(&disk).unwrap();
        assert!(again.findings.is_empty(), "seed {seed}: {:?}", again.findings);
        assert_eq!(read(&disk).unwrap(), (shown, lost), "seed {seed}");
    }
}

/// Passes the disks that a power cut leaves of a repair: cut just before each of its calls in turn.
fn cut_off(origin: &SimDisk, op: Op, seed: u64, mut look: impl FnMut(u64, &SimDisk)) {
    let mut ends = 0;
    for nth in 0..1_000 {
        let disk = origin.reboot();
        let log = Log::open_sim(&disk.process(), DIR).unwrap();
        disk.fail(op, nth, libc::EIO);
        let cut = repair::execute(&log, "t", Options::default());
        drop(log);
        disk.forget_faults();
        for draw in 0..3 {
            look(nth, &disk.power_cut(1_000 * seed + 3 * nth + draw));
        }
        // A repair ignores some failures, such as that of a file that is already gone.
        ends = if cut.is_ok() { ends + 1 } else { 0 };
        if ends > 3 {
            return;
        }
    }
    panic!("{op:?}: a repair of a small log takes more than a thousand calls");
}

#[test]
fn a_power_cut_before_any_call_of_a_repair_leaves_the_damage_or_the_repair() {
    let seeds = number_from_env("DEADDROP_REPAIRS", 3);
    let mut images = 0;
    for seed in 0..seeds {
        let mut random = Random(seed);
        let origin = specimen(Durability::PowerLoss).reboot();
        damage(&origin, &mut random);
        let whole = whole_frames(&origin);
        let undisturbed = origin.reboot();
        execute(&undisturbed).unwrap();
        for cut in 0..10 {
            let found = read(&undisturbed.power_cut(cut)).unwrap();
            assert_eq!(
                found,
                read(&undisturbed.reboot()).unwrap(),
                "seed {seed}: it was not durable"
            );
        }
        let expected = read(&undisturbed).unwrap();
        for op in [Op::Write, Op::SyncData, Op::Rename, Op::SyncDir, Op::Remove] {
            cut_off(&origin, op, seed, |nth, image| {
                images += 1;
                let at = format!("seed {seed}, {op:?} {nth}");
                let left = whole_frames(image);
                assert!(whole.is_subset(&left), "{at}: a repair wrote over a whole frame");
                execute(image).unwrap_or_else(|error| panic!("{at}: {error}"));
                let found = read(image).unwrap_or_else(|error| panic!("{at}: {error}"));
                assert_eq!(found, expected, "{at}");
            });
        }
    }
    println!("{images} images");
    assert!(images > 100);
}

#[test]
fn bytes_that_a_repair_writes_over_are_durable_in_the_quarantine_before() {
    let origin = specimen(Durability::PowerLoss).reboot();
    let file = segments(&origin)[1].clone();
    origin.flip(&file, 5000, 8);
    let damaged = origin.read(&file).unwrap();
    let done = origin.reboot();
    let report = execute(&done).unwrap();
    let finding =
        report.findings.iter().find(|finding| finding.remedy == Remedy::MarkLost).unwrap();
    let kept = finding.kept.as_ref().unwrap();
    let range = finding.position as usize..(finding.position + finding.len) as usize;
    assert!(range.contains(&5000));
    // The bytes after the fixed part of the void frame are unchanged too.
    let after = done.read(&file).unwrap();
    let changed: Vec<usize> = (0..after.len()).filter(|&at| after[at] != damaged[at]).collect();
    let head = range.start..range.start + deaddrop::format::frame::FIXED_LEN;
    assert!(changed.iter().all(|at| head.contains(at)), "{changed:?}");
    let (mut before, mut behind) = (0, 0);
    for op in [Op::Write, Op::SyncData, Op::Rename, Op::SyncDir] {
        cut_off(&origin, op, 0, |nth, image| {
            if image.read(&file).unwrap()[range.clone()] == damaged[range.clone()] {
                before += 1;
                return;
            }
            behind += 1;
            let kept = image.read(kept).unwrap_or_else(|| panic!("{op:?} {nth}: nothing was kept"));
            assert_eq!(kept, damaged[range.clone()], "{op:?} {nth}");
        });
    }
    assert!(before > 0 && behind > 0, "{before} images before, {behind} after");
}

#[test]
fn any_failing_call_of_a_repair_can_be_followed_by_another_repair() {
    for op in [
        Op::Open,
        Op::Rename,
        Op::Remove,
        Op::SyncDir,
        Op::Read,
        Op::Write,
        Op::Allocate,
        Op::SyncData,
    ] {
        let mut failed = 0;
        for nth in 0..200 {
            let disk = specimen(Durability::PowerLoss);
            damage(&disk, &mut Random(3));
            let whole = whole_frames(&disk);
            disk.fail(op, nth, libc::EIO);
            let first = execute(&disk);
            disk.forget_faults();
            failed += u64::from(first.is_err());
            execute(&disk).unwrap_or_else(|error| panic!("{op:?} {nth}: {error}"));
            let (shown, _) = read(&disk).unwrap();
            assert!(whole.is_subset(&shown), "{op:?} {nth}");
            if first.is_ok() && nth > 60 {
                break;
            }
        }
        assert!(failed > 0 || op == Op::Remove, "{op:?} never failed");
    }
}

#[test]
fn an_open_topic_is_refused_and_a_repair_keeps_others_out() {
    let disk = specimen(Durability::PowerLoss);
    let other = Log::open_sim(&disk.process(), DIR).unwrap();
    let held = other.open_topic("t").unwrap();
    let log = Log::open_sim(&disk.process(), DIR).unwrap();
    let refused = repair::execute(&log, "t", Options::default());
    assert!(matches!(refused, Err(Error::Locked { .. })), "{refused:?}");
    // In the same process too.
    let refused = repair::execute(&other, "t", Options::default());
    assert!(matches!(refused, Err(Error::Locked { .. })), "{refused:?}");
    let read_only = Log::open_sim_read_only(&disk.process(), DIR).unwrap();
    let refused = repair::execute(&read_only, "t", Options::default());
    assert!(matches!(refused, Err(Error::ReadOnly { .. })), "{refused:?}");
    repair::plan(&read_only, "t").unwrap();
    drop(held);
    settle(&disk, TOPIC);
    repair::execute(&log, "t", Options::default()).unwrap();
    assert!(matches!(repair::plan(&log, "u"), Err(Error::NotFound { .. })));
}

#[test]
fn a_file_of_another_version_is_not_written_over() {
    let disk = specimen(Durability::PowerLoss);
    let file = segments(&disk)[1].clone();
    let mut bytes = disk.read(&file).unwrap();
    for at in [0, 3584] {
        bytes[at + 8] = 9;
        let crc = crc32fast::hash(&bytes[at..at + 64]);
        bytes[at + 64..at + 68].copy_from_slice(&crc.to_le_bytes());
    }
    disk.write(&file, &bytes);
    assert!(matches!(execute(&disk), Err(Error::Version { found: 9, .. })));
    assert_eq!(disk.read(&file).unwrap(), bytes);
}

#[test]
fn seeking_by_time_and_offset_passes_lost_ranges() {
    let disk = specimen(Durability::PowerLoss);
    let files = segments(&disk);
    // The whole segment, so that the times of its records are lost too.
    let len = disk.read(&files[1]).unwrap().len();
    disk.write(&files[1], &vec![0x5a; len]);
    execute(&disk).unwrap();
    let log = Log::open_sim(&disk.process(), DIR).unwrap();
    let topic = log.open_topic("t").unwrap();
    let mut times = Vec::new();
    let mut reader = topic.reader(Start::First).unwrap();
    loop {
        match reader.next() {
            Ok(Some(record)) => times.push((record.offset(), record.timestamp())),
            Ok(None) => break,
            Err(Error::Lost { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(times.len() > 30);
    for &(offset, time) in &times {
        reader.seek(Start::Offset(offset)).unwrap();
        assert_eq!(reader.next().unwrap().unwrap().offset(), offset);
        reader.seek(Start::Time(time)).unwrap();
        assert!(reader.offset() <= offset, "a record of that time was skipped");
    }
}
