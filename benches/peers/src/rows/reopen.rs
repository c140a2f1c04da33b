//! Opening and one append after the writing process was killed. Then all records are counted: those that
//! were acknowledged and are gone are the second figure.

use std::path::Path;
use std::time::Instant;

use super::{payload, read, syncs};
use crate::child;
use crate::row::Scale;
use crate::subject::Subject;

/// Appended one by one before the kill.
const SINGLE_COUNT: u64 = 1000;

pub(super) fn pass(subject: &dyn Subject, dir: &Path, size: usize, scale: Scale) -> Vec<f64> {
    let mut role = read::start("append until killed", subject, dir, size, scale);
    let acknowledged: u64 = role.hear().parse().expect("a count");
    role.child.kill().expect("a child that runs");
    role.child.wait().expect("a child that was killed");
    let record = payload(size);
    let begun = Instant::now();
    let mut writer = subject.reopen(dir, syncs(subject));
    writer.append(&record);
    writer.finish();
    let elapsed = begun.elapsed();
    drop(writer);
    let mut count = 0;
    subject.reader(dir)(&mut |_| count += 1);
    let missing = (acknowledged + 1).saturating_sub(count);
    vec![elapsed.as_nanos() as f64, missing as f64]
}

/// Fills a log, appends some records one by one, says how many all of these were, and waits for its end.
pub(super) fn append_until_killed(arguments: &[String]) {
    let (subject, dir, size, scale) = read::parsed(arguments);
    let mut writer = subject.open(dir, syncs(subject), 1).remove(0);
    let filled = read::fill(writer.as_mut(), size, scale);
    let record = payload(size);
    (0..SINGLE_COUNT).for_each(|_| writer.append(&record));
    child::say(&(filled + SINGLE_COUNT).to_string());
    child::hear();
}
