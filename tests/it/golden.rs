//! The format, pinned: a stored log that must stay readable, and the bytes of every structure.
//!
//! `DEADDROP_WRITE_GOLDEN=1` writes the log again, for a new version of the format only.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use deaddrop::format::{
    cursor, epochs, frame, group, headers, index, marker, segment, settings, PAGE_LEN,
};
use deaddrop::group::{GroupOptions, HandlerError, Poison, WorkerOptions};
use deaddrop::sim::SimDisk;
use deaddrop::{Durability, Log, Record, Start, Stop, Topic, TopicOptions};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/log")
}

/// Returns the records of the stored log.
fn records() -> Vec<Record> {
    let mut records = vec![
        Record::new("plain"),
        Record::new("").with_key(""),
        Record::new("with a key").with_key("customer-7"),
        Record::new("with headers").with_header("trace", "abc").with_header("empty", ""),
    ];
    for number in 0..40u8 {
        records.push(Record::new(vec![number; 37 * usize::from(number)]).with_key([number]));
    }
    records
}

/// The records before this one are written in one life of the log, the others after a restart.
const FIRST_LIFE: usize = 20;

fn write_golden() {
    let disk = SimDisk::new();
    let all = records();
    let options =
        TopicOptions::default().with_durability(Durability::PowerLoss).with_segment_len(16 << 10);
    let log = Log::open_sim(&disk, "/log").unwrap();
    let topic = log.topic_with("orders", options).unwrap();
    topic.append_batch(&all[..4]).unwrap();
    for record in &all[4..FIRST_LIFE] {
        topic.append(record).unwrap();
    }
    drop((topic, log));
    let disk = disk.reboot();
    let log = Log::open_sim(&disk, "/log").unwrap();
    let topic = log.topic("orders").unwrap();
    for record in &all[FIRST_LIFE..] {
        topic.append(record).unwrap();
    }
    let mut billing = topic.consumer("billing", Start::Offset(5)).unwrap();
    billing.next().unwrap();
    billing.commit().unwrap();
    billing.sync().unwrap();
    drop(billing);
    work_a_group(&topic);
    drop((topic, log));
    for path in disk.paths() {
        let ephemeral = path.ends_with("control") || path.ends_with("lock");
        if !ephemeral && path.extension().is_none_or(|extension| extension != "tmp") {
            let to = golden().join(path.strip_prefix("/log").unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::write(to, disk.read(&path).unwrap()).unwrap();
        }
    }
}

/// The group's lanes, and the offset at which the worker stops its lane.
const LANES: u32 = 3;
const STOPPED_AT: u64 = 7;
/// The position of that lane: after its previous record.
const COMMITTED: u64 = 5;

/// A group of three lanes that began at offset 4; one of them is stopped at offset 7.
fn work_a_group(topic: &Topic) {
    let options = GroupOptions::default().with_lanes(LANES).with_start(Start::Offset(4));
    let group = topic.group("packing", options).unwrap();
    let worker = WorkerOptions::default().with_poison(Poison::StopLane);
    let mut worker = group
        .worker(worker, |job| match job.offset() {
            STOPPED_AT => Err(HandlerError::terminal("no such item")),
            _ => Ok(()),
        })
        .unwrap();
    for _ in 0..records().len() {
        worker.poll(std::time::Duration::ZERO).unwrap();
    }
    let stop = Stop::new();
    stop.stop();
    worker.run(&stop).unwrap();
}

fn check_records(log: &Log) {
    let topic = log.open_topic("orders").unwrap();
    let mut reader = topic.reader(Start::First).unwrap();
    for (offset, expected) in records().into_iter().enumerate() {
        let record = reader.next().unwrap().unwrap().to_owned();
        assert_eq!(record.offset(), offset as u64);
        assert_eq!(record.to_record(), expected);
    }
    assert!(reader.next().unwrap().is_none());
}

#[test]
fn a_log_of_this_version_of_the_format_stays_readable() {
    if std::env::var_os("DEADDROP_WRITE_GOLDEN").is_some() {
        write_golden();
    }
    check_records(&Log::open_read_only(golden()).unwrap());

    let copy = crate::dir();
    copy_tree(&golden(), copy.path());
    let log = Log::open_or_create(copy.path()).unwrap();
    let topic = log.topic("orders").unwrap();
    check_records(&log);
    assert_eq!(topic.recovery().unwrap().damage, []);
    assert_eq!(topic.consumer("billing", Start::First).unwrap().committed(), 6);
    assert_eq!(topic.append(&Record::new("x")).unwrap(), records().len() as u64);
}

#[test]
fn a_group_of_this_version_of_the_format_continues_where_it_was() {
    let path = "topics/orders/groups/packing";
    let stored = std::fs::read(golden().join(path)).unwrap();
    let (topic_id, lanes) = group::decode_header(&stored, stored.len() as u64).unwrap();
    assert_eq!(lanes, LANES);
    assert_eq!(group::encode_header(topic_id, lanes)[..], stored[..512]);
    assert_eq!(group::check(&stored), Ok(()));
    assert_eq!(stored.len(), group::file_len(lanes));
    let end = records().len() as u64;
    // From the fifth record on, the keys count from 0.
    let lane_of = |offset: u64| group::lane_of(Some(&[offset as u8 - 4]), offset, lanes);
    let stopped = lane_of(STOPPED_AT);
    let positions: Vec<u64> = (0..lanes)
        .map(|lane| {
            cursor::newest_slot(&stored[group::lane_at(lane)..][..PAGE_LEN]).unwrap().offset
        })
        .collect();
    let expected = |lane| if lane == stopped { COMMITTED } else { end };
    assert_eq!(positions, (0..lanes).map(expected).collect::<Vec<_>>());

    let copy = crate::dir();
    copy_tree(&golden(), copy.path());
    let log = Log::open_or_create(copy.path()).unwrap();
    let topic = log.topic("orders").unwrap();
    let (name, info) = topic.groups().unwrap().remove(0);
    assert_eq!((name.as_str(), info.unwrap().committed), ("packing", COMMITTED));
    let group = topic.group("packing", GroupOptions::default()).unwrap();
    let handled = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&handled);
    let mut worker = group
        .worker(WorkerOptions::default(), move |job| {
            noted.lock().unwrap().push(job.offset());
            Ok(())
        })
        .unwrap();
    for _ in 0..records().len() {
        worker.poll(std::time::Duration::ZERO).unwrap();
    }
    assert_eq!(group.info().unwrap().committed, end);
    let left = (STOPPED_AT..end).filter(|&offset| lane_of(offset) == stopped);
    assert_eq!(*handled.lock().unwrap(), left.collect::<Vec<_>>());
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&to).unwrap();
            copy_tree(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}

#[test]
fn every_stored_structure_decodes_and_encodes_to_the_same_bytes() {
    let topic = golden().join("topics/orders");
    let read = |path: &Path| std::fs::read(path).unwrap();
    assert_eq!(read(&golden().join("deaddrop")), marker::encode());
    let stored = read(&topic.join("settings"));
    assert_eq!(settings::Settings::decode(&stored).unwrap().encode()[..], stored);

    let stored = read(&topic.join("epochs"));
    let entries = epochs::decode(&stored);
    assert_eq!(entries, [epochs::Entry { epoch: 1, start: FIRST_LIFE as u64 }]);
    assert_eq!(entries.iter().flat_map(epochs::Entry::encode).collect::<Vec<_>>(), stored);

    let stored = read(&topic.join("consumers/billing"));
    let topic_id = cursor::decode_header(&stored).unwrap();
    assert_eq!(cursor::encode_header(topic_id)[..], stored[..512]);
    let newest = cursor::newest_slot(&stored).unwrap();
    assert_eq!((newest.offset, newest.epoch), (6, 1));
    for at in [cursor::SLOT_A_AT, cursor::SLOT_B_AT] {
        let slot = cursor::Saved::decode(&stored[at..]).unwrap();
        assert_eq!(slot.encode()[..], stored[at..at + cursor::SLOT_LEN]);
    }

    let mut names: Vec<String> = std::fs::read_dir(&topic)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let (mut frames, mut indexes) = (0, 0);
    for name in &names {
        if segment::parse_file_name(name).is_some() {
            frames += check_segment(&read(&topic.join(name)));
        } else if name.ends_with(".idx") {
            let stored = read(&topic.join(name));
            let (salt, end, entries) = index::decode(&stored).unwrap();
            assert_eq!(index::encode(salt, end, &entries), stored);
            indexes += 1;
        }
    }
    assert_eq!(frames, records().len());
    assert!(indexes > 0, "{names:?}");
}

/// Returns the number of frames.
fn check_segment(stored: &[u8]) -> usize {
    let header = segment::Header::decode(stored).unwrap();
    for at in [0, segment::HEADER_COPY_AT] {
        assert_eq!(header.encode()[..], stored[at..at + 512]);
    }
    for at in [segment::SLOT_A_AT, segment::SLOT_B_AT] {
        if let Some(slot) = segment::Slot::decode(&stored[at..], header.salt) {
            assert_eq!(slot.encode(header.salt)[..], stored[at..at + segment::SLOT_LEN]);
        }
    }
    let mut at = segment::FIRST_FRAME_AT as usize;
    let mut count = 0;
    while let Ok(fixed) = frame::Fixed::decode(&stored[at..], stored.len() - at) {
        let bytes = &stored[at..at + fixed.padded_len()];
        fixed.verify(bytes, header.salt, at as u64).unwrap();
        let parts = frame::Parts {
            key: fixed.key_range().map(|range| &bytes[range]),
            headers: bytes[fixed.headers_range()].into(),
            payload: &bytes[fixed.payload_range()],
        };
        headers::check(&bytes[fixed.headers_range()]).unwrap();
        let again =
            parts.fixed(fixed.offset, fixed.timestamp, fixed.continues(), header.salt, at as u64);
        assert_eq!(again[..], bytes[..frame::FIXED_LEN]);
        assert!(bytes[fixed.len..].iter().all(|&byte| byte == 0), "padding");
        at += fixed.padded_len();
        count += 1;
    }
    assert!(stored[at..].iter().all(|&byte| byte == 0), "after the last frame");
    count
}

/// Bytes as hexadecimal text, without the zeros at the end.
fn hex(bytes: &[u8]) -> String {
    let len = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    bytes[..len].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn fixed_values_encode_to_these_bytes() {
    let header = segment::Header {
        epoch: 3,
        base: 1000,
        salt: 0x0123_4567_89ab_cdef,
        topic_id: 0x1122_3344_5566_7788,
        durable_end: 990,
        max_timestamp: 1_700_000_000_000_000_000,
        file_len: 65536,
    };
    let slot = segment::Slot { sequence: 7, durable_end: 1005 };
    let parts = frame::Parts { key: Some(b"key"), headers: b""[..].into(), payload: b"payload" };
    let mut with_headers = Vec::new();
    headers::push(&mut with_headers, "trace", b"abc").unwrap();
    let stored = settings::Settings {
        durability: settings::POWER_LOSS_WITHIN,
        interval: 5_000_000,
        segment_len: 16 << 20,
        topic_id: 0x1122_3344_5566_7788,
        retain_unconsumed: true,
        retain_age: 86_400_000_000_000,
        retain_bytes: 1 << 30,
    };
    let entry = index::Entry { offset: 1000, max_timestamp: 17, position: 4096 };
    let saved = cursor::Saved { sequence: 2, epoch: 1, turn: 0, offset: 6, floor: 9 };
    let found = [
        ("marker", hex(&marker::encode())),
        ("settings", hex(&stored.encode())),
        ("header", hex(&header.encode())),
        ("slot", hex(&slot.encode(header.salt))),
        ("frame", hex(&parts.fixed(1001, 1_700_000_000_000_000_001, true, header.salt, 4096))),
        ("void", hex(&frame::void(64, 1002, 1_700_000_000_000_000_002, header.salt, 4144))),
        ("headers", hex(&with_headers)),
        ("epoch", hex(&epochs::Entry { epoch: 2, start: 950 }.encode())),
        ("index", hex(&index::encode(header.salt, 1100, &[entry]))),
        ("cursor", hex(&cursor::encode_header(0x1122_3344_5566_7788))),
        ("saved", hex(&saved.encode())),
        ("group", hex(&group::encode_header(0x1122_3344_5566_7788, 64))),
    ];
    let expected = include_str!("../golden/structures.txt");
    let found: String = found.iter().map(|(name, bytes)| format!("{name} {bytes}\n")).collect();
    if std::env::var_os("DEADDROP_WRITE_GOLDEN").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/structures.txt");
        std::fs::write(path, &found).unwrap();
        return;
    }
    assert_eq!(found, expected);
}

/// The checksum bit by bit, as `docs/format.md` describes it for other implementations.
#[test]
fn a_frame_checksum_is_crc_32_started_with_the_seed() {
    let (salt, position) = (0x0123_4567_89ab_cdef_u64, 4096_u64);
    let parts = frame::Parts { key: None, headers: b""[..].into(), payload: b"x" };
    let mut bytes = parts.fixed(5, 6, false, salt, position).to_vec();
    bytes.push(b'x');
    bytes.resize(40, 0);
    let seed =
        (salt as u32) ^ ((salt >> 32) as u32).rotate_left(7) ^ (position as u32).rotate_left(13);
    let mut crc = !seed;
    for &byte in &bytes[4..] {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    assert_eq!(bytes[..4], (!crc).to_le_bytes());
}
