//! The entries of an L2 table, standard and extended, and what they refer to; checked and repaired.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qcow2::fuzz::entries(data));
