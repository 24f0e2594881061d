//! The name of a backing file in a qcow2 image.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qcow2::fuzz::name(data));
