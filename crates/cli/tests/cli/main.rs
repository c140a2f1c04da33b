//! The `deaddrop` binary from outside: arguments, bytes in, bytes out, exit codes.
#![allow(clippy::unwrap_used)]

mod agreement;
mod append;
mod bench;
mod consumers;
mod dump;
mod ending;
mod export;
mod groups;
mod help;
mod hints;
mod independent;
mod matrix;
mod missing;
mod power_cuts;
mod reading;
mod refusals;
mod repair;
mod schema;
mod servers;
mod service;
mod services;
mod snapshots;
mod stats;
mod support;
mod times;
mod top;
mod topics;
mod trace;
mod verify;
mod words;
