//! The fuzz targets' bodies, which `cargo test` runs as well: one copy, in `tests/fuzz_smoke`.
#[path = "../../tests/fuzz_smoke/targets/mod.rs"]
pub mod targets;
