//! A log restored from a sparse copy has holes where it had zeros. On a full disk, each hole is an
//! error of one call, never a signal.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use deaddrop::group::{GroupOptions, WorkerOptions};
use deaddrop::{Durability, Error, Log, Record, Start, Topic, TopicOptions};
use deaddrop_disk::{Disk, FileSystem};

use crate::child::{self, Child};

const SEGMENT_LEN: u64 = 2 << 20;
const DURABILITIES: [Durability; 3] = [
    Durability::PowerLoss,
    Durability::PowerLossWithin(std::time::Duration::from_millis(20)),
    Durability::ProcessCrash,
];
/// More records than fit into a segment.
const APPENDS: usize = 3_000;

fn options(durability: Durability) -> TopicOptions {
    TopicOptions::default().with_durability(durability).with_segment_len(SEGMENT_LEN)
}

fn count(topic: &Topic) -> u64 {
    let mut reader = topic.reader(Start::First).unwrap();
    let mut count = 0;
    while reader.next().unwrap().is_some() {
        count += 1;
    }
    count
}

fn end(what: &str, result: Result<(), Error>) {
    match result {
        Ok(()) => child::say(&format!("{what} ok")),
        Err(Error::NoSpace { .. }) => child::say(&format!("{what} no space")),
        Err(Error::Unknown { source, .. }) if matches!(*source, Error::NoSpace { .. }) => {
            child::say(&format!("{what} no space"));
        }
        Err(error) => child::say(&format!("{what} {error:?}")),
    }
}

/// Role: uses a log in every way, and reports how each call ended.
pub(crate) fn fills_up(words: &[&str]) {
    let [dir] = words else { panic!("{words:?}") };
    let topic = match Log::open_or_create(dir).and_then(|log| log.topic("t")) {
        Ok(topic) => topic,
        Err(error) => return end("open", Err(error)),
    };
    end("open", Ok(()));
    end("consumer", consume(&topic));
    end("group", work(&topic));
    append_until_full(&topic);
}

/// Role: appends a record; after the next line of input, more of them until the disk is full.
pub(crate) fn appends_until_full(words: &[&str]) {
    let [dir] = words else { panic!("{words:?}") };
    let topic = Log::open_or_create(dir).unwrap().topic("t").unwrap();
    topic.append(&Record::new("first")).unwrap();
    child::say("begun");
    child::listen().unwrap();
    append_until_full(&topic);
}

fn append_until_full(topic: &Topic) {
    let mut acknowledged = 0;
    let mut result = Ok(());
    while acknowledged < APPENDS && result.is_ok() {
        result = topic.append(&Record::new([1; 1_000])).map(drop);
        acknowledged += usize::from(result.is_ok());
    }
    child::say(&format!("acknowledged {acknowledged}"));
    end("append", result);
}

fn consume(topic: &Topic) -> Result<(), Error> {
    let mut consumer = topic.consumer("c", Start::First)?;
    consumer.next()?;
    consumer.commit()?;
    consumer.sync()
}

fn work(topic: &Topic) -> Result<(), Error> {
    let group = topic.group("g", GroupOptions::default())?;
    let mut worker = group.worker(WorkerOptions::default(), |_| Ok(()))?;
    worker.poll(child::GUARD).map(drop)
}

fn make_log(dir: &Path, durability: Durability) {
    let topic = Log::open_or_create(dir).unwrap().topic_with("t", options(durability)).unwrap();
    for _ in 0..100 {
        topic.append(&Record::new("before")).unwrap();
    }
    drop(topic.consumer("c", Start::First).unwrap());
    topic.group("g", GroupOptions::default()).unwrap();
}

/// Fills the disk and leaves `left` bytes free.
fn fill(dir: &Path, left: usize) {
    let hold = dir.join("hold");
    std::fs::write(&hold, vec![1; left]).unwrap();
    File::open(&hold).unwrap().sync_all().unwrap();
    let file = File::create(dir.join("filling")).unwrap();
    let mut len = 0;
    for step in [16 << 20, 1 << 20, 64 << 10, 4 << 10] {
        // SAFETY: an open descriptor and plain integers. Bounded by the disk.
        while unsafe { libc::posix_fallocate(file.as_raw_fd(), len, step) } == 0 {
            len += step;
        }
    }
    file.sync_all().unwrap();
    std::fs::remove_file(hold).unwrap();
    File::open(dir).unwrap().sync_all().unwrap();
}

fn blocks_len(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn a_log_restored_with_holes_onto_a_full_disk_gives_no_space_and_loses_nothing() {
    for file_system in [FileSystem::Ext4, FileSystem::Xfs] {
        if let Some(reason) = file_system.missing() {
            println!("skipped on {file_system:?}: {reason}");
            continue;
        }
        let disk = Disk::new(Path::new(env!("CARGO_TARGET_TMPDIR")), file_system, "field::server");
        let mut refused = 0;
        for (index, durability) in DURABILITIES.into_iter().enumerate() {
            for left in [0, 100 << 10, 300 << 10, 3 << 20] {
                let about = format!("{file_system:?}, {durability:?}, {left} bytes left");
                let origin = crate::dir();
                make_log(origin.path(), durability);
                let dir = disk.path().join(format!("log{index}-{left}"));
                let copied = Command::new("cp")
                    .args(["-a", "--sparse=always"])
                    .args([origin.path(), &dir])
                    .status()
                    .unwrap();
                assert!(copied.success());
                let segment = dir.join("topics/t/00000000000000000000.seg");
                assert!(blocks_len(&segment) < SEGMENT_LEN / 2, "{about}: it has holes");
                fill(&disk.path(), left);
                let mut child = Child::spawn(&["fills-up", dir.to_str().unwrap()]);
                let mut acknowledged = 0;
                let mut said = Vec::new();
                while let Some(line) = child.hear() {
                    match line.strip_prefix("acknowledged ") {
                        Some(count) => acknowledged = count.parse::<u64>().unwrap(),
                        None => said.push(line),
                    }
                }
                let status = child.wait();
                assert!(status.success(), "{about}: {status}, {said:?}");
                let known = |line: &String| line.ends_with(" ok") || line.ends_with(" no space");
                assert!(said.iter().all(|line| line == "bye" || known(line)), "{about}: {said:?}");
                refused += said.iter().filter(|line| line.ends_with(" no space")).count();
                std::fs::remove_file(disk.path().join("filling")).unwrap();

                let topic = Log::open_or_create(&dir).unwrap().topic("t").unwrap();
                assert_eq!(count(&topic), 100 + acknowledged, "{about}: {said:?}");
                topic.append(&Record::new("after")).unwrap();
                assert!(blocks_len(&segment) >= SEGMENT_LEN, "{about}: the holes are filled");
                consume(&topic).unwrap();
                work(&topic).unwrap();
                drop(topic);
                std::fs::remove_dir_all(&dir).unwrap();
            }
        }
        assert!(refused >= 6, "{file_system:?}: {refused} calls met the full disk");
    }
}

#[test]
fn appends_to_blocks_that_a_copy_shares_are_refused_on_a_full_disk_and_lose_nothing() {
    if let Some(reason) = FileSystem::Xfs.missing() {
        return println!("skipped: {reason}");
    }
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let disk = Disk::new(parent, FileSystem::Xfs, "field::server");
    for (index, durability) in DURABILITIES.into_iter().enumerate() {
        let dir = disk.path().join(format!("log{index}"));
        let copy = disk.path().join(format!("copy{index}"));
        make_log(&dir, durability);
        let copied =
            Command::new("cp").args(["-r", "--reflink=always"]).args([&dir, &copy]).status();
        assert!(copied.unwrap().success());
        let _watchdog = child::Watchdog::new();
        let mut child = Child::spawn(&["appends-until-full", copy.to_str().unwrap()]);
        assert_eq!(child.hear().as_deref(), Some("begun"));
        fill(&disk.path(), 500_000);
        child.tell("continue");
        let Some(said) = child.hear() else { panic!("{durability:?}: {}", child.wait()) };
        println!("{durability:?}: {said}");
        let acknowledged: u64 = said.strip_prefix("acknowledged ").unwrap().parse().unwrap();
        assert_eq!(child.hear().as_deref(), Some("append no space"), "{durability:?}");
        assert_eq!(child.hear().as_deref(), Some("bye"), "{durability:?}");
        assert!(child.wait().success(), "{durability:?}");
        std::fs::remove_file(disk.path().join("filling")).unwrap();
        for (dir, expected) in [(dir, 100), (copy, 101 + acknowledged)] {
            let topic = Log::open_or_create(&dir).unwrap().topic("t").unwrap();
            assert_eq!(count(&topic), expected, "{durability:?}, {}", dir.display());
            topic.append(&Record::new("after")).unwrap();
            drop(topic);
            std::fs::remove_dir_all(&dir).unwrap();
        }
    }
}
