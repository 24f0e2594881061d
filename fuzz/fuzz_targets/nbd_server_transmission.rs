//! Our NBD server during transmission, against any client.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nbd::fuzz::server_transmission(data));
