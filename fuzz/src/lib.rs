//! The bodies of the fuzz targets, which `cargo test` runs too: one copy, in `tests/fuzz_smoke`.
#[path = "../../tests/fuzz_smoke/targets/mod.rs"]
pub mod targets;
