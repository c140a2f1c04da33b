//! A file system is shut down and mounted again without a reboot: boot, device and inode are the
//! same, and the control page is older than the records. No acknowledged record is written over.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deaddrop::sim::SimDisk;
use deaddrop::{Durability, Log, Record, Start, Topic, TopicOptions};

use crate::child::{listen, say, Child};
use crate::image::Image;

const DIR: &str = "/log";
const CONTROL: &str = "/log/topics/t/control";
const DURABILITIES: [Durability; 3] = [
    Durability::PowerLoss,
    Durability::PowerLossWithin(Duration::from_secs(3600)),
    Durability::ProcessCrash,
];

fn create(log: Log, durability: Durability) -> Topic {
    let options = TopicOptions::default().with_durability(durability).with_segment_len(16 << 10);
    log.topic_with("t", options).unwrap()
}

fn on_sim(disk: &SimDisk, durability: Durability) -> Topic {
    create(Log::open_sim(disk, DIR).unwrap(), durability)
}

fn payload(offset: u64) -> Vec<u8> {
    vec![offset as u8; 700]
}

/// Reads all offsets from 0 on and checks the payloads; returns their number.
fn readable(topic: &Topic, story: &str) -> u64 {
    let mut reader = topic.reader(Start::First).unwrap();
    let mut count = 0;
    while let Some(record) = reader.next().unwrap_or_else(|error| panic!("{story}: {error}")) {
        assert!(record.payload() == payload(count), "{story}: offset {count} is another record");
        count += 1;
    }
    count
}

#[test]
fn words_of_an_older_instant_are_not_resumed_after_a_remount() {
    for (number, durability) in DURABILITIES.into_iter().enumerate() {
        let mut child = Child::spawn(&["older-words", &number.to_string()]);
        assert_eq!(child.hear().as_deref(), Some("bye"), "{durability:?}");
        assert!(child.wait().success());
    }
}

/// Role: keeps the control page of every point of many appends, syncs and rolls. When all records
/// are durable, it mounts the file system again with each of the pages, and with torn ones. A
/// process of its own, because it arms crash points.
pub(crate) fn older_words(words: &[&str]) {
    let durability = DURABILITIES[words[0].parse::<usize>().unwrap()];
    let disk = SimDisk::new();
    let process = disk.process();
    let topic = on_sim(&process, durability);
    let pages = Arc::new(Mutex::new(Vec::new()));
    let keep = {
        let (disk, pages) = (disk.clone(), Arc::clone(&pages));
        move |name| pages.lock().unwrap().push((name, disk.read(CONTROL).unwrap()))
    };
    let append = |count: u64| {
        for _ in 0..count {
            let offset = topic.end_offset().unwrap();
            topic.append(&Record::new(payload(offset))).unwrap();
        }
    };
    append(10);
    deaddrop::arm_crash_points(Some(Box::new(keep)));
    append(30);
    deaddrop::arm_crash_points(None);
    append(10);
    topic.wait_durable(49).unwrap();
    process.kill();
    drop(topic);
    let pages = std::mem::take(&mut *pages.lock().unwrap());
    let paths = disk.paths();
    let segments = paths.iter().filter(|path| path.extension().is_some_and(|end| end == "seg"));
    assert!(segments.count() > 2, "{paths:?}");
    // At least one page for each append; a point that another thread reaches meanwhile is skipped.
    assert!(pages.len() >= 30, "{}", pages.len());
    let mut torn = Vec::new();
    for pair in pages.windows(2) {
        let mut page = pair[0].1.clone();
        page[512..1024].copy_from_slice(&pair[1].1[512..1024]);
        torn.push(("torn", page));
    }
    for (at, (name, page)) in pages.iter().chain(&torn).enumerate() {
        let story = format!("{durability:?}, the control page of {name} ({at})");
        let disk = disk.remount(at as u64);
        disk.write(CONTROL, page);
        let read_only = Log::open_sim_read_only(&disk, DIR).unwrap();
        assert_eq!(readable(&read_only.open_topic("t").unwrap(), &story), 50, "{story}");
        let topic = on_sim(&disk, durability);
        assert_eq!(readable(&topic, &story), 50, "{story}");
        assert_eq!(topic.append(&Record::new(payload(50))).unwrap(), 50, "{story}");
        assert_eq!(readable(&topic, &story), 51, "{story}");
    }
}

/// Role: appends as commanded.
pub(crate) fn remounted(words: &[&str]) {
    let durability = DURABILITIES[words[1].parse::<usize>().unwrap()];
    let topic = create(Log::open_or_create(Path::new(words[0])).unwrap(), durability);
    while let Some(count) = listen() {
        for _ in 0..count.parse::<u64>().unwrap() {
            let offset = topic.end_offset().unwrap();
            topic.append(&Record::new(payload(offset))).unwrap();
        }
        let end = topic.end_offset().unwrap();
        topic.wait_durable(end - 1).unwrap();
        say(&end.to_string());
    }
}

#[test]
fn a_file_system_that_is_shut_down_and_mounted_again_keeps_every_acknowledged_record() {
    for (kind, len) in [("ext4", 96 << 20), ("xfs", 320 << 20)] {
        for (number, durability) in DURABILITIES.into_iter().enumerate() {
            let Some(mut image) = Image::new(kind, len, &["-q"]) else { return };
            let dir = image.root().join("log");
            let mut child =
                Child::spawn(&["remounted", dir.to_str().unwrap(), &number.to_string()]);
            assert_eq!(child.ask("5"), "5");
            image.sync();
            assert_eq!(child.ask("5"), "10");
            image.shut_down();
            child.kill();
            image.mount_again();
            let story = format!("{kind}, {durability:?}");
            let topic = create(Log::open_or_create(&dir).unwrap(), durability);
            assert_eq!(topic.append(&Record::new(payload(10))).unwrap(), 10, "{story}");
            assert_eq!(readable(&topic, &story), 11, "{story}");
        }
    }
}

#[test]
fn a_read_only_log_without_members_shows_no_record_that_was_not_durable() {
    let disk = SimDisk::new();
    let process = disk.process();
    let topic = on_sim(&process, Durability::PowerLoss);
    topic.append(&Record::new(payload(0))).unwrap();
    for offset in 1..6 {
        topic.append_unsynced(&Record::new(payload(offset))).unwrap();
    }
    process.kill();
    drop(topic);
    let read_only = Log::open_sim_read_only(&disk, DIR).unwrap().open_topic("t").unwrap();
    assert_eq!(readable(&read_only, "killed"), 1);
    assert_eq!(read_only.high_watermark().unwrap(), 1);
    // A process that opens it for writing syncs them.
    let topic = on_sim(&disk.process(), Durability::PowerLoss);
    assert_eq!(readable(&topic, "opened"), 6);
    assert_eq!(readable(&read_only, "opened"), 6);
}

#[test]
fn an_intent_at_the_wrong_place_costs_no_append() {
    let written = |words: &[(usize, u64)]| {
        let disk = SimDisk::new();
        let process = disk.process();
        let topic = on_sim(&process, Durability::ProcessCrash);
        for offset in 0..5 {
            topic.append(&Record::new(payload(offset))).unwrap();
        }
        process.kill();
        drop(topic);
        let mut page = disk.read(CONTROL).unwrap();
        for &(position, flip) in words {
            let mut word = u64::from_le_bytes(page[position..position + 8].try_into().unwrap());
            word ^= flip;
            page[position..position + 8].copy_from_slice(&word.to_le_bytes());
        }
        disk.write(CONTROL, &page);
        let topic = on_sim(&disk.process(), Durability::ProcessCrash);
        assert_eq!(readable(&topic, "flipped"), 5, "{words:?}");
        assert_eq!(topic.append(&Record::new(payload(5))).unwrap(), 5, "{words:?}");
        assert_eq!(readable(&topic, "flipped"), 6, "{words:?}");
    };
    let words = deaddrop::control_words();
    let at = |name| words.iter().find(|word| word.0 == name).unwrap().1;
    for bit in 0..64 {
        written(&[(at("intent.end"), 1 << bit)]);
        written(&[(at("intent.start"), 1 << bit), (at("intent.end"), 8192)]);
        written(&[(at("intent.roll"), 1 << bit)]);
    }
}

#[test]
fn a_read_only_handle_sees_no_lower_high_watermark_while_another_process_recovers() {
    let mut child = Child::spawn(&["seen-recovery"]);
    assert_eq!(child.hear().as_deref(), Some("bye"));
    assert!(child.wait().success());
}

/// Role: a read-only handle beside members that are gone; another process recovers. A process of
/// its own, because it arms crash points.
pub(crate) fn seen_recovery(_: &[&str]) {
    let disk = SimDisk::new();
    let process = disk.process();
    let topic = on_sim(&process, Durability::ProcessCrash);
    for offset in 0..20 {
        topic.append(&Record::new(payload(offset))).unwrap();
    }
    let log = Log::open_sim_read_only(&disk.process(), DIR).unwrap();
    let reader = log.open_topic("t").unwrap();
    assert!(reader.is_live());
    disk.fail(deaddrop::sim::Op::SyncData, 0, libc::EIO);
    while topic.wait_durable(19).is_ok() {
        // The background was faster, so there was no sync left to fail.
        let offset = topic.end_offset().unwrap();
        topic.append(&Record::new(payload(offset))).unwrap();
        assert!(offset < 1000);
        if topic.wait_durable(offset).is_err() {
            break;
        }
    }
    let shown = reader.high_watermark().unwrap();
    process.kill();
    drop(topic);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let look = {
        let (reader, seen) = (reader.clone(), Arc::clone(&seen));
        move |name| {
            let first = reader.first_offset().unwrap();
            seen.lock().unwrap().push((name, reader.high_watermark().unwrap(), first));
        }
    };
    deaddrop::arm_crash_points(Some(Box::new(look)));
    let topic = on_sim(&disk.process(), Durability::ProcessCrash);
    deaddrop::arm_crash_points(None);
    assert_eq!(topic.end_offset().unwrap(), shown);
    let seen = seen.lock().unwrap();
    assert!(seen.iter().any(|(name, ..)| *name == "recover.synced"), "{seen:?}");
    assert!(seen.iter().all(|(_, high_watermark, _)| *high_watermark == shown), "{seen:?}");
}
