//! The tables of qcow2's internal snapshots and bitmaps.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qcow2::fuzz::directories(data));
