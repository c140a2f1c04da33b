//! Power cuts at random moments on real file systems: lines that `append --ack` acknowledged are
//! there afterwards, in order, nothing was invented, and another reader sees the same.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, Receiver, Sender};

use deaddrop_disk::{Disk, FileSystem};

use crate::independent;
use crate::support::{Random, Scratch};

/// Not a test: the server of every disk here.
#[test]
fn server() {
    deaddrop_disk::serve_if_asked();
}

/// A `deaddrop append --ack`, which gets a line for each acknowledged one, and a few ahead.
struct Writer {
    process: Child,
    acknowledged: Receiver<u64>,
    lines: Sender<String>,
    sent: Vec<String>,
    answered: usize,
}

impl Writer {
    fn spawn(dir: &Path, topic: &str, boot: u32) -> Writer {
        let mut command = deaddrop_disk::on_boot(boot, env!("CARGO_BIN_EXE_deaddrop"));
        command.args(["append", topic, "--ack", "-q", "-d"]).arg(dir);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let (mut stdin, stdout) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let (lines, to_write) = channel::<String>();
        std::thread::spawn(move || {
            // A writer that is gone, or whose disk is gone, accepts no more lines.
            while to_write.recv().is_ok_and(|line| stdin.write_all(line.as_bytes()).is_ok()) {}
        });
        let (said, acknowledged) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Some(offset) = line.ok().and_then(|line| line.trim().parse().ok()) else {
                    break;
                };
                if said.send(offset).is_err() {
                    break;
                }
            }
        });
        Writer { process, acknowledged, lines, sent: Vec::new(), answered: 0 }
    }

    fn send(&mut self, text: String) {
        // A writer that is gone is noticed because it acknowledges nothing.
        drop(self.lines.send(format!("{text}\n")));
        self.sent.push(text);
    }

    /// Notes the acknowledgements since the last call.
    fn note(&mut self, ledger: &mut BTreeMap<u64, String>) {
        while let Ok(offset) = self.acknowledged.try_recv() {
            self.take(offset, ledger);
        }
    }

    fn take(&mut self, offset: u64, ledger: &mut BTreeMap<u64, String>) {
        let before = ledger.insert(offset, self.sent[self.answered].clone());
        assert_eq!(before, None, "offset {offset} was acknowledged twice");
        self.answered += 1;
    }

    /// Ends it, and notes its last acknowledgements.
    fn end(mut self, ledger: &mut BTreeMap<u64, String>) -> Vec<String> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        while let Ok(offset) = self.acknowledged.recv() {
            self.take(offset, ledger);
        }
        self.sent
    }
}

/// Returns the payloads that `export` prints, by offset, without a gap. `may_end_early`: a cut may
/// have taken records from the middle, and `export` then reports the later ones with code 4.
fn exported(scratch: &Scratch, topic: &str, may_end_early: bool) -> Vec<String> {
    let ran = scratch.run(&["export", topic]);
    let ends_early = may_end_early && ran.stderr.contains("ends at offset");
    let lines = ran.expect(if ends_early { 4 } else { 0 }).json();
    lines
        .iter()
        .enumerate()
        .map(|(index, line)| {
            assert_eq!(line["offset"], index);
            line["payload"].as_str().unwrap().to_owned()
        })
        .collect()
}

/// The acknowledged records by offset, and all that were sent.
#[derive(Default)]
struct Ledger {
    acknowledged: BTreeMap<u64, String>,
    sent: Vec<String>,
}

/// Writes with two processes until more records are acknowledged, and cuts the power.
fn write_and_cut(disk: &Disk, dir: &Path, boot: u32, random: &mut Random, ledger: &mut Ledger) {
    let mut writers: Vec<Writer> = (0..2).map(|_| Writer::spawn(dir, "t", boot)).collect();
    let acknowledged = &mut ledger.acknowledged;
    let midway = acknowledged.len() + 10;
    let enough = midway + 10 + random.below(200) as usize;
    let mut written_back = false;
    let mut steps = 0..200_000;
    while acknowledged.len() < enough {
        assert!(steps.next().is_some(), "only {} of {enough}", acknowledged.len());
        if acknowledged.len() >= midway && !written_back {
            // The kernel writes everything back now and then, even files of this boot only.
            written_back = Command::new("sync").arg("-f").arg(dir).status().unwrap().success();
        }
        for writer in &mut writers {
            if writer.sent.len() < writer.answered + 5 {
                let filler = "-".repeat(random.below(3000) as usize);
                writer.send(format!("{} {filler}", random.below(u64::MAX)));
            }
            writer.note(acknowledged);
        }
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
    disk.cut((random.below(4) > 0).then(|| random.below(u64::MAX)));
    for writer in writers {
        ledger.sent.extend(writer.end(acknowledged));
    }
}

/// Checks the records of a copy of the log, as it is found and after a recovery.
fn check(dir: &Path, ledger: &Ledger, about: &str) {
    let copy = Scratch::new();
    let copied = Command::new("cp").arg("-r").arg(dir).arg(copy.log()).status();
    assert!(copied.unwrap().success());
    for opened in [false, true] {
        if opened {
            copy.append("t", "after the recovery\n");
        }
        // A topic that promises nothing in a power cut can have lost any record.
        let may_end_early = !opened && ledger.acknowledged.is_empty();
        let mut found = exported(&copy, "t", may_end_early);
        if opened {
            assert_eq!(found.pop().unwrap(), "after the recovery", "{about}");
        }
        for payload in &found {
            assert!(ledger.sent.contains(payload), "{about}: {payload:.40} was never appended");
        }
        for (offset, payload) in &ledger.acknowledged {
            assert_eq!(found.get(*offset as usize), Some(payload), "{about}, opened: {opened}");
        }
    }
    independent::agrees(&copy, "t");
}

/// Rounds of writing and cutting on one log, each on another boot or all on the same.
fn cut_again_and_again(mut disk: Disk, durability: &str, seed: u64, other_boots: bool) {
    let mut random = Random(seed);
    let dir = disk.path().join("drop");
    let create = ["create", "t", "--segment-size", "128KiB", "--durability", durability];
    let created =
        Command::new(env!("CARGO_BIN_EXE_deaddrop")).args(create).arg("-d").arg(&dir).output();
    assert!(created.unwrap().status.success());
    let mut ledger = Ledger::default();
    for round in 0..3u32 {
        let about = format!("{durability}, seed {seed}, other boots: {other_boots}, round {round}");
        let boot = if other_boots { round + 1 } else { 1 };
        write_and_cut(&disk, &dir, boot, &mut random, &mut ledger);
        disk.restart();
        if durability != "power-loss" {
            // They may be gone, and their offsets are used again.
            ledger.acknowledged.clear();
        }
        check(&dir, &ledger, &about);
    }
}

#[allow(clippy::print_stderr)]
fn on_every_file_system(test: fn(Disk, u64)) {
    for (index, file_system) in FileSystem::ALL.into_iter().enumerate() {
        match file_system.missing() {
            Some(reason) => eprintln!("skipped on {file_system:?}: {reason}"),
            None => {
                let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
                test(Disk::new(parent, file_system, "power_cuts::server"), index as u64);
            }
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_in_power_cuts_at_random_moments() {
    on_every_file_system(|disk, seed| cut_again_and_again(disk, "power-loss", seed, true));
}

#[test]
fn nothing_acknowledged_is_lost_when_the_disk_comes_back_without_a_reboot() {
    on_every_file_system(|disk, seed| cut_again_and_again(disk, "power-loss", 10 + seed, false));
}

#[test]
fn nothing_is_invented_in_power_cuts_of_topics_that_survive_process_crashes_only() {
    on_every_file_system(|disk, seed| {
        cut_again_and_again(disk, "process-crash", 20 + seed, seed % 2 == 0);
    });
}
