//! A recovery keeps what it cuts off under another name, within limits, even on a full disk.

use std::fs::File;
use std::path::Path;

use deaddrop::sim::SimDisk;
use deaddrop::{Durability, Error, Log, Record, Start, Topic, TopicOptions};

const DIR: &str = "/log";
const SEGMENT_LEN: u64 = 64 << 10;

fn options() -> TopicOptions {
    TopicOptions::default().with_durability(Durability::PowerLoss).with_segment_len(SEGMENT_LEN)
}

fn file(topic: &Path, name: &str, len: u64) {
    File::create(topic.join(name)).unwrap().set_len(len).unwrap();
}

/// The epochs of the files that were set aside, in order.
fn epochs_aside(topic: &Path) -> Vec<u64> {
    let names = std::fs::read_dir(topic).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    let mut epochs: Vec<u64> =
        names.filter_map(|name| Some(name.split_once(".cut-")?.1.parse().unwrap())).collect();
    epochs.sort_unstable();
    epochs
}

/// A topic whose newest segment has its name but no header, as a power cut can leave it, and
/// `earlier` files of `len` bytes that earlier recoveries set aside.
fn recovered(earlier: u64, len: u64) -> (tempfile::TempDir, Vec<u64>) {
    let dir = crate::dir();
    let topic = Log::open_or_create(dir.path()).unwrap().topic_with("t", options()).unwrap();
    for _ in 0..10 {
        topic.append(&Record::new("x")).unwrap();
    }
    let path = topic.dir().to_owned();
    // Each recovery begins an epoch.
    let epochs: Vec<u8> = (1..=earlier)
        .flat_map(|epoch| {
            deaddrop::format::epochs::Entry { epoch: epoch as u32, start: 10 }.encode()
        })
        .collect();
    drop(topic);
    std::fs::write(path.join("epochs"), epochs).unwrap();
    for epoch in 1..=earlier {
        file(&path, &format!("00000000000000000010.seg.cut-{epoch}"), len);
    }
    file(&path, "00000000000000000010.seg", SEGMENT_LEN);
    // As after a reboot: the control words are gone.
    std::fs::remove_file(path.join("control")).unwrap();
    let topic = Log::open_or_create(dir.path()).unwrap().open_topic("t").unwrap();
    let report = topic.recovery().unwrap();
    assert_eq!(report.set_aside, [format!("00000000000000000010.seg.cut-{}", earlier + 1)]);
    assert_eq!(topic.append(&Record::new("on")).unwrap(), 10);
    let left = epochs_aside(&path);
    (dir, left)
}

#[test]
fn only_the_newest_files_that_recoveries_set_aside_are_kept() {
    let (_dir, left) = recovered(5, SEGMENT_LEN);
    assert_eq!(left, (1..=6).collect::<Vec<u64>>());
    let (_dir, left) = recovered(80, SEGMENT_LEN);
    assert_eq!(left, (18..=81).collect::<Vec<u64>>(), "the newest 64");
    // The files are sparse.
    let (_dir, left) = recovered(5, 400 << 20);
    assert_eq!(left, [4, 5, 6], "the newest gigabyte");
    let (_dir, left) = recovered(2, 2 << 30);
    assert_eq!(left, [3], "the file that the recovery reports is kept");
}

fn count(topic: &Topic) -> usize {
    let mut reader = topic.reader(Start::First).unwrap();
    let mut count = 0;
    while reader.next().unwrap().is_some() {
        count += 1;
    }
    count
}

#[test]
fn a_topic_whose_end_must_be_cut_off_is_read_on_a_full_disk_and_opened_with_little_room() {
    const ACKNOWLEDGED: usize = 20;
    let disk = SimDisk::new();
    let process = disk.process();
    let topic = Log::open_sim(&process, DIR).unwrap().topic_with("t", options()).unwrap();
    for _ in 0..ACKNOWLEDGED {
        topic.append(&Record::new([7; 100])).unwrap();
    }
    topic.append_unsynced(&Record::new([8; 1000])).unwrap();
    process.kill();
    drop(topic);
    let disk = disk.reboot();
    let path = format!("{DIR}/topics/t/{:020}.seg", 0);
    let torn = disk.read(&path).unwrap().iter().rposition(|&byte| byte == 8).unwrap();
    disk.flip(&path, torn, 1);
    let used: usize = disk.paths().iter().map(|path| disk.read(path).unwrap().len()).sum();
    disk.set_capacity(used as u64);
    let error = Log::open_sim(&disk, DIR).unwrap().open_topic("t").unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains("free some disk space"), "{said}");
    assert!(said.contains("can be read meanwhile"), "{said}");
    let reading = Log::open_sim_read_only(&disk, DIR).unwrap().open_topic("t").unwrap();
    assert_eq!(count(&reading), ACKNOWLEDGED);
    // Less room than a segment of this topic needs.
    disk.set_capacity(used as u64 + SEGMENT_LEN / 2);
    let topic = Log::open_sim(&disk, DIR).unwrap().open_topic("t").unwrap();
    assert!(topic.recovery().unwrap().cut);
    assert_eq!(topic.append(&Record::new("on")).unwrap(), ACKNOWLEDGED as u64);
    let error = (0..100).find_map(|_| topic.append(&Record::new([9; 1000])).err()).unwrap();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    disk.set_capacity(u64::MAX);
    topic.append(&Record::new([9; 1000])).unwrap();
    let shown = count(&topic);
    assert!(shown > ACKNOWLEDGED + 2);
    for seed in 0..10 {
        let image = disk.power_cut(seed);
        let again = Log::open_sim(&image, DIR).unwrap().open_topic("t").unwrap();
        assert_eq!(count(&again), shown);
    }
}
