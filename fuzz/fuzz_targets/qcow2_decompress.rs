//! A compressed cluster of a qcow2 image.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qcow2::fuzz::decompress(data));
