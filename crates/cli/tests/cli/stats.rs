//! `stats`: the numbers are those of the appended records.

use deaddrop::{Record, Start};

use crate::support::{flip, Scratch};

#[test]
fn numbers_are_those_of_the_appended_records() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..0);
    for len in [0, 1, 1, 5, 7, 8, 100, 1000] {
        topic.append(&Record::new(vec![b'x'; len])).unwrap();
    }
    topic.consumer("behind", Start::Offset(2)).unwrap().sync().unwrap();
    let stats = &scratch.run(&["stats", "t", "--json"]).expect(0).json()[0];
    assert_eq!(
        (&stats["records"], &stats["end"], &stats["exact"]),
        (&8.into(), &8.into(), &true.into())
    );
    assert_eq!(stats["payload_bytes"], 1122);
    let bytes = 16384 * scratch.segments("t").len();
    assert_eq!(stats["bytes"], bytes);
    let overhead = stats["overhead"].as_f64().unwrap();
    assert!((overhead - bytes as f64 / 1122.0).abs() < 1e-9, "{overhead}");
    for (name, seconds) in [("last_minute", 60.0), ("last_hour", 3600.0)] {
        assert_eq!(stats[name]["records"], 8);
        let rate = stats[name]["per_second"].as_f64().unwrap();
        assert!((rate - 8.0 / seconds).abs() < 1e-9, "{rate}");
    }
    let sizes = &stats["sizes"];
    assert_eq!((&sizes["min"], &sizes["p50"], &sizes["max"]), (&0.into(), &5.into(), &1000.into()));
    let histogram: Vec<[u64; 3]> = sizes["histogram"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| ["from", "to", "records"].map(|name| b[name].as_u64().unwrap()))
        .filter(|[_, _, records]| *records > 0)
        .collect();
    let expected = [[0, 1, 1], [1, 2, 2], [4, 8, 2], [8, 16, 1], [64, 128, 1], [512, 1024, 1]];
    assert_eq!(histogram, expected);
    assert_eq!(
        (&stats["consumers"][0]["consumer"], &stats["consumers"][0]["lag"]),
        (&"behind".into(), &6.into())
    );
    let time = |at: &str| scratch.run(&["cat", "t", at, "--format", "%d"]).text();
    assert_eq!((&stats["oldest"], &stats["newest"]), (&time("0").into(), &time("7").into()));
}

#[test]
fn large_records_count_as_large() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..0);
    for len in [1, 3000, 3_000_000] {
        topic.append(&Record::new(vec![b'x'; len])).unwrap();
    }
    let sizes = &scratch.run(&["stats", "t", "--json"]).expect(0).json()[0]["sizes"];
    let found = ["min", "p50", "p99", "max"].map(|name| sizes[name].as_u64().unwrap());
    // Percentiles are exact to three digits, rounded up.
    assert_eq!((found[0], found[2], found[3]), (1, 3_000_000, 3_000_000));
    assert!((3000..3003).contains(&found[1]), "{found:?}");
}

#[test]
fn a_sample_spans_the_whole_topic_and_full_reads_all() {
    let scratch = Scratch::new();
    let topic = scratch.topic_of("t", 0..0);
    // The largest records are at both ends, where an even spread finds them.
    let records: Vec<Record> = (0..20_000u64)
        .map(|index| Record::new(vec![0; if index == 0 || index == 19_999 { 900 } else { 10 }]))
        .collect();
    for batch in records.chunks(100) {
        topic.append_batch(batch).unwrap();
    }
    let sampled = &scratch.run(&["stats", "t", "--json"]).expect(0).json()[0];
    assert_eq!((&sampled["exact"], &sampled["sizes"]["records"]), (&false.into(), &10_000.into()));
    let histogram = sampled["sizes"]["histogram"].as_array().unwrap();
    assert_eq!(histogram.last().unwrap()["records"], 2);
    let about = sampled["payload_bytes"].as_u64().unwrap();
    assert_eq!(about, (9998 * 10 + 1800) * 2);
    let full = &scratch.run(&["stats", "t", "--json", "--full"]).expect(0).json()[0];
    assert_eq!(
        (&full["exact"], &full["payload_bytes"]),
        (&true.into(), &(19_998 * 10 + 1800).into())
    );
    let text = scratch.run(&["stats", "t"]).expect(0).text();
    assert!(text.contains("of 10,000 records: min 10") && text.contains("about "), "{text}");
}

#[test]
fn all_topics_are_counted_and_an_empty_one_has_no_sizes() {
    let scratch = Scratch::new();
    scratch.append("empty", "");
    drop(scratch.topic_of("t", 0..3));
    let all = scratch.run(&["stats", "--json"]).expect(0).json();
    assert_eq!((&all[0]["topic"], &all[1]["topic"]), (&"empty".into(), &"t".into()));
    for name in ["overhead", "oldest", "newest"] {
        assert!(all[0][name].is_null() && !all[1][name].is_null(), "{name}");
    }
    assert!(all[0]["sizes"]["p50"].is_null());
    let text = scratch.run(&["stats"]).expect(0).text();
    assert!(text.contains("empty\n  records       0, offsets 0..0"), "{text}");
    scratch.run(&["stats", "none"]).expect(1);
}

#[test]
fn damaged_records_are_counted_with_code_4() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..1000));
    flip(&scratch.segments("t")[1], 5000, 3);
    let ran = scratch.run(&["stats", "t", "--json"]).expect(4);
    let sizes = &ran.json()[0]["sizes"];
    assert_eq!((&sizes["damaged"], &sizes["records"]), (&1.into(), &999.into()));
    assert!(ran.stderr.contains("corruption in"), "{}", ran.stderr);
}

#[test]
fn damage_hides_neither_the_newest_record_nor_the_age_of_later_ones() {
    let scratch = Scratch::new();
    drop(scratch.topic_of("t", 0..30));
    // The year 2001.
    scratch.date_back("t", 1_000_000_000_000_000_000);
    flip(&scratch.segments("t")[0], 4096 + 20 * 48, 3);
    let numbers = scratch.run(&["stats", "t", "--json"]).expect(4).json().swap_remove(0);
    assert_eq!(numbers["sizes"]["damaged"], 1);
    assert_eq!(numbers["last_hour"]["records"], 0, "{numbers}");
    for name in ["oldest", "newest"] {
        assert_eq!(numbers[name], "2001-09-09T01:46:40.000000Z");
    }
}
