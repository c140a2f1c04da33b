//! The documents agree with the code: positions, recovery tables, crash points, names of tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use deaddrop::format::{cursor, epochs, frame, group, index, marker, segment, settings};
use deaddrop::{Log, Start};

use crate::child::Child;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns all Rust sources under a directory.
fn sources(dir: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "{dir}");
    found
}

/// Returns the cells of the row of a table.
fn cells(line: &str) -> Option<Vec<&str>> {
    let line = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    (!cells[0].starts_with("--")).then_some(cells)
}

fn code(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}

macro_rules! positions {
    ($($module:ident: $($name:ident)*;)*) => {
        BTreeMap::from([$($((
            concat!(stringify!($module), "::", stringify!($name)).to_owned(),
            $module::$name as u64,
        ),)*)*])
    };
}

#[test]
fn every_position_in_the_tables_of_the_format_is_that_of_the_code() {
    let in_code: BTreeMap<String, u64> = positions! {
        marker: CRC_AT;
        settings: DURABILITY_AT RETAIN_UNCONSUMED_AT INTERVAL_AT SEGMENT_LEN_AT TOPIC_ID_AT
            RETAIN_AGE_AT RETAIN_BYTES_AT CRC_AT;
        segment: CHECKSUM_KIND_AT EPOCH_AT BASE_AT SALT_AT TOPIC_ID_AT DURABLE_END_AT
            MAX_TIMESTAMP_AT FILE_LEN_AT CRC_AT SLOT_A_AT SLOT_B_AT LATCH_AT BEGUN_AT HEADER_COPY_AT
            FIRST_FRAME_AT SLOT_SEQUENCE_AT SLOT_DURABLE_END_AT SLOT_CRC_AT;
        frame: CRC_AT LEN_AT OFFSET_AT TIMESTAMP_AT KIND_AT FLAGS_AT KEY_LEN_AT HEADERS_LEN_AT;
        index: COUNT_AT SALT_AT END_AT ENTRIES_CRC_AT CRC_AT ENTRY_OFFSET_AT
            ENTRY_MAX_TIMESTAMP_AT ENTRY_POSITION_AT;
        epochs: EPOCH_AT CRC_AT START_AT;
        group: TOPIC_ID_AT LANES_AT CRC_AT MEMBERS_AT CHANGES_AT LANE_TRIAL_AT LANE_DOUBT_AT
            LANE_STOPPED_AT LANE_RETRY_AT;
        cursor: TOPIC_ID_AT CRC_AT LIVE_BOOT_AT LIVE_DEV_AT LIVE_INO_AT LIVE_READY_AT LIVE_EPOCH_AT
            LIVE_OFFSET_AT LIVE_FLOOR_AT LIVE_PID_AT LIVE_SLOT_AT LIVE_TURN_AT LIVE_CHECK_AT
            SLOT_A_AT SLOT_B_AT ATTEMPT_AT
            ATTEMPT_COUNT_AT ATTEMPT_FLOOR_AT ATTEMPT_NOTE_LEN_AT ATTEMPT_NOTE_AT SLOT_SEQUENCE_AT
            SLOT_EPOCH_AT SLOT_TURN_AT SLOT_OFFSET_AT SLOT_FLOOR_AT SLOT_CRC_AT;
    };
    let document = read("docs/format.md");
    let mut module = "";
    let mut in_document = BTreeMap::new();
    for line in document.lines() {
        if let Some(at) = line.find("`format::") {
            module = line[at + 9..].trim_end_matches('`');
        }
        let Some(cells) = cells(line) else { continue };
        if let Some(name) = code(cells[0]).filter(|name| name.ends_with("_AT")) {
            let position = cells[1].parse().unwrap_or_else(|_| panic!("{line}"));
            let before = in_document.insert(format!("{module}::{name}"), position);
            assert_eq!(before, None, "{line}");
        }
    }
    assert_eq!(in_document, in_code);

    // No constant of the code is missing from the list above.
    let mut declared = BTreeSet::new();
    for (path, text) in sources("src/format") {
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        for line in text.lines() {
            let name = line.strip_prefix("pub const ").and_then(|rest| rest.split(':').next());
            if let Some(name) = name.filter(|name| name.ends_with("_AT")) {
                declared.insert(format!("{module}::{name}"));
            }
        }
    }
    assert_eq!(declared, in_code.into_keys().collect());
}

#[test]
fn every_magic_in_the_format_is_that_of_the_code() {
    let document = read("docs/format.md");
    for magic in
        [marker::MAGIC, settings::MAGIC, segment::MAGIC, index::MAGIC, cursor::MAGIC, group::MAGIC]
    {
        let magic = std::str::from_utf8(&magic).unwrap().to_owned();
        assert!(document.contains(&format!("`{magic}`")), "{magic} is not named");
    }
}

#[test]
fn the_control_page_lies_as_documented() {
    let table: BTreeMap<String, u64> = read("docs/format.md")
        .lines()
        .skip_while(|line| !line.contains("`control::Words`"))
        .filter_map(|line| {
            let cells = cells(line)?;
            let group = code(cells[0]).filter(|name| !name.contains('.'))?;
            Some((group.to_owned(), cells[1].parse().ok()?))
        })
        .collect();
    let mut asserted = BTreeMap::from([("identity".to_owned(), 0)]);
    for line in read("src/control/mod.rs").lines() {
        let Some(rest) = line.trim().strip_prefix("assert!(offset_of!(Words, ") else { continue };
        let (name, rest) = rest.split_once(") == ").unwrap();
        asserted.insert(name.to_owned(), rest.trim_end_matches(");").parse().unwrap());
    }
    assert_eq!(table, asserted);
}

#[test]
fn the_words_that_a_reader_beside_writers_needs_lie_as_documented() {
    let document = read("docs/format.md");
    let section = document.split("## Reading beside writers").nth(1).unwrap();
    let documented: Vec<(&str, usize)> = section
        .lines()
        .filter_map(|line| {
            let cells = cells(line)?;
            Some((code(cells[0])?, cells[1].parse().ok()?))
        })
        .collect();
    assert_eq!(documented.len(), 7, "{documented:?}");
    let words = deaddrop::control_words();
    for (name, position) in documented {
        assert!(words.iter().any(|word| (word.0, word.1) == (name, position)), "{name}");
    }
    let magic = "magic `ddCTL`, 0, 0, 2;";
    assert!(document.contains(magic));
    assert_eq!(&deaddrop::CONTROL_MAGIC, b"ddCTL\0\0\x02", "this constant, so {magic} is wrong");
}

#[test]
fn the_envelope_is_that_of_the_code() {
    let document = read("docs/format.md");
    let section = document.split("## Services").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<Vec<&str>> = section.lines().filter_map(cells).collect();
    let numbered = |is_name: fn(&str) -> bool| -> BTreeMap<String, u64> {
        rows.iter()
            .filter_map(|row| {
                let name = code(row[1]).filter(|name| is_name(name))?;
                Some((name.to_owned(), row[0].parse().ok()?))
            })
            .collect()
    };
    let source = read("src/service/envelope.rs");
    let mut tags = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    for line in source.lines() {
        let tag = line.strip_prefix("const ").and_then(|rest| rest.split_once(": u8 = "));
        if let Some((name, value)) = tag {
            tags.insert(name.to_owned(), value.trim_end_matches(';').parse().unwrap());
        }
        let kind = line.trim().strip_prefix("(Kind::").and_then(|rest| rest.strip_suffix("\"),"));
        if let Some((_, rest)) = kind.and_then(|rest| rest.split_once(", ")) {
            let (code, name) = rest.split_once(", \"").unwrap();
            kinds.insert(name.to_owned(), code.parse().unwrap());
        }
    }
    assert_eq!(tags.remove("VERSION"), Some(1), "the text says 1");
    assert!(tags.len() >= 16 && kinds.len() >= 7, "{tags:?} {kinds:?}");
    assert_eq!(numbered(|name| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')), tags);
    assert_eq!(numbered(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')), kinds);

    let headers: BTreeSet<&str> = rows
        .iter()
        .filter_map(|row| code(row[0]).filter(|name| name.starts_with("dead-letter-")))
        .collect();
    let source = read("src/group/dead_letter.rs") + &read("src/service/dead_letters.rs");
    let in_code: BTreeSet<&str> =
        source.split('"').filter(|text| text.starts_with("dead-letter-")).collect();
    assert_eq!(headers, in_code);
}

/// Returns the rows of the tables in `src/recovery.rs`, as words.
fn rows_of_code() -> Vec<Vec<String>> {
    let source = read("src/recovery.rs");
    let rows = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Row::new([")?.strip_suffix("),"));
    let word = |cell: &str| match cell.trim().trim_end_matches(']') {
        "YES" => "yes".to_owned(),
        "NO" => "no".to_owned(),
        "ANY" => "any".to_owned(),
        plan => format!("`{}`", plan.split("::").last().unwrap()),
    };
    rows.map(|row| row.split(',').map(word).collect()).collect()
}

#[test]
fn the_recovery_tables_are_those_of_the_code() {
    let document = read("docs/failure-model.md");
    let is_fact = |cell: &&str| matches!(*cell, "yes" | "no" | "any");
    let in_document: Vec<Vec<String>> = document
        .lines()
        .filter_map(cells)
        .filter(|cells| is_fact(&cells[0]))
        .map(|cells| {
            let facts = cells.iter().take_while(|cell| is_fact(cell)).count();
            cells[..=facts].iter().map(|cell| (*cell).to_owned()).collect()
        })
        .collect();
    let in_code = rows_of_code();
    assert_eq!(in_code.len(), 11, "both tables are found");
    assert_eq!(in_document, in_code);
}

#[test]
fn every_crash_point_is_in_the_failure_model_and_every_one_there_exists() {
    let mut in_code = BTreeSet::new();
    for (_, text) in sources("src") {
        for part in text.split("crash_point!(\"").skip(1) {
            in_code.insert(part.split('"').next().unwrap().to_owned());
        }
    }
    let document = read("docs/failure-model.md");
    let places: BTreeSet<&str> =
        in_code.iter().map(|name| name.split('.').next().unwrap()).collect();
    let in_document: BTreeSet<String> = document
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| {
            let place = word.split_once('.').map(|(place, name)| (place, name.is_empty()));
            place.is_some_and(|(place, empty)| {
                places.contains(place) && !empty && *word != "append.rs"
            })
        })
        .map(str::to_owned)
        .collect();
    assert_eq!(in_document, in_code);
}

#[test]
fn every_test_named_in_the_failure_model_exists() {
    let mut tests = BTreeSet::new();
    for dir in ["src", "tests"] {
        for (_, text) in sources(dir) {
            for part in text.split("#[test]").skip(1) {
                let name = part.split("fn ").nth(1).and_then(|rest| rest.split('(').next());
                tests.insert(name.unwrap().to_owned());
            }
        }
    }
    let document = read("docs/failure-model.md");
    let mut named = 0;
    for word in document.split('`').skip(1).step_by(2) {
        // Names of tests are sentences.
        if word.matches('_').count() >= 3
            && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        {
            assert!(tests.contains(word), "there is no test {word}");
            named += 1;
        }
    }
    assert!(named >= 30, "{named}");
    for promise in 1..=12 {
        assert!(document.contains(&format!("| P{promise} |")), "P{promise} has no row");
    }
}

mod program {
    include!("readme_program.rs");

    pub(super) fn run() -> deaddrop::Result<()> {
        main()
    }
}

/// In a child: runs the program in a directory.
pub(crate) fn runs_program(words: &[&str]) {
    std::env::set_current_dir(words[0]).unwrap();
    program::run().unwrap();
}

#[test]
fn the_program_in_the_readme_runs_as_pasted() {
    let readme = read("README.md");
    let (_, rest) = readme.split_once("```rust,no_run\n").unwrap();
    let (pasted, _) = rest.split_once("```\n").unwrap();
    assert_eq!(pasted, read("tests/it/readme_program.rs"), "tests/it/readme_program.rs is run");

    let dir = crate::dir();
    let mut child = Child::spawn(&["runs-program", dir.path().to_str().unwrap()]);
    while child.hear().unwrap() != "bye" {}
    let log = Log::open_read_only(dir.path().join("drop")).unwrap();
    let orders = log.open_topic("orders").unwrap();
    let mut reader = orders.reader(Start::First).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().payload(), b"3 of item 7");
    assert_eq!(orders.consumers().unwrap()[0].committed.as_ref().unwrap(), &1);
}
