//! A request and its reply between two processes, which run on one CPU or on two.

use std::path::Path;
use std::time::Instant;

use super::{histogram, payload, quantiles};
use crate::child::{self, Role};
use crate::echoes;
use crate::row::Scale;

/// As many round trips as the time allows, and at most this many.
const COUNT_MAX: u64 = 20_000;

const WARM_UP_COUNT: u64 = 200;

pub(super) fn pass(echo: &str, dir: &Path, size: usize, cpus: usize, scale: Scale) -> Vec<f64> {
    pin(0);
    let path = dir.to_str().expect("a path in UTF-8");
    let mut role = Role::start("serve", &[echo, path, &size.to_string(), &(cpus - 1).to_string()]);
    assert_eq!(role.hear(), "ready");
    let mut call = echoes::named(echo).client(dir, &payload(size));
    let mut times = histogram();
    (0..WARM_UP_COUNT).for_each(|_| call());
    let begun = Instant::now();
    while times.len() < COUNT_MAX && begun.elapsed().as_secs_f64() < scale.seconds / 5.0 {
        let called = Instant::now();
        call();
        times.saturating_record(called.elapsed().as_nanos() as u64);
    }
    quantiles(&times, &[0.5, 0.99])
}

/// Answers until it is killed.
pub(super) fn serve(arguments: &[String]) {
    let [echo, dir, size, cpu] = arguments else { panic!("four arguments") };
    pin(cpu.parse().expect("a CPU"));
    let size = size.parse().expect("a size");
    echoes::named(echo).serve(Path::new(dir), size, &|| child::say("ready"));
}

/// Keeps this thread, and those that it starts, on one CPU.
fn pin(cpu: usize) {
    // SAFETY: an all-zero set is a valid value; the kernel only reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set), 0);
    }
}
