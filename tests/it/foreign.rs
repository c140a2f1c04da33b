//! Files of another topic in a topic's directory: a repair sets them aside and adopts nothing. They are hard
//! links here, so that a repair which writes into one is seen in the other topic.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use deaddrop::group::GroupOptions;
use deaddrop::repair::{self, Options, Remedy, Report};
use deaddrop::{Error, Log, Record, Start, Topic, TopicOptions};

const RECORDS: u64 = 90;

fn payload(topic: &str, offset: u64) -> Vec<u8> {
    format!("{topic} {offset:0400}").into_bytes()
}

/// Two topics with the same bases: `own`, and `other` that lends its files.
fn topics(dir: &Path) -> Vec<u64> {
    let log = Log::open_or_create(dir).unwrap();
    for name in ["own", "other"] {
        let options = TopicOptions::default().with_segment_len(16 << 10);
        let topic = log.topic_with(name, options).unwrap();
        for offset in 0..RECORDS {
            topic.append(&Record::new(payload(name, offset))).unwrap();
        }
    }
    let bases = bases(dir);
    assert!(bases.len() >= 3, "{bases:?}");
    bases
}

fn segment(dir: &Path, topic: &str, base: u64) -> PathBuf {
    dir.join(format!("topics/{topic}/{base:020}.seg"))
}

fn bases(dir: &Path) -> Vec<u64> {
    let names = std::fs::read_dir(dir.join("topics/own")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut bases: Vec<u64> =
        names.filter_map(|name| name.strip_suffix(".seg")?.parse().ok()).collect();
    bases.sort_unstable();
    bases
}

/// Puts the segment `from` of the other topic in the place of `base`.
fn put(dir: &Path, from: u64, base: u64) {
    let to = segment(dir, "own", base);
    if to.exists() {
        std::fs::remove_file(&to).unwrap();
    }
    std::fs::hard_link(segment(dir, "other", from), to).unwrap();
}

/// Returns the offsets that a reader gets, and the lost ones.
fn read(topic: &Topic) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let (mut shown, mut lost) = (BTreeSet::new(), BTreeSet::new());
    let mut reader = topic.reader(Start::First).unwrap();
    for _ in 0..10 * RECORDS {
        match reader.next() {
            Ok(Some(record)) => {
                let expected = payload(topic.name(), record.offset());
                assert_eq!(record.payload(), expected, "a foreign record at {}", record.offset());
                shown.insert(record.offset());
            }
            Ok(None) => return (shown, lost),
            Err(Error::Lost { offsets, .. }) => lost.extend(offsets),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("reading does not end");
}

fn execute(dir: &Path) -> deaddrop::Result<Report> {
    let log = Log::open_or_create(dir).unwrap();
    repair::execute(&log, "own", Options::default().with_consumers(true))
}

fn plan(dir: &Path) -> deaddrop::Result<Report> {
    repair::plan(&Log::open_read_only(dir).unwrap(), "own")
}

#[test]
fn a_repair_sets_the_segment_of_another_topic_aside_and_marks_lost_what_it_replaced() {
    for has_words in [true, false] {
        // The place of the foreign segment among the bases, and the number of own segments that it replaces.
        for place in ["first", "middle", "active", "within", "after", "all but one"] {
            let about = format!("{place}, words of this boot: {has_words}");
            let dir = crate::dir();
            let dir = dir.path();
            let own = topics(dir);
            let (first, second, third) = (own[0], own[1], own[2]);
            let last = own[own.len() - 1];
            let foreign: Vec<(u64, u64)> = match place {
                "first" => vec![(first, first)],
                "middle" => vec![(second, second)],
                "active" => vec![(last, last)],
                "within" => vec![(first, first + 5)],
                "after" => vec![(first, 5_000)],
                _ => own[..own.len() - 1].iter().map(|&base| (base, base)).collect(),
            };
            for &(from, base) in &foreign {
                put(dir, from, base);
            }
            if !has_words {
                std::fs::remove_file(dir.join("topics/own/control")).unwrap();
            }
            let lost: Range<u64> = match place {
                "first" => first..second,
                "middle" => second..third,
                // Without the words, the files do not tell how many records it had.
                "active" if has_words => last..RECORDS,
                "active" => last..last,
                "within" | "after" => 0..0,
                _ => first..last,
            };
            let end = if place == "active" { lost.end } else { RECORDS };
            let expected: BTreeSet<u64> =
                (0..end).filter(|offset| !lost.contains(offset)).collect();

            let planned = plan(dir).unwrap();
            let report = execute(dir).unwrap();
            assert!(report.findings.iter().all(|finding| finding.done), "{about}: {report:?}");
            for &(_, base) in &foreign {
                let path = segment(dir, "own", base);
                for report in [&planned, &report] {
                    let finding = report.findings.iter().find(|finding| finding.path == path);
                    let finding = finding.unwrap_or_else(|| panic!("{about}: {report:?}"));
                    assert!(finding.what.contains("another topic"), "{about}: {finding:?}");
                }
                let finding = report.findings.iter().find(|finding| finding.path == path);
                let kept = finding.unwrap().kept.as_ref().unwrap();
                let (from, _) = foreign.iter().find(|(_, at)| *at == base).unwrap();
                let lent = std::fs::read(segment(dir, "other", *from)).unwrap();
                assert!(std::fs::read(kept).unwrap() == lent, "{about}: not kept");
            }
            let log = Log::open_or_create(dir).unwrap();
            let topic = log.open_topic("own").unwrap();
            assert_eq!(read(&topic), (expected, lost.collect()), "{about}");
            assert_eq!(topic.append(&Record::new(payload("own", end))).unwrap(), end, "{about}");
            assert_eq!(read(&topic).0.last(), Some(&end), "{about}");
            let (lent, none) = read(&log.open_topic("other").unwrap());
            assert_eq!((lent.len() as u64, none.len()), (RECORDS, 0), "{about}: written to");
            drop((topic, log));
            assert!(execute(dir).unwrap().findings.is_empty(), "{about}: not all was repaired");
        }
    }
}

#[test]
fn settings_to_which_no_segment_belongs_are_refused_and_nothing_is_changed() {
    for place in ["settings", "all segments"] {
        let dir = crate::dir();
        let dir = dir.path();
        let own = topics(dir);
        match place {
            "settings" => {
                let settings = |topic| dir.join(format!("topics/{topic}/settings"));
                std::fs::copy(settings("other"), settings("own")).unwrap();
            }
            _ => own.iter().for_each(|&base| put(dir, base, base)),
        }
        let before: Vec<_> =
            own.iter().map(|&base| std::fs::read(segment(dir, "own", base)).unwrap()).collect();
        let opened = Log::open_or_create(dir).unwrap().open_topic("own").map(drop);
        for refused in [plan(dir).map(drop), execute(dir).map(drop), opened] {
            match refused {
                Err(Error::Corrupt { path, what, .. }) => {
                    assert!(path.ends_with("own/settings"), "{place}: {path:?}");
                    assert!(what.contains("restore the file"), "{place}: {what}");
                }
                other => panic!("{place}: {other:?}"),
            }
        }
        assert_eq!(bases(dir), own, "{place}");
        for (&base, before) in own.iter().zip(&before) {
            let after = std::fs::read(segment(dir, "own", base)).unwrap();
            assert!(after == *before, "{place}: segment {base} was written to");
        }
    }
}

#[test]
fn files_of_consumers_and_groups_of_another_topic_are_found_and_set_aside() {
    let dir = crate::dir();
    let dir = dir.path();
    topics(dir);
    {
        let log = Log::open_or_create(dir).unwrap();
        let other = log.open_topic("other").unwrap();
        let mut consumer = other.consumer("c", Start::First).unwrap();
        consumer.next().unwrap().unwrap();
        consumer.commit().unwrap();
        drop(other.group("g", GroupOptions::default()).unwrap());
    }
    for (within, name) in [("consumers", "c"), ("groups", "g")] {
        let file = |topic: &str| dir.join("topics").join(topic).join(within).join(name);
        std::fs::create_dir_all(file("own").parent().unwrap()).unwrap();
        std::fs::copy(file("other"), file("own")).unwrap();
        for report in [plan(dir).unwrap(), execute(dir).unwrap()] {
            let found = report.findings.iter().find(|finding| finding.path == file("own"));
            let found = found.unwrap_or_else(|| panic!("{within}: {report:?}"));
            assert_eq!(found.remedy, Remedy::SetConsumerAside, "{within}");
            assert!(found.what.contains("another topic"), "{within}: {}", found.what);
        }
        assert!(!file("own").exists(), "{within}");
    }
}
