//! Appends into new pages: a log that was opened empty grows by the bytes of the scale.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{histogram, payload, quantiles};
use crate::row::{Scale, BATCH};
use crate::subject::{Subject, Writer};

/// More appends than this do not make a percentile better.
const TAIL_COUNT_MAX: u64 = 1_000_000;

/// Calls `append` at most `count` times and at most for the seconds of the scale, and returns how often,
/// and how long it took with the `finish` of the writer. The clock is read after every `step` calls.
fn timed(
    writer: &mut dyn Writer,
    count: u64,
    step: u64,
    scale: Scale,
    mut append: impl FnMut(&mut dyn Writer),
) -> (u64, Duration) {
    let limit = Duration::from_secs_f64(scale.seconds);
    let begun = Instant::now();
    let mut done = 0;
    while done < count && begun.elapsed() < limit {
        let now = step.min(count - done);
        (0..now).for_each(|_| append(writer));
        done += now;
    }
    writer.finish();
    (done, begun.elapsed())
}

/// A hundredth of the work, not counted, in the same log.
fn warm_up(writer: &mut dyn Writer, count: u64, scale: Scale, append: impl FnMut(&mut dyn Writer)) {
    let scale = Scale { seconds: scale.seconds / 50.0, ..scale };
    timed(writer, count.div_ceil(100), 1, scale, append);
}

pub(super) fn rate(subject: &dyn Subject, dir: &Path, size: usize, scale: Scale) -> Vec<f64> {
    let record = payload(size);
    let count = scale.bytes.div_ceil(size as u64);
    let mut writer = subject.open(dir, false, 1).remove(0);
    let writer = writer.as_mut();
    warm_up(writer, count, scale, |writer| writer.append(&record));
    let step = (64 << 10) / size as u64;
    let (done, elapsed) = timed(writer, count, step, scale, |writer| writer.append(&record));
    vec![done as f64 / elapsed.as_secs_f64()]
}

pub(super) fn batch_rate(subject: &dyn Subject, dir: &Path, size: usize, scale: Scale) -> Vec<f64> {
    let record = payload(size);
    let records = vec![record.as_slice(); BATCH];
    let count = scale.bytes.div_ceil((size * BATCH) as u64);
    let mut writer = subject.open(dir, false, 1).remove(0);
    let writer = writer.as_mut();
    warm_up(writer, count, scale, |writer| writer.append_batch(&records));
    let (done, elapsed) = timed(writer, count, 8, scale, |writer| writer.append_batch(&records));
    vec![(done * BATCH as u64) as f64 / elapsed.as_secs_f64()]
}

pub(super) fn tail(subject: &dyn Subject, dir: &Path, size: usize, scale: Scale) -> Vec<f64> {
    let record = payload(size);
    let count = scale.bytes.div_ceil(size as u64).min(TAIL_COUNT_MAX);
    let mut writer = subject.open(dir, false, 1).remove(0);
    let writer = writer.as_mut();
    warm_up(writer, count, scale, |writer| writer.append(&record));
    let mut times = histogram();
    timed(writer, count, 64, scale, |writer| {
        let begun = Instant::now();
        writer.append(&record);
        times.saturating_record(begun.elapsed().as_nanos() as u64);
    });
    quantiles(&times, &[0.5, 0.999, 0.9999])
}
