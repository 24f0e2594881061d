//! A size as people write it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| img::fuzz::size(data));
