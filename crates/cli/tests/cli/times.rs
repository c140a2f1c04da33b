//! Times on the command line: the tool accepts every time that it prints, refuses ambiguous ones,
//! and destroys nothing because of a typing error.

use deaddrop::{Durability, Log, Record, Start, TopicOptions};

use crate::support::{Ran, Scratch};

/// A topic of small segments. Record 1000 has a time of its own: all earlier ones are older.
fn two_moments() -> Scratch {
    let scratch = Scratch::new();
    let options = TopicOptions::default()
        .with_durability(Durability::ProcessCrash)
        .with_segment_len(16 << 10);
    let topic = Log::open_or_create(scratch.log()).unwrap().topic_with("t", options).unwrap();
    let append = |index: u64| topic.append(&Record::new(format!("record {index}"))).unwrap();
    for index in 0..1000 {
        append(index);
    }
    let time = |offset| {
        let mut reader = topic.reader(Start::Offset(offset)).unwrap();
        let record = reader.next().unwrap().unwrap();
        record.timestamp_nanos() / 1_000_000
    };
    // Until the clock of records shows another millisecond.
    let before = time(999);
    let mut next = append(1000);
    while time(next) == before {
        next = append(next + 1);
    }
    for index in next + 1..next + 1000 {
        append(index);
    }
    topic.consumer("c", Start::Offset(next + 500)).unwrap().sync().unwrap();
    topic.consumer("d", Start::First).unwrap().sync().unwrap();
    scratch
}

/// Returns the time of the record at `offset` in a format.
fn moment(scratch: &Scratch, offset: u64, format: &str) -> String {
    let offset = offset.to_string();
    scratch.run(&["cat", "t", &offset, "--format", format]).expect(0).text()
}

#[test]
fn every_printed_form_of_a_time_is_accepted_as_an_argument() {
    let scratch = two_moments();
    let all: Vec<u64> = scratch
        .run(&["cat", "t", "--format", "%T\\n"])
        .text()
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    let end = all.len() as u64;
    let asked = (1000..end).find(|&at| all[at as usize] > all[at as usize - 1]).unwrap();
    for format in ["%T", "%T{ms}", "%T{us}", "%T{ns}", "%d"] {
        let time = format!("@{}", moment(&scratch, asked, format).trim());
        let first = scratch.run(&["cat", "t", &format!("{time}:"), "-n", "1", "--format", "%o"]);
        let first: u64 = first.expect(0).text().trim().parse().unwrap();
        assert_eq!(first, asked, "{format} {time}");
        let reset = ["consumers", "t", "--reset", "c", "--to", &time, "--json"];
        let change = &scratch.run(&reset).expect(0).json()[0];
        assert_eq!(change["to"], first, "{format} {time}");
        let trimmed = &scratch.run(&["trim", "t", "--before", &time, "--json"]).expect(0).json()[0];
        assert!(trimmed["to"].as_u64().unwrap() <= first, "{format} {time}: {trimmed}");
    }
    // Seconds are accepted too: that second was before all records of the test, or among them.
    let seconds = format!("@{}:", moment(&scratch, asked, "%T{s}").trim());
    let left = scratch.run(&["cat", "t", &seconds]).expect(0).text().lines().count() as u64;
    assert!(left >= end - asked, "{seconds}: {left}");
    // The destructive command, executed: it drops no record of that time or later.
    let time = format!("@{}", moment(&scratch, asked, "%T"));
    scratch.run(&["trim", "t", "--before", &time, "--execute"]).expect(0);
    let left = scratch.run(&["cat", "t"]).expect(0).text().lines().count() as u64;
    assert!(left >= end - asked && left < end, "{left} of {end}");
}

#[test]
fn ambiguous_numbers_are_refused_with_the_accepted_forms() {
    let scratch = two_moments();
    for time in ["@2026", "@15", "@20261129", "@123456789", "@12345678901", "@yesterday", "@9:40"] {
        for args in [
            vec!["cat", "t", time],
            vec!["tail", "t", time],
            vec!["export", "t", time],
            vec!["dump", "t", time],
            vec!["cat", "t", "--from", time],
            vec!["cat", "t", "--to", time],
            vec!["trim", "t", "--before", time, "--execute"],
            vec!["consumers", "t", "--reset", "c", "--to", time, "--execute"],
            vec!["groups", "reset", "t", "g", "--to", time, "--execute"],
            vec!["dead", "redrive", "t", "--offset", time, "--execute"],
        ] {
            let ran = scratch.run(&args).expect(2);
            for said in ["@2026-11-29T15:40:00Z", "@15:40 (today)", "13 (ms)"] {
                assert!(ran.stderr.contains(said), "{args:?}: {}", ran.stderr);
            }
            assert!(ran.stdout.is_empty(), "{args:?}");
        }
    }
}

#[test]
fn a_time_without_a_zone_is_in_that_of_the_user() {
    let scratch = two_moments();
    let date = moment(&scratch, 1000, "%d");
    let (utc, _) = date.split_once('.').unwrap();
    let before = |zone: &str, time: &str| {
        let mut command = scratch.command(&["cat", "t", "--to", time]);
        let ran = Ran::of(&command.env("TZ", zone).output().unwrap());
        ran.expect(0).text().lines().count()
    };
    let expected = before("UTC0", &format!("@{utc}Z"));
    assert_eq!(before("UTC0", &format!("@{utc}")), expected);
    assert_eq!(before("ABC-1", &format!("@{utc}Z")), expected);
    // To the east of UTC it was this time an hour ago; to the west it will be in an hour.
    assert_eq!(before("ABC-1", &format!("@{utc}")), 0);
    assert_eq!(before("ABC+1", &format!("@{utc}")), before("UTC0", "end"));
    let mut unknown = scratch.command(&["cat", "t", "--to", &format!("@{utc}")]);
    let ran = Ran::of(&unknown.env("TZ", "Nowhere/Atlantis").output().unwrap()).expect(2);
    assert!(ran.stderr.contains("write it with a zone"), "{}", ran.stderr);
}

#[test]
fn a_time_of_day_is_not_a_range_of_two_numbers() {
    let scratch = two_moments();
    // Never offset 40, and never second 15 of 1970.
    for range in ["@00:00", "@00:00:00", "@00:00Z:end"] {
        let ran = scratch.run(&["cat", "t", range, "--format", "%o\\n"]).expect(0);
        assert_ne!(ran.text().lines().count(), 40, "{range}");
    }
    for range in ["@2020-01-01:40", "@1577836800:40", "@2020-01-01T15:40+01:70"] {
        let ran = scratch.run(&["cat", "t", range]).expect(2);
        assert!(ran.stderr.contains("--from and --to"), "{}", ran.stderr);
    }
    let lines = scratch.run(&["cat", "t", "--from", "@2020-01-01", "--to", "40"]).expect(0).text();
    assert_eq!(lines.lines().count(), 40);
}

#[test]
fn a_time_in_the_future_destroys_and_skips_nothing() {
    let scratch = two_moments();
    let log = Log::open_or_create(scratch.log()).unwrap();
    let group = deaddrop::group::GroupOptions::default().with_lanes(4).with_start(Start::First);
    drop(log.topic("t").unwrap().group("g", group).unwrap());
    drop(log);
    let records = || scratch.run(&["cat", "t"]).expect(0).text().lines().count();
    let all = records();
    let trim = ["trim", "t", "--before", "@2126-01-01", "--execute"];
    let consumer = ["consumers", "t", "--reset", "d", "--to", "@2126-01-01", "--execute"];
    let group = ["groups", "reset", "t", "g", "--to", "@2126-01-01", "--execute"];
    for args in [&trim[..], &consumer, &group] {
        let dry = &args[..args.len() - 1];
        for args in [args, dry] {
            let ran = scratch.run(args).expect(1);
            let said = "2126-01-01T00:00:00.000Z is in the future";
            assert!(ran.stderr.contains(said), "{args:?}: {}", ran.stderr);
            assert!(ran.stderr.contains("--allow-future"), "{args:?}: {}", ran.stderr);
        }
    }
    assert_eq!(records(), all);
    assert_eq!(scratch.run(&["consumers", "t", "--json"]).json()[1]["committed"], 0);
    assert_eq!(scratch.run(&["groups", "t", "g", "--json"]).json()[0]["committed"], 0);
    // With the explicit flag it is done.
    for args in [&consumer[..], &group, &trim] {
        scratch.run(&[args, &["--allow-future"]].concat()).expect(0);
    }
    assert_eq!(scratch.run(&["consumers", "t", "--json"]).json()[1]["committed"], all);
    assert_eq!(scratch.run(&["groups", "t", "g", "--json"]).json()[0]["committed"], all);
    assert!(records() < all);
}

#[test]
fn reading_from_a_future_time_is_reported() {
    let scratch = two_moments();
    for command in ["cat", "tail", "export"] {
        let ran = scratch.run(&[command, "t", "@2126-01-01"]).expect(0);
        assert!(ran.stderr.contains("in the future"), "{command}: {}", ran.stderr);
        assert!(ran.stdout.is_empty());
    }
    // As the end of a range it is accepted.
    let ran = scratch.run(&["cat", "t", ":@2126-01-01"]).expect(0);
    assert!(!ran.stdout.is_empty() && ran.stderr.is_empty());
}

#[test]
fn a_range_that_ends_before_it_begins_is_an_error() {
    let scratch = two_moments();
    for command in ["cat", "tail", "export", "dump"] {
        for range in ["7:3", "-2:-5", "-30m:-1h", "@2021-01-01:@2020-01-01"] {
            let ran = scratch.run(&[command, "t", range]).expect(2);
            assert!(ran.stderr.contains("ends before it begins"), "{command}: {}", ran.stderr);
        }
        // Only the topic shows that this range is reversed.
        let ran = scratch.run(&[command, "t", "-5:3"]).expect(1);
        assert!(ran.stderr.contains("ends before it, at 3"), "{command}: {}", ran.stderr);
    }
    for command in ["cat", "tail", "export"] {
        let ran = scratch.run(&[command, "t", "--from", "7", "--to", "3"]).expect(2);
        assert!(ran.stderr.contains("ends before it begins"), "{command}: {}", ran.stderr);
    }
    scratch.run(&["dead", "redrive", "t", "--offset", "5:2"]).expect(2);
    let segment = scratch.segments("t").remove(0);
    scratch.run(&["dump", segment.to_str().unwrap(), "5:2"]).expect(2);
    // An empty range is not reversed.
    assert!(scratch.run(&["cat", "t", "5:5"]).expect(0).stdout.is_empty());
}
