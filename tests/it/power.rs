//! The disk after a power cut, simulated: any subset of the sectors and names not yet synced.

mod hazards;
mod model;
mod workload;

use crate::random::number_from_env;
use workload::{Counts, World};

/// `DEADDROP_IMAGES`: the number of images; `DEADDROP_SEED`: repeats one world.
#[test]
fn every_image_of_a_power_cut_has_all_promised_records_and_none_that_was_never_appended() {
    let images = number_from_env("DEADDROP_IMAGES", 2000);
    let only = std::env::var("DEADDROP_SEED").ok();
    let first = only.as_ref().map_or(0, |seed| seed.parse().expect("a number"));
    let first = if only.is_none() { number_from_env("DEADDROP_FIRST_SEED", 1) } else { first };
    println!("seeds from {first}");
    let mut counts = Counts::default();
    let started = std::time::Instant::now();
    for seed in first.. {
        World::new(seed).run(4, 30, &mut counts);
        if counts.images >= images || only.is_some() {
            println!("seeds to {seed}: {counts:?} in {:?}", started.elapsed());
            break;
        }
    }
    assert!(counts.inside_crash_points > 0 && counts.cut_in_recovery > 0, "{counts:?}");
    assert!(only.is_some() || counts.lost_records > 0, "no cut lost a record: {counts:?}");
}
