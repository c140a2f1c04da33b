//! `create`, `trim` and `delete`: topics with settings, and that no record is dropped unless asked.

use std::os::unix::fs::PermissionsExt;

use deaddrop::group::GroupOptions;
use deaddrop::{Durability, Log, Retention, Start};

use crate::support::{flip, Scratch};

#[test]
fn a_topic_is_made_with_the_settings_that_were_asked_for() {
    let scratch = Scratch::new();
    let asked = ["create", "t", "--durability", "within:2s", "--segment-size", "64KiB"];
    let kept = ["--retain-age", "7d", "--retain-bytes", "1GiB", "--retain-unconsumed"];
    let made = scratch.run(&[&asked[..], &kept, &["--json"]].concat()).expect(0).json();
    assert_eq!(made[0]["created"], true);
    let topic = Log::open_or_create(scratch.log()).unwrap().open_topic("t").unwrap();
    let second = std::time::Duration::from_secs(1);
    assert_eq!(topic.options().durability, Durability::PowerLossWithin(2 * second));
    assert_eq!(topic.options().segment_len, 64 << 10);
    let age = Some(7 * 24 * 3600 * second);
    let all = Retention::default().with_age(age).with_bytes(1 << 30).with_consumed(true);
    assert_eq!(topic.options().retention, all);

    // Created again with all settings or none, it exists already; with others, they are refused.
    for args in [[&asked[..], &kept].concat(), vec!["create", "t"]] {
        let again = scratch.run(&args).expect(0).text();
        assert!(again.starts_with("t exists already: within:2s, segments of 64 KiB"), "{again}");
    }
    let other = scratch.run(&["create", "t", "--retain-age", "1d"]).expect(2);
    assert!(other.stderr.contains("other settings (within:2s"), "{}", other.stderr);
}

#[test]
fn a_new_log_gets_the_mode_that_was_asked_for_and_keeps_it() {
    let scratch = Scratch::new();
    scratch.run(&["create", "t", "--mode", "755"]).expect(2);
    assert!(!scratch.log().exists());
    let umask = "umask 077; exec \"$0\" \"$@\"";
    let made = scratch.command(&["create", "t", "--mode", "640"]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", umask]).arg(made.get_program()).args(made.get_args());
    assert!(shell.output().unwrap().status.success());
    scratch.append("u", "line\n");
    for file in ["deaddrop", "topics/t/settings", "topics/u/settings"] {
        let file = std::fs::metadata(scratch.log().join(file)).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, 0o640);
    }
    let refused = scratch.run(&["create", "v", "--mode", "600"]).expect(2);
    assert!(refused.stderr.contains("chmod -R"), "{}", refused.stderr);
}

#[test]
fn impossible_settings_leave_no_topic() {
    let scratch = Scratch::new();
    scratch.run(&["create", "t", "--segment-size", "5"]).expect(2);
    scratch.run(&["create", "t", "--retain-bytes", "0"]).expect(2);
    scratch.run(&["create", "../t"]).expect(2);
    assert!(!scratch.log().join("topics/t").exists());
}

#[test]
fn a_trim_names_consumers_that_lose_records_and_drops_whole_segments_only_when_executed() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..1500);
    topic.consumer("slow", Start::Offset(3)).unwrap();
    topic.consumer("quick", Start::End).unwrap();
    topic.group("packing", GroupOptions::default().with_start(Start::Offset(4))).unwrap();
    topic.consumer("unreadable", Start::First).unwrap();
    drop(topic);
    flip(&scratch.log().join("topics/t/consumers/unreadable"), 3, 0);
    let files = scratch.segments("t");
    let base = |at: usize| {
        let name = files[at].file_stem().unwrap().to_str().unwrap();
        name.parse::<u64>().unwrap()
    };
    let before = (base(2) + 1).to_string();
    let would = scratch.run(&["trim", "t", "--before", &before]).expect(0).text();
    let expected = format!(
        "t: offsets 0..{}, 2 segments, 32 KiB: would be dropped\n\
         consumer slow is at 3 and would lose records it has not read\n\
         consumer unreadable cannot be read: its position is not known\n\
         group packing is at 4 and would lose records it has not read\n\
         nothing was changed: add --execute to do it\n",
        base(2)
    );
    assert_eq!(would, expected);
    assert_eq!(scratch.segments("t"), files);

    let done = scratch.run(&["trim", "t", "--before", &before, "--execute", "--json"]).expect(0);
    let done = &done.json()[0];
    assert_eq!((&done["from"], &done["to"]), (&0.into(), &base(2).into()));
    assert_eq!((&done["segments"], &done["bytes"]), (&2.into(), &(32 << 10).into()));
    assert_eq!(done["behind"][0]["name"], "slow");
    assert_eq!(scratch.segments("t"), files[2..]);
    let nothing = scratch.run(&["trim", "t", "--before", &before, "--execute"]).expect(0).text();
    assert!(nothing.contains("no whole segment is before that"), "{nothing}");

    // The newest segment stays.
    scratch.run(&["trim", "t", "--before", "end", "--execute"]).expect(0);
    assert_eq!(scratch.segments("t"), files[files.len() - 1..]);
    let behind = scratch.run(&["trim", "t", "--before", "1501"]).expect(1);
    assert!(behind.stderr.contains("past the end of topic t"), "{}", behind.stderr);
}

#[test]
fn a_topic_is_deleted_only_when_executed_and_not_in_use() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..10);
    topic.consumer("c", Start::First).unwrap();
    let would = scratch.run(&["delete", "t"]).expect(0).text();
    assert!(would.starts_with("t: 10 records, 16 KiB, 1 consumer, 0 groups: would be deleted\n"));
    let held = scratch.run(&["delete", "t", "--execute"]).expect(5);
    assert!(held.stderr.contains("topic t is in use"), "{}", held.stderr);
    assert_eq!(topic.high_watermark().unwrap(), 10);
    drop(topic);
    let done = scratch.run(&["delete", "t", "--execute", "--json"]).expect(0).json();
    assert_eq!((&done[0]["records"], &done[0]["executed"]), (&10.into(), &true.into()));
    assert!(!scratch.log().join("topics/t").exists());
    scratch.run(&["delete", "t", "--execute"]).expect(1);
}

#[test]
fn a_topic_that_cannot_be_opened_can_be_deleted() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("damaged", 0..10));
    flip(&scratch.log().join("topics/damaged/settings"), 20, 0);
    drop(scratch.topic_of("half-made", 0..10));
    for segment in scratch.segments("half-made") {
        std::fs::remove_file(segment).unwrap();
    }
    for (topic, code) in [("damaged", 4), ("half-made", 1)] {
        scratch.run(&["delete", topic]).expect(code);
        let done = scratch.run(&["delete", topic, "--execute"]).expect(0);
        assert!(done.stderr.contains("its contents are not known"), "{}", done.stderr);
        assert!(!scratch.log().join("topics").join(topic).exists());
        scratch.run(&["delete", topic, "--execute"]).expect(1);
    }
}

#[test]
fn a_service_is_made_with_the_settings_that_its_first_command_names() {
    let scratch = Scratch::new();
    let sent = ["request", "echo", "x", "--no-wait", "--durability", "process-crash"];
    scratch.run(&sent).expect(0);
    let log = Log::open_or_create(scratch.log()).unwrap();
    let options = *log.open_topic("echo.requests").unwrap().options();
    assert_eq!(options.durability, Durability::ProcessCrash);
    assert_eq!(options.retention, deaddrop::service::topic_options().retention);
    let serve = ["serve", "echo", "-n", "1", "--segment-size", "64KiB", "--", "cat"];
    scratch.run(&serve).expect(0);
    assert_eq!(log.open_topic("echo.replies").unwrap().options().segment_len, 16 << 20);
}
