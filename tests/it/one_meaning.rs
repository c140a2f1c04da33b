//! What a sequence of frames means is the same to all: an opening for reading, one for writing, the
//! next one, a reader from any offset, an index, a planned repair and an executed one.
//!
//! Segments are made up here, frame by frame, and then torn, overwritten, zeroed, extended by
//! frames that do not count, and stripped of their headers.

use std::collections::BTreeSet;
use std::ops::Range;

use deaddrop::format::frame::{self, Parts};
use deaddrop::format::index;
use deaddrop::format::segment::{self as layout, Header, Slot};
use deaddrop::repair::{self, Remedy};
use deaddrop::sim::SimDisk;
use deaddrop::{Durability, Error, Log, Start, Topic, TopicOptions};

use crate::random::{number_from_env, Random};
use crate::settle::settle;

const DIR: &str = "/log";
const TOPIC: &str = "/log/topics/t";
/// Starts the payload of a frame that must never be read.
const CUT: &str = "cut";

/// The frames of one segment file, as they are put together.
struct File {
    bytes: Vec<u8>,
    base: u64,
    salt: u64,
    next: u64,
    position: usize,
    /// The offsets at which batches end.
    ends: Vec<u64>,
}

impl File {
    fn room(&self, len: usize) -> bool {
        self.position + len <= self.bytes.len()
    }

    fn record(&mut self, payload: &[u8], continues: bool) {
        let parts = Parts { key: None, headers: b""[..].into(), payload };
        let position = self.position as u64;
        let fixed = parts.fixed(self.next, 1_000 + self.next, continues, self.salt, position);
        let start = self.position;
        self.bytes[start..start + frame::FIXED_LEN].copy_from_slice(&fixed);
        let at = start + frame::FIXED_LEN;
        self.bytes[at..at + payload.len()].copy_from_slice(payload);
        self.position += frame::padded(parts.frame_len());
        self.next += 1;
        if !continues {
            self.ends.push(self.next);
        }
    }

    fn void(&mut self, len: usize, next: u64) {
        let void = frame::void(len, next, 7, self.salt, self.position as u64);
        self.bytes[self.position..][..frame::FIXED_LEN].copy_from_slice(&void);
        self.position += len;
        self.next = self.next.max(next);
        self.ends.push(self.next);
    }

    fn write_header(&mut self, topic_id: u64, durable_end: u64) {
        let header = Header {
            epoch: 0,
            base: self.base,
            salt: self.salt,
            topic_id,
            durable_end,
            max_timestamp: if self.base == 0 { 0 } else { 1_000 + self.base - 1 },
            file_len: self.bytes.len() as u64,
        };
        for at in [0, layout::HEADER_COPY_AT] {
            self.bytes[at..at + 512].copy_from_slice(&header.encode());
        }
    }
}

/// The files that were made up.
struct Image {
    files: Vec<(u64, Vec<u8>)>,
    story: String,
}

fn payload(random: &mut Random, offset: u64, start: &str, long: bool) -> Vec<u8> {
    let mut bytes = format!("{start}{offset}:").into_bytes();
    let more = random.below(if long { 6000 } else { 200 }) as usize;
    let fill = if random.one_in(3) { vec![0; more] } else { random.bytes(more) };
    bytes.extend(fill);
    bytes
}

/// Makes records in batches, void frames between some of them, and frames after the end of a
/// segment that has a successor.
fn segments(random: &mut Random, settings: &Settings) -> Vec<File> {
    let mut files: Vec<File> = Vec::new();
    let count = 1 + random.below(3);
    let mut base = if random.one_in(4) { 100 } else { 0 };
    for number in 0..count {
        let bytes = vec![0; settings.len];
        let salt = random.next();
        let mut file = File { bytes, base, salt, next: base, position: 4096, ends: vec![base] };
        // If power loss matters, everything before a segment is durable when the segment is begun.
        let durable_end = match (files.last(), settings.durability) {
            (Some(last), Durability::ProcessCrash) => {
                last.ends[random.below(last.ends.len() as u64) as usize]
            }
            (None, Durability::ProcessCrash) => 0,
            _ => base,
        };
        file.write_header(settings.topic_id, durable_end);
        for _ in 0..random.below(settings.len as u64 / 600) {
            let records = if random.one_in(3) { 1 + random.below(4) } else { 1 };
            let payloads: Vec<Vec<u8>> =
                (0..records).map(|at| payload(random, file.next + at, "", settings.long)).collect();
            let total: usize = payloads.iter().map(|p| frame::padded(32 + p.len())).sum();
            if !file.room(total + 400) {
                break;
            }
            for (at, payload) in payloads.iter().enumerate() {
                file.record(payload, at + 1 < payloads.len());
            }
            if random.one_in(12) {
                let next = file.next + if random.one_in(2) { 1 + random.below(4) } else { 0 };
                file.void(32 + 8 * random.below(12) as usize, next);
            }
        }
        if file.next == base {
            file.record(format!("{base}:").as_bytes(), false);
        }
        base = file.next;
        if number + 1 < count {
            // Frames that a recovery has cut off: a batch without its end, or more.
            for _ in 0..if random.one_in(2) { random.below(90) } else { 0 } {
                let payload = payload(random, file.next, CUT, settings.long);
                if !file.room(frame::padded(32 + payload.len())) {
                    break;
                }
                file.record(&payload, settings.cut_batch || random.one_in(2));
            }
        }
        files.push(file);
    }
    files
}

struct Settings {
    durability: Durability,
    topic_id: u64,
    len: usize,
    long: bool,
    /// The frames that are cut off are one batch without its end.
    cut_batch: bool,
}

/// Damages one file; returns a description.
fn damage(random: &mut Random, file: &mut File, is_newest: bool) -> String {
    let used = file.position.max(4128).min(file.bytes.len());
    if used <= 4128 {
        return "nothing".into();
    }
    let place = |random: &mut Random| 4096 + random.below((used - 4096) as u64) as usize;
    match random.below(if is_newest { 9 } else { 7 }) {
        0 => {
            let (at, len) = (place(random), 1 + random.below(40) as usize);
            let end = (at + len).min(file.bytes.len());
            let garbage = random.bytes(end - at);
            file.bytes[at..end].copy_from_slice(&garbage);
            format!("garbage in {at}..{end}")
        }
        1 => {
            let at = place(random);
            file.bytes[at] ^= 1 << random.below(8);
            format!("a bit of byte {at}")
        }
        2 => {
            let (at, len) = (place(random) & !511, 512 << random.below(3));
            let end = (at + len).min(file.bytes.len());
            file.bytes[at..end].fill(0);
            format!("zeros in {at}..{end}")
        }
        3 => {
            // Bytes of a frame from another place.
            let (from, to) = (place(random) & !7, place(random) & !7);
            let len = (100).min(file.bytes.len() - from.max(to));
            file.bytes.copy_within(from..from + len, to);
            format!("{from} doubled at {to}")
        }
        4 => {
            let at = [0, layout::HEADER_COPY_AT][random.below(2) as usize];
            file.bytes[at + random.below(68) as usize] ^= 4;
            format!("the header sector at {at}")
        }
        5 if random.one_in(4) => {
            // Not the version, which may be a later one.
            for at in [0, layout::HEADER_COPY_AT] {
                file.bytes[at + 10 + random.below(58) as usize] ^= 4;
            }
            "both header sectors".into()
        }
        6 if random.one_in(4) => {
            let len = 4096 + random.below((file.bytes.len() - 4096) as u64) as usize;
            file.bytes.truncate(len);
            format!("cut to {len} bytes")
        }
        7 => {
            // A torn tail: it ends at a sector that never reached the disk.
            let at = (place(random) & !511).max(4096);
            file.bytes[at..].fill(0);
            format!("torn at {at}")
        }
        8 => {
            // A frame of an offset that was there already, with a right checksum.
            let next = file.next;
            if file.room(64) && next > file.base && file.ends.last() == Some(&next) {
                file.next = file.base + random.below(next - file.base);
                file.record(b"again", false);
                file.next = next;
            }
            "a frame is doubled with its checksum".into()
        }
        _ => "nothing".into(),
    }
}

fn image(random: &mut Random, durability: Durability, topic_id: u64, len: usize) -> Image {
    let long = len > 1 << 16;
    let settings = Settings { durability, topic_id, len, long, cut_batch: random.one_in(2) };
    let mut files = segments(random, &settings);
    let mut story = format!("{durability:?}, bases {:?}", bases(&files));
    let newest = files.len() - 1;
    if random.one_in(3) {
        // A batch whose end is missing.
        let file = &mut files[newest];
        let from = file.next;
        for _ in 0..1 + random.below(3) {
            if file.room(400) {
                let offset = file.next;
                file.record(format!("{offset}:").as_bytes(), true);
            }
        }
        story += &format!(", a batch without its end from {from}");
    }
    if random.one_in(2) {
        let file = &mut files[newest];
        let durable_end = file.ends[random.below(file.ends.len() as u64) as usize];
        let slot = Slot { sequence: 1, durable_end };
        file.bytes[layout::SLOT_A_AT..][..24].copy_from_slice(&slot.encode(file.salt));
        story += &format!(", durable below {durable_end}");
    }
    for _ in 0..random.below(4) {
        let which = random.below(files.len() as u64) as usize;
        let base = files[which].base;
        story += &format!("; {base}: {}", damage(random, &mut files[which], which == newest));
    }
    Image { files: files.into_iter().map(|file| (file.base, file.bytes)).collect(), story }
}

fn bases(files: &[File]) -> Vec<u64> {
    files.iter().map(|file| file.base).collect()
}

/// What a reader reports about the offsets of a topic.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
struct Said {
    first: u64,
    end: u64,
    records: BTreeSet<u64>,
    /// Marked lost by void frames.
    lost: BTreeSet<u64>,
    damaged: BTreeSet<u64>,
}

/// Reads everything, and checks that each offset is reported once.
fn read(topic: &Topic) -> Result<Said, String> {
    let mut said = Said {
        first: topic.first_offset().map_err(|error| error.to_string())?,
        end: topic.high_watermark().map_err(|error| error.to_string())?,
        ..Said::default()
    };
    let mut reader = topic.reader(Start::First).map_err(|error| error.to_string())?;
    for _ in 0..20_000 {
        let before = reader.offset();
        match reader.next() {
            Ok(None) => {
                let all: u64 = (said.records.len() + said.lost.len() + said.damaged.len()) as u64;
                let is_whole = said.first + all == said.end && reader.offset() == said.end;
                return is_whole.then_some(said.clone()).ok_or(format!("holes: {said:?}"));
            }
            Ok(Some(record)) => {
                check(record.payload(), record.offset())?;
                said.records.insert(record.offset());
            }
            Err(Error::Lost { offsets, .. }) => said.lost.extend(offsets),
            Err(Error::Corrupt { .. }) => {
                let skipped = reader.skip_damage().map_err(|error| error.to_string())?;
                said.damaged.extend(skipped);
            }
            Err(other) => return Err(format!("at {before}: {other}")),
        }
    }
    Err(format!("no end at {}", reader.offset()))
}

fn check(payload: &[u8], offset: u64) -> Result<(), String> {
    let right = payload.starts_with(format!("{offset}:").as_bytes()) || payload == b"again";
    right.then_some(()).ok_or(format!("{offset} is {}", String::from_utf8_lossy(payload)))
}

/// Checks that a reader reports the same about an offset if it starts there or reads up to it.
fn seek(topic: &Topic, said: &Said) -> Result<(), String> {
    for offset in (said.first..said.end).step_by(1 + (said.end - said.first) as usize / 40) {
        let mut reader = topic.reader(Start::Offset(offset)).map_err(|error| error.to_string())?;
        let found = match reader.next() {
            Ok(Some(record)) => {
                check(record.payload(), offset)?;
                said.records.contains(&offset) && record.offset() == offset
            }
            Ok(None) => false,
            Err(Error::Lost { offsets, .. }) => offsets.clone().all(|o| said.lost.contains(&o)),
            Err(Error::Corrupt { .. }) => said.damaged.contains(&offset),
            Err(other) => return Err(format!("from {offset}: {other}")),
        };
        if !found {
            return Err(format!("from {offset}: another answer than by reading"));
        }
    }
    Ok(())
}

/// Checks that a planned repair names as lost what a reader skips as damaged, and nothing else.
/// Segments whose header is lost are left out: a repair can restore more of them than a reader.
fn planned(log: &Log, said: &Said, bases: &[u64]) -> Result<(), String> {
    let report = repair::plan(log, "t").map_err(|error| error.to_string())?;
    let lost: BTreeSet<u64> =
        report.findings.iter().flat_map(|finding| finding.lost.clone().take(20_000)).collect();
    let mut damaged = said.damaged.clone();
    let mut named: BTreeSet<u64> = lost.range(said.first..said.end).copied().collect();
    for rebuilt in report.findings.iter().filter(|f| f.remedy == Remedy::RebuildHeader) {
        let of = |base: u64| rebuilt.path.ends_with(layout::file_name(base));
        let at = bases.iter().position(|&base| of(base)).unwrap();
        let next = bases.get(at + 1).copied().unwrap_or(u64::MAX);
        for set in [&mut damaged, &mut named] {
            set.retain(|offset| !(bases[at]..next).contains(offset));
        }
    }
    match named == damaged {
        true => Ok(()),
        false => Err(format!("repair names {named:?}, a reader skips {:?}", said.damaged)),
    }
}

/// Checks that no index leads to a frame that does not count.
fn indexes(disk: &SimDisk) -> Result<(), String> {
    for path in disk.paths().iter().filter(|path| path.extension().is_some_and(|e| e == "idx")) {
        let bytes = disk.read(path).unwrap();
        if index::is_unfinished(&bytes) {
            continue;
        }
        let (_, end, entries) = index::decode(&bytes).map_err(|error| error.to_string())?;
        if entries.iter().any(|entry| entry.offset >= end) {
            return Err(format!("{} ends at {end}: {entries:?}", path.display()));
        }
    }
    Ok(())
}

/// Compares all reports about one image; the error says which ones differ.
fn compare(disk: &SimDisk, bases: &[u64]) -> Result<(), String> {
    let by = |who: &'static str| move |what: String| format!("{who}: {what}");
    let read_only = Log::open_sim_read_only(&disk.reboot(), DIR).unwrap();
    let topic = match read_only.open_topic("t") {
        Ok(topic) => topic,
        Err(error) => return Err(format!("read-only: {error}")),
    };
    let said = read(&topic).map_err(by("read-only"))?;
    seek(&topic, &said).map_err(by("read-only seek"))?;
    planned(&read_only, &said, bases).map_err(by("plan"))?;
    drop(topic);

    let open = |disk: &SimDisk| {
        let topic = Log::open_sim(disk, DIR).unwrap().open_topic("t");
        topic.map_err(|error| error.to_string())
    };
    let written = disk.reboot();
    let topic = open(&written).map_err(by("opened"))?;
    let opened = read(&topic).map_err(by("opened"))?;
    let same = |name: &str, other: &Said| {
        let same = said.records == other.records && said.lost == other.lost;
        same.then_some(()).ok_or(format!("{name}: {other:?}; read-only: {said:?}"))
    };
    same("opened", &opened)?;
    seek(&topic, &opened).map_err(by("opened seek"))?;
    indexes(&written).map_err(by("index"))?;
    drop(topic);
    settle(&written, TOPIC);
    for (who, disk) in [("resumed", written.process()), ("opened again", written.reboot())] {
        let topic = open(&disk).map_err(by(who))?;
        if who == "resumed" && topic.recovery().is_some() {
            return Err(format!("resumed: recovered again: {:?}", topic.recovery()));
        }
        let again = read(&topic).map_err(by(who))?;
        if again != opened {
            return Err(format!("{who}: {again:?}; opened: {opened:?}"));
        }
        drop(topic);
        settle(&disk, TOPIC);
    }

    let repaired = disk.reboot();
    let log = Log::open_sim(&repaired, DIR).unwrap();
    repair::execute(&log, "t", repair::Options::default()).map_err(|error| error.to_string())?;
    drop(log);
    settle(&repaired, TOPIC);
    let topic = open(&repaired.process()).map_err(by("repaired"))?;
    let healed = read(&topic).map_err(by("repaired"))?;
    // It keeps whole records after a tail that an opening cuts off.
    if !healed.records.is_superset(&said.records) || !healed.damaged.is_empty() {
        return Err(format!("repaired: {healed:?}; before: {said:?}"));
    }
    drop(topic);
    settle(&repaired, TOPIC);
    let read_only = Log::open_sim_read_only(&repaired.reboot(), DIR).unwrap();
    let again = repair::plan(&read_only, "t").map_err(|error| error.to_string())?;
    match again.findings.iter().all(|finding| finding.lost.is_empty()) {
        true => Ok(()),
        false => Err(format!("repaired twice: {:?}", again.findings)),
    }
}

/// Runs images; returns the differences, with the seeds.
fn run(seeds: Range<u64>, len: usize) -> Vec<(u64, String, String)> {
    let mut differences = Vec::new();
    for is_synced in [false, true] {
        let durability = if is_synced { Durability::PowerLoss } else { Durability::ProcessCrash };
        let disk = SimDisk::new();
        let log = Log::open_sim(&disk.process(), DIR).unwrap();
        let segment_len = len as u64;
        let options =
            TopicOptions::default().with_durability(durability).with_segment_len(segment_len);
        drop(log.topic_with("t", options).unwrap());
        drop(log);
        settle(&disk, TOPIC);
        let first = format!("{TOPIC}/{}", layout::file_name(0));
        let made = disk.read(&first).unwrap();
        let topic_id = Header::decode_page(&made).unwrap().topic_id;
        for seed in seeds.clone() {
            let mut random = Random(seed ^ u64::from(is_synced) << 40 ^ (len as u64) << 41);
            let image = image(&mut random, durability, topic_id, len);
            let disk = disk.reboot();
            disk.remove(&first);
            for (base, bytes) in &image.files {
                disk.write(format!("{TOPIC}/{}", layout::file_name(*base)), bytes);
            }
            let bases: Vec<u64> = image.files.iter().map(|(base, _)| *base).collect();
            if let Err(difference) = compare(&disk, &bases) {
                differences.push((seed, image.story, difference));
            }
        }
    }
    differences
}

/// `DEADDROP_IMAGES`: the number of images, from number `DEADDROP_IMAGE` on.
#[test]
fn a_frame_sequence_means_the_same_to_readers_recoveries_indexes_and_repairs() {
    let start = number_from_env("DEADDROP_IMAGE", 0);
    let count = number_from_env("DEADDROP_IMAGES", 200);
    let mut differences = run(start..start + count, 16 << 10);
    differences.extend(run(start..start + count / 10, 256 << 10));
    for (seed, story, difference) in differences.iter().take(20) {
        println!("{seed}: {story}\n    {difference}");
    }
    assert!(differences.is_empty(), "{} differences", differences.len());
}
