//! What a client of the QMP server sends.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qmp::fuzz::input(data));
