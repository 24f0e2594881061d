//! What stands behind `-o`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| img::fuzz::options(data));
