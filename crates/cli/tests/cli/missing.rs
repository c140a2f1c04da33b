//! No command silently skips records that are in the files and not in the topic: neither commands
//! that read, nor those whose opening cuts them off, nor later ones.

use deaddrop::{Durability, Log, Record, TopicOptions};

use crate::support::{copy_dir, flip, half_make, Scratch};

/// A copy of a cleanly closed topic of small records, as it is after a reboot, with one flipped bit
/// in the record at `offset`.
fn damaged_copy(durability: Durability, offset: usize) -> Scratch {
    let source = Scratch::new();
    let options = TopicOptions::default().with_durability(durability).with_segment_len(256 << 10);
    let topic = Log::open_or_create(source.log()).unwrap().topic_with("t", options).unwrap();
    for index in 0..2000 {
        topic.append_unsynced(&Record::new(format!("record {index}"))).unwrap();
    }
    drop(topic);
    let scratch = Scratch::new();
    copy_dir(&source.log(), &scratch.log());
    let lines = scratch.run(&["dump", "t", "--json"]).json();
    let record = lines.iter().filter(|line| line["kind"] == "record").nth(offset).unwrap();
    let [position, len] = ["position", "len"].map(|name| record[name].as_u64().unwrap());
    flip(&scratch.segments("t")[0], position + len - 1, 0);
    scratch
}

/// A copy of a topic `t` that is open and has promised nothing yet, in which a sector of records
/// was never written: opening it for writing cuts off the records after it.
pub(crate) fn torn_copy() -> Scratch {
    let source = Scratch::new();
    let options = TopicOptions::default()
        .with_durability(Durability::ProcessCrash)
        .with_segment_len(256 << 10);
    let topic = Log::open_or_create(source.log()).unwrap().topic_with("t", options).unwrap();
    for index in 0..2000 {
        topic.append(&Record::new(format!("record {index}"))).unwrap();
    }
    let scratch = Scratch::new();
    copy_dir(&source.log(), &scratch.log());
    drop(topic);
    let file = std::fs::File::options().write(true).open(&scratch.segments("t")[0]).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 512], 8192).unwrap();
    scratch
}

#[test]
fn commands_that_read_report_the_records_after_damage_and_end_with_code_4() {
    for offset in [0, 100] {
        let scratch = damaged_copy(Durability::ProcessCrash, offset);
        for args in [
            vec!["cat", "t"],
            vec!["tail", "t", "0:"],
            vec!["export", "t"],
            vec!["ls"],
            vec!["info", "t"],
            vec!["stats", "t"],
            vec!["verify", "t"],
            vec!["ls", "--json"],
            vec!["info", "t", "--json"],
            vec!["stats", "t", "--json"],
        ] {
            let ran = scratch.run(&args).expect(4);
            let said = format!("{}{}", ran.stderr, ran.text());
            assert!(said.contains("00000000000000000000.seg"), "{args:?}: {said}");
            let places = [format!("offset {offset}"), format!("offsets {offset}..")];
            let is_said = places.iter().any(|place| said.contains(place));
            assert!(is_said || args.contains(&"--json"), "{args:?}: {said}");
        }
        // A range before the damage is whole.
        if offset > 10 {
            let ran = scratch.run(&["cat", "t", "3:6"]).expect(0);
            assert_eq!(ran.text(), "record 3\nrecord 4\nrecord 5\n");
            assert!(ran.stderr.is_empty(), "{}", ran.stderr);
        }
    }
}

#[test]
fn an_append_that_finds_records_missing_reports_them_and_verify_keeps_reporting_them() {
    for offset in [0, 100] {
        for command in ["append", "import", "create"] {
            let scratch = damaged_copy(Durability::ProcessCrash, offset);
            let input: &[u8] = match command {
                "append" => b"new\n",
                _ => b"{\"payload\":\"new\"}\n",
            };
            let ran = scratch.run_with(&[command, "t"], input);
            assert!(matches!(ran.code, Some(0 | 4)), "{command}: {}", ran.stderr);
            let place = format!("{offset}");
            assert!(ran.stderr.contains(&place), "{command}: {}", ran.stderr);
            assert!(ran.stderr.contains(&format!("-d {}", scratch.log().display())));
            // It is reported once, because the topic has changed now.
            scratch.run_with(&["append", "t"], b"more\n").expect(0);
            for _ in 0..2 {
                let ran = scratch.run(&["verify", "t"]);
                let rest = 2000 - offset - 1;
                let said = format!("{},{:03} whole records", rest / 1000, rest % 1000);
                let is_readable = ran.code == Some(4) && ran.text().contains("offset");
                assert!(ran.text().contains(&said) || is_readable, "{command}: {}", ran.text());
            }
        }
    }
}

#[test]
fn records_that_a_recovery_cut_off_are_reported_once_with_their_files() {
    for args in [
        vec!["append", "t"],
        vec!["import", "t"],
        vec!["create", "t"],
        vec!["trim", "t", "--before", "0", "--execute"],
    ] {
        let scratch = torn_copy();
        let all = [&args[..], &["--json"]].concat();
        let ran = scratch.run_with(&all, b"").expect(0);
        let found = &ran.json()[0]["recovery"];
        let end = found["end"].as_u64().unwrap();
        let cuts = found["cuts"].as_array().unwrap();
        let records: u64 = cuts.iter().map(|cut| cut["records"].as_u64().unwrap()).sum();
        // A sector has room for a dozen records.
        assert!(end > 50 && (1980..2000).contains(&(end + records)), "{all:?}: {found}");
        for cut in cuts {
            let file = cut["file"].as_str().unwrap();
            assert!(std::path::Path::new(file).exists(), "{file}");
            assert!(ran.stderr.contains(file), "{file}: {}", ran.stderr);
        }
        assert!(!cuts.is_empty());
        assert!(scratch.run_with(&all, b"").expect(0).json()[0]["recovery"].is_null());
    }
    // A dry run cuts nothing off, and reports what an opening would cut.
    let scratch = torn_copy();
    let before = crate::support::snapshot(&scratch.log());
    let looked = scratch.run(&["trim", "t", "--before", "0", "--json"]).expect(4);
    assert!(looked.json()[0]["recovery"].is_null());
    assert!(looked.stderr.contains("ends at offset"), "{}", looked.stderr);
    assert_eq!(crate::support::snapshot(&scratch.log()), before);
}

#[test]
fn commands_that_act_as_a_client_report_what_their_opening_cut_off() {
    let options = TopicOptions::default()
        .with_durability(Durability::ProcessCrash)
        .with_segment_len(256 << 10);
    for args in [
        &["cancel", "ID"][..],
        &["request", "--attach", "ID", "--timeout", "1ms"],
        &["clients", "retire", "c", "--discard", "--execute"],
    ] {
        let source = Scratch::new();
        let log = Log::open_or_create(source.log()).unwrap();
        let client = log.client("c").with_topic_options(options).open().unwrap();
        let call = client.request("s", &Record::new("x")).unwrap().call().unwrap();
        let requests = log.open_topic("s.requests").unwrap();
        for index in 0..2000 {
            requests.append(&Record::new(format!("record {index}"))).unwrap();
        }
        let scratch = Scratch::new();
        copy_dir(&source.log(), &scratch.log());
        let path = scratch.segments("s.requests").remove(0);
        let file = std::fs::File::options().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0; 512], 8192).unwrap();
        let id = call.id().to_string();
        let args: Vec<&str> = args.iter().map(|&arg| if arg == "ID" { &id } else { arg }).collect();
        let ran = scratch.run(&args);
        assert!(matches!(ran.code, Some(0 | 124)), "{args:?}: {:?}, {}", ran.code, ran.stderr);
        let said = "topic s.requests was cut at offset";
        assert_eq!(ran.stderr.matches(said).count(), 1, "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn a_torn_tail_is_not_damage() {
    let scratch = Scratch::new();
    // Not closed: none of its records was promised to survive more than its process.
    let _writer = scratch.topic_of("t", 0..100);
    let copy = Scratch::new();
    copy_dir(&scratch.log(), &copy.log());
    let lines = copy.run(&["dump", "t", "--json"]).json();
    let last = lines.iter().rfind(|line| line["kind"] == "record").unwrap();
    let [position, len] = ["position", "len"].map(|name| last[name].as_u64().unwrap());
    flip(copy.segments("t").last().unwrap(), position + len - 1, 0);
    for args in [vec!["cat", "t"], vec!["ls"], vec!["info", "t"], vec!["stats", "t"]] {
        let ran = copy.run(&args).expect(0);
        assert!(ran.stderr.is_empty(), "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn three_commands_agree_about_a_damaged_sector_of_a_header() {
    let scratch = Scratch::new();
    scratch.append("t", "only record\n");
    let file = scratch.segments("t").remove(0);
    for (position, which) in [
        (20, "the segment header is unreadable in its first sector"),
        (7 * 512 + 20, "the copy of"),
    ] {
        flip(&file, position, 3);
        assert_eq!(scratch.run(&["cat", "t"]).expect(0).text(), "only record\n");
        let found = scratch.run(&["verify", "t", "--json"]).expect(4).json();
        assert_eq!((&found[1]["records"], &found[1]["damages"]), (&1.into(), &1.into()));
        assert_eq!(found[0]["first_lost"], found[0]["lost_end"], "{}", found[0]);
        assert!(found[0]["what"].as_str().unwrap().starts_with(which), "{}", found[0]);
        let dumped = scratch.run(&["dump", "t"]).expect(4).text();
        assert!(dumped.contains(which) && dumped.contains("1 frame,"), "{dumped}");
        let planned = scratch.run(&["repair", "t", "--json"]).expect(4).json();
        assert_eq!(planned[0]["first_lost"], planned[0]["lost_end"]);
        scratch.run(&["repair", "t", "--execute"]).expect(0);
        scratch.run(&["verify", "t"]).expect(0);
    }
}

#[test]
fn a_record_with_a_future_time_is_reported() {
    let scratch = Scratch::new();
    scratch.append("t", "a\n");
    assert!(scratch.run(&["info", "t", "--json"]).expect(0).json()[0]["clock"].is_null());
    let year = 365 * 24 * 3600 * 1_000_000_000u64;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    scratch.date_back("t", now.as_nanos() as u64 + year);
    let info = scratch.run(&["info", "t"]).expect(0).text();
    assert!(info.contains("in the future: a clock was ahead"), "{info}");
    let verify = scratch.run(&["verify", "t"]).expect(0).text();
    assert!(verify.contains("in the future: a clock was ahead"), "{verify}");
}

#[test]
fn commands_over_all_topics_pass_one_whose_creation_was_interrupted_and_name_it() {
    let scratch = Scratch::new();
    scratch.append("whole", "a record\n");
    scratch.run(&["request", "echo", "hello", "--no-wait", "--client", "shop"]).expect(0);
    for topic in ["half", "half.requests", "half.dead", "shop.parked"] {
        half_make(&scratch, topic);
    }
    for (args, shown, named) in [
        (&["ls", "--all"][..], "whole", "half"),
        (&["stats"], "whole", "half"),
        (&["groups"], "no groups", "half"),
        (&["pending"], "echo", "half.requests"),
        (&["trace", "--last", "5"], "shop", "half.requests"),
        (&["dead"], "no dead letters", "half.dead"),
        (&["clients"], "shop", ""),
        (&["top", "--once"], "whole", ""),
    ] {
        let ran = scratch.run(args).expect(0);
        let (text, said) = (ran.text(), &ran.stderr);
        assert!(text.contains(shown), "{args:?}: {text}");
        let is_named = said.lines().any(|line| {
            line.starts_with(&format!("deaddrop: {named}: ")) && line.contains("was interrupted")
        });
        assert!(named.is_empty() || is_named, "{args:?}: {said}");
    }
    scratch.run(&["repair", "--all", "--execute"]).expect(0);
    assert_eq!(scratch.run(&["groups"]).expect(0).stderr, "");
}
