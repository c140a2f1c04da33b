#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| deaddrop_fuzz::targets::group(data));
