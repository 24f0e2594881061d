//! A whole qcow2 image: header, L1 and L2 tables, compressed clusters.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qcow2::fuzz::tables(data));
