//! Running the binary, and directories for it.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use deaddrop::format::frame::{Fixed, Parts, FLAG_CONTINUES};
use deaddrop::format::index::{self, Entry};
use deaddrop::{Durability, Log, Record, Topic, TopicOptions};
use serde_json::Value;

/// A directory that is removed with the test. Not under /tmp, which may not survive power loss, so
/// that a default topic is refused there.
pub(crate) struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    pub(crate) fn new() -> Scratch {
        Scratch { dir: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() }
    }

    /// Makes one in another place.
    pub(crate) fn in_dir(dir: tempfile::TempDir) -> Scratch {
        Scratch { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the log's directory.
    pub(crate) fn log(&self) -> PathBuf {
        self.path().join("drop")
    }

    /// Returns `deaddrop -d LOG ARGS..`.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deaddrop"));
        command.arg("-d").arg(self.log()).args(args).current_dir(self.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs to the end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(&self.command(args).output().unwrap())
    }

    /// Runs to the end with `input` on stdin.
    pub(crate) fn run_with(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        feed(&mut child, input);
        Ran::of(&child.wait_with_output().unwrap())
    }

    /// Appends `lines` to a topic.
    pub(crate) fn append(&self, topic: &str, lines: &str) {
        self.run_with(&["append", topic, "-q"], lines.as_bytes()).expect(0);
    }

    /// A topic with small segments, made through the library: records `record 0`, `record 1`, ...
    pub(crate) fn topic_of(&self, name: &str, records: Range<u64>) -> Topic {
        let options = TopicOptions::default()
            .with_durability(Durability::ProcessCrash)
            .with_segment_len(16 << 10);
        let topic = Log::open_or_create(self.log()).unwrap().restore_topic(name, options).unwrap();
        for index in records {
            let record = Record::new(payload(index)).with_key(format!("key-{}", index % 7));
            topic.append(&record).unwrap();
        }
        topic
    }

    /// Stores an index of the first segment, with an entry for every hundredth record, after
    /// `change` has edited it.
    pub(crate) fn store_index(&self, topic: &str, change: impl FnOnce(&mut Vec<Entry>)) {
        let path = self.segments(topic).swap_remove(0);
        let lines = self.run(&["dump", "--json", path.to_str().unwrap()]).json();
        let salt = u64::from_str_radix(lines[0]["salt"].as_str().unwrap(), 16).unwrap();
        let records: Vec<&Value> = lines.iter().filter(|line| line["kind"] == "record").collect();
        let entry = |record: &&Value| {
            let offset = record["offset"].as_u64().unwrap();
            // Before the first record there is none; the others are not older than this.
            let max_timestamp = if offset == 0 { 0 } else { u64::MAX };
            Entry { offset, max_timestamp, position: record["position"].as_u64().unwrap() }
        };
        let mut entries: Vec<Entry> = records.iter().step_by(100).map(entry).collect();
        change(&mut entries);
        let bytes = index::encode(salt, records.len() as u64, &entries);
        std::fs::write(path.with_extension("idx"), bytes).unwrap();
    }

    /// Writes the record at `index` of a topic's first segment once more, after the last one.
    pub(crate) fn repeat_frame(&self, topic: &str, index: usize) {
        let path = self.segments(topic).swap_remove(0);
        let lines = self.run(&["dump", "--json", path.to_str().unwrap()]).json();
        let records: Vec<&Value> = lines.iter().filter(|line| line["kind"] == "record").collect();
        let zeros = lines.iter().find(|line| line["kind"] == "zeros").unwrap();
        let (end, offset) = (zeros["position"].as_u64().unwrap(), records.len() as u64);
        let change = Fixed { offset, flags: 0, ..fixed_part(&path, records[index]).0 };
        write_frame(&path, &lines[0], records[index], end, &change);
    }

    /// Sets the time of all records of a topic's first segment: nanoseconds since the Unix epoch.
    pub(crate) fn date_back(&self, topic: &str, timestamp: u64) {
        let path = self.segments(topic).swap_remove(0);
        let lines = self.run(&["dump", "--json", path.to_str().unwrap()]).json();
        for record in lines.iter().filter(|line| line["kind"] == "record") {
            let change = Fixed { timestamp, ..fixed_part(&path, record).0 };
            write_frame(&path, &lines[0], record, record["position"].as_u64().unwrap(), &change);
        }
    }

    /// Returns the segment files of a topic, in order.
    pub(crate) fn segments(&self, topic: &str) -> Vec<PathBuf> {
        let dir = self.log().join("topics").join(topic);
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> =
            entries.filter(|path| path.extension().is_some_and(|e| e == "seg")).collect();
        files.sort();
        files
    }
}

/// Returns the fixed part of a frame that `dump` shows, and all its bytes.
fn fixed_part(path: &Path, record: &Value) -> (Fixed, Vec<u8>) {
    let mut bytes = vec![0; record["len"].as_u64().unwrap() as usize];
    let position = record["position"].as_u64().unwrap();
    File::open(path).unwrap().read_exact_at(&mut bytes, position).unwrap();
    (Fixed::decode(&bytes, usize::MAX).unwrap(), bytes)
}

/// Writes a frame that `dump` shows at a position, with the offset, time and flags of `change`.
fn write_frame(path: &Path, header: &Value, record: &Value, position: u64, change: &Fixed) {
    let salt = u64::from_str_radix(header["salt"].as_str().unwrap(), 16).unwrap();
    let (fixed, mut bytes) = fixed_part(path, record);
    let parts = Parts {
        key: fixed.key_range().map(|range| &bytes[range]),
        headers: bytes[fixed.headers_range()].into(),
        payload: &bytes[fixed.payload_range()],
    };
    let continues = change.flags & FLAG_CONTINUES != 0;
    let head = parts.fixed(change.offset, change.timestamp, continues, salt, position);
    bytes[..head.len()].copy_from_slice(&head);
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&bytes, position).unwrap();
}

/// Returns the payload of record `index` of [`Scratch::topic_of`].
/// Makes a topic as a kill or a copy in the middle of its creation leaves it.
pub(crate) fn half_make(scratch: &Scratch, topic: &str) {
    drop(scratch.topic_of(topic, 0..0));
    for segment in scratch.segments(topic) {
        std::fs::remove_file(segment).unwrap();
    }
}

pub(crate) fn payload(index: u64) -> String {
    format!("record {index} {}", "x".repeat(index as usize % 50))
}

/// Writes `input` to a child's stdin and closes it. The child may stop reading early.
pub(crate) fn feed(child: &mut Child, input: &[u8]) {
    let mut stdin = child.stdin.take().unwrap();
    match stdin.write_all(input) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => panic!("{error}"),
        _ => {}
    }
}

/// The result of a run.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(output: &Output) -> Ran {
        Ran {
            code: output.status.code(),
            stdout: output.stdout.clone(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Checks the exit code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Ran {
        let (stdout, stderr) = (self.text(), &self.stderr);
        assert_eq!(self.code, Some(code), "stdout:\n{stdout}\nstderr:\n{stderr}");
        self
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns each line of stdout as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Vec<Value> {
        let parse =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.text().lines().map(parse).collect()
    }
}

/// Flips one bit of a file.
pub(crate) fn flip(path: &Path, position: u64, bit: u8) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << bit)], position).unwrap();
}

/// Copies a log's directory. Temporary files may disappear meanwhile, so they are left out.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_name().to_str().unwrap().ends_with(".tmp") {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Returns every file under a directory with its bytes, to check that nothing was changed.
pub(crate) fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(snapshot(&path));
        } else {
            all.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    all.sort();
    all
}

/// Pseudo-random numbers (SplitMix64) from a seed that a failing test prints.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}
