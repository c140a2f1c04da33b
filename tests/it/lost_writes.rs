//! A write fails, the kernel reports it once and then takes the lost pages for clean. On a real
//! file system: later promises are on the disk, because every page was written again.
//!
//! The loss is simulated: fdatasync writes, its caller gets EIO, and the old blocks are put back.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use deaddrop::{Consumer, Durability, Error, Log, Record, Start, Topic, TopicOptions};

use crate::child::{listen, raise, say, Child};
use crate::image::Image;

/// The next fdatasync of this process fails.
static FAILS: AtomicBool = AtomicBool::new(false);
/// This process dies in this call of fdatasync, counted from 1; 0 means never.
static DIES_IN: AtomicU32 = AtomicU32::new(0);

/// Replaces the C library's function for this whole binary.
///
/// # Safety
///
/// As fdatasync(2).
#[no_mangle]
unsafe extern "C" fn fdatasync(fd: libc::c_int) -> libc::c_int {
    if DIES_IN.load(Ordering::Relaxed) > 0 && DIES_IN.fetch_sub(1, Ordering::Relaxed) == 1 {
        raise(libc::SIGKILL);
    }
    // SAFETY: a plain integer.
    let result = unsafe { libc::syscall(libc::SYS_fdatasync, fd) } as libc::c_int;
    if FAILS.swap(false, Ordering::Relaxed) {
        // SAFETY: this thread's errno.
        unsafe { *libc::__errno_location() = libc::EIO };
        return -1;
    }
    result
}

const RECORDS: u64 = 1000;
const DURABILITIES: [Durability; 3] = [
    Durability::PowerLoss,
    Durability::PowerLossWithin(Duration::from_secs(3600)),
    Durability::ProcessCrash,
];

fn payload(offset: u64) -> Vec<u8> {
    vec![offset as u8; 880]
}

fn record(offset: u64) -> Record {
    Record::new(payload(offset))
}

fn open(dir: &Path, durability: Durability) -> Topic {
    let options = TopicOptions::default().with_durability(durability).with_segment_len(4 << 20);
    Log::open_or_create(dir).unwrap().topic_with("t", options).unwrap()
}

fn readable(topic: &Topic) -> u64 {
    let mut reader = topic.reader(Start::First).unwrap();
    let mut count = 0;
    while let Some(record) = reader.next().unwrap() {
        assert_eq!((record.offset(), record.payload()), (count, &payload(count)[..]));
        count += 1;
    }
    count
}

/// Role: appends, and its sync fails; it gets the error, or dies before it can report it.
pub(crate) fn unlucky(words: &[&str]) {
    let durability = DURABILITIES[words[1].parse::<usize>().unwrap()];
    let topic = open(Path::new(words[0]), durability);
    topic.append(&record(0)).unwrap();
    topic.wait_durable(0).unwrap();
    say("ready");
    listen();
    for offset in 1..=RECORDS {
        topic.append_unsynced(&record(offset)).unwrap();
    }
    if words[2] == "dies" {
        deaddrop::arm_crash_points(Some(Box::new(|name| {
            if name == "sync.failed" {
                raise(libc::SIGKILL);
            }
        })));
    }
    FAILS.store(true, Ordering::Relaxed);
    let error = topic.wait_durable(RECORDS).unwrap_err();
    assert!(matches!(error, Error::SyncFailed { .. }), "{error}");
}

fn segment(dir: &Path) -> PathBuf {
    dir.join("topics/t/00000000000000000000.seg")
}

/// A writer's sync fails; its pages are clean and not on the disk.
fn lose(image: &Image, dir: &Path, durability: usize, then: &str) {
    let words = ["unlucky", dir.to_str().unwrap(), &durability.to_string(), then];
    let mut child = Child::spawn(&words);
    assert_eq!(child.hear().as_deref(), Some("ready"));
    image.sync();
    let before = image.blocks_of(&segment(dir));
    child.tell("go");
    match then {
        "dies" => child.wait_for_death(),
        _ => assert!(child.wait().success()),
    }
    image.sync();
    image.restore(&before);
}

#[test]
fn records_promised_after_a_failed_sync_are_on_the_disk_and_not_only_in_clean_pages() {
    for (number, durability) in DURABILITIES.into_iter().enumerate() {
        for then in ["gets the error", "dies"] {
            let Some(image) = Image::new("ext4", 96 << 20, &["-q", "-b", "4096"]) else { return };
            let dir = image.root().join("log");
            lose(&image, &dir, number, then);
            let topic = open(&dir, durability);
            assert_eq!(readable(&topic), RECORDS + 1, "{durability:?}, {then}");
            topic.wait_durable(RECORDS).unwrap();
            assert_eq!(topic.append(&record(RECORDS + 1)).unwrap(), RECORDS + 1);
            topic.wait_durable(RECORDS + 1).unwrap();
            let after = image.after_power_cut();
            let again = open(&after.root().join("log"), durability);
            assert_eq!(readable(&again), RECORDS + 2, "{durability:?}, {then}, power cut");
            drop((topic, again));
        }
    }
}

/// Role: a consumer's sync fails. In the next one the process dies after the slot of the failed one
/// is durable, and before the other slot is written over.
pub(crate) fn unlucky_consumer(words: &[&str]) {
    let topic = open(Path::new(words[0]), Durability::PowerLoss);
    for offset in 0..10 {
        topic.append(&record(offset)).unwrap();
    }
    let mut consumer = topic.consumer("c", Start::First).unwrap();
    let consume = |consumer: &mut Consumer, count: u64| {
        for _ in 0..count {
            assert!(consumer.next().unwrap().is_some());
        }
        consumer.commit().unwrap();
    };
    consume(&mut consumer, 2);
    consumer.sync().unwrap();
    say("ready");
    listen();
    consume(&mut consumer, 5);
    FAILS.store(true, Ordering::Relaxed);
    assert!(consumer.sync().is_err());
    say("failed");
    listen();
    // Without a commit, which would make the page dirty.
    DIES_IN.store(2, Ordering::Relaxed);
    consumer.sync().unwrap();
}

#[test]
fn the_slot_of_a_consumers_failed_sync_is_written_again_before_its_neighbour_is_written_over() {
    let Some(image) = Image::new("ext4", 96 << 20, &["-q", "-b", "4096"]) else { return };
    let dir = image.root().join("log");
    let mut child = Child::spawn(&["unlucky-consumer", dir.to_str().unwrap()]);
    assert_eq!(child.hear().as_deref(), Some("ready"));
    image.sync();
    let before = image.blocks_of(&dir.join("topics/t/consumers/c"));
    assert_eq!(child.ask("go"), "failed");
    image.restore(&before);
    child.tell("again");
    child.wait_for_death();
    let after = image.after_power_cut();
    let topic = open(&after.root().join("log"), Durability::PowerLoss);
    let consumers = topic.consumers().unwrap();
    let [consumer] = &consumers[..] else { panic!("{consumers:?}") };
    assert_eq!(consumer.durable, Some(7));
}
