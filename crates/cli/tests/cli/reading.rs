//! `cat`, `tail`, `ls`, `info`: their output, and that they change nothing.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use deaddrop::{Log, Start};

use crate::support::{copy_dir, flip, payload, snapshot, Ran, Scratch};

#[test]
fn ranges_are_half_open() {
    let scratch = Scratch::new();
    let lines: String = (0..20).map(|index| format!("{index}\n")).collect();
    scratch.append("t", &lines);
    for (args, expected) in [
        (vec!["3:6"], vec![3, 4, 5]),
        (vec!["3"], vec![3]),
        (vec!["3:+2"], vec![3, 4]),
        (vec!["-3"], vec![17, 18, 19]),
        (vec!["-3:-1"], vec![17, 18]),
        (vec!["18:"], vec![18, 19]),
        (vec![":2"], vec![0, 1]),
        (vec!["--from", "-3", "--to", "+1"], vec![17]),
        (vec!["--from", "5", "-n", "2"], vec![5, 6]),
        (vec!["-1h:", "-n", "2"], vec![0, 1]),
        (vec!["--from", "-1h", "--to", "3"], vec![0, 1, 2]),
        (vec!["--from", "@2020-01-01T00:00:00Z", "--to", "+2"], vec![0, 1]),
        (vec!["-1h:3"], vec![0, 1, 2]),
        (vec!["@2020-01-01T00:00:00Z:2"], vec![0, 1]),
        (vec!["@2020-01-01T00:00:00Z:end", "-n", "1"], vec![0]),
        (vec!["start:@2020-01-01"], vec![]),
        (vec!["@2100-01-01"], vec![]),
        (vec!["20:"], vec![]),
        (vec!["19:100"], vec![19]),
    ] {
        let lines: String = expected.iter().map(|index| format!("{index}\n")).collect();
        let with = |command| -> Vec<&str> { [command, "t"].iter().chain(&args).copied().collect() };
        assert_eq!(scratch.run(&with("cat")).expect(0).text(), lines, "{args:?}");
        if !args.contains(&"-n") {
            assert_eq!(scratch.run(&with("tail")).expect(0).text(), lines, "{args:?}");
            let exported = scratch.run(&with("export")).expect(0).json();
            let offsets: Vec<u64> =
                exported.iter().map(|line| line["offset"].as_u64().unwrap()).collect();
            assert_eq!(offsets, expected, "{args:?}");
        }
    }
    let ran = scratch.run(&["cat", "t", "21:"]).expect(1);
    assert!(ran.stderr.contains("past the end of topic t (20)"), "{}", ran.stderr);
    scratch.run(&["cat", "t", "abc"]).expect(2);
    scratch.run(&["cat", "t", "1:2", "--from", "1"]).expect(2);
}

#[test]
fn a_trimmed_offset_is_a_negative_answer_that_names_the_first_one() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..1000);
    let first = topic.trim_before(900).unwrap();
    assert!(first > 0);
    let ran = scratch.run(&["cat", "t", "0:5"]).expect(1);
    assert!(ran.stderr.contains(&format!("first one retained is {first}")), "{}", ran.stderr);
    let all = scratch.run(&["cat", "t"]).expect(0).text();
    assert_eq!(all.lines().next(), Some(payload(first).as_str()));
    assert_eq!(all.lines().count() as u64, 1000 - first);
}

#[test]
fn formats_and_json_give_the_place_of_a_record() {
    let scratch = Scratch::new();
    let args = ["append", "t", "-q", "--key", "k", "-H", "a=1", "-H", "b=2"];
    scratch.run_with(&args, "grün\n".as_bytes()).expect(0);
    let ran =
        scratch.run(&["cat", "t", "--format", r"%t\t%o\t%k\t%K\t%S\t%h\t%v%%\x21%n"]).expect(0);
    assert_eq!(ran.text(), "t\t0\tk\t1\t5\ta=1,b=2\tgrün%!\n");
    let time = scratch.run(&["cat", "t", "--format", "%d"]).expect(0).text();
    let ran = scratch.run(&["cat", "t", "--json"]).expect(0);
    let nanos = scratch.run(&["cat", "t", "--format", "%T{ns}"]).expect(0).text();
    let (seconds, nanos) = nanos.split_at(nanos.len() - 9);
    assert_eq!(scratch.run(&["cat", "t", "--format", "%T{s}"]).text(), seconds);
    let time_nanos = format!("{}{nanos}Z", time.split_inclusive('.').next().unwrap());
    let expected = format!(
        r#"{{"v":1,"topic":"t","offset":0,"timestamp":"{time_nanos}","key":"k","headers":[{{"name":"a","value":"1"}},{{"name":"b","value":"2"}}],"payload":"grün"}}"#
    );
    assert_eq!(ran.text().trim_end(), expected);
    let coded = [
        ("%k{hex} %v{base64}", "6b Z3LDvG4="),
        ("%v{json} %s{hex}", "\"grün\" 6772c3bc6e"),
        ("%h{json}", r#"[{"name":"a","value":"1"},{"name":"b","value":"2"}]"#),
        ("raw", "grün"),
        ("text", "grün\n"),
    ];
    for (format, expected) in coded {
        assert_eq!(scratch.run(&["cat", "t", "--format", format]).expect(0).text(), expected);
    }
    scratch.run_with(&["append", "t", "-q"], b"\xff\n").expect(0);
    let ran = scratch.run(&["tail", "t", "1", "--format", "%k{json} %v{json}"]).expect(0);
    assert_eq!(ran.text(), r#"null {"base64":"/w=="}"#);
    let from = format!("@{time}:1");
    assert_eq!(scratch.run(&["cat", "t", &from]).expect(0).text(), "grün\n");
}

#[test]
fn tail_prints_the_newest_records_and_follows() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..30);
    let text = scratch.run(&["tail", "t", "-n", "2"]).expect(0).text();
    assert_eq!(text, format!("{}\n{}\n", payload(28), payload(29)));
    assert_eq!(scratch.run(&["tail", "t"]).expect(0).text().lines().count(), 10);
    let mut child = scratch.command(&["tail", "-f", "-n", "1", "t", "--json"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for offset in 29..600 {
        if offset >= 30 {
            topic.append(&deaddrop::Record::new(payload(offset))).unwrap();
        }
        let line: serde_json::Value =
            serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!((&line["offset"], &line["payload"]), (&offset.into(), &payload(offset).into()));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn ls_and_info_count_the_records() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("orders", 0..1000);
    let mut billing = topic.consumer("billing", Start::First).unwrap();
    for _ in 0..10 {
        billing.next().unwrap().unwrap();
    }
    billing.commit().unwrap();
    scratch.append("empty", "");
    let segments = scratch.segments("orders").len();
    assert!(segments > 3);
    let rows = scratch.run(&["ls", "--json"]).expect(0).json();
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["topic"], &rows[0]["records"]), (&"empty".into(), &0.into()));
    let orders = &rows[1];
    assert_eq!(orders["records"], 1000);
    assert_eq!(orders["segments"], segments);
    assert_eq!(orders["bytes"], 16384 * segments as u64);
    assert_eq!(orders["durability"], "process-crash");
    assert_eq!(orders["consumers"], 1);
    let text = scratch.run(&["ls"]).expect(0).text();
    assert!(text.lines().next().unwrap().starts_with("TOPIC"), "{text}");
    assert!(!text.contains('\x1b'), "colours are for terminals");
    assert_eq!(scratch.run(&["ls", "-1"]).expect(0).text(), "empty\norders\n");
    let info = &scratch.run(&["info", "orders", "--json"]).expect(0).json()[0];
    assert_eq!((&info["high_watermark"], &info["live"]), (&1000.into(), &true.into()));
    assert_eq!(info["segments"].as_array().unwrap().len(), segments);
    let counted =
        info["segments"].as_array().unwrap().iter().map(|s| s["records"].as_u64().unwrap());
    assert_eq!(counted.sum::<u64>(), 1000);
    let consumer = &info["consumers"][0];
    assert_eq!((&consumer["committed"], &consumer["lag"]), (&10.into(), &990.into()));
    assert_eq!(consumer["owner"], std::process::id());
    let text = scratch.run(&["info", "orders"]).expect(0).text();
    assert!(text.contains("high watermark  1000 ") && text.contains("billing"), "{text}");
}

#[test]
fn reading_changes_nothing_and_needs_no_right_to_write() {
    let source = Scratch::new();
    source.topic_of("t", 0..1000).consumer("c", Start::First).unwrap().sync().unwrap();
    // If a process has the topic open, its words give the end; a copy is searched.
    let (live, copy) = (Scratch::new(), Scratch::new());
    copy_dir(&source.log(), &live.log());
    copy_dir(&source.log(), &copy.log());
    let writer = Log::open_or_create(live.log()).unwrap().topic("t").unwrap();
    for (scratch, is_live) in [(&live, true), (&copy, false)] {
        let before = snapshot(&scratch.log());
        assert_eq!(scratch.run(&["info", "t", "--json"]).json()[0]["live"], is_live);
        let all: String = (0..1000).map(|index| payload(index) + "\n").collect();
        assert!(scratch.run(&["cat", "t"]).expect(0).text() == all);
        let tail = scratch.run(&["tail", "-n", "1", "t"]).expect(0).text();
        assert_eq!(tail, payload(999) + "\n");
        for args in [vec!["ls"], vec!["info", "t"], vec!["dump", "t"], vec!["verify"]] {
            scratch.run(&args).expect(0);
        }
        for args in [
            vec!["consumers", "t"],
            vec!["consumers", "t", "--reset", "c", "--to", "-5"],
            vec!["consumers", "t", "--delete", "c"],
        ] {
            scratch.run(&args).expect(0);
        }
        let mut after = snapshot(&scratch.log());
        let mut before = before;
        if is_live {
            // The writer's own threads prepare these files.
            for files in [&mut before, &mut after] {
                files.retain(|(path, _)| !is_prepared(path));
            }
        }
        assert!(after == before, "files were changed or made");
    }
    drop(writer);
}

fn is_prepared(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    name == "control" || name.ends_with(".tmp") || name.ends_with(".idx")
}

#[test]
fn a_directory_without_write_permission_can_be_read() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..100));
    let dir = scratch.log().join("topics/t");
    let mode = |mode| std::fs::set_permissions(&dir, PermissionsExt::from_mode(mode)).unwrap();
    mode(0o500);
    let cat = scratch.run(&["cat", "t"]);
    let verify = scratch.run(&["verify"]);
    mode(0o700);
    assert_eq!(cat.expect(0).text().lines().count(), 100);
    verify.expect(0);
}

/// Returns names, lengths and times of change of everything under a directory.
fn states(dir: &Path) -> Vec<(PathBuf, u64, i64, i64)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(states(&path));
        }
        let metadata = std::fs::metadata(&path).unwrap();
        let changed = (metadata.mtime(), metadata.mtime_nsec());
        all.push((path, metadata.len(), changed.0, changed.1));
    }
    all.sort();
    all
}

/// Makes files that a group may read and only the owner may write.
fn for_readers(dir: &Path) {
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(dir, 0o750);
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => for_readers(&path),
            false => mode(&path, 0o640),
        }
    }
}

#[test]
fn another_user_of_the_group_can_read_without_a_lock_or_a_trace() {
    const NOBODY: u32 = 65534;
    // A place that another user and the program can reach.
    let shared = tempfile::tempdir().unwrap();
    let (log, program) = (shared.path().join("drop"), shared.path().join("deaddrop"));
    let source = Scratch::new();
    let topic = source.topic_of("t", 0..1000);
    topic.consumer("c", Start::Offset(10)).unwrap().sync().unwrap();
    drop(topic);
    copy_dir(&source.log(), &log);
    std::fs::copy(env!("CARGO_BIN_EXE_deaddrop"), &program).unwrap();
    for_readers(&log);
    std::fs::set_permissions(shared.path(), PermissionsExt::from_mode(0o755)).unwrap();
    // The group of the files is that of this process, and only root can become another user.
    let group = std::fs::metadata(&log).unwrap().gid();
    let as_reader = |args: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.arg("-d").arg(&log).args(args).uid(NOBODY).gid(group).current_dir("/");
        command.output()
    };
    if let Err(error) = as_reader(&["ls"]) {
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        return;
    }
    let before = states(&log);
    for args in [
        vec!["ls"],
        vec!["info", "t"],
        vec!["cat", "t"],
        vec!["tail", "t"],
        vec!["export", "t"],
        vec!["stats", "t", "--full"],
        vec!["dump", "t"],
        vec!["consumers", "t"],
        vec!["verify"],
    ] {
        let ran = Ran::of(&as_reader(&args).unwrap()).expect(0);
        assert!(ran.stderr.is_empty(), "{args:?}: {}", ran.stderr);
    }
    assert_eq!(states(&log), before);
    // It may not write, and reports so.
    let refused = Ran::of(&as_reader(&["append", "t", "/etc/hostname"]).unwrap());
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    assert_eq!(states(&log), before);
}

#[test]
fn a_reader_that_has_seen_enough_is_not_an_error() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..5000));
    for args in [vec!["cat", "t"], vec!["cat", "t", "--json"], vec!["dump", "t"]] {
        let mut child = scratch.command(&args).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 10];
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut first).unwrap();
        drop(stdout);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn cat_stops_at_damage_with_code_4_and_skips_it_if_asked() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..1000));
    flip(&scratch.segments("t")[1], 5000, 3);
    let ran = scratch.run(&["cat", "t"]).expect(4);
    assert!(ran.stderr.contains("corruption in") && ran.stderr.contains("--skip-damage"));
    let before = ran.text().lines().count();
    assert!(before > 100 && before < 1000);
    let ran = scratch.run(&["cat", "t", "--skip-damage"]).expect(4);
    let found: Vec<String> = ran.text().lines().map(String::from).collect();
    let expected = (0..1000).map(payload).filter(|line| *line != payload(before as u64));
    assert_eq!(found, expected.collect::<Vec<_>>());
    let skipped = format!("skipped offsets {before}..{}", before + 1);
    assert!(ran.stderr.contains(&skipped), "{}", ran.stderr);
}
