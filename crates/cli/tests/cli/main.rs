//! The `deaddrop` binary from outside: arguments, bytes in, bytes out, exit codes.
#![allow(clippy::unwrap_used)]

mod append;
mod consumers;
mod demo;
mod dump;
mod reading;
mod refusals;
mod repair;
mod service;
mod support;
mod trace;
mod verify;
