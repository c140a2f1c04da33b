//! One module per promise, through the public API. Children are this binary again.
#![allow(clippy::unwrap_used)]

mod append;
mod damage;
mod power;
mod random;

/// A directory of its own on a disk, removed at the end.
pub fn dir() -> tempfile::TempDir {
    let parent = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    tempfile::Builder::new().prefix("t").tempdir_in(parent).unwrap()
}
