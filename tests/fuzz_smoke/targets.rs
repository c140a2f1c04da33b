//! What is done with arbitrary bytes: the bodies of the fuzz targets. Each takes any input whatever,
//! and panics if the library breaks a promise about untrusted bytes.
//!
//! The decoders are also given the input with its checksums made right, since no mutation finds those
//! by itself.
#![allow(unreachable_pub)] // Public in the fuzz crate, which has this file too.

use std::sync::{Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use deaddrop::format::frame::{self, Fixed, Parts};
use deaddrop::format::segment::{self, Header, Slot};
use deaddrop::format::settings::{self, Settings};
use deaddrop::format::{cursor, epochs, headers, index, marker, names};
use deaddrop::sim::SimDisk;
use deaddrop::{Durability, Error, Log, Reader, Record, Retention, Start, Topic, TopicOptions};

/// A target's name and body.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: [Target; 11] = [
    ("frame", frame),
    ("segment_header", segment_header),
    ("settings", settings),
    ("epochs", epochs),
    ("index", index),
    ("cursor", cursor),
    ("headers", headers),
    ("names", names),
    ("marker", marker),
    ("segment", segment),
    ("topic", topic),
];

/// Takes an input apart; zeros where it has ended.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn number(&mut self, len: usize) -> u64 {
        self.bytes(len).iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    }

    /// A number below `limit`, which is positive.
    fn below(&mut self, limit: usize) -> usize {
        self.number(4) as usize % limit
    }
}

/// `bytes` with magic, version and checksum as they should be, if there is room for them.
fn sealed(bytes: &[u8], magic: &[u8; 8], crc_at: usize) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    bytes.get(crc_at + 4 - 1)?;
    bytes[..8].copy_from_slice(magic);
    bytes[8..10].copy_from_slice(&deaddrop::format::VERSION.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..crc_at]);
    bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    Some(bytes)
}

pub fn frame(data: &[u8]) {
    let mut input = Input(data);
    let (salt, position) = (input.number(8), input.number(4));
    let mut bytes = input.0.to_vec();
    let Ok(fixed) = Fixed::decode(&bytes, bytes.len()) else { return };
    assert!(fixed.padded_len() <= bytes.len() && fixed.checked_len() <= fixed.padded_len());
    // Passes by chance only.
    drop(fixed.verify(&bytes, salt, position));

    let crc = frame::checksum(&bytes[frame::LEN_AT..fixed.checked_len()], salt, position);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    let fixed = Fixed::decode(&bytes, bytes.len()).expect("the checksum is no part of the rest");
    fixed.verify(&bytes, salt, position).expect("the checksum was made right");
    assert!(fixed.verify(&bytes, salt ^ 1, position).is_err());
    if fixed.kind != frame::KIND_RECORD {
        return;
    }
    let parts = Parts {
        key: fixed.key_range().map(|range| &bytes[range]),
        headers: &bytes[fixed.headers_range()],
        payload: &bytes[fixed.payload_range()],
    };
    headers(parts.headers);
    let padding = &bytes[fixed.len..fixed.padded_len()];
    if padding.iter().all(|&byte| byte == 0) {
        let again = parts.fixed(fixed.offset, fixed.timestamp, fixed.continues(), salt, position);
        assert_eq!(again, bytes[..frame::FIXED_LEN]);
    }
}

pub fn segment_header(data: &[u8]) {
    for bytes in [Some(data.to_vec()), sealed(data, &segment::MAGIC, segment::CRC_AT)] {
        let Some(bytes) = bytes else { continue };
        if let Ok(header) = Header::decode(&bytes) {
            let len = segment::CRC_AT + 4;
            assert_eq!(header.encode()[..len], bytes[..len]);
        }
    }
    let salt = Input(data).number(8);
    if let Some(slot) = segment::newest_slot(data, salt) {
        assert!(slot.sequence > 0);
        assert_eq!(Slot::decode(&slot.encode(salt), salt), Some(slot));
    }
    segment::is_latched(data);
    let name = String::from_utf8_lossy(data);
    if let Some(base) = segment::parse_file_name(&name) {
        assert_eq!(segment::file_name(base), name);
    }
}

pub fn settings(data: &[u8]) {
    for bytes in [Some(data.to_vec()), sealed(data, &settings::MAGIC, settings::CRC_AT)] {
        let Some(bytes) = bytes else { continue };
        if let Ok(stored) = Settings::decode(&bytes) {
            assert_eq!(Settings::decode(&stored.encode()), Ok(stored));
        }
    }
}

pub fn epochs(data: &[u8]) {
    let entries = epochs::decode(data);
    assert!(entries.len() <= data.len().div_ceil(epochs::ENTRY_LEN));
    let mut input = Input(data);
    let (epoch, position) = (input.number(4) as u32, input.number(8));
    let clamped = epochs::clamp(&entries, epoch, position);
    assert!(clamped <= position);
    assert_eq!(epochs::clamp(&entries, epoch, clamped), clamped);
    for entry in &entries {
        assert_eq!(epochs::decode(&entry.encode()), [*entry]);
    }
}

pub fn index(data: &[u8]) {
    let mut fitted = data.to_vec();
    if let Some(entries) = fitted.get(index::HEADER_LEN..) {
        let count = entries.len() / index::ENTRY_LEN;
        let crc = crc32fast::hash(&entries[..count * index::ENTRY_LEN]);
        fitted[index::COUNT_AT..][..4].copy_from_slice(&(count as u32).to_le_bytes());
        fitted[index::ENTRIES_CRC_AT..][..4].copy_from_slice(&crc.to_le_bytes());
    }
    let sealed_only = sealed(data, &index::MAGIC, index::CRC_AT);
    let fitted = sealed(&fitted, &index::MAGIC, index::CRC_AT);
    assert!(fitted.as_ref().is_none_or(|bytes| index::decode(bytes).is_ok()));
    for bytes in [Some(data.to_vec()), sealed_only, fitted] {
        let Some(bytes) = bytes else { continue };
        if let Ok((salt, end, entries)) = index::decode(&bytes) {
            assert!(entries.len() * index::ENTRY_LEN + index::HEADER_LEN <= bytes.len());
            let again = index::encode(salt, end, &entries);
            assert_eq!(index::decode(&again), Ok((salt, end, entries)));
        }
    }
}

pub fn cursor(data: &[u8]) {
    for bytes in [Some(data.to_vec()), sealed(data, &cursor::MAGIC, cursor::CRC_AT)] {
        let Some(bytes) = bytes else { continue };
        if let Ok(topic_id) = cursor::decode_header(&bytes) {
            let len = cursor::TOPIC_ID_AT + 8;
            assert_eq!(
                cursor::encode_header(topic_id)[cursor::TOPIC_ID_AT..len],
                bytes[cursor::TOPIC_ID_AT..len]
            );
        }
        if let Some(saved) = cursor::newest_slot(&bytes) {
            assert_eq!(cursor::Saved::decode(&saved.encode()), Some(saved));
        }
    }
}

pub fn headers(data: &[u8]) {
    let mut again = Vec::new();
    for (name, value) in headers::iter(data) {
        headers::push(&mut again, name, value).expect("as long as it was before");
    }
    assert!(data.starts_with(&again));
    assert_eq!(headers::check(data).is_ok(), again.len() == data.len());
}

pub fn names(data: &[u8]) {
    let name = String::from_utf8_lossy(data);
    if names::check(&name).is_ok() {
        let path = std::path::Path::new("dir").join(&*name);
        assert_eq!(path.parent(), Some(std::path::Path::new("dir")));
        assert_eq!(path.file_name(), Some(std::ffi::OsStr::new(&*name)));
    }
}

pub fn marker(data: &[u8]) {
    drop(marker::decode(data));
    if let Some(bytes) = sealed(data, &marker::MAGIC, marker::CRC_AT) {
        assert_eq!(marker::decode(&bytes), Ok(()));
    }
}

const LOG: &str = "/log";
const TOPIC: &str = "/log/topics/t";
const SEGMENT_LEN: usize = segment::MIN_LEN as usize;

const DURABILITIES: [Durability; 3] = [
    Durability::PowerLoss,
    Durability::PowerLossWithin(Duration::from_secs(3600)),
    Durability::ProcessCrash,
];

fn options(durability: Durability) -> TopicOptions {
    let retention =
        Retention { consumed: durability == Durability::ProcessCrash, ..Retention::default() };
    TopicOptions { durability, segment_len: SEGMENT_LEN as u64, retention }
}

/// The payload of every record that is ever appended here says its length, so that a record which
/// was not appended is recognised.
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
            let topic = log.create_topic("t", options(durability)).unwrap();
            for number in 0..60 {
                let record = Record::new(payload(number * 13)).key("k").header("h", "v");
                topic.append_unsynced(&record).unwrap();
            }
            topic.append_batch(&[Record::new(payload(3)), Record::new(payload(4))]).unwrap();
            let mut consumer = topic.consumer("c", Start::Offset(20)).unwrap();
            consumer.next().unwrap();
            consumer.commit().unwrap();
            consumer.sync().unwrap();
            assert!(topic.reader(Start::Offset(5)).unwrap().next().unwrap().is_some());
            drop((consumer, topic, log));
            // What the background made ahead in time, and may or may not have.
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

/// Reads on to the end, behind all damage. Every step goes forward.
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
                assert!(bytes == payload(bytes.len()), "a record that nobody appended");
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
                assert_eq!(offsets.end, reader.offset(), "it goes on behind them");
                assert!(!offsets.is_empty());
            }
            Err(error) if is_final(&error) => return,
            Err(error) => panic!("reading: {error}"),
        }
    }
    panic!("no end of reading");
}

/// Answers that end reading: a file that was removed while the words of this boot name it, or one that
/// says to be of another version.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        Error::Version { .. } => true,
        _ => false,
    }
}

/// Opens the topic and does with it what callers do. Errors are answers; panics and hangs are not.
fn use_topic(disk: &SimDisk) -> Result<(), Error> {
    let log = Log::open_sim(&disk.process(), LOG)?;
    log.topics()?;
    let topic = log.existing_topic("t")?;
    for start in [Start::First, Start::Last, Start::LastN(7), Start::Time(SystemTime::UNIX_EPOCH)] {
        match topic.reader(start) {
            Ok(mut reader) => read_on(&mut reader),
            Err(Error::Corrupt { .. } | Error::Trimmed { .. }) => {}
            Err(error) if is_final(&error) => {}
            Err(error) => panic!("a reader: {error}"),
        }
    }
    topic.consumers()?;
    let appended = append_and_read(&topic);
    if let Ok(mut consumer) = topic.consumer("c", Start::First) {
        if let Ok(Some(_)) = consumer.next() {
            consumer.commit()?;
            consumer.sync()?;
        }
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

/// Opens it twice: what the first opening made of the files must be good for the second, unless there
/// is a foreign segment file that appends may come upon later.
fn use_twice(disk: &SimDisk, foreign: bool) {
    let first = use_topic(disk);
    let second = use_topic(disk);
    if first.is_ok() && !foreign {
        second.expect("what was opened and used can be opened again");
    }
}

/// A newest segment made of the input: bytes of its own, and frames with right checksums whose other
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
                let parts = Parts { key: None, headers: &[], payload: &payload };
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

/// A topic's directory with changes that the input chooses in any of its files.
pub fn topic(data: &[u8]) {
    let mut input = Input(data);
    let choice = input.number(1);
    let mut disk = image(choice as usize);
    match choice >> 4 & 3 {
        0 => {}
        1 => disk = disk.copy(),
        2 => disk = disk.power_cut(input.number(2)),
        // On the same boot from now on: the control words are believed.
        _ => drop(use_topic(&disk)),
    }
    let mut foreign = false;
    for _ in 0..8 {
        if input.0.is_empty() {
            break;
        }
        foreign |= change(&disk, &mut input);
    }
    use_twice(&disk, foreign);
}

/// Changes one file. True if it made a segment file of another name.
fn change(disk: &SimDisk, input: &mut Input<'_>) -> bool {
    let paths = disk.paths();
    let path = &paths[input.below(paths.len())];
    let mut bytes = disk.read(path).expect("just listed");
    let kind = input.number(1) % 8;
    let len = bytes.len().max(1);
    // Most that matters stands at the start of a file, or at that of a frame.
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
