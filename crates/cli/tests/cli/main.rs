//! The `deaddrop` binary from outside: arguments, bytes in, bytes out, exit codes.
#![allow(clippy::unwrap_used)]

mod append;
mod consumers;
mod demo;
mod dump;
mod groups;
mod reading;
mod refusals;
mod servers;
mod service;
mod support;
mod trace;
mod verify;
