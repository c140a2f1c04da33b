//! The machine on which a report was measured.

use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::error::{At, Result};
use crate::units;

/// The machine, and the file system that was measured. Facts that the system does not provide are empty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// How many CPUs this process may use.
    pub cpus: u64,
    /// Of the whole machine.
    pub memory_bytes: u64,
    /// Its release.
    pub kernel: String,
    /// The type of the file system.
    pub file_system: String,
    /// What it is mounted from.
    pub device: String,
    /// The time that one reading of the clock takes; each operation includes one.
    pub clock_nanos: f64,
}

impl Machine {
    /// Queries the system for its properties and those of the file system of `dir`.
    pub fn look(dir: &Path) -> Result<Machine> {
        let dir = dir.canonicalize().at("finding", dir)?;
        // Facts for a reader: one that a container hides stays empty.
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (file_system, device) =
            mount_of(&read("/proc/self/mountinfo"), &dir.to_string_lossy()).unwrap_or_default();
        Ok(Machine {
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cpus: std::thread::available_parallelism().map_or(0, |count| count.get() as u64),
            memory_bytes: field(&read("/proc/meminfo"), "MemTotal")
                .and_then(|text| text.trim_end_matches("kB").trim().parse::<u64>().ok())
                .map_or(0, |kib| kib << 10),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system,
            device,
            clock_nanos: clock_nanos(),
        })
    }

    /// The facts with their names, for people.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let known = |text: &str| match text {
            "" => "unknown".to_owned(),
            text => text.to_owned(),
        };
        vec![
            ("processor", format!("{} ({} CPUs)", known(&self.cpu), self.cpus)),
            ("memory", units::size(self.memory_bytes)),
            ("kernel", known(&self.kernel)),
            ("file system", format!("{} on {}", known(&self.file_system), known(&self.device))),
            ("clock", format!("{:.0} ns per reading, one for each operation", self.clock_nanos)),
        ]
    }
}

/// The value of a line `name : value`.
fn field(text: &str, name: &str) -> Option<String> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let mut values = lines.filter(|(found, _)| found.trim() == name);
    values.next().map(|(_, value)| value.trim().to_owned())
}

/// Type and source of the file system on which `dir` is: the last one of those mounted on the longest
/// path above it.
fn mount_of(mounts: &str, dir: &str) -> Option<(String, String)> {
    let mut best: Option<(usize, (String, String))> = None;
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(point) = left.split(' ').nth(4).map(unescape) else { continue };
        let mut fields = right.split(' ');
        let (Some(kind), Some(source)) = (fields.next(), fields.next()) else { continue };
        let rest = dir.strip_prefix(point.trim_end_matches('/'));
        let is_above = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if is_above && best.as_ref().is_none_or(|(len, _)| point.len() >= *len) {
            best = Some((point.len(), (kind.to_owned(), unescape(source))));
        }
    }
    best.map(|(_, found)| found)
}

/// Spaces in a mount's names are written `\040`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

fn clock_nanos() -> f64 {
    const READINGS: u32 = 10_000;
    let begun = Instant::now();
    for _ in 0..READINGS {
        std::hint::black_box(Instant::now());
    }
    begun.elapsed().as_nanos() as f64 / f64::from(READINGS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_that_of_the_longest_mount_above() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/vda rw\n\
                      2 1 0:5 / /tmp rw shared:1 - tmpfs tmpfs rw\n\
                      3 1 8:2 / /mnt/my\\040disk rw - xfs /dev/vdb rw\n";
        let of = |dir| mount_of(mounts, dir).unwrap();
        assert_eq!(of("/tmp/x"), ("tmpfs".into(), "tmpfs".into()));
        assert_eq!(of("/tmpx"), ("ext4".into(), "/dev/vda".into()));
        assert_eq!(of("/mnt/my disk/drop"), ("xfs".into(), "/dev/vdb".into()));
        assert_eq!(mount_of("", "/"), None);
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "processor\t: 0\nmodel\t\t: 7\nmodel name\t: Fast: 1\n";
        assert_eq!(field(text, "model name").as_deref(), Some("Fast: 1"));
        assert_eq!(field(text, "name"), None);
    }
}
