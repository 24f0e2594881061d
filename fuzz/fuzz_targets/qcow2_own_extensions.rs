//! Our own header extensions: a cache's terms, the mark of a backing file.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qcow2::fuzz::own_extensions(data));
