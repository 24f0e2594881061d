//! Our NBD client during transmission, against any server.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nbd::fuzz::client_transmission(data));
