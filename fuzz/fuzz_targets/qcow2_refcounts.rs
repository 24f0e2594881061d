//! A refcount block of any width, and changes of it.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| qcow2::fuzz::refcounts(data));
