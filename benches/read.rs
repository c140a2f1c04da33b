//! Sequential reads, where every record is copied out and checked, beside a bare CRC-32 scan of the same
//! number of frames of the same length in memory.
#![allow(clippy::unwrap_used)]
mod support;

use std::time::Duration;

use deaddrop::{Durability, Log, Reader, Record, Start, Topic};
use support::limit::Scan;
use support::{frame_len, options, payload, timed, Pair, Run};

/// Bytes of records that are read in a round.
const DATA_LEN: u64 = 32 << 20;

fn main() {
    let mut run = Run::new();
    run.table_of_pairs("Sequential verified reads, beside a CRC scan of the same bytes");
    for (size, name) in [(64, "64 B"), (256, "256 B"), (1 << 10, "1 KiB")] {
        let count = run.choose(DATA_LEN, 64 << 10) / frame_len(size);
        for place in [Place::Hot, Place::Sealed, Place::Mapped] {
            let log = Log::open_or_create(run.path("log")).unwrap();
            let topic = fill(&log, place, size, count);
            let mut reader = topic.reader(Start::First).unwrap();
            let mut scan = Scan::new(frame_len(size) as usize, count);
            let pair = Pair {
                name: format!("{name}, {}", place.name()),
                bytes: size as u64,
                round: count.min((4 << 20) / size as u64),
                figure: Some(if place == Place::Mapped { 0.9 } else { 0.6 }),
            };
            let mut read = |round| read(&mut reader, place, count, round);
            run.pair("read", pair, &mut read, &mut |round| scan.run(round));
            drop(reader);
            support::remove(log, topic);
        }
    }
    run.table_of_pairs("Reading record by record at the end, beside the same CRC scan");
    tailing(&mut run);
    run.finish();
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// In the active segment, which is read from its mapping.
    Hot,
    /// In sealed segments, which are read from their files.
    Sealed,
    /// In sealed segments, which are mapped: checked there and not copied.
    Mapped,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Place::Hot => "hot tail",
            Place::Sealed => "sealed",
            Place::Mapped => "sealed, zero-copy",
        }
    }
}

/// A topic with `count` records, all of them in the requested place.
fn fill(log: &Log, place: Place, size: usize, count: u64) -> Topic {
    let data_len = count * frame_len(size);
    let segment_len = match place {
        Place::Hot => (data_len + 8192).next_multiple_of(4096),
        Place::Sealed | Place::Mapped => (data_len / 4).next_multiple_of(4096),
    };
    let topic = log.topic_with("t", options(Durability::ProcessCrash, segment_len)).unwrap();
    let records = vec![Record::new(payload(size)); 50];
    let mut left = count as usize;
    while left > 0 {
        let now = left.min(records.len());
        topic.append_batch(&records[..now]).unwrap();
        left -= now;
    }
    if place != Place::Hot {
        // Larger than the rest of the segment: a new segment begins.
        topic.append(&Record::new(vec![0; segment_len as usize / 2])).unwrap();
        topic.append(&Record::new(vec![0; segment_len as usize / 2])).unwrap();
    }
    topic
}

/// Reads `count` of the records below `end`, and starts again at the first record when it reaches `end`.
fn read(reader: &mut Reader, place: Place, end: u64, count: u64) -> Duration {
    timed(|| {
        let mut sum = 0;
        for _ in 0..count {
            if reader.offset() == end {
                reader.seek(Start::First).unwrap();
            }
            let record = match place {
                // SAFETY: no code stores into the records of this benchmark once they are appended.
                Place::Mapped => unsafe { reader.next_in_place() },
                Place::Hot | Place::Sealed => reader.next(),
            };
            sum += u64::from(record.unwrap().unwrap().payload()[0]);
        }
        std::hint::black_box(sum);
    })
}

/// A reader that reads each record right after it was appended. Only the reads are timed, minus the time
/// of two readings of the clock.
fn tailing(run: &mut Run) {
    const SIZE: usize = 256;
    let mut fresh = support::Fresh::new(
        run.path("tail"),
        Durability::ProcessCrash,
        run.choose(64 << 20, 4 << 20),
    );
    let mut scan = Scan::new(frame_len(SIZE) as usize, 10_000);
    let record = Record::new(payload(SIZE));
    let pair =
        Pair { name: "256 B, in turns with appends".into(), bytes: 0, round: 4000, figure: None };
    run.pair(
        "read",
        pair,
        &mut |count| {
            let mut elapsed = Duration::ZERO;
            for _ in 0..count.div_ceil(100) {
                let (topic, _) = fresh.topic(100 * frame_len(SIZE));
                let mut reader = topic.reader(Start::End).unwrap();
                for _ in 0..100 {
                    topic.append(&record).unwrap();
                    elapsed += timed(|| {
                        std::hint::black_box(reader.next().unwrap().is_some());
                    });
                    elapsed = elapsed.saturating_sub(timed(|| ()));
                }
                fresh.used(100 * frame_len(SIZE));
            }
            elapsed
        },
        &mut |count| scan.run(count),
    );
}
