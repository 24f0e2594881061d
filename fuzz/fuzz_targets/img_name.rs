//! What an image tool takes for the name of an image; headers of images name others.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| img::fuzz::name(data));
