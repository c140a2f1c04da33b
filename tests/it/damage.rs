//! Files with damage of any kind: every record that is read is right, and nothing panics or hangs.
//!
//! A damaged log is opened in four ways: by a process that may write and by one that may not, in
//! the boot that wrote it (where the control words are trusted) and in another one.

use std::path::{Path, PathBuf};
use std::time::Instant;

use deaddrop::sim::SimDisk;
use deaddrop::{Durability, Error, Log, Record, Start, Topic, TopicOptions};

use crate::child::GUARD;
use crate::random::{number_from_env, Random};
use crate::settle::settle;

const DIR: &str = "/log";
const TOPIC: &str = "t";

/// A disk with a small log on it, and the contents of its files.
struct Specimen {
    disk: SimDisk,
    files: Vec<(PathBuf, Vec<u8>)>,
    payloads: Vec<Vec<u8>>,
}

/// How a damaged disk is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct View {
    read_only: bool,
    same_boot: bool,
}

const VIEWS: [View; 4] = [
    View { read_only: false, same_boot: true },
    View { read_only: false, same_boot: false },
    View { read_only: true, same_boot: true },
    View { read_only: true, same_boot: false },
];

/// What a view of the disk found.
#[derive(Debug, Default)]
struct Seen {
    /// The error of opening or reading.
    refused: Option<String>,
    end: u64,
    records: u64,
    /// Offsets that were skipped as damaged.
    damaged: u64,
    /// A recovery reported that it cut something off.
    cut: bool,
    consumer: Option<u64>,
}

/// Waits until all segments but the newest are indexed: closing a topic does not wait for that.
fn wait_for_indexes(disk: &SimDisk) {
    let count = |wanted: &str| {
        let paths = disk.paths();
        paths.iter().filter(|path| path.extension().is_some_and(|e| e == wanted)).count()
    };
    let started = Instant::now();
    while count("idx") + 1 < count("seg") {
        assert!(started.elapsed() < GUARD, "{:?}", disk.paths());
        std::thread::yield_now();
    }
}

impl Specimen {
    /// Three segments, batches, an epoch, an index, a consumer.
    fn new() -> Specimen {
        let disk = SimDisk::new();
        let options = TopicOptions::default()
            .with_durability(Durability::PowerLoss)
            .with_segment_len(16 << 10);
        let log = Log::open_sim(&disk.process(), DIR).unwrap();
        let topic = log.topic_with(TOPIC, options).unwrap();
        let mut random = Random(1);
        let mut payloads: Vec<Vec<u8>> = Vec::new();
        let append = |topic: &Topic, random: &mut Random, payloads: &mut Vec<Vec<u8>>| {
            let count = if random.one_in(4) { 3 } else { 1 };
            let from = payloads.len();
            for _ in 0..count {
                let len = random.below(900) as usize;
                payloads.push(random.bytes(len));
            }
            let records: Vec<Record> = payloads[from..]
                .iter()
                .map(|payload| Record::new(&payload[..]).with_key("k"))
                .collect();
            topic.append_batch(&records).unwrap();
        };
        while payloads.len() < 40 {
            append(&topic, &mut random, &mut payloads);
        }
        wait_for_indexes(&disk);
        drop((topic, log));
        let disk = disk.reboot();
        let log = Log::open_sim(&disk.process(), DIR).unwrap();
        let topic = log.open_topic(TOPIC).unwrap();
        while payloads.len() < 75 {
            append(&topic, &mut random, &mut payloads);
        }
        wait_for_indexes(&disk);
        let mut consumer = topic.consumer("c", Start::First).unwrap();
        for _ in 0..20 {
            consumer.next().unwrap().unwrap();
        }
        consumer.commit().unwrap();
        consumer.sync().unwrap();
        // Closing the topic does not wait for an index that was not begun.
        let is_index =
            |path: &PathBuf| path.extension().is_some_and(|extension| extension == "idx");
        for looks in 0.. {
            if disk.paths().iter().filter(|path| is_index(path)).count() >= 2 {
                break;
            }
            assert!(looks < 60_000, "{:?}", disk.paths());
            std::thread::park_timeout(std::time::Duration::from_millis(1));
        }
        drop((consumer, topic, log));
        settle(&disk, topic_dir());
        let mut files: Vec<(PathBuf, Vec<u8>)> = disk
            .paths()
            .into_iter()
            .filter(|path| path.extension().is_none_or(|extension| extension != "tmp"))
            .map(|path| (path.clone(), disk.read(&path).unwrap()))
            .collect();
        files.sort();
        let count = |end: &str| files.iter().filter(|(path, _)| path.ends_with(end)).count();
        assert_eq!((count("control"), count("epochs"), count("consumers/c")), (1, 1, 1));
        let extension = |wanted: &str| {
            files.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == wanted)).count()
        };
        assert!(extension("seg") >= 3 && extension("idx") >= 2, "{:?}", disk.paths());
        let specimen = Specimen { disk, files, payloads };
        specimen.restore();
        specimen
    }

    fn restore(&self) {
        settle(&self.disk, topic_dir());
        for path in self.disk.paths() {
            if !self.files.iter().any(|(known, _)| *known == path) {
                self.disk.remove(path);
            }
        }
        for (path, bytes) in &self.files {
            if self.disk.read(path).as_ref() != Some(bytes) {
                self.disk.write(path, bytes);
            }
        }
    }

    /// Opens the disk with `damage` done to it.
    fn look(&self, view: View, damage: &dyn Fn(&SimDisk)) -> Seen {
        let disk = if view.same_boot { self.disk.process() } else { self.disk.reboot() };
        damage(&disk);
        let seen = self.read(&disk, view);
        if view.same_boot {
            self.restore();
        }
        seen
    }

    fn read(&self, disk: &SimDisk, view: View) -> Seen {
        let mut seen = Seen::default();
        let mut refuse = |error: Error| {
            // The message must be printable too.
            seen.refused = Some(error.to_string());
        };
        let log = match view.read_only {
            true => Log::open_sim_read_only(disk, DIR),
            false => Log::open_sim(disk, DIR),
        };
        let topic = match log.and_then(|log| log.open_topic(TOPIC)) {
            Ok(topic) => topic,
            Err(error) => {
                refuse(error);
                return seen;
            }
        };
        seen.cut = topic.recovery().is_some_and(|report| report.cut);
        if let Err(error) = self.read_records(&topic, &mut seen) {
            seen.refused = Some(error.to_string());
        }
        if !view.read_only {
            if let Ok(consumer) = topic.consumer("c", Start::First) {
                assert!(consumer.committed() <= seen.end.max(20), "{}", consumer.committed());
                seen.consumer = Some(consumer.committed());
            }
            if let Ok(offset) = topic.append(&Record::new("behind the damage")) {
                assert!(offset >= seen.end);
            }
        }
        seen
    }

    fn read_records(&self, topic: &Topic, seen: &mut Seen) -> Result<(), Error> {
        seen.end = topic.high_watermark()?;
        let mut reader = topic.reader(Start::First)?;
        for _ in 0..10 * self.payloads.len() {
            match reader.next() {
                Ok(None) => {
                    assert_eq!(reader.offset(), seen.end);
                    return Ok(());
                }
                Ok(Some(record)) => {
                    let payload = self.payloads.get(record.offset() as usize);
                    assert_eq!(Some(record.payload()), payload.map(|payload| &payload[..]));
                    assert_eq!(record.key(), Some(&b"k"[..]));
                    seen.records += 1;
                }
                Err(Error::Corrupt { .. }) => {
                    let skipped = reader.skip_damage()?;
                    seen.damaged += skipped.end - skipped.start;
                }
                Err(other) => return Err(other),
            }
        }
        panic!("skipping damage does not end: at {}", reader.offset());
    }

    fn all(&self) -> u64 {
        self.payloads.len() as u64
    }
}

fn topic_dir() -> PathBuf {
    Path::new(DIR).join("topics").join(TOPIC)
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap()
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "seg")
}

/// A quarter of the used bytes of headers, slots and the first frames, and others in steps.
fn positions(len: usize, step: usize, phase: usize) -> impl Iterator<Item = usize> {
    let dense = |at: usize| {
        at < 80
            || (512..536).contains(&at)
            || (1024..1048).contains(&at)
            || (3584..3652).contains(&at)
            || (4096..4200).contains(&at)
    };
    (0..len).filter(move |&at| at % step == phase % step || at % 4 == phase % 4 && dense(at))
}

/// `DEADDROP_DAMAGE_STEP`: 1 flips every byte.
#[test]
fn a_flipped_byte_in_any_file_costs_one_record_at_most_and_is_reported() {
    let specimen = Specimen::new();
    let step = number_from_env("DEADDROP_DAMAGE_STEP", 251) as usize;
    let mut flips = 0;
    for (number, (path, bytes)) in specimen.files.iter().enumerate() {
        let mut random = Random(number as u64);
        for at in positions(bytes.len(), step, number) {
            let mask = 1 << random.below(8);
            for view in VIEWS {
                let seen = specimen.look(view, &|disk| disk.flip(path, at, mask));
                let story = format!("{} byte {at} mask {mask:#x} {view:?}: {seen:?}", name(path));
                check_flip(&specimen, path, at, view, &seen, &story);
            }
            flips += 1;
        }
    }
    println!("{flips} flipped bytes, each opened in four ways");
}

fn check_flip(specimen: &Specimen, path: &Path, at: usize, view: View, seen: &Seen, story: &str) {
    match name(path) {
        "deaddrop" | "settings" if seen.refused.is_some() => return,
        _ => assert_eq!(seen.refused, None, "{story}"),
    }
    if is_segment(path) && at >= 4096 {
        // Without words, only the newest sync can be taken for torn, and that is a cut.
        assert_eq!(seen.records + seen.damaged, seen.end, "{story}");
        let lost = specimen.all() - seen.records;
        let told = seen.damaged
            + if view.same_boot { 0 } else { specimen.all() - seen.end.min(specimen.all()) };
        assert!(lost <= 3 && told >= lost, "{story}");
        assert!(seen.damaged <= 1, "{story}");
        assert!(seen.end == specimen.all() || seen.cut || view.read_only, "{story}");
    } else {
        assert_eq!(seen.records, specimen.all(), "{story}");
        // Words that count more records than exist: the missing ones are reported.
        assert!(seen.damaged == 0 || name(path) == "control" && view.same_boot, "{story}");
    }
    if !name(path).eq("c") && !view.read_only {
        assert_eq!(seen.consumer, Some(20), "{story}");
    }
}

#[test]
fn a_segment_cut_at_any_length_gives_the_records_before_the_cut_and_reports_the_rest() {
    let specimen = Specimen::new();
    let step = number_from_env("DEADDROP_DAMAGE_STEP", 251) as usize;
    let segments: Vec<_> = specimen.files.iter().filter(|(path, _)| is_segment(path)).collect();
    for (number, (path, bytes)) in segments.iter().enumerate() {
        let is_newest = number + 1 == segments.len();
        for len in positions(bytes.len(), step, number).step_by(3) {
            for view in VIEWS {
                let seen = specimen.look(view, &|disk| disk.write(path, &bytes[..len]));
                let story = format!("{} cut to {len} {view:?}: {seen:?}", name(path));
                if seen.refused.is_some() {
                    assert!(len < 4096, "{story}");
                    continue;
                }
                assert_eq!(seen.records + seen.damaged, seen.end, "{story}");
                let all_told = seen.end >= specimen.all();
                // The words of another boot do not count, so records not yet promised can be cut.
                let may_be_torn = is_newest && !view.same_boot;
                assert!(all_told || may_be_torn || is_newest && view.read_only, "{story}");
            }
        }
    }
}

#[test]
fn empty_short_and_garbage_files_in_any_place_give_right_records_or_an_error() {
    let specimen = Specimen::new();
    let mut random = Random(7);
    for (path, bytes) in &specimen.files {
        let mut fakes = vec![vec![], vec![0; bytes.len()], vec![0xff; bytes.len()], vec![0xff; 3]];
        for _ in 0..3 {
            fakes.push(random.bytes(bytes.len()));
        }
        let mut tail = bytes.clone();
        let from = tail.len() / 3;
        tail[from..].fill(0xff);
        fakes.push(tail);
        for (number, fake) in fakes.iter().enumerate() {
            for view in VIEWS {
                let seen = specimen.look(view, &|disk| disk.write(path, fake));
                assert!(
                    seen.refused.is_some() || seen.records + seen.damaged == seen.end,
                    "{} as {number} {view:?}: {seen:?}",
                    name(path)
                );
                if matches!(name(path), "control" | "lock" | "epochs") {
                    assert_eq!(seen.records, specimen.all(), "{} {number} {view:?}", name(path));
                }
            }
        }
    }
}

#[test]
fn a_missing_file_gives_right_records_or_an_error() {
    let specimen = Specimen::new();
    for (path, _) in &specimen.files {
        for view in VIEWS {
            let seen = specimen.look(view, &|disk| disk.remove(path));
            let story = format!("without {} {view:?}: {seen:?}", name(path));
            match name(path) {
                // The marker is recreated in a directory that holds only topics.
                "deaddrop" if !view.read_only => {
                    assert_eq!(seen.records, specimen.all(), "{story}")
                }
                "deaddrop" | "settings" => assert!(seen.refused.is_some(), "{story}"),
                "control" | "lock" | "epochs" | "c" => {
                    assert_eq!(seen.records, specimen.all(), "{story}");
                }
                _ => assert!(seen.records + seen.damaged <= seen.end, "{story}"),
            }
        }
    }
}

/// Frames that contradict each other with right checksums, and headers that promise more than there
/// is. Chance does not make such damage, but any process that may write to the directory can.
#[test]
fn hostile_bytes_with_right_checksums_neither_panic_nor_hang() {
    use deaddrop::format::frame::{void, Parts};
    use deaddrop::format::segment::{Header, Slot, HEADER_COPY_AT, SLOT_A_AT};
    let specimen = Specimen::new();
    let (path, bytes) = specimen.files.iter().rfind(|(path, _)| is_segment(path)).unwrap();
    let header = Header::decode_page(bytes).unwrap();
    let mut random = Random(3);
    for round in 0..number_from_env("DEADDROP_HOSTILE", 150) {
        let mut fake = bytes.clone();
        let mut hostile = header;
        if random.one_in(3) {
            hostile.durable_end = random.next() >> random.below(64);
            hostile.max_timestamp = random.next();
        }
        if random.one_in(4) {
            hostile.base = random.next() >> random.below(64);
        }
        fake[..512].copy_from_slice(&hostile.encode());
        fake[HEADER_COPY_AT..][..512].copy_from_slice(&hostile.encode());
        if random.one_in(2) {
            let slot = Slot { sequence: u64::MAX, durable_end: random.next() >> random.below(64) };
            fake[SLOT_A_AT..][..24].copy_from_slice(&slot.encode(header.salt));
        }
        let mut at = 4096;
        while at + 72 < fake.len() {
            let position = at as u64;
            let offset = match random.below(4) {
                0 => random.next() >> random.below(64),
                1 => u64::MAX,
                _ => header.base + random.below(50),
            };
            let frame = match random.below(3) {
                0 => {
                    let len = (random.below(1 << 14) as usize + 32) & !7;
                    void(len, offset, random.next(), header.salt, position)
                }
                _ => {
                    let payload = random.bytes(8);
                    let parts = Parts { key: None, headers: b""[..].into(), payload: &payload };
                    fake[at + 32..at + 40].copy_from_slice(&payload);
                    let continues = random.one_in(2);
                    parts.fixed(offset, random.next(), continues, header.salt, position)
                }
            };
            fake[at..at + 32].copy_from_slice(&frame);
            at += 8 * (1 + random.below(12) as usize);
        }
        for view in VIEWS {
            let disk = specimen.disk.reboot();
            disk.write(path, &fake);
            let story = format!("round {round} {view:?}");
            walk_through(&disk, view.read_only, &story);
        }
    }
}

/// Uses everything but the content of the records, which is forged.
fn walk_through(disk: &SimDisk, read_only: bool, story: &str) {
    let log = match read_only {
        true => Log::open_sim_read_only(disk, DIR),
        false => Log::open_sim(disk, DIR),
    };
    let Ok(topic) = log.and_then(|log| log.open_topic(TOPIC)) else { return };
    let Ok(mut reader) = topic.reader(Start::First) else { return };
    for step in 0.. {
        assert!(step < 100_000, "{story}: no end at {}", reader.offset());
        let ended = match reader.next() {
            Ok(record) => record.is_none(),
            Err(Error::Corrupt { .. }) => reader.skip_damage().is_err(),
            Err(_) => true,
        };
        if ended {
            break;
        }
    }
    for start in [Start::Last, Start::LastN(9), Start::Time(std::time::SystemTime::now())] {
        if reader.seek(start).is_ok() {
            drop(reader.next().map(|_| ()));
        }
    }
    if !read_only {
        drop(topic.append(&Record::new("x")));
        drop(topic.consumer("c", Start::First));
    }
}
