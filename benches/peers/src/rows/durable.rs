//! Durable appends by several threads, for a fixed time.

use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::{histogram, payload, quantiles};
use crate::row::Scale;
use crate::subject::Subject;

pub(super) fn pass(
    subject: &dyn Subject,
    dir: &Path,
    size: usize,
    threads: usize,
    scale: Scale,
) -> Vec<f64> {
    let record = payload(size);
    let window = Duration::from_secs_f64(scale.seconds / 5.0);
    let writers = subject.open(dir, true, threads);
    let begin = Barrier::new(threads);
    let mut times = histogram();
    let mut elapsed = Duration::ZERO;
    std::thread::scope(|scope| {
        let (record, begin) = (&record, &begin);
        let run = |mut writer: Box<dyn crate::subject::Writer>| {
            move || {
                let mut times = histogram();
                begin.wait();
                // A tenth of the window warms up.
                let opened = Instant::now();
                while opened.elapsed() < window / 10 {
                    writer.append(record);
                }
                let begun = Instant::now();
                while begun.elapsed() < window {
                    let called = Instant::now();
                    writer.append(record);
                    times.saturating_record(called.elapsed().as_nanos() as u64);
                }
                (times, begun.elapsed())
            }
        };
        let all: Vec<_> = writers.into_iter().map(|writer| scope.spawn(run(writer))).collect();
        for thread in all {
            let (one, took) = thread.join().expect("an appending thread");
            times.add(one).expect("equal bounds");
            elapsed = elapsed.max(took);
        }
    });
    let mut figures = vec![times.len() as f64 / elapsed.as_secs_f64()];
    figures.extend(quantiles(&times, &[0.999]));
    figures
}
