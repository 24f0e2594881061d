//! The URI of an NBD export.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nbd::fuzz::uri(data));
