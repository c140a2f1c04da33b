//! Reading, from the first record to the last, what another process wrote and closed just before. Opening
//! is not counted: some peers check all records while they open, and `reopen` shows that.

use std::path::Path;
use std::time::Instant;

use super::{payload, syncs};
use crate::child::{self, Role};
use crate::row::{Scale, BATCH};
use crate::subject::{Subject, Writer};
use crate::subjects;

pub(super) fn pass(subject: &dyn Subject, dir: &Path, size: usize, scale: Scale) -> Vec<f64> {
    let mut role = start("write", subject, dir, size, scale);
    let written: u64 = role.hear().parse().expect("a count");
    role.end();
    let mut read = subject.reader(dir);
    let (mut count, mut sum) = (0, 0);
    let begun = Instant::now();
    read(&mut |record| {
        count += 1;
        sum += record.len() as u64 + u64::from(record[record.len() - 1]);
    });
    let elapsed = begun.elapsed();
    std::hint::black_box(sum);
    assert_eq!(count, written, "records read and written");
    vec![count as f64 / elapsed.as_secs_f64()]
}

/// Appends a quarter of the scale's bytes in batches, says how many records these were, and closes the log.
pub(super) fn write(arguments: &[String]) {
    let (subject, dir, size, scale) = parsed(arguments);
    let mut writer = subject.open(dir, syncs(subject), 1).remove(0);
    let count = fill(writer.as_mut(), size, scale);
    drop(writer);
    child::say(&count.to_string());
}

/// Appends a quarter of the scale's bytes in batches; slow subjects append less.
pub(super) fn fill(writer: &mut dyn Writer, size: usize, scale: Scale) -> u64 {
    let record = payload(size);
    let records = vec![record.as_slice(); BATCH];
    let begun = Instant::now();
    let mut count = 0;
    while count * (size as u64) < scale.bytes / 4 && begun.elapsed().as_secs_f64() < scale.seconds {
        writer.append_batch(&records);
        count += BATCH as u64;
    }
    writer.finish();
    count
}

/// Starts an assistant, which gets its arguments from [`parsed`].
pub(super) fn start(
    role: &str,
    subject: &dyn Subject,
    dir: &Path,
    size: usize,
    scale: Scale,
) -> Role {
    let dir = dir.to_str().expect("a path in UTF-8");
    let [size, bytes] = [size.to_string(), scale.bytes.to_string()];
    Role::start(role, &[subject.name(), dir, &size, &bytes, &scale.seconds.to_string()])
}

pub(super) fn parsed(arguments: &[String]) -> (&'static dyn Subject, &Path, usize, Scale) {
    let [subject, dir, size, bytes, seconds] = arguments else { panic!("five arguments") };
    let scale =
        Scale { bytes: bytes.parse().expect("bytes"), seconds: seconds.parse().expect("seconds") };
    (subjects::named(subject), Path::new(dir), size.parse().expect("a size"), scale)
}
