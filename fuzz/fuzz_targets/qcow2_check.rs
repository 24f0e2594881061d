//! A whole qcow2 image, checked and repaired: it reads as before.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qcow2::fuzz::check(data));
