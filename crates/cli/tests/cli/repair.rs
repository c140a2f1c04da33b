//! `repair`: afterwards `verify` is clean, undamaged records have their offsets, the damaged bytes
//! are kept, and readers get an error for the lost records.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use deaddrop::{Error, Log, Record, Start};
use serde_json::Value;

use crate::support::{copy_dir, flip, payload, snapshot, Random, Scratch};

/// Returns the position and padded end of the frame of `offset`, and its file.
fn frame_of(scratch: &Scratch, offset: u64) -> (PathBuf, u64, u64) {
    let lines = scratch.run(&["dump", "t", &offset.to_string(), "--json"]).expect(0).json();
    let frame = lines.iter().find(|line| line["kind"] == "record").unwrap();
    let file = scratch.log().join("topics/t").join(frame["file"].as_str().unwrap());
    let position = frame["position"].as_u64().unwrap();
    (file, position, position + frame["len"].as_u64().unwrap().next_multiple_of(8))
}

/// Returns the findings except those about indexes, which may have been made or not.
fn findings(lines: &[Value]) -> Vec<&Value> {
    let is_finding = |line: &&Value| line["kind"] == "finding" && line["remedy"] != "remove-index";
    lines.iter().filter(is_finding).collect()
}

fn execute(scratch: &Scratch) -> Vec<Value> {
    scratch.run(&["repair", "t", "--execute", "--json"]).expect(0).json()
}

/// Returns what a reader gets: the offsets of right records, and those reported as lost.
fn read(scratch: &Scratch) -> (Vec<u64>, Vec<u64>) {
    let topic = Log::open_read_only(scratch.log()).unwrap().open_topic("t").unwrap();
    let mut reader = topic.reader(Start::First).unwrap();
    let (mut shown, mut lost) = (Vec::new(), Vec::new());
    loop {
        match reader.next() {
            Ok(Some(record)) => {
                assert_eq!(record.payload(), payload(record.offset()).as_bytes());
                shown.push(record.offset());
            }
            Ok(None) => return (shown, lost),
            Err(Error::Lost { offsets, .. }) => lost.extend(offsets),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Checks a repaired topic: clean, nothing left to do, every offset either right or lost.
fn check(scratch: &Scratch, end: u64, lost: &[u64]) {
    let verdict = scratch.run(&["verify", "--json"]).expect(0).json().swap_remove(0);
    assert_eq!(verdict["given_up"], lost.len());
    let again = scratch.run(&["repair", "t"]).expect(0).text();
    assert!(again.contains("nothing to repair"), "{again}");
    let (shown, told) = read(scratch);
    assert_eq!(told, lost);
    let expected: Vec<u64> = (0..end).filter(|offset| !lost.contains(offset)).collect();
    assert_eq!(shown, expected);
    let topic = Log::open_or_create(scratch.log()).unwrap().open_topic("t").unwrap();
    assert_eq!(topic.recovery().map_or(0, |recovery| recovery.damage.len()), 0);
    assert_eq!(
        topic.append(&Record::new(payload(end))).unwrap(),
        end,
        "appending goes on at the end"
    );
}

#[test]
fn flipped_bits_in_sealed_and_in_the_active_segment_cost_their_records_and_nothing_else() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..1000));
    // In the middle of a sealed segment, two in a row, and in the newest segment.
    let lost = [50, 300, 301, 990];
    let mut damaged = Vec::new();
    for offset in lost {
        let (file, start, end) = frame_of(&scratch, offset);
        damaged.push((file, start, end));
    }
    for (file, start, _) in &damaged {
        flip(file, start + 40, 3);
    }
    scratch.run(&["verify"]).expect(4);
    let before = snapshot(&scratch.log());
    let text = scratch.run(&["repair", "t"]).expect(4).text();
    assert!(text.contains("offsets 300..302") && text.contains("nothing was changed"), "{text}");
    assert_eq!(snapshot(&scratch.log()), before, "a dry run writes nothing");
    let lines = execute(&scratch);
    assert_eq!(findings(&lines).len(), 3);
    for finding in findings(&lines) {
        assert_eq!((&finding["remedy"], &finding["done"]), (&"give-up".into(), &true.into()));
        let number = |name: &str| finding[name].as_u64().unwrap() as usize;
        let file = Path::new(finding["file"].as_str().unwrap());
        let old = &before.iter().find(|(path, _)| path == file).unwrap().1;
        let kept = std::fs::read(finding["kept"].as_str().unwrap()).unwrap();
        assert_eq!(kept, old[number("position")..number("position") + number("len")]);
    }
    check(&scratch, 1000, &lost);
    let cat = scratch.run(&["cat", "t"]).expect(0);
    assert!(cat.stderr.contains("300..302 are lost"), "{}", cat.stderr);
    assert_eq!(cat.text().lines().count(), 1001 - lost.len());
    let text = scratch.run(&["dump", "t"]).expect(0).text();
    assert!(text.contains("gives up 2 lost records"), "{text}");
}

#[test]
fn any_thousand_flipped_bits_are_repaired() {
    for seed in 0..6 {
        println!("seed {seed}");
        let scratch = Scratch::new();
        drop(scratch.topic_of("t", 0..2000));
        let files = scratch.segments("t");
        let mut random = Random(seed);
        for _ in 0..1000 {
            let file = &files[random.below(files.len() as u64) as usize];
            let len = std::fs::metadata(file).unwrap().len();
            // Header pages too.
            flip(file, random.below(len), random.below(8) as u8);
        }
        let ran = scratch.run(&["repair", "--all", "--execute"]);
        assert_eq!(ran.code, Some(0), "{} {}", ran.text(), ran.stderr);
        let verified = scratch.run(&["verify"]);
        assert_eq!(verified.code, Some(0), "{} {}", verified.text(), verified.stderr);
        let (shown, lost) = read(&scratch);
        let mut all: Vec<u64> = shown.iter().chain(&lost).copied().collect();
        all.sort_unstable();
        assert!(all.len() >= 1900 && shown.len() > 200, "{} {}", all.len(), shown.len());
        assert_eq!(all, (0..all.len() as u64).collect::<Vec<_>>());
    }
}

#[test]
fn a_damaged_header_page_costs_no_record_if_it_can_be_rebuilt_from_the_frames() {
    for newest in [false, true] {
        for (positions, remedy) in [
            (&[20][..], "restore-header"),
            (&[3584 + 24][..], "restore-header"),
            (&[20, 3584 + 24][..], "rebuild-header"),
        ] {
            let scratch = Scratch::new();
            drop(scratch.topic_of("t", 0..1000));
            let files = scratch.segments("t");
            let file = if newest { files.last().unwrap() } else { &files[1] };
            for &position in positions {
                flip(file, position, 4);
            }
            let lines = execute(&scratch);
            assert_eq!(findings(&lines).len(), 1, "{lines:?}");
            assert_eq!(findings(&lines)[0]["remedy"], remedy, "newest: {newest}");
            check(&scratch, 1000, &[]);
        }
    }
}

#[test]
fn a_missing_segment_or_one_without_any_valid_bytes_is_lost_as_a_whole() {
    for (gone, remedies) in
        [(false, &["give-up-segment"][..]), (true, &["give-up", "make-segment"])]
    {
        let scratch = Scratch::new();
        drop(scratch.topic_of("t", 0..1000));
        let files = scratch.segments("t");
        let base =
            |path: &Path| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
        let lost: Vec<u64> = (base(&files[1])..base(&files[2])).collect();
        if gone {
            std::fs::remove_file(&files[1]).unwrap();
        } else {
            let file = File::options().write(true).open(&files[1]).unwrap();
            file.write_all_at(&vec![0xa5; 16384], 0).unwrap();
        }
        let lines = execute(&scratch);
        // A segment that is full to its last byte has no room to mark later records lost.
        let remedy = findings(&lines)[0]["remedy"].as_str().unwrap();
        assert!(remedies.contains(&remedy), "{lines:?}");
        if !gone {
            let kept = findings(&lines)[0]["kept"].as_str().unwrap().to_owned();
            assert_eq!(std::fs::read(kept).unwrap(), vec![0xa5; 16384]);
        }
        check(&scratch, 1000, &lost);
    }
}

#[test]
fn a_file_that_was_cut_gets_its_length_back() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..1000));
    let (file, start, _) = frame_of(&scratch, 300);
    let files = scratch.segments("t");
    let behind = files.iter().position(|path| *path == file).unwrap() + 1;
    let next: u64 = files[behind].file_stem().unwrap().to_str().unwrap().parse().unwrap();
    File::options().write(true).open(&file).unwrap().set_len(start + 10).unwrap();
    let lines = execute(&scratch);
    let remedies: Vec<&Value> = findings(&lines).iter().map(|finding| &finding["remedy"]).collect();
    assert_eq!(remedies, ["extend", "give-up"]);
    check(&scratch, 1000, &(300..next).collect::<Vec<_>>());
}

#[test]
fn a_missing_index_is_not_damage_and_a_damaged_one_is_removed_and_made_again() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..1000));
    let index = scratch.segments("t")[0].with_extension("idx");
    if index.exists() {
        std::fs::remove_file(&index).unwrap();
    }
    assert_eq!(findings(&execute(&scratch)).len(), 0);
    scratch.store_index("t", |_| {});
    flip(&index, 45, 0);
    let lines = execute(&scratch);
    assert!(lines[0]["what"].as_str().unwrap().contains("index is unreadable"), "{lines:?}");
    assert!(!index.exists());
    check(&scratch, 1000, &[]);
    let topic = Log::open_or_create(scratch.log()).unwrap().open_topic("t").unwrap();
    topic.reader(Start::Offset(40)).unwrap().next().unwrap();
    assert!(index.exists(), "reading from the middle made it again");
    drop(topic);
    // An index that leads to a frame that is marked lost would make later records look damaged.
    scratch.store_index("t", |_| {});
    let (file, start, _) = frame_of(&scratch, 100);
    flip(&file, start + 4, 0);
    execute(&scratch);
    check(&scratch, 1001, &[100]);
    let topic = Log::open_or_create(scratch.log()).unwrap().open_topic("t").unwrap();
    let mut reader = topic.reader(Start::Offset(101)).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().offset(), 101);
}

#[test]
fn a_torn_consumer_file_is_reported_and_only_moved_when_asked_for() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..100).consumer("billing", Start::Offset(5)).unwrap());
    let path = scratch.log().join("topics/t/consumers/billing");
    flip(&path, 17, 0);
    let torn = std::fs::read(&path).unwrap();
    let text = scratch.run(&["repair", "t", "--execute"]).expect(4).text();
    assert!(text.contains("--consumers"), "{text}");
    assert_eq!(std::fs::read(&path).unwrap(), torn);
    scratch.run(&["repair", "t", "--execute", "--consumers"]).expect(0);
    assert!(!path.exists());
    let kept = scratch.log().join("topics/t/quarantine/consumer.billing");
    assert_eq!(std::fs::read(kept).unwrap(), torn);
    check(&scratch, 100, &[]);
}

#[test]
fn a_torn_group_file_is_treated_like_a_consumers() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..100);
    let options = deaddrop::group::GroupOptions::default().with_lanes(4).with_start(Start::First);
    drop(topic.group("workers", options).unwrap());
    drop(topic);
    scratch.run(&["verify"]).expect(0);
    let path = scratch.log().join("topics/t/groups/workers");
    // The header, and a slot of a lane.
    for position in [17, 3 * 4096 + 17, 2 * 4096 + 1024] {
        flip(&path, position, 0);
        scratch.run(&["verify"]).expect(4);
        scratch.run(&["repair", "t", "--execute"]).expect(4);
        flip(&path, position, 0);
        scratch.run(&["verify"]).expect(0);
    }
    flip(&path, 17, 0);
    scratch.run(&["repair", "t", "--execute", "--consumers"]).expect(0);
    assert!(!path.exists() && scratch.log().join("topics/t/quarantine/group.workers").exists());
    scratch.run(&["verify"]).expect(0);
}

#[test]
fn a_consumer_inside_a_lost_range_is_named_gets_one_error_and_continues_after_it() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..100);
    let mut consumer = topic.consumer("billing", Start::Offset(51)).unwrap();
    consumer.commit().unwrap();
    drop((consumer, topic));
    let places: Vec<_> = (50..53).map(|offset| frame_of(&scratch, offset)).collect();
    for (file, start, _) in places {
        flip(&file, start + 33, 2);
    }
    let text = scratch.run(&["repair", "t", "--execute"]).expect(0).text();
    assert!(text.contains("consumer billing is at 51, which is lost"), "{text}");
    assert!(text.contains("continues at 53"), "{text}");
    let open = || Log::open_or_create(scratch.log()).unwrap().open_topic("t").unwrap();
    let mut consumer = open().consumer("billing", Start::First).unwrap();
    match consumer.next() {
        Err(Error::Lost { offsets, .. }) => assert_eq!(offsets, 51..53),
        other => panic!("{other:?}"),
    }
    consumer.commit().unwrap();
    drop(consumer);
    let mut consumer = open().consumer("billing", Start::First).unwrap();
    assert_eq!(consumer.next().unwrap().unwrap().offset(), 53, "not reported again");
}

#[test]
fn a_topic_that_is_open_is_not_repaired() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..10));
    drop(scratch.topic_of("u", 0..10));
    let (file, start, _) = frame_of(&scratch, 5);
    flip(&file, start + 33, 2);
    let before = std::fs::read(&file).unwrap();
    let mut holder =
        scratch.command(&["append", "t", "--ack"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = holder.stdin.take().unwrap();
    let mut stdout = std::io::BufReader::new(holder.stdout.take().unwrap());
    std::io::Write::write_all(&mut stdin, b"x\n").unwrap();
    let mut acknowledged = String::new();
    // It was acknowledged, so the process has the topic open.
    std::io::BufRead::read_line(&mut stdout, &mut acknowledged).unwrap();
    let before_repair = std::fs::read(&file).unwrap();
    assert_ne!(before, before_repair);
    let ran = scratch.run(&["repair", "t", "--execute"]).expect(5);
    assert!(ran.stderr.contains("in use"), "{}", ran.stderr);
    // The dry run still works, and another topic is repaired.
    scratch.run(&["repair", "t"]).expect(4);
    scratch.run(&["repair", "--all", "--execute"]).expect(5);
    assert_eq!(std::fs::read(&file).unwrap(), before_repair, "nothing was written");
    drop(stdin);
    holder.wait().unwrap();
    scratch.run(&["repair", "t", "--execute"]).expect(0);
    scratch.run(&["verify"]).expect(0);
}

#[test]
fn a_copy_from_another_machine_can_be_repaired() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..1000));
    let copy = Scratch::new();
    copy_dir(&scratch.log(), &copy.log());
    let (file, start, _) = frame_of(&copy, 300);
    flip(&file, start + 33, 2);
    execute(&copy);
    check(&copy, 1000, &[300]);
}
