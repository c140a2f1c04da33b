//! Targets that open a topic made of the input, and use it.

use std::sync::{Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use deaddrop::format::frame::{self, Parts};
use deaddrop::format::segment::{self, Header};
use deaddrop::group::{GroupOptions, WorkerOptions};
use deaddrop::repair;
use deaddrop::sim::SimDisk;
use deaddrop::{Durability, Error, Log, Reader, Record, Retention, Start, Topic, TopicOptions};

use super::Input;

const LOG: &str = "/log";
const TOPIC: &str = "/log/topics/t";
const SEGMENT_LEN: usize = segment::MIN_LEN as usize;

const DURABILITIES: [Durability; 3] = [
    Durability::PowerLoss,
    Durability::PowerLossWithin(Duration::from_secs(3600)),
    Durability::ProcessCrash,
];

fn options(durability: Durability) -> TopicOptions {
    let retention = Retention::default().with_consumed(durability == Durability::ProcessCrash);
    TopicOptions::default()
        .with_durability(durability)
        .with_segment_len(SEGMENT_LEN as u64)
        .with_retention(retention)
}

/// The payload of every record that is appended here gives its length, so that a record that was
/// never appended is recognised.
fn payload(len: usize) -> Vec<u8> {
    vec![len as u8; len]
}

/// A closed log with one topic of each durability in turn: some segments, a consumer, an index.
fn image(durability: usize) -> SimDisk {
    static IMAGES: OnceLock<Vec<Mutex<SimDisk>>> = OnceLock::new();
    let images = IMAGES.get_or_init(|| {
        let make = |&durability: &Durability| {
            let disk = SimDisk::new();
            let log = Log::open_sim(&disk, LOG).unwrap();
            let topic = log.topic_with("t", options(durability)).unwrap();
            for number in 0..60 {
                let record = Record::new(payload(number * 13)).with_key("k").with_header("h", "v");
                topic.append_unsynced(&record).unwrap();
            }
            topic.append_batch(&[Record::new(payload(3)), Record::new(payload(4))]).unwrap();
            let mut consumer = topic.consumer("c", Start::Offset(20)).unwrap();
            consumer.next().unwrap();
            consumer.commit().unwrap();
            consumer.sync().unwrap();
            work(&topic).unwrap();
            assert!(topic.reader(Start::Offset(5)).unwrap().next().unwrap().is_some());
            drop((consumer, topic, log));
            // The background may or may not have made these in time.
            for path in disk.paths() {
                if path.extension().is_some_and(|extension| extension == "tmp") {
                    disk.remove(path);
                }
            }
            Mutex::new(disk)
        };
        DURABILITIES.iter().map(make).collect()
    });
    let image = images[durability % images.len()].lock().unwrap();
    image.reboot()
}

/// Has a worker take some records of the group.
fn work(topic: &Topic) -> Result<(), Error> {
    let options = GroupOptions::default().with_lanes(3).with_start(Start::First);
    let group = topic.group("g", options)?;
    let mut worker = group.worker(WorkerOptions::default(), |_| Ok(()))?;
    for _ in 0..4 {
        worker.poll(Duration::ZERO)?;
    }
    Ok(())
}

/// Reads on to the end, past all damage. Every step must advance.
fn read_on(reader: &mut Reader) {
    let mut stuck = 0;
    let mut last = None;
    for _ in 0..100_000 {
        let at = reader.offset();
        match reader.next() {
            Ok(Some(record)) => {
                assert_eq!(record.offset(), at);
                assert!(last < Some(record.offset()), "offsets rise");
                let bytes = record.payload();
                assert!(bytes == payload(bytes.len()), "a record that was never appended");
                last = Some(record.offset());
                stuck = 0;
            }
            Ok(None) => return,
            Err(Error::Corrupt { .. }) => {
                stuck += 1;
                assert!(stuck < 3, "no way forward at offset {at}");
                match reader.skip_damage() {
                    Ok(skipped) => {
                        assert_eq!(skipped.start, at);
                        assert_eq!(skipped.end, reader.offset());
                        if !skipped.is_empty() {
                            stuck = 0;
                        }
                    }
                    Err(Error::Trimmed { .. }) => return,
                    Err(error) if is_final(&error) => return,
                    Err(error) => panic!("skipping: {error}"),
                }
            }
            Err(Error::Trimmed { wanted, first }) => {
                assert!(first > wanted);
                match reader.seek(Start::First) {
                    Ok(()) => assert_eq!(reader.offset(), first),
                    Err(error) => panic!("seeking to the start: {error}"),
                }
            }
            Err(Error::Lost { offsets, .. }) => {
                assert_eq!(offsets.start, at);
                assert_eq!(offsets.end, reader.offset(), "it continues after them");
                assert!(!offsets.is_empty());
            }
            Err(error) if is_final(&error) => return,
            Err(error) => panic!("reading: {error}"),
        }
    }
    panic!("no end of reading");
}

/// Returns true for errors that end reading: a file that was removed while the words of this boot
/// name it, or a file that claims to be of another version.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        Error::Version { .. } => true,
        _ => false,
    }
}

/// Opens the topic and uses it as callers do. Errors are answers; panics and hangs are not.
fn use_topic(disk: &SimDisk) -> Result<(), Error> {
    let log = Log::open_sim(&disk.process(), LOG)?;
    log.topics()?;
    let topic = log.open_topic("t")?;
    for start in [Start::First, Start::Last, Start::LastN(7), Start::Time(SystemTime::UNIX_EPOCH)] {
        match topic.reader(start) {
            Ok(mut reader) => read_on(&mut reader),
            Err(Error::Corrupt { .. } | Error::Trimmed { .. }) => {}
            Err(error) if is_final(&error) => {}
            Err(error) => panic!("a reader: {error}"),
        }
    }
    topic.consumers()?;
    topic.groups()?;
    let appended = append_and_read(&topic);
    if let Ok(mut consumer) = topic.consumer("c", Start::First) {
        if let Ok(Some(_)) = consumer.next() {
            consumer.commit()?;
            consumer.sync()?;
        }
    }
    match work(&topic) {
        Ok(()) | Err(Error::Corrupt { .. } | Error::Trimmed { .. } | Error::Lost { .. }) => {}
        Err(error) if is_final(&error) => {}
        Err(error) => panic!("a worker: {error}"),
    }
    topic.trim()?;
    topic.trim_before(40)?;
    read_on(&mut topic.reader(Start::First)?);
    appended
}

fn append_and_read(topic: &Topic) -> Result<(), Error> {
    for len in [1, 3000, 20_000] {
        let offset = topic.append(&Record::new(payload(len)))?;
        let mut reader = topic.reader(Start::Offset(offset))?;
        let record = reader.next()?.expect("a record that was acknowledged");
        assert_eq!((record.offset(), record.payload()), (offset, &payload(len)[..]));
    }
    Ok(())
}

/// Repairs the topic. If nothing is left to be done by hand, no damage must be left in it.
fn mend(disk: &SimDisk) {
    let Ok(log) = Log::open_sim(&disk.process(), LOG) else { return };
    drop(repair::plan(&log, "t"));
    let options = repair::Options::default().with_consumers(true);
    let Ok(report) = repair::execute(&log, "t", options) else { return };
    if report.findings.iter().all(|finding| finding.done) {
        let again = repair::plan(&log, "t").expect("a repaired topic can be planned again");
        let left = |finding: &repair::Finding| finding.remedy != repair::Remedy::Open;
        assert!(!again.findings.iter().any(left), "{report:?} left {again:?}");
    }
}

/// Uses it twice: the second opening must accept the files that the first one made, unless there is
/// a foreign segment file that appends may reach later.
fn use_twice(disk: &SimDisk, foreign: bool) {
    let first = use_topic(disk);
    let second = use_topic(disk);
    if first.is_ok() && !foreign {
        second.expect("a topic that was opened and used can be opened again");
    }
}

/// A newest segment made of the input: its bytes, and frames with right checksums whose other
/// fields it chooses.
pub fn segment(data: &[u8]) {
    let mut input = Input(data);
    let choice = input.number(1);
    let disk = image(choice as usize);
    let name = disk.paths().into_iter().filter(|path| path.extension().is_some_and(|e| e == "seg"));
    let path = name.max().expect("a segment");
    let mut bytes = disk.read(&path).expect("just listed");
    let header = Header::decode(&bytes).expect("as it was written");
    let mut at = segment::FIRST_FRAME_AT as usize;
    if choice & 0x80 == 0 {
        bytes[at..].fill(0);
    }
    let mut offset = header.base;
    while !input.0.is_empty() && at + 64 < bytes.len() {
        let room = bytes.len() - at;
        match input.number(1) {
            0..=31 => {
                let junk =
                    input.bytes((room - 8).min(1 + input.0.first().map_or(0, |&b| b as usize)));
                bytes[at..at + junk.len()].copy_from_slice(junk);
                at = (at + junk.len().max(1)).next_multiple_of(frame::ALIGN);
            }
            32..=63 => {
                let len = frame::padded(32 + input.below(512)).min(room & !7);
                let fixed = frame::void(len, input.number(1), 0, header.salt, at as u64);
                bytes[at..at + fixed.len()].copy_from_slice(&fixed);
                at += len;
            }
            64..=79 => at += frame::ALIGN * input.below(64),
            code => {
                let payload = payload(input.below(400).min(room - 48));
                let named = if code < 96 { offset.wrapping_add(input.number(8)) } else { offset };
                let parts = Parts { key: None, headers: b""[..].into(), payload: &payload };
                let fixed =
                    parts.fixed(named, input.number(8), code % 8 == 0, header.salt, at as u64);
                bytes[at..at + fixed.len()].copy_from_slice(&fixed);
                at += fixed.len();
                bytes[at..at + payload.len()].copy_from_slice(&payload);
                at = (at + payload.len()).next_multiple_of(frame::ALIGN);
                offset += 1;
            }
        }
    }
    disk.write(&path, &bytes);
    use_twice(&disk, false);
}

/// A topic's directory with changes in any of its files that the input chooses.
pub fn topic(data: &[u8]) {
    let mut input = Input(data);
    let choice = input.number(1);
    let mut disk = image(choice as usize);
    match choice >> 4 & 3 {
        0 => {}
        1 => disk = disk.copy(),
        2 => disk = disk.power_cut(input.number(2)),
        // On the same boot from now on: the control words are trusted.
        _ => drop(use_topic(&disk)),
    }
    let mut foreign = false;
    for _ in 0..8 {
        if input.0.is_empty() {
            break;
        }
        foreign |= change(&disk, &mut input);
    }
    if choice & 0x40 != 0 {
        mend(&disk);
    }
    use_twice(&disk, foreign);
}

/// Changes one file. Returns true if it made a segment file of another name.
fn change(disk: &SimDisk, input: &mut Input<'_>) -> bool {
    let paths = disk.paths();
    let path = &paths[input.below(paths.len())];
    let mut bytes = disk.read(path).expect("just listed");
    let kind = input.number(1) % 8;
    let len = bytes.len().max(1);
    // Most of the important bytes are at the start of a file or of a frame.
    let at = match input.number(1) % 4 {
        0 => input.below(128),
        1 => input.below(4096),
        2 => input.below(len),
        _ => 8 * input.below(len.div_ceil(8)),
    };
    let at = at.min(bytes.len());
    match kind {
        0 if at < bytes.len() => bytes[at] ^= (1 << (input.number(1) % 8)) as u8,
        1 | 2 => {
            let patch = input.bytes((bytes.len() - at).min(8));
            bytes[at..at + patch.len()].copy_from_slice(patch);
        }
        3 => bytes.truncate(at),
        4 => {
            let count = input.below(4096).min(bytes.len() - at);
            bytes[at..at + count].fill(0);
        }
        5 => {
            let from = 8 * input.below(len.div_ceil(8)).min(bytes.len() / 8);
            let count = input.below(600).min(bytes.len() - at).min(bytes.len() - from);
            bytes.copy_within(from..from + count, at);
        }
        6 => {
            let base = input.number(1);
            let path = std::path::Path::new(TOPIC).join(segment::file_name(base));
            if disk.read(TOPIC.to_owned() + "/settings").is_some() {
                disk.write(path, &bytes);
            }
            return true;
        }
        _ => {
            disk.remove(path);
            return false;
        }
    }
    disk.write(path, &bytes);
    false
}
