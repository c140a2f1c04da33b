//! One module per promise, through the public API. Children are this binary again.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, unreachable_pub)]

mod allocations;
mod append;
mod aside;
mod background;
mod callbacks;
mod calls;
mod child;
mod client_damage;
mod client_input;
mod clocks;
mod closed;
mod consumer;
mod conversation;
mod copied_segment;
mod copy;
mod damage;
mod delete;
mod documents;
mod extend;
mod far_ahead;
mod faults;
mod field;
mod files_lost;
mod fleet;
mod foreign;
mod forged;
mod found_names;
mod full_disk;
mod golden;
mod group;
mod image;
mod input;
mod ledger;
mod listing;
mod liveness;
mod lost_writes;
mod many_locks;
mod modes;
mod moved;
mod names;
mod near_damage;
mod one_meaning;
mod owner;
mod positions;
mod power;
mod random;
mod rebuild;
mod redrive;
mod remount;
mod repair;
mod restored_client;
mod retention;
mod running;
mod seek;
mod service;
mod service_faults;
mod service_kill;
mod service_orders;
mod service_retention;
mod settle;
mod short_writes;
mod shut_down;
mod silent_cuts;
mod spans;
mod stale_words;
mod storm;
mod suspects;
mod sync;
mod takeover;
mod threads;
mod trials;
mod unwinding;
mod unwritten;

/// Makes a directory of its own on a disk, removed at the end.
pub fn dir() -> tempfile::TempDir {
    let parent = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    tempfile::Builder::new().prefix("t").tempdir_in(parent).unwrap()
}
