//! A segment with a thousand flipped bits.
//!
//! Checksums cover every byte of a segment file that a reader needs. They leave out, in the header
//! page, the rest of the two header sectors after their checksums, and sectors 1 to 6. There the
//! checkpoint slots have their own checksums (a slot that fails was being written, so it is not
//! damage), the latch is eight bytes of magic, and the rest is zeros. The checksum of a frame
//! covers its padding. Zeros after the last frame are not part of the log: `dump` shows flips there
//! as a torn tail.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;

use deaddrop::format::segment as layout;
use deaddrop::{Log, Start};
use serde_json::Value;

use super::{lines, Does, Line};
use crate::support::{copy_dir, flip, payload, Random, Scratch};

const SEED: u64 = 2_000;
const FLIPS: usize = 1_000;
const RECORDS: u64 = 20_000;
/// The number of flips in each header sector that is hit.
const HEADER_FLIPS: usize = 3;
/// The starts of the two header sectors, and the length of the part that is used.
const HEADER: u64 = 0;
const COPY: u64 = layout::HEADER_COPY_AT as u64;
const USED_LEN: u64 = layout::CRC_AT as u64 + 4;

fn number(line: &Value, name: &str) -> u64 {
    line[name].as_u64().unwrap_or_else(|| panic!("{name} of {line}"))
}

/// A topic `t` whose first segment is full and not damaged yet.
fn whole() -> Scratch {
    let scratch = Scratch::new();
    let lines: String = (0..RECORDS).map(|index| payload(index) + "\n").collect();
    let args = ["append", "t", "-q", "--segment-size", "1MiB", "--durability", "process-crash"];
    scratch.run_with(&args, lines.as_bytes()).expect(0);
    let made = ["create", "made", "--segment-size", "64KiB", "--durability", "process-crash"];
    scratch.run(&made).expect(0);
    let topic = Log::open_or_create(scratch.log()).unwrap().topic("t").unwrap();
    drop(topic.consumer("idle", Start::First).unwrap());
    for group in ["workers", "spare"] {
        topic.group(group, deaddrop::group::GroupOptions::default()).unwrap();
    }
    scratch
}

/// Returns frames with their padding, by offset.
fn frames(scratch: &Scratch, path: &std::path::Path) -> BTreeMap<u64, Range<u64>> {
    let lines = scratch.run(&["dump", path.to_str().unwrap(), "--json"]).expect(0).json();
    let records = lines.into_iter().filter(|line| line["kind"] == "record");
    let place = |line: Value| {
        let start = number(&line, "position");
        (number(&line, "offset"), start..start + number(&line, "len").next_multiple_of(8))
    };
    records.map(place).collect()
}

/// A log with flipped bits.
struct Flipped {
    scratch: Scratch,
    path: PathBuf,
    flips: BTreeSet<u64>,
    frames: BTreeMap<u64, Range<u64>>,
}

impl Flipped {
    /// Hits frames, and these header sectors.
    #[allow(clippy::print_stdout)]
    fn new(headers: &[u64]) -> Flipped {
        println!("seed {SEED}");
        let scratch = whole();
        let path = scratch.segments("t").swap_remove(0);
        let frames = frames(&scratch, &path);
        let end = frames.values().last().unwrap().end;
        let mut random = Random(SEED);
        let mut bits = BTreeSet::new();
        while bits.len() < FLIPS {
            let position = match headers.get(bits.len() / HEADER_FLIPS) {
                Some(header) => header + random.below(USED_LEN),
                None => layout::FIRST_FRAME_AT + random.below(end - layout::FIRST_FRAME_AT),
            };
            let bit = random.below(8) as u8;
            if bits.insert((position, bit)) {
                flip(&path, position, bit);
            }
        }
        let flips = bits.into_iter().map(|(position, _)| position).collect();
        Flipped { scratch, path, flips, frames }
    }

    fn is_hit(&self, range: &Range<u64>) -> bool {
        self.flips.range(range.clone()).next().is_some()
    }

    /// Returns the payloads of the undamaged records, by offset, those of other segments too.
    fn undamaged(&self) -> BTreeMap<u64, String> {
        let is_whole = |offset: &u64| self.frames.get(offset).is_none_or(|at| !self.is_hit(at));
        (0..RECORDS).filter(is_whole).map(|offset| (offset, payload(offset))).collect()
    }

    /// Fails at the first flip that is in none of the ranges.
    fn all_within(&self, ranges: &[Range<u64>]) {
        for flip in &self.flips {
            let found = ranges.iter().any(|range| range.contains(flip));
            assert!(found, "the flip at position {flip} is in no damaged range");
        }
    }
}

#[test]
fn verify_and_dump_find_each_of_a_thousand_flipped_bits_and_the_rest_is_printed() {
    for headers in [vec![HEADER], vec![COPY], vec![HEADER, COPY]] {
        all_is_found(&Flipped::new(&headers));
    }
}

fn all_is_found(flipped: &Flipped) {
    let scratch = &flipped.scratch;
    let undamaged = flipped.undamaged();
    assert!(undamaged.len() as u64 > RECORDS / 2 && undamaged.len() as u64 + 900 < RECORDS);
    let file = flipped.path.display().to_string();

    // `verify` reports where a damaged place starts, and its offsets.
    let found = scratch.run(&["verify", "t", "--json"]).expect(4).json();
    let here = found.iter().filter(|line| line["kind"] == "damage" && line["file"] == file);
    let mut ranges = Vec::new();
    for damage in here {
        let position = number(damage, "position");
        let lost = number(damage, "first_lost")..number(damage, "lost_end");
        ranges.push(match position {
            // If one of the two is missing, nothing can be said about the other.
            HEADER => 0..layout::FIRST_FRAME_AT,
            COPY => COPY..COPY + USED_LEN,
            _ => {
                assert!(!undamaged.keys().any(|offset| lost.contains(offset)), "{damage}");
                position..flipped.frames[&(lost.end - 1)].end
            }
        });
    }
    flipped.all_within(&ranges);
    let verdict = found.iter().find(|line| line["kind"] == "topic").unwrap();
    assert_eq!(number(verdict, "records"), undamaged.len() as u64);

    // `dump` reports the end too; about the header it gives one answer for both sectors.
    let dumped = scratch.run(&["dump", "t", "--json"]).expect(4).json();
    let name = flipped.path.file_name().unwrap().to_str().unwrap();
    let mut ranges = Vec::new();
    let mut shown = BTreeMap::new();
    for line in &dumped {
        match line["kind"].as_str().unwrap() {
            "record" => {
                let payload = line["payload"].as_str().unwrap().to_owned();
                shown.insert(number(line, "offset"), payload);
            }
            "segment" if line["file"] == name && line["damaged"] == true => {
                ranges.push(0..layout::FIRST_FRAME_AT);
            }
            "segment" if line["file"] == name && line["first_sector_damaged"] == true => {
                ranges.push(HEADER..HEADER + USED_LEN);
            }
            "segment" if line["file"] == name && line["copy_damaged"] == true => {
                ranges.push(COPY..COPY + USED_LEN);
            }
            "damaged" | "torn" if line["file"] == name => {
                let range = number(line, "position")..number(line, "end");
                assert!(flipped.is_hit(&range), "{line}");
                ranges.push(range);
            }
            _ => {}
        }
    }
    flipped.all_within(&ranges);
    assert!(shown == undamaged, "dump shows the undamaged records, and no others");
}

#[test]
fn cat_and_export_print_every_undamaged_record_byte_for_byte() {
    for header in [HEADER, COPY] {
        all_is_printed(&Flipped::new(&[header]));
    }
    // Without any header, nothing can be read until a repair makes it again from the frames.
    let flipped = Flipped::new(&[HEADER, COPY]);
    let ran = flipped.scratch.run(&["cat", "t", "--skip-damage"]).expect(4);
    assert!(ran.stderr.contains("repair`"), "{}", ran.stderr);
    flipped.scratch.run(&["repair", "t", "--execute"]).expect(0);
    let ran = flipped.scratch.run(&["cat", "t", "--format", "%o %v\\n"]).expect(0);
    assert!(ran.text() == listed(&flipped), "{}", ran.stderr);
}

/// Returns the undamaged records as a format prints them.
fn listed(flipped: &Flipped) -> String {
    let undamaged = flipped.undamaged();
    undamaged.iter().map(|(offset, payload)| format!("{offset} {payload}\n")).collect()
}

fn all_is_printed(flipped: &Flipped) {
    let undamaged = flipped.undamaged();
    let expected = listed(flipped);
    let scratch = &flipped.scratch;
    let ran = scratch.run(&["cat", "t", "--skip-damage", "--format", "%o %v\\n"]).expect(4);
    assert!(ran.text() == expected, "{}", ran.stderr);
    let ran = scratch.run(&["export", "t", "--skip-damage"]).expect(4);
    let printed = ran.json().iter().fold(String::new(), |all, line| {
        all + &format!("{} {}\n", line["offset"], line["payload"].as_str().unwrap())
    });
    assert!(printed == expected, "{}", ran.stderr);
    // The skipped offsets are reported: those that are in no frame, and no others.
    let skipped = ran.stderr.lines().filter_map(|line| line.split_once("skipped offsets "));
    let mut lost = BTreeSet::new();
    for (_, range) in skipped {
        let (from, to) = range.split_once("..").unwrap();
        lost.extend(from.parse::<u64>().unwrap()..to.parse().unwrap());
    }
    assert!((0..RECORDS).all(|offset| lost.contains(&offset) != undamaged.contains_key(&offset)));
}

/// Returns the codes of a command for a log with a damaged topic, if it examines that topic.
fn codes(line: &Line) -> &'static [i32] {
    match line.command {
        "create" | "trim" | "delete" => &[0],
        "ls" | "append" | "import" | "request" | "serve" | "groups" | "consumers" => &[0],
        "dead" => &[1],
        "trace" | "pending" => &[0, 1],
        "clients" => &[0, 1, 4],
        "cancel" => &[1, 4],
        "dump" if line.is_file() => &[0],
        // It counts what the headers and the index report.
        "info" => &[4],
        // The newest records are in a segment that is whole.
        "tail" => &[0],
        "cat" | "export" | "dump" if line.words.iter().any(|word| word.starts_with('-')) => &[0, 4],
        "top" => &[0],
        _ => &[4],
    }
}

#[test]
fn every_other_command_ends_with_its_code_and_a_word_about_the_damage() {
    let flipped = Flipped::new(&[HEADER]);
    for json in [false, true] {
        for line in lines(&flipped.scratch, "t") {
            if line.does == Does::Nothing || matches!(line.command, "serve" | "request") {
                continue;
            }
            // Each on a log as it was damaged, because opening it for writing is a recovery.
            let copy = Scratch::new();
            let line = match line.does {
                Does::Read => {
                    let ran = line.run(&flipped.scratch, json);
                    check(&line, &ran);
                    continue;
                }
                _ => line,
            };
            copy_dir(&flipped.scratch.log(), &copy.log());
            check(&line, &line.run(&copy, json));
        }
    }
}

fn check(line: &Line, ran: &crate::support::Ran) {
    let (words, code) = (&line.words, ran.code.unwrap());
    let codes = codes(line);
    assert!(codes.contains(&code), "{words:?}: {code}, {codes:?} expected: {}", ran.stderr);
    if code == 4 {
        let all = format!("{}{}", ran.stderr, ran.text()).to_lowercase();
        let is_said = ["corrupt", "damage", "unreadable"].iter().any(|word| all.contains(word));
        assert!(is_said, "{words:?}: {all}");
    }
}
