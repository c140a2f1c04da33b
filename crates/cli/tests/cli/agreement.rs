//! `cat`, `verify`, the dry run of `repair` and `dump` agree on which records are whole and where the damage is,
//! whichever byte of a log is wrong.

use std::collections::BTreeSet;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use deaddrop::format::segment as layout;
use deaddrop::{Durability, Log, Record, TopicOptions};
use serde_json::Value;

use crate::support::{copy_dir, flip, Scratch};

/// Offsets below this are in the first segment. It has two more records, which a recovery cut off.
const SECOND_BASE: u64 = 3;
const END: u64 = 8;

fn number(line: &Value, name: &str) -> u64 {
    line[name].as_u64().unwrap_or_else(|| panic!("{name} of {line}"))
}

fn of_kind<'a>(lines: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    lines.iter().filter(move |line| line["kind"] == kind)
}

fn json(scratch: &Scratch, command: &str) -> Vec<Value> {
    let ran = scratch.run(&[command, "t", "--json"]);
    assert!(matches!(ran.code, Some(0 | 4)), "{command}: {:?} {}", ran.code, ran.stderr);
    ran.json()
}

/// A copy of a log with two segments. If `is_closed`, all its records were promised; else none of those in the
/// second segment.
fn small_log(is_closed: bool) -> Scratch {
    let source = Scratch::new();
    let options = TopicOptions::default()
        .with_durability(Durability::ProcessCrash)
        .with_segment_len(16 << 10);
    let topic = Log::open_or_create(source.log()).unwrap().topic_with("t", options).unwrap();
    for index in 0..SECOND_BASE + 2 {
        topic.append(&Record::new(format!("record {index}")).with_key("k")).unwrap();
    }
    let torn = Scratch::new();
    copy_dir(&source.log(), &torn.log());
    let lines = json(&torn, "dump");
    let cut = of_kind(&lines, "record").nth(SECOND_BASE as usize).unwrap();
    let file = std::fs::File::options().write(true).open(&torn.segments("t")[0]).unwrap();
    file.write_all_at(&[0; 32], number(cut, "position")).unwrap();
    let topic = Log::open_or_create(torn.log()).unwrap().open_topic("t").unwrap();
    assert_eq!(topic.end_offset().unwrap(), SECOND_BASE);
    topic.append(&Record::new("one").with_header("name", "value")).unwrap();
    topic.append_batch(&[Record::new("two"), Record::new("three"), Record::new("")]).unwrap();
    topic.append(&Record::new("last")).unwrap();
    let topic = (!is_closed).then_some(topic);
    let scratch = Scratch::new();
    copy_dir(&torn.log(), &scratch.log());
    drop(topic);
    scratch
}

/// What four commands print about the topic `t`.
#[derive(Debug)]
struct Said {
    whole: BTreeSet<u64>,
    dump: Vec<Value>,
    verify: Vec<Value>,
    repair: Vec<Value>,
}

impl Said {
    fn by(scratch: &Scratch) -> Said {
        let ran = scratch.run(&["cat", "t", "--skip-damage", "--format", "%o\\n"]);
        assert!(matches!(ran.code, Some(0 | 4)), "{}", ran.stderr);
        let whole = ran.text().lines().map(|line| line.parse().unwrap()).collect();
        let [dump, verify, repair] =
            ["dump", "verify", "repair"].map(|command| json(scratch, command));
        Said { whole, dump, verify, repair }
    }

    /// Fails if two commands disagree.
    fn agree(&self) {
        let records = of_kind(&self.dump, "record").filter(|line| line.get("state").is_none());
        let dumped: BTreeSet<u64> = records.map(|line| number(line, "offset")).collect();
        assert_eq!(dumped, self.whole, "dump and cat");
        let verdict = of_kind(&self.verify, "topic").next().unwrap();
        assert_eq!(number(verdict, "records"), self.whole.len() as u64, "verify and cat");

        let place = |line: &Value| {
            let lost = number(line, "first_lost")..number(line, "lost_end");
            (line["file"].as_str().unwrap().to_owned(), number(line, "position"), lost)
        };
        let sorted = |mut places: Vec<(String, u64, Range<u64>)>| {
            places.sort_by_key(|(file, position, lost)| (file.clone(), *position, lost.start));
            places
        };
        let is_damage = |line: &&Value| {
            line["remedy"] != "open" || number(line, "first_lost") < number(line, "lost_end")
        };
        let damages = sorted(of_kind(&self.verify, "damage").map(place).collect());
        let findings = of_kind(&self.repair, "finding").filter(is_damage);
        assert_eq!(damages, sorted(findings.map(place).collect()), "verify and repair");
        for (_, _, lost) in &damages {
            assert!(lost.clone().all(|offset| !self.whole.contains(&offset)), "verify and cat");
        }

        for line in of_kind(&self.dump, "damaged") {
            assert!(line["state"].is_null());
            let found = damages.iter().any(|(file, position, _)| {
                file.ends_with(line["file"].as_str().unwrap())
                    && *position == number(line, "position")
            });
            assert!(found, "dump, not verify: {line}");
        }
        for (file, position, _) in damages.iter().filter(|(_, _, lost)| !lost.is_empty()) {
            let found = self.dump.iter().any(|line| {
                matches!(line["kind"].as_str(), Some("damaged" | "torn"))
                    && file.ends_with(line["file"].as_str().unwrap())
                    && number(line, "position") == *position
            });
            assert!(found, "verify, not dump: {file} {position}");
        }
    }

    /// Fails unless `dump`, `verify` and `repair` find a damaged header sector.
    fn names_header_sector(&self, file: &str, at: u64) {
        let field = if at == 0 { "first_sector_damaged" } else { "copy_damaged" };
        let mut segments = of_kind(&self.dump, "segment");
        assert!(segments
            .any(|line| file.ends_with(line["file"].as_str().unwrap()) && line[field] == true));
        let here = |line: &Value| line["file"] == file && number(line, "position") == at;
        assert!(of_kind(&self.verify, "damage").any(here));
        let restored = |line: &Value| here(line) && line["remedy"] == "restore-header";
        assert!(of_kind(&self.repair, "finding").any(restored));
    }
}

/// The frames of a segment file with their padding: the offsets of records that count, `None` for others.
fn frames(said: &Said, file: &str) -> Vec<(Range<u64>, Option<u64>)> {
    let here = |line: &&Value| file.ends_with(line["file"].as_str().unwrap_or("none"));
    let records = of_kind(&said.dump, "record").filter(here).map(|line| {
        let start = number(line, "position");
        let end = start + number(line, "len").next_multiple_of(8);
        (start..end, line.get("state").is_none().then(|| number(line, "offset")))
    });
    records.collect()
}

#[test]
fn whichever_byte_is_wrong_four_commands_agree_on_the_whole_records_and_the_damage() {
    let scratch = small_log(true);
    let before = Said::by(&scratch);
    before.agree();
    assert_eq!(before.whole, (0..END).collect());
    let mut flips = 0;
    for path in scratch.segments("t") {
        let name = path.display().to_string();
        let frames = frames(&before, &name);
        let last = frames.last().unwrap().0.end;
        let bytes = std::fs::read(&path).unwrap();
        let header_len = layout::CRC_AT as u64 + 4;
        let copy_at = layout::HEADER_COPY_AT as u64;
        let is_header = |at: u64| at < header_len || (copy_at..copy_at + header_len).contains(&at);
        // All bytes that are in use, and those of the header page that are zero.
        let used = (0..last)
            .filter(|&at| at >= layout::FIRST_FRAME_AT || bytes[at as usize] != 0 || is_header(at));
        for at in used {
            flip(&path, at, (at % 8) as u8);
            let said = Said::by(&scratch);
            flip(&path, at, (at % 8) as u8);
            let context = format!("byte {at} of {name}");
            let checked = std::panic::catch_unwind(|| {
                said.agree();
                let hit = frames.iter().find(|(range, _)| range.contains(&at));
                let lost = hit.and_then(|(_, offset)| *offset);
                let expected: BTreeSet<u64> = (0..END).filter(|o| Some(*o) != lost).collect();
                assert_eq!(said.whole, expected);
                let named: Vec<u64> = of_kind(&said.verify, "damage")
                    .flat_map(|line| number(line, "first_lost")..number(line, "lost_end"))
                    .collect();
                assert_eq!(named, Vec::from_iter(lost));
                if is_header(at) {
                    said.names_header_sector(&name, if at < copy_at { 0 } else { copy_at });
                }
            });
            assert!(checked.is_ok(), "{context}: {said:#?}");
            flips += 1;
        }
    }
    assert!(flips > 600, "{flips}");
}

#[test]
fn whichever_byte_of_a_record_that_was_not_promised_is_wrong_four_commands_agree() {
    let scratch = small_log(false);
    let before = Said::by(&scratch);
    before.agree();
    let path = scratch.segments("t").pop().unwrap();
    let frames = frames(&before, &path.display().to_string());
    for at in frames[0].0.start..frames.last().unwrap().0.end {
        flip(&path, at, (at % 8) as u8);
        let said = Said::by(&scratch);
        flip(&path, at, (at % 8) as u8);
        let checked = std::panic::catch_unwind(|| said.agree());
        assert!(checked.is_ok(), "byte {at}: {said:#?}");
    }
}
