//! The `deaddrop` binary from outside: arguments, bytes in, bytes out, exit codes.
#![allow(clippy::unwrap_used)]

mod append;
mod bench;
mod consumers;
mod demo;
mod dump;
mod reading;
mod refusals;
mod service;
mod support;
mod top;
mod trace;
mod verify;
