//! `verify`: it finds and names damage of every kind, and never calls a living log damaged.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use deaddrop::format::index::Entry;
use deaddrop::{Log, Start};
use serde_json::Value;

use crate::support::{copy_dir, feed, flip, Random, Scratch};

fn damages(scratch: &Scratch) -> Vec<Value> {
    let lines = scratch.run(&["verify", "--json"]).expect(4).json();
    lines.into_iter().filter(|line| line["kind"] == "damage").collect()
}

#[test]
fn a_whole_log_is_ok_and_counted() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("a", 0..1000));
    drop(scratch.topic_of("b", 0..10));
    let text = scratch.run(&["verify"]).expect(0).text();
    assert!(
        text.contains("a: ") && text.contains("1,000 records") && text.contains(": ok"),
        "{text}"
    );
    let lines = scratch.run(&["verify", "--json"]).expect(0).json();
    assert_eq!((&lines[0]["records"], &lines[1]["records"]), (&1000.into(), &10.into()));
    assert_eq!(scratch.run(&["verify", "b"]).expect(0).text().lines().count(), 1);
}

#[test]
fn any_flipped_bit_of_a_published_frame_is_found_with_its_offset() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..1000));
    let copy = Scratch::new();
    copy_dir(&scratch.log(), &copy.log());
    let frames: Vec<Value> = scratch
        .run(&["dump", "t", "--json"])
        .expect(0)
        .json()
        .into_iter()
        .filter(|line| line["kind"] == "record")
        .collect();
    let newest = scratch.segments("t").len() - 1;
    let mut random = Random(11);
    for round in 0..40 {
        // In a copy, damage in the last frame of the newest segment looks like a torn tail.
        let frame = &frames[random.below(frames.len() as u64 - 1) as usize];
        let file = frame["file"].as_str().unwrap();
        let start = frame["position"].as_u64().unwrap();
        let at = start + random.below(frame["len"].as_u64().unwrap());
        let bit = random.below(8) as u8;
        for scratch in [&scratch, &copy] {
            let path = scratch.log().join("topics/t").join(file);
            flip(&path, at, bit);
            let found = damages(scratch);
            flip(&path, at, bit);
            assert_eq!(found.len(), 1, "round {round}, {file} {at} bit {bit}");
            let offset = frame["offset"].as_u64().unwrap();
            assert_eq!(found[0]["position"], start);
            assert_eq!(found[0]["first_lost"], offset);
            assert_eq!(found[0]["lost_end"], offset + 1);
            assert_eq!(found[0]["file"], path.display().to_string());
        }
    }
    assert!(newest > 2);
    scratch.run(&["verify"]).expect(0);
    copy.run(&["verify"]).expect(0);
}

#[test]
fn the_last_record_of_this_boot_is_known_to_be_missing() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..10));
    let path = &scratch.segments("t")[0];
    let lines = scratch.run(&["dump", "t", "--json"]).expect(0).json();
    let last = lines.iter().rev().find(|line| line["kind"] == "record").unwrap();
    let position = last["position"].as_u64().unwrap();
    File::options().write(true).open(path).unwrap().write_all_at(&[0; 64], position).unwrap();
    let found = damages(&scratch);
    assert_eq!((&found[0]["position"], &found[0]["first_lost"]), (&position.into(), &9.into()));
}

#[test]
fn missing_cut_and_foreign_segments_are_found() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..1000));
    let other = Scratch::new();
    drop(other.topic_of("t", 0..1000));
    let files = scratch.segments("t");
    let check = |change: &dyn Fn(), expected: &str| {
        let kept: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).unwrap()).collect();
        change();
        let found = damages(&scratch);
        let named = found.iter().any(|damage| damage["what"].as_str().unwrap().contains(expected));
        assert!(named, "{expected}: {found:?}");
        for (path, bytes) in files.iter().zip(kept) {
            std::fs::write(path, bytes).unwrap();
        }
        scratch.run(&["verify"]).expect(0);
    };
    {
        // A writer knows where the topic starts and ends. Without one, a log whose first or last
        // file is gone is a shorter log.
        let _writer = Log::open_or_create(scratch.log()).unwrap().topic("t").unwrap();
        check(&|| std::fs::remove_file(&files[0]).unwrap(), "first segment file is missing");
        check(&|| std::fs::remove_file(files.last().unwrap()).unwrap(), "the frames end here");
    }
    check(&|| std::fs::remove_file(&files[1]).unwrap(), "the frames end here");
    let cut = |len| File::options().write(true).open(&files[1]).unwrap().set_len(len).unwrap();
    check(&|| cut(8000), "bytes expected");
    check(&|| cut(0), "header is unreadable");
    check(&|| flip(&files[1], 30, 2), "header is unreadable");
    let foreign = &other.segments("t")[0];
    check(
        &|| {
            std::fs::copy(foreign, &files[0]).unwrap();
        },
        "belongs to another topic",
    );
    check(
        &|| {
            std::fs::copy(&files[2], &files[1]).unwrap();
        },
        "the name",
    );
}

#[test]
fn a_damaged_newest_segment_does_not_hide_the_others() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..1000));
    let copy = Scratch::new();
    copy_dir(&scratch.log(), &copy.log());
    let files = copy.segments("t");
    flip(files.last().unwrap(), 12, 0);
    flip(&files[0], 4200, 0);
    let found = damages(&copy);
    let of = |name: &std::path::Path| {
        found.iter().filter(|damage| damage["file"] == name.display().to_string()).count()
    };
    assert_eq!((of(&files[0]), of(files.last().unwrap())), (1, 1), "{found:?}");
}

#[test]
fn a_topic_whose_creation_was_interrupted_does_not_hide_the_others() {
    let scratch = Scratch::new();
    for name in ["a", "b", "c"] {
        drop(scratch.topic_of(name, 0..10));
    }
    std::fs::remove_file(&scratch.segments("b")[0]).unwrap();
    let ran = scratch.run(&["verify"]).expect(1);
    assert!(
        ran.stderr.contains("b: ") && ran.stderr.contains("creation of the topic was interrupted"),
        "{}",
        ran.stderr
    );
    let checked = ran.text();
    assert!(checked.contains("a: ") && checked.contains("c: "), "{checked}");
    scratch.run(&["verify", "b"]).expect(1);
    // Damage in another topic decides the exit code, even if it is found later.
    flip(&scratch.segments("c")[0], 4200, 0);
    let ran = scratch.run(&["verify"]).expect(4);
    assert!(ran.stderr.contains("creation of the topic was interrupted"), "{}", ran.stderr);
}

#[test]
fn small_files_are_checked_too() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..1000).consumer("c", Start::First).unwrap());
    scratch.store_index("t", |_| {});
    let dir = scratch.log().join("topics/t");
    for (file, position) in [
        (dir.join("settings"), 24),
        (scratch.segments("t")[0].with_extension("idx"), 45),
        (dir.join("consumers/c"), 17),
    ] {
        flip(&file, position, 0);
        let found = damages(&scratch);
        assert_eq!(found[0]["file"], file.display().to_string(), "{found:?}");
        flip(&file, position, 0);
        scratch.run(&["verify"]).expect(0);
    }
}

#[test]
fn an_index_with_wrong_positions_is_found() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..1000));
    for change in [|entry: &mut Entry| entry.position += 8, |entry: &mut Entry| entry.offset += 1] {
        scratch.store_index("t", |entries| change(&mut entries[1]));
        let found = damages(&scratch);
        assert!(found[0]["what"].as_str().unwrap().contains("no such frame"), "{found:?}");
        assert_eq!(found.len(), 1);
    }
    scratch.store_index("t", |entries| {
        entries[1].offset = 5000;
        entries[1].position = 16376;
    });
    let found = damages(&scratch);
    assert!(found[0]["what"].as_str().unwrap().contains("past the segment's end"), "{found:?}");
    // A process that was killed while it stored one: it is built again when it is needed.
    let index = scratch.segments("t")[0].with_extension("idx");
    for bytes in [vec![], vec![0; 160]] {
        std::fs::write(&index, bytes).unwrap();
        let text = scratch.run(&["verify"]).expect(0).text();
        assert!(text.contains("was not finished"), "{text}");
    }
    scratch.store_index("t", |_| {});
    scratch.run(&["verify"]).expect(0);
}

#[test]
fn a_log_that_is_being_written_is_never_called_damaged() {
    for durability in ["process-crash", "power-loss"] {
        let scratch = Scratch::new();
        scratch
            .run(&["append", "t", "--durability", durability, "--segment-size", "64KiB"])
            .expect(0);
        let mut writers: Vec<_> = (0..2)
            .map(|_| {
                let mut child =
                    scratch.command(&["append", "t", "-q"]).stdin(Stdio::piped()).spawn().unwrap();
                std::thread::spawn(move || {
                    let line = format!("{}\n", "x".repeat(200));
                    feed(&mut child, line.repeat(20_000).as_bytes());
                    child.wait().unwrap()
                })
            })
            .collect();
        let mut rounds = 0;
        while writers.iter().any(|writer| !writer.is_finished()) && rounds < 1000 {
            scratch.run(&["verify"]).expect(0);
            scratch.run(&["dump", "-q", "t"]).expect(0);
            rounds += 1;
        }
        assert!(rounds > 0);
        for writer in writers.drain(..) {
            assert_eq!(writer.join().unwrap().code(), Some(0));
        }
        let lines = scratch.run(&["verify", "--json"]).expect(0).json();
        assert_eq!(lines[0]["records"], 40_000);
    }
}
