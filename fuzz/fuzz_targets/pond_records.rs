//! The records of a pond: images and clones.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pond::fuzz::records(data));
